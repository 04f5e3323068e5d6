"""`EndingNotice`: every process that inherited it hears of the end, none hears it before."""

from __future__ import annotations

import os
import select

from flujo_worker.notice import EndingNotice


def _given(notice: EndingNotice) -> bool:
    assert notice.readable is not None
    return bool(select.select([notice.readable], [], [], 0)[0])


def test_a_notice_is_heard_once_given_and_by_a_child_that_let_go_of_its_own_end() -> None:
    notice = EndingNotice()
    assert notice.readable is None
    notice.open()
    assert not _given(notice)
    child = os.fork()
    if child == 0:
        notice.forked()
        os._exit(10 if _given(notice) else 0)  # the parent holds on
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    notice.give()
    notice.give()

    assert _given(notice)
    assert notice.readable is not None
    os.close(notice.readable)
