"""A first pipeline: what a text is about. The same file runs in process, with `flujo up examples.digest`, and in compose.

python -m examples.digest "some text"        in process
flujo up examples.digest                     on this machine
flujo submit digest '"some text"' --wait     from anywhere
"""

from __future__ import annotations

import sys
from collections import Counter

from pydantic import BaseModel

from flujo_client import Flujo, Step, StepRun, UsageLimits, step


class Digest(BaseModel):
    """What was found."""

    words: int
    frequent: list[str]


@step(expected_tokens=1000, max_retries=2, timeout_s=30)
async def split(text: str, run: StepRun) -> list[str]:
    """Split a text into words, and report them as the tokens used."""
    words = text.lower().split()
    run.usage.add(tokens=len(words))
    return words


@step
async def count(words: list[str]) -> int:
    """How many there are."""
    return len(words)


@step
async def frequent(words: list[str]) -> list[str]:
    """The three most frequent."""
    return [word for word, _ in Counter(words).most_common(3)]


@step
async def gather(parts: dict[str, object]) -> Digest:
    """Both answers as one."""
    return Digest.model_validate(parts)


digest = (split >> Step.parallel("look", {"words": count, "frequent": frequent}) >> gather).named("digest")

if __name__ == "__main__":
    result = Flujo(digest, usage_limits=UsageLimits(total_tokens_limit=10_000)).run(" ".join(sys.argv[1:]))
    sys.stdout.write(f"{result.output!r}\n{result.total_tokens} tokens\n")
