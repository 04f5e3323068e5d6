"""The trees that a fleet runs, as pipelines at the top of a module."""

from __future__ import annotations

from tests.integration.trees import EVERYTHING, SAMPLE, as_pipeline

everything = as_pipeline(EVERYTHING, "everything")
globals().update({name: as_pipeline(tree, name) for name, tree in SAMPLE.items()})
