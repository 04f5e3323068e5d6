"""Where `make storm` keeps what it has seen, one line of JSON a time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path


def note_storm(test: str, facts: Mapping[str, int | str]) -> None:
    """Append facts with time and commit to the file that `TEST_STORM_RESULTS` names, if it names one."""
    path = os.environ.get("TEST_STORM_RESULTS")
    if path:
        at, commit = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()), os.environ.get("TEST_STORM_COMMIT", "")
        with Path(path).open("a") as results:
            results.write(json.dumps({"at": at, "commit": commit, "test": test, **facts}) + "\n")
