"""`EndingNotice`: every process that inherited it hears of the end, none hears it before."""

from __future__ import annotations

import os

from flujo_worker.notice import EndingNotice


def test_a_notice_is_heard_once_given_and_by_a_child_that_let_go_of_its_own_end() -> None:
    notice = EndingNotice()
    assert not notice.given
    assert notice.readable is None
    notice.open()
    assert not notice.given
    child = os.fork()
    if child == 0:
        notice.forked()
        os._exit(10 if notice.given else 0)  # the parent holds on
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    notice.give()
    notice.give()

    assert notice.given
    assert notice.readable is not None
    os.close(notice.readable)
