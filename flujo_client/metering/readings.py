"""What requests to providers ask for and what their answers say was used, read from their JSON. Pure; the shapes of OpenAI,
Anthropic and Google, and of what speaks like them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "AskedCall",
    "StreamReading",
    "TokenUsage",
    "json_of",
    "read_answer",
    "read_call",
    "read_usage",
    "text_bytes",
]

#: Where Google's and other addresses name the model: `/models/gemini-2.5-flash:generateContent`.
_MODEL_IN_PATH: Final = re.compile(r"/models/([^/:]+):(\w+)$")

#: Counting tokens costs nothing.
_FREE: Final = ("/count_tokens", "/input_tokens", ":countTokens")

#: What answers with numbers and no tokens.
_NO_ANSWER: Final = ("/embeddings", ":embedContent", ":batchEmbedContents")

_MOST_TOKENS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens", "maxOutputTokens")
_CHOICES: Final = ("n", "best_of", "candidateCount")

#: What an answer's text is called, whole or as the parts of a stream.
_TEXTS: Final = frozenset(("content", "text", "delta", "arguments", "partial_json", "thinking", "reasoning_content"))

#: What the last event of a stream is called, or says.
_LAST_EVENTS: Final = frozenset(("message_stop", "response.completed", "response.incomplete", "response.failed"))

#: Bytes of one event of a stream at the most; what is longer is not read. The longest that providers send repeat a few images.
_LONGEST_LINE: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one call, named as genai-prices names them.

    Attributes:
        input_tokens: All of the prompt, whether it was cached or not.
        output_tokens: All of the answer, thoughts as well.
        cache_read_tokens: Of the prompt, read from the provider's cache.
        cache_write_tokens: Of the prompt, written into it.
        cache_write_1h_tokens: Of those, for an hour, which costs more.
    """

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0

    @property
    def total(self) -> int:
        """Of prompt and answer."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class AskedCall:
    """What a request asks a model for.

    Attributes:
        prompt_bytes: Everything that is sent.
        max_tokens: Of all answers together; None if nothing bounds them.
        streams: The answer comes in parts.
        long_cache: It may be written into a cache for an hour.
    """

    model: str
    prompt_bytes: int
    max_tokens: int | None
    streams: bool
    long_cache: bool


def read_call(path: str, content: bytes) -> AskedCall | None:
    """What a request asks for; None if it asks no model for anything that costs.

    Args:
        path: Of its address, without the query.
        content: Its body.
    """
    body = json_of(content)
    named = _MODEL_IN_PATH.search(path)
    model = body.get("model") or (named and named[1])
    if not isinstance(body, Mapping) or not model or path.endswith(_FREE):
        return None
    terms = {**body, **_mapping(body.get("generationConfig"))}
    most = next((terms[name] for name in _MOST_TOKENS if isinstance(terms.get(name), int)), None)
    most = 0 if path.endswith(_NO_ANSWER) else most
    answers = max([1, *(terms[name] for name in _CHOICES if isinstance(terms.get(name), int))])
    return AskedCall(
        model=str(model).rpartition("/")[2] if named else str(model),
        prompt_bytes=len(content),
        max_tokens=None if most is None else most * answers,
        streams=body.get("stream") is True or bool(named and named[2].startswith("stream")),
        long_cache=b'"1h"' in content,
    )


def read_usage(body: Mapping[str, Any]) -> TokenUsage | None:
    """What the JSON of an answer says that the call used; None if it says nothing."""
    usage = _mapping(body.get("usage") or body.get("usageMetadata"))
    counts = {name: count for name, count in usage.items() if isinstance(count, int)}

    def sum_of(*names: str) -> int:
        return sum(counts.get(name, 0) for name in names)

    if "promptTokenCount" in counts:  # Google: thoughts and what tools put into the prompt stand beside the rest
        sent = sum_of("promptTokenCount", "toolUsePromptTokenCount")
        return TokenUsage(sent, sum_of("candidatesTokenCount", "thoughtsTokenCount"), sum_of("cachedContentTokenCount"))
    if "prompt_tokens" in counts:
        cached = _mapping(usage.get("prompt_tokens_details")).get("cached_tokens")
        return TokenUsage(counts["prompt_tokens"], sum_of("completion_tokens"), cached or 0)
    if "input_tokens" not in counts:
        return None
    cached = _mapping(usage.get("input_tokens_details")).get("cached_tokens")
    read, written = sum_of("cache_read_input_tokens"), sum_of("cache_creation_input_tokens")
    long = _mapping(usage.get("cache_creation")).get("ephemeral_1h_input_tokens")
    sent = counts["input_tokens"] + read + written  # Anthropic: what was cached stands beside the rest
    return TokenUsage(sent, sum_of("output_tokens"), read or cached or 0, written, long or 0)


class StreamReading:
    """What the parts of a streamed answer have said so far.

    Attributes:
        text_bytes: Of the answers' text that has come.
        ended: The provider has said that this was all.
        has_gaps: A line was too long to be read, and may have said what was used.
    """

    def __init__(self) -> None:
        self.text_bytes = 0
        self.ended = False
        self.has_gaps = False
        self._usage: dict[str, Any] = {}
        self._line = bytearray()
        self._is_skipping = False

    @property
    def usage(self) -> TokenUsage | None:
        """What was said of usage; later parts count over earlier ones."""
        return read_usage({"usage": self._usage})

    def feed(self, part: bytes) -> None:
        """Take the next bytes of the answer, wherever they are cut."""
        *ends, rest = part.split(b"\n")
        for end in ends:
            self._keep(end)
            self._read(bytes(self._line).strip())
            self._line.clear()
            self._is_skipping = False
        self._keep(rest)

    def _keep(self, piece: bytes) -> None:
        if len(self._line) + len(piece) > _LONGEST_LINE:
            self.has_gaps = self._is_skipping = True
            self._line.clear()
        if not self._is_skipping:
            self._line += piece

    def _read(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        data = line.removeprefix(b"data:").strip()
        event = json_of(data)
        for holder in (event, _mapping(event.get("message")), _mapping(event.get("response"))):
            told = _mapping(holder.get("usage") or holder.get("usageMetadata"))
            self._usage |= {name: count for name, count in told.items() if count is not None}
        self.text_bytes += text_bytes(event)
        self.ended = self.ended or data == b"[DONE]" or event.get("type") in _LAST_EVENTS


def read_answer(content: bytes) -> Mapping[str, Any]:
    """The JSON of a whole answer; of a list of parts, the last that says what was used."""
    parts = _parsed(content)
    if isinstance(parts, list):
        parts = next((part for part in reversed(parts) if read_usage(_mapping(part)) is not None), {})
    return _mapping(parts)


def text_bytes(answer: Any) -> int:
    """Bytes of the text in an answer, or in a part of one."""
    return sum(
        len(text.encode(errors="surrogatepass")) for text in _texts(answer)
    )  # a stream may cut a pair of them apart


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            if isinstance(each, str) and name in _TEXTS:
                yield each
            else:
                yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def json_of(content: bytes) -> Mapping[str, Any]:
    """A JSON object; an empty one if it is none."""
    return _mapping(_parsed(content))


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content or b"{}")
    except ValueError:
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
