"""Locks on files: between processes, until the file is closed or its process dies."""

from __future__ import annotations

import sys
from typing import IO, Any

if sys.platform == "win32":
    import msvcrt
    import time
else:
    import fcntl

__all__ = ["lock_file", "try_lock_file"]

if sys.platform == "win32":
    #: Far behind what any such file holds: a lock on Windows keeps others from reading what it is on.
    _PLACE = 1 << 30

    def lock_file(file: IO[Any]) -> None:
        """Wait until nobody else holds the file."""
        while not try_lock_file(file):
            time.sleep(0.01)

    def try_lock_file(file: IO[Any]) -> bool:
        """Take the file, if nobody else holds it."""
        at = file.tell()
        file.seek(_PLACE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(at)
        return True

else:

    def lock_file(file: IO[Any]) -> None:
        """Wait until nobody else holds the file."""
        fcntl.flock(file, fcntl.LOCK_EX)

    def try_lock_file(file: IO[Any]) -> bool:
        """Take the file, if nobody else holds it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
