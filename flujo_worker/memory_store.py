"""`MemoryStore`: the Redis commands that the scripts and the in-process mode need, over dicts.

Every script test runs on this store as well as on real servers, which keeps it to what Redis does. It has what is used
and no more: another command is an error that says so.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import TypeVar

from flujo_client.protocol.wire import RedisReplyError

__all__ = ["MemoryStore", "Reply"]

#: As RESP2 gives them: bytes, int, None and lists of these.
Reply = bytes | int | None | list["Reply"]

_WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


class _Hash(dict[bytes, bytes]):
    """Values by field."""


class _SortedSet(dict[bytes, float]):
    """Scores by member."""

    def ascending(self) -> list[bytes]:
        return sorted(self, key=lambda member: (self[member], member))

    def between(self, least: float, most: float) -> list[bytes]:
        return [member for member in self.ascending() if least <= self[member] <= most]


class _Members(set[bytes]):
    """A set."""


class _List(list[bytes]):
    """A list; its last element is the head, where LPUSH adds."""


class _Stream(list[tuple[bytes, ...]]):
    """The fields of each entry; `ids` has the entries' ids, both in order."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[tuple[int, int]] = []
        self.last = (0, 0)  # the highest id of an entry that was deleted


_Value = TypeVar("_Value", _Hash, _SortedSet, _Members, _List, _Stream)


class MemoryStore:
    """Keys and their values. Not for several threads.

    Args:
        clock: The time, s since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._values: dict[bytes, _Hash | _SortedSet | _Members | _List | _Stream] = {}
        self._deadlines_ms: dict[bytes, int] = {}
        self._listeners: dict[bytes, list[Callable[[], None]]] = {}
        self._commands: dict[bytes, Callable[..., Reply]] = {
            b"DEL": self._del,
            b"EXISTS": self._exists,
            b"EXPIRE": lambda key, ttl_s: self._expire(key, int(ttl_s) * 1000),
            b"HDEL": self._hdel,
            b"HGET": self._hget,
            b"HGETALL": self._hgetall,
            b"HINCRBY": self._hincrby,
            b"HMGET": self._hmget,
            b"HSET": self._hset,
            b"HSETNX": self._hsetnx,
            b"HSTRLEN": lambda key, field: len(self._find(key, _Hash).get(field, b"")),
            b"LPOP": self._lpop,
            b"LPUSH": self._lpush,
            b"PEXPIRE": lambda key, ttl_ms: self._expire(key, int(ttl_ms)),
            b"SADD": self._sadd,
            b"SREM": self._srem,
            b"TIME": self._time,
            b"XADD": self._xadd,
            b"XDEL": self._xdel,
            b"XRANGE": self._xrange,
            b"ZADD": self._zadd,
            b"ZRANGE": self._zrange,
            b"ZRANGEBYLEX": self._zrangebylex,
            b"ZRANGEBYSCORE": self._zrangebyscore,
            b"ZREM": self._zrem,
            b"ZREMRANGEBYSCORE": self._zremrangebyscore,
            b"ZSCORE": self._zscore,
        }

    def execute(self, name: bytes, *args: bytes) -> Reply:
        """Run a command.

        Raises:
            RedisReplyError: There is no such command here, or Redis would refuse it.
        """
        command = self._commands.get(name)
        if command is None:
            known = ", ".join(known.decode() for known in self._commands)
            raise RedisReplyError(f"ERR unknown command '{name.decode()}': the in-process store has {known} only")
        try:
            return command(*args)
        except (ValueError, TypeError) as error:  # no number where one belongs, or an argument too few or too many
            raise RedisReplyError(f"ERR wrong arguments for '{name.decode()}': {error}") from error

    def live_keys(self) -> list[bytes]:
        """All keys whose time is not over."""
        return [key for key in list(self._values) if self._alive(key)]

    def value(self, key: bytes) -> object:
        """What lies under a key, for tests; None if nothing does."""
        return self._values[key] if self._alive(key) else None

    def ttl_ms(self, key: bytes) -> int:
        """How long a key has to live; as in Redis -1 for ever, -2 if it is not there."""
        if not self._alive(key):
            return -2
        return self._deadlines_ms[key] - self._now_ms() if key in self._deadlines_ms else -1

    def listen(self, key: bytes, heard: Callable[[], None]) -> Callable[[], None]:
        """Call `heard` whenever something is appended to a stream, until the function that this returns is called."""
        listeners = self._listeners.setdefault(key, [])
        listeners.append(heard)

        def stop() -> None:
            listeners.remove(heard)
            if not listeners:
                self._listeners.pop(key, None)

        return stop

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _alive(self, key: bytes) -> bool:
        deadline = self._deadlines_ms.get(key)
        if deadline is not None and deadline <= self._now_ms():
            self._drop(key)
        return key in self._values

    def _drop(self, key: bytes) -> None:
        self._values.pop(key, None)
        self._deadlines_ms.pop(key, None)

    def _find(self, key: bytes, kind: type[_Value]) -> _Value:
        """A key's value; an empty one, which is not kept, if there is none."""
        if not self._alive(key):
            return kind()
        value = self._values[key]
        if not isinstance(value, kind):
            raise RedisReplyError(_WRONG_TYPE)
        return value

    def _make(self, key: bytes, kind: type[_Value]) -> _Value:
        """A key's value; made if there is none."""
        value = self._find(key, kind)
        self._values[key] = value
        return value

    def _drop_if_empty(self, key: bytes) -> None:
        if not self._values.get(key, True):
            self._drop(key)

    def _time(self) -> Reply:
        seconds, microseconds = divmod(int(self._clock() * 1_000_000), 1_000_000)
        return [b"%d" % seconds, b"%d" % microseconds]

    def _del(self, *keys: bytes) -> Reply:
        found = [key for key in dict.fromkeys(keys) if self._alive(key)]
        for key in found:
            self._drop(key)
        return len(found)

    def _exists(self, key: bytes) -> Reply:
        return int(self._alive(key))

    def _expire(self, key: bytes, ttl_ms: int) -> Reply:
        if not self._alive(key):
            return 0
        self._deadlines_ms[key] = self._now_ms() + ttl_ms
        return 1

    def _hget(self, key: bytes, field: bytes) -> Reply:
        return self._find(key, _Hash).get(field)

    def _hmget(self, key: bytes, *fields: bytes) -> Reply:
        stored = self._find(key, _Hash)
        return [stored.get(field) for field in fields]

    def _hgetall(self, key: bytes) -> Reply:
        return [word for pair in self._find(key, _Hash).items() for word in pair]

    def _hset(self, key: bytes, *words: bytes) -> Reply:
        pairs = dict(zip(words[::2], words[1::2], strict=True))
        stored = self._make(key, _Hash)
        before = len(stored)
        stored.update(pairs)
        return len(stored) - before

    def _hsetnx(self, key: bytes, field: bytes, value: bytes) -> Reply:
        stored = self._make(key, _Hash)
        if field in stored:
            return 0
        stored[field] = value
        return 1

    def _hdel(self, key: bytes, *fields: bytes) -> Reply:
        stored = self._find(key, _Hash)
        removed = sum(stored.pop(field, None) is not None for field in fields)
        self._drop_if_empty(key)
        return removed

    def _hincrby(self, key: bytes, field: bytes, amount: bytes) -> Reply:
        total = int(self._find(key, _Hash).get(field, 0)) + int(amount)
        self._make(key, _Hash)[field] = b"%d" % total
        return total

    def _lpush(self, key: bytes, *values: bytes) -> Reply:
        stored = self._make(key, _List)
        stored.extend(values)
        return len(stored)

    def _lpop(self, key: bytes, count: bytes) -> Reply:
        stored = self._find(key, _List)
        popped: list[Reply] = [stored.pop() for _ in range(min(int(count), len(stored)))]
        self._drop_if_empty(key)
        return popped or None

    def _sadd(self, key: bytes, *members: bytes) -> Reply:
        stored = self._make(key, _Members)
        before = len(stored)
        stored.update(members)
        return len(stored) - before

    def _srem(self, key: bytes, *members: bytes) -> Reply:
        stored = self._find(key, _Members)
        before = len(stored)
        stored.difference_update(members)
        self._drop_if_empty(key)
        return before - len(stored)

    def _zadd(self, key: bytes, *words: bytes) -> Reply:
        rule, pairs = (words[0], words[1:]) if words[0] in (b"NX", b"XX", b"GT") else (b"", words)
        scores = {member: float(score) for score, member in zip(pairs[::2], pairs[1::2], strict=True)}
        stored = self._make(key, _SortedSet)
        before = len(stored)
        if rule == b"GT":
            scores = {member: max(score, stored.get(member, score)) for member, score in scores.items()}
        elif rule:
            scores = {member: score for member, score in scores.items() if (member in stored) == (rule == b"XX")}
        stored.update(scores)
        self._drop_if_empty(key)
        return len(stored) - before

    def _zrem(self, key: bytes, *members: bytes) -> Reply:
        stored = self._find(key, _SortedSet)
        removed = sum(stored.pop(member, None) is not None for member in members)
        self._drop_if_empty(key)
        return removed

    def _zscore(self, key: bytes, member: bytes) -> Reply:
        score = self._find(key, _SortedSet).get(member)
        return None if score is None else b"%.17g" % score

    def _zrange(self, key: bytes, first: bytes, last: bytes, scores: bytes = b"") -> Reply:
        if last != b"-1" or scores.upper() not in (b"", b"WITHSCORES"):
            raise ValueError("only up to -1 is known here, and WITHSCORES")
        found = self._find(key, _SortedSet)
        members = found.ascending()[int(first) :]
        return [word for member in members for word in ((member, b"%.17g" % found[member]) if scores else (member,))]

    def _zrangebyscore(self, key: bytes, least: bytes, most: bytes, *limit: bytes) -> Reply:
        found = self._find(key, _SortedSet).between(float(least), float(most))
        if not limit:
            return [*found]
        _, offset, count = limit
        return [*found[int(offset) : int(offset) + int(count)]]

    def _zrangebylex(self, key: bytes, first: bytes, last: bytes, _limit: bytes, offset: bytes, count: bytes) -> Reply:
        if not (first.startswith(b"[") and last.startswith(b"(")):
            raise ValueError("only from [ to ( is known here")
        members = self._find(key, _SortedSet).ascending()  # of one score, as in Redis
        begin, end = bisect_left(members, first[1:]), bisect_left(members, last[1:])
        return [*members[begin:end][int(offset) :][: int(count)]]

    def _zremrangebyscore(self, key: bytes, least: bytes, most: bytes) -> Reply:
        return self._zrem(key, *self._find(key, _SortedSet).between(float(least), float(most)))

    def _xadd(self, key: bytes, entry_id: bytes, *words: bytes) -> Reply:
        if entry_id != b"*" or not words or len(words) % 2:
            raise ValueError("only * and pairs of field and value are known here")
        stream = self._make(key, _Stream)
        last = max(stream.last, stream.ids[-1]) if stream.ids else stream.last
        stream.ids.append(max((self._now_ms(), 0), (last[0], last[1] + 1)))
        stream.append(words)
        for heard in list(self._listeners.get(key, ())):
            heard()
        return b"%d-%d" % stream.ids[-1]

    def _xdel(self, key: bytes, entry_id: bytes) -> Reply:
        stream = self._find(key, _Stream)
        milliseconds, _, number = entry_id.partition(b"-")
        wanted = (int(milliseconds), int(number or 0))
        place = bisect_left(stream.ids, wanted)
        if stream.ids[place : place + 1] != [wanted]:
            return 0
        stream.last = stream.ids[-1]
        del stream.ids[place], stream[place]
        return 1

    def _xrange(self, key: bytes, first: bytes, last: bytes, _count: bytes, most: bytes) -> Reply:
        if last != b"+":
            raise ValueError("only an end of + is known here")
        stream = self._find(key, _Stream)
        milliseconds, _, number = first.removeprefix(b"(").partition(b"-")
        place = bisect_right if first.startswith(b"(") else bisect_left
        begin = place(stream.ids, (int(milliseconds), int(number or 0)))
        page = slice(begin, begin + int(most))
        return [[b"%d-%d" % entry_id, [*words]] for entry_id, words in zip(stream.ids[page], stream[page], strict=True)]
