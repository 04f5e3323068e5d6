"""The semantics of runs: `advance()` decides, the manager does."""
