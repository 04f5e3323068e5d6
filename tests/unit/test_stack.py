"""`Stack`: one on a folder at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flujo_client.cli.stack import Stack
from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.settings import Settings


async def test_a_folder_that_another_stack_uses_is_refused_with_its_process_and_url(tmp_path: Path) -> None:
    first, second = (Stack(tmp_path, Settings(), "examples.digest", workers=1, flower=False) for _ in range(2))
    (tmp_path / "redis").mkdir()
    first._take_folder()

    with pytest.raises(ConfigurationError, match=f"process {os.getpid()}, FLUJO_URL={first.url}"):
        await second.start()

    await second.stop()
    await first.stop()
    second._take_folder()
    await second.stop()
