"""Each script's header says what its body does and what its wrapper sends and understands."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from types import NoneType
from typing import Any, cast

import pytest
from lupa.lua51 import LuaRuntime

from flujo_client.protocol.caller import Script, ScriptCaller, load_script
from flujo_client.protocol.errors import SchemaMismatchError
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.quota import Share
from flujo_client.protocol.replies import (
    Advanced,
    Answered,
    AnsweredBefore,
    Blocked,
    BranchEnd,
    Claim,
    Committed,
    Delayed,
    Dispatch,
    Duplicate,
    Emission,
    Follower,
    Forbidden,
    LeaseLost,
    LoadedRun,
    Overtaken,
    Refusal,
    Renewal,
    Reserved,
    RunInactive,
    SlabLoan,
    SlabOffer,
    SpecNotKept,
    Split,
    SplitStale,
    SweepPage,
    UnknownAccount,
    WorkerDead,
)
from flujo_client.protocol.scripts import Scripts

FOLDER = files("flujo_client.protocol") / "lua"
NAMES = sorted(
    path.name.removesuffix(".lua") for path in FOLDER.iterdir() if path.name.endswith(".lua") and path.name[0] != "_"
)
PARTS = sorted(
    path.name.removesuffix(".lua") for path in FOLDER.iterdir() if path.name.endswith(".lua") and path.name[0] == "_"
)

#: Arguments that follow the numbered ones: 1 node, 1 branch end, 1 split, 1 dispatch; 1 follower; a field of 5 hashes, 1 event.
ROWS = {"advance": 2 + 1 + 5 + 6, "look_ahead": 6, "restore": 5 * 2 + 4}

#: Keys that a script puts on its desk.
DESK_KEYS = ("run", "attempts", "events", "dirty", "inbox", "waiters", "dispatches", "published")

CLAIM = Claim("r", "0", 1, "n", "w", "q")
OFFER = SlabOffer(2, 0, {"tokens": 1}, {"tokens": 2}, {})
LOADED = LoadedRun({"run_id": "r", "owner": "pool", "revision": "0", "operation": "", "applied": "0-0"}, [], {}, {})


class Recorder:
    """Stands where the caller of scripts stands; notes what is sent and gives the reply that the test wants."""

    def __init__(self, reply: list[Any]) -> None:
        self.reply = reply
        self.sent: list[tuple[str, Sequence[str], Sequence[Any]]] = []
        self.commands = None

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        self.sent.append((script.name, keys, args))
        return self.reply


def _create(scripts: Scripts) -> Awaitable[Any]:
    return scripts.create_run(
        "r",
        fingerprint="f",
        owner="pool",
        spec_hash="h",
        pipeline="p",
        input_payload=b"",
        context_payload=b"",
        limits={},
        traceparent="",
        metadata=b"",
    )


def _commit(scripts: Scripts) -> Awaitable[Any]:
    return scripts.commit(
        CLAIM,
        "pool",
        kind="succeeded",
        usage={},
        output=b"",
        result=b"",
        context=b"",
        context_form="",
        data=b"",
    )


def _advance(scripts: Scripts) -> Awaitable[Any]:
    return scripts.advance(
        LOADED,
        "op",
        applied="0-0",
        status=None,
        error=b"",
        suspect_ms=1,
        nodes={"0": b""},
        splits=(Split("1", ("root",), "tokens", Share(2, 2, 1, 0)),),
        branch_ends=(BranchEnd(("1.0", "root")),),
        dispatches=(Dispatch("0", 1, "q", "f", "l"),),
    )


def _sweep(scripts: Scripts) -> Awaitable[Any]:
    return scripts.sweep("m", 0, advanced=0, period_ms=1, gap_ms=1, ttl_ms=1, stale_ms=1, most=1)


#: How each wrapper is called.
CALLS: dict[str, Callable[[Scripts], Awaitable[Any]]] = {
    "adopt": lambda s: s.adopt("r", "m1", "m2"),
    "advance": _advance,
    "bury": lambda s: s.bury("managers", "m", 0),
    "cache_look": lambda s: s.cache_look("k", "r 0", 1),
    "cache_store": lambda s: s.cache_store("k", "r 0", b"j1", b"", 1),
    "call_waiters": lambda s: s.call_waiters("a", 1),
    "cancel": lambda s: s.cancel("r", "pool", "why"),
    "commit": _commit,
    "create_run": _create,
    "decline": lambda s: s.decline("r 0 1 q", "0", 1, "s", 500),
    "define_account": lambda s: s.define_account("a", "wait total 0 0 tokens=1", [], []),
    "drop_account": lambda s: s.drop_account("a"),
    "emit": lambda s: s.emit(CLAIM, 1, b"", 1000),
    "extend": lambda s: s.extend(CLAIM, "pool", 1, {}),
    "finish": lambda s: s.finish("r", "pool", b"", 1),
    "hold_back": lambda s: s.hold_back("a", 1),
    "lend_slab": lambda s: s.lend_slab("a", 0, OFFER, {}, 1),
    "load_run": lambda s: s.load_run("r", 1),
    "learn": lambda s: s.learn("l", "n", {}),
    "leave": lambda s: s.leave(CLAIM, {}),
    "look_ahead": lambda s: s.look_ahead(
        "r", Advanced(1, "op", False, 0), [Follower("0", Dispatch("1", 1, "q", "f", "l", terms="", task=b""), "m")]
    ),
    "keep_spec": lambda s: s.keep_spec("r", "h", b""),
    "retire_specs": lambda s: s.retire_specs(0, 1),
    "look_later": lambda s: s.look_later("r 0 1 q", 1, 1, 2),
    "lose": lambda s: s.lose(CLAIM, "pool", "died", {}),
    "offer_slab": lambda s: s.offer_slab("a", 0, 0, {}, {}, 0),
    "publish_spec": lambda s: s.publish_spec("p", "h", b""),
    "redispatch": lambda s: s.redispatch("r 0 1 q", 1, 1),
    "refuse_run": lambda s: s.refuse_run("r", "p", b"", b"", "", 1),
    "register": lambda s: s.register("managers", "m", 1, 0),
    "renew": lambda s: s.renew("w", 1, 0),
    "reserve": lambda s: s.reserve(CLAIM, "pool"),
    "restore": lambda s: s.restore("r", "pool", "h", [{"f": b"v"}] * 5, [("lost", "0", 1, "handed_over")]),
    "resume": lambda s: s.resume("r", "0", "pool", "op", b"j1"),
    "revive": lambda s: s.revive("r", "0", 1, "pool", "op", "retry"),
    "stash": lambda s: s.stash(CLAIM, "out:0!items", 0, [b""]),
    "ring": lambda s: s.ring("r", "0", "expired", "pool"),
    "sweep": _sweep,
    "take_slab": lambda s: s.take_slab("a", 0, 2, {}, 0),
}

#: Every reply that a header lists, and the kind of answer that the wrapper makes of it.
REPLIES: dict[str, list[tuple[list[Any], Any]]] = {
    "adopt": [([1], True), ([0], False)],
    "advance": [
        ([1, b"1", 0, b"5"], Advanced),
        ([0, b"1", b"op"], Overtaken),
        ([-1, b"closed"], Forbidden),
        ([-2, b"1"], SplitStale),
        ([-5, b"2"], SchemaMismatchError),
    ],
    "bury": [([1], True), ([0], False)],
    "cache_look": [([1, b"j1", b""], tuple), ([0, b"5"], 5), ([2], NoneType)],
    "cache_store": [([1], True), ([0], False)],
    "call_waiters": [([1, b"r 0 1 q"], ["r 0 1 q"])],
    "cancel": [([1], NoneType), ([0], NoneType), ([-1, b"failed"], "failed")],
    "commit": [([1, b"tokens=1"], Committed), ([0], LeaseLost), ([-1, b"failed"], RunInactive)],
    "create_run": [
        ([1], NoneType),
        ([0, b"running"], "running"),
        ([-1], "conflict"),
        ([-2, b"a"], UnknownAccount),
        ([-3], SpecNotKept),
    ],
    "decline": [([1, b"200"], 200), ([0], NoneType)],
    "define_account": [([1], NoneType)],
    "drop_account": [([1], True), ([0], False)],
    "emit": [
        ([1], Emission.APPENDED),
        ([0], Emission.LOST),
        ([2], Emission.APPENDED),
        ([3], Emission.AGAIN),
        ([4], Emission.GAP),
    ],
    "extend": [
        ([1], NoneType),
        ([0], LeaseLost),
        ([-2, b"root", b"tokens", b"2", b"1"], Blocked),
        ([-4, b"root", b"tokens", b"2", b"1"], Refusal),
        ([-6, b"a", b"tokens", b"0"], Delayed),
    ],
    "finish": [([1], True), ([0], False), ([-1, b"running"], False)],
    "hold_back": [([1, b"5"], 5), ([0], NoneType)],
    "lend_slab": [
        ([1, b"", b"0 2", b"tokens"], SlabLoan({}, (0, 2), ("tokens",))),
        ([2, b"", b""], SlabLoan({}, (), repeated=True)),
        ([0, b"7"], 7),
        ([-1], NoneType),
    ],
    "load_run": [([-5, b"2"], SchemaMismatchError)],
    "learn": [([1], True), ([0], False)],
    "look_ahead": [([1], True), ([0], False)],
    "look_later": [([1], True), ([0], False)],
    "leave": [([1], True), ([0], False)],
    "lose": [([1], True), ([0], False), ([-1], False)],
    "offer_slab": [([1, b"2", b"0", b"tokens=1", b"tokens=2", b""], OFFER), ([0], NoneType)],
    "publish_spec": [([1], True), ([0], False)],
    "redispatch": [([1, 7], 7), ([0], None)],
    "refuse_run": [([1], True), ([0, b"running"], False)],
    "register": [([1, b"5"], 5)],
    "renew": [([1, b"5", [b"r 0 1 n"], []], Renewal), ([0], WorkerDead)],
    "reserve": [
        ([1, b"{}", b"pool", b"", b"5", b"tokens=1", b"j1"], Reserved),
        ([0], Duplicate),
        ([-1, b"failed"], RunInactive),
        ([-2, b"root", b"tokens", b"2", b"1"], Blocked),
        ([-3], WorkerDead),
        ([-4, b"root", b"tokens", b"2", b"1"], Refusal),
        ([-5, b"2"], SchemaMismatchError),
        ([-6, b"a", b"tokens", b"7"], Delayed),
    ],
    "restore": [([1], True), ([0], False), ([-3], SpecNotKept)],
    "keep_spec": [([1], NoneType)],
    "retire_specs": [([1, 2], 2)],
    "resume": [([1, b"5-0"], Answered), ([0, b"given"], AnsweredBefore), ([-1, b"failed"], RunInactive)],
    "revive": [([1], True), ([0], False), ([-1, b"failed"], RunInactive)],
    "stash": [([1], True), ([0], False)],
    "ring": [([1], True), ([0], False), ([-1], False)],
    "sweep": [
        ([0], NoneType),
        ([1, b"5", [], [], [b"r 0 1 q", b"1 2"], [], [b"q|latest", b"3"], [b"r 0 expired"], [b"a"]], SweepPage),
    ],
    "take_slab": [([1], True), ([0], False)],
}


def _parts(name: str) -> tuple[str, str]:
    """Header and body; the body without comments."""
    header, _, body = (FOLDER / f"{name}.lua").read_text().partition("]]\n")
    return header, re.sub(r"--.*", "", body)


def _section(header: str, word: str) -> str:
    found = re.search(rf"\n{word} +(.*?)(?=\n(?:KEYS|ARGV|REPLY) |\Z)", header, re.S)
    return "" if found is None else found.group(1)


def _numbers(header: str, word: str) -> list[int]:
    """The numbers of a section's entries: at its start, after three blanks, or at the start of a line."""
    return [int(number) for number in re.findall(r"(?:^|\s{3,})(\d+)(?:\.\.)? ", _section(header, word))]


def _codes(header: str) -> list[int]:
    return [int(code) for code in re.findall(r"(?:^|\| )\{(-?\d+)", _section(header, "REPLY"), re.M)]


async def _sent(name: str) -> tuple[Sequence[str], Sequence[Any]]:
    reply = REPLIES[name][0][0] if REPLIES[name] else []
    recorder = Recorder(reply)
    with contextlib.suppress(SchemaMismatchError):  # the only reply of load_run that has a code
        await CALLS[name](Scripts(cast("ScriptCaller", recorder), Keyspace("ns")))
    ((called, keys, args),) = recorder.sent
    assert called == name
    return keys, args


def test_every_script_has_a_wrapper_and_a_case_here() -> None:
    assert sorted(CALLS) == sorted(REPLIES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_header_begins_with_the_name_and_says_what_the_script_does(name: str) -> None:
    assert _parts(name)[0].startswith(f"--[[ {name} — ")


@pytest.mark.parametrize("name", NAMES)
def test_header_numbers_what_the_body_uses(name: str) -> None:
    header, body = _parts(name)
    keys, args = _numbers(header, "KEYS"), _numbers(header, "ARGV")
    used_keys = {int(number) for number in re.findall(r"KEYS\[(\d+)\]", body)}
    used_args = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", body)}
    used_args |= {int(number) for number in re.findall(r"for i = (\d+), #ARGV", body)}
    for last in re.findall(r"for i = 1, (\d+) do redis\.call\('PEXPIRE', KEYS\[i\]", body):
        used_keys |= set(range(1, int(last) + 1))
    if name in ROWS:  # the rows behind the numbered arguments are taken from `at`
        assert re.search(rf"local at(?:, .*)? = {args[-1]}\b", body)
        used_args.add(args[-1])

    assert keys == list(range(1, len(keys) + 1))
    assert args == list(range(1, len(args) + 1))
    assert used_keys == set(keys)
    assert used_args == set(args)


@pytest.mark.parametrize("name", NAMES)
async def test_wrapper_sends_what_the_header_numbers(name: str) -> None:
    header = _parts(name)[0]

    keys, args = await _sent(name)

    expected = len(_numbers(header, "ARGV")) + ROWS.get(name, 1) - 1
    assert (len(keys), len(args)) == (len(_numbers(header, "KEYS")), expected)
    assert len(set(keys)) == len(keys)
    assert all(key.startswith("{ns:0}:") for key in keys)


@pytest.mark.parametrize("name", NAMES)
async def test_wrapper_names_its_keys_as_the_header_does(name: str) -> None:
    """`7 held zset of the incarnation`: the first word stands in the key, where the key's name says the same."""
    entries = re.split(r"\s{3,}", " ".join(_section(_parts(name)[0], "KEYS").replace("\n", "   ").split(" ")))
    words = [entry.split(" ")[1] for entry in entries if re.match(r"\d+ ", entry)]

    keys, _ = await _sent(name)

    known = {"run": "record", "event": "events", "attempt": "attempts", "zset": "managers"}
    for word, key in zip(words, keys, strict=True):
        assert known.get(word, word) in key.removeprefix("{ns:0}:").split(":"), (word, key)


@pytest.mark.parametrize("name", NAMES)
def test_header_lists_every_code_that_the_body_returns(name: str) -> None:
    header, body = _parts(name)
    returned = {int(code) for code in re.findall(r"(?:return|answer =|and|or) \{(-?\d+)", body)}
    returned |= {int(code) for pair in re.findall(r"and (\d) or (\d)\}", body) for code in pair}
    if name == "sweep":
        returned |= {int(code) for code in re.findall(r"return \{(\d), int", body)}

    assert returned == set(_codes(header))


@pytest.mark.parametrize("name", NAMES)
async def test_wrapper_understands_every_code_of_the_header(name: str) -> None:
    assert [reply[0] for reply, _ in REPLIES[name]] == sorted(
        _codes(_parts(name)[0]), key=lambda code: [reply[0] for reply, _ in REPLIES[name]].index(code)
    )
    for reply, expected in REPLIES[name]:
        scripts = Scripts(cast("ScriptCaller", Recorder(reply)), Keyspace("ns"))
        if expected is SchemaMismatchError:
            with pytest.raises(SchemaMismatchError):
                await CALLS[name](scripts)
            continue
        answer = await CALLS[name](scripts)
        assert isinstance(answer, expected) if isinstance(expected, type) else answer == expected


@pytest.mark.parametrize("name", [*NAMES, *PARTS])
def test_script_compiles_and_uses_only_what_every_server_has(name: str) -> None:
    body = _parts(name)[1]
    code = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", body)

    assert LuaRuntime().eval("function(text) return loadstring(text) ~= nil end")(
        load_script("advance" if name in PARTS else name).text
    )
    assert (
        re.findall(r"\b(cmsgpack|bit|struct|cjson|os|io|debug|math\.random|tostring|loadstring|dofile)\b", code) == []
    )
    assert "sha1hex" not in code
    assert set(re.findall(r"string\.format\(('[^']*'|\")", body)) <= {"'%.0f'"}  # %d and .. lose digits above 1e14


@pytest.mark.parametrize("name", [*NAMES, *PARTS])
def test_no_script_builds_a_key(name: str) -> None:
    """The key of each command is KEYS[n], or a name that only ever holds one."""
    body = _parts(name)[1]
    holders = {
        "book.key": r"book_open\(KEYS\[\d\]\)",  # every book is opened on a key
        "zset": r"in ipairs\(\{KEYS\[\d\], KEYS\[\d\]\}\)|due\(KEYS\[\d\]",
        **{f"desk.{key}": rf"desk_open\(\{{[^}}]*\b{key} = KEYS\[\d+\]" for key in DESK_KEYS},
        "desk.book.key": r"book_open\(KEYS\[\d\]\)",
        **dict.fromkeys(("run", "events", "dirty", "inbox"), r"local function append\(run, events, dirty, inbox"),
        "alarms": r"local function set_alarms\(alarms,",
        "list": r"local function go_ahead\(desk, next, list\)",
        "named.key, named.queue, named.due": r"named_open\(KEYS",
        "ledger": r"named_settle\(.*, KEYS\[\d\], KEYS\[\d\]\)",
    }

    calls = re.findall(r"redis\.call\(([^,)]+)(?:, *([\w.\[\]]+))?", body)

    assert len(calls) == body.count("redis.call(")
    for command, key in calls:
        if command == "'TIME'" or command == "unpack(write":
            continue
        assert re.fullmatch(r"'[A-Z]+'", command), command
        if key in ("named.key", "named.queue", "named.due"):
            key = "named.key, named.queue, named.due"
        if not re.fullmatch(r"KEYS\[(\d+|i)\]", key):
            assert key in holders, key
            assert name in PARTS or re.search(holders[key], body), key
    assert re.findall(r"KEYS\[\w+\] *\.\.|\.\. *KEYS", body) == []
    for key in re.findall(r"append\(([^{]*), ARGV\[1\], \{", body):
        assert re.fullmatch(r"KEYS\[\d\](, KEYS\[\d+\]){3}", key), key
    for key in re.findall(r"go_ahead\(desk, next, ([^)]*)\)", body.replace("function go_ahead(desk, next, list)", "")):
        assert re.fullmatch(r"KEYS\[\d+\]", key), key
    for key in re.findall(r"named_open\(([^)]*)\)", body.replace("named_open(key, queue, due", "")):
        assert re.fullmatch(r"(KEYS\[\d+\](, )?){3}(terms\[6\])?", key), key
    for key in re.findall(r"named_settle\(.*, ([^,]+, [^,()]+)\)+$", body, re.M):
        assert re.fullmatch(r"KEYS\[\d\], KEYS\[\d\]|\{\}, false|ledger, inbox", key), key
    for key in re.findall(r"book_open\(([^)]*)\)", body.replace("function book_open(key)", "")):
        assert re.fullmatch(r"KEYS\[\d\]", key), key


@pytest.mark.parametrize("name", [*NAMES, *PARTS])
def test_what_is_written_later_goes_to_keys_as_well(name: str) -> None:
    body = _parts(name)[1].replace("local function later(desk, ...)", "")

    rows = re.findall(r"later\(desk, '(?:HSET|HDEL|ZADD|DEL)', ([\w.]+(?:\[\d+\])?)[,)]", body)
    rows += re.findall(r"named\.later\[#named\.later \+ 1\] = \{'(?:ZREM|HDEL)', ([^,]+),", body)
    rows += re.findall(r"book\.writes\[#book\.writes \+ 1\] = \{'(?:HSET|HDEL)', ([^,]+),", body)

    assert len(rows) == body.count("later(") + body.count("#book.writes + 1] = ") + body.count("#named.later + 1]")
    known = {"book.key", "desk.book.key", "named.key", "named.queue", *(f"desk.{key}" for key in DESK_KEYS)}
    assert all(re.fullmatch(r"KEYS\[\d+\]", key) or key in known for key in rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_desk_holds_every_key_that_its_script_has(name: str) -> None:
    """What a script frees, it must be able to give to those who wait."""
    body = _parts(name)[1]
    for keys in re.findall(r"desk_open\(\{(.*?)\}\)", body, re.S):
        found = set(re.findall(r"(\w+) = KEYS", keys))
        assert found == set(DESK_KEYS) or name == "cancel"


@pytest.mark.parametrize("name", [*NAMES, *PARTS])
def test_script_is_short(name: str) -> None:
    assert (FOLDER / f"{name}.lua").read_text().count("\n") <= 100
