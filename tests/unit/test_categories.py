"""The categories of failures, by the names of their classes."""

from __future__ import annotations

import pytest

from flujo_client.execution.categories import error_category


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("ConnectionError", "network"),
        ("ReadTimeout", "network"),
        ("TimeoutError", "network"),
        ("PermissionError", "authentication"),
        ("AuthenticationError", "authentication"),
        ("RateLimitError", "resource_exhaustion"),
        ("MemoryError", "resource_exhaustion"),
        ("UsageLimitExceededError", "resource_exhaustion"),
        ("ValueError", "validation"),
        ("TypeMismatchError", "validation"),
        ("ContextMergeError", "validation"),
        ("ImportError", "configuration"),
        ("MissingAgentError", "configuration"),
        ("InfiniteRedirectError", "control_flow"),
        ("RunFailedError", "system"),
        ("ZeroDivisionError", "system"),
        ("", "system"),
    ],
)
def test_a_failure_falls_in_the_category_of_its_class(name: str, category: str) -> None:
    assert error_category(name) == category
