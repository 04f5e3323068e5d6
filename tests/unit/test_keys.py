"""Every key, and what it carries."""

from __future__ import annotations

import pytest

from flujo_client.protocol.keys import PERMANENT, POOL, RUN_ID_PATTERN, Keyspace


def test_keys_carry_the_tag_and_unknown_names_are_refused() -> None:
    keyspace = Keyspace("ns", shards=4)

    assert keyspace.run("r").run.startswith(f"{{ns:{keyspace.shard_of('r')}}}:run:r:")
    with pytest.raises(KeyError):
        keyspace.shard("secret")


@pytest.mark.parametrize("run_id", ["r", "order-42", "a.b_c@d:e", "0" * 128])
def test_what_may_be_a_run_id(run_id: str) -> None:
    assert RUN_ID_PATTERN.fullmatch(run_id)


@pytest.mark.parametrize("run_id", ["", "-r", "a b", "a/b", "{x}", "é", "0" * 129, "a\n"])
def test_what_may_not_be_a_run_id(run_id: str) -> None:
    assert not RUN_ID_PATTERN.fullmatch(run_id)


def test_all_keys_of_a_run_lie_on_its_shard() -> None:
    keyspace = Keyspace("ns", shards=16)

    shards = {keyspace.shard_of(f"run-{number}") for number in range(200)}
    keys = keyspace.run("run-7")
    tags = {getattr(keys, part).split("}")[0] for part in keys.__slots__}

    assert shards == set(range(16))
    assert tags == {f"{{ns:{keyspace.shard_of('run-7')}"}


def test_no_two_keys_are_the_same() -> None:
    keyspace = Keyspace("ns")
    run = keyspace.run("r")
    keys = [getattr(run, part) for part in run.__slots__]
    keys += [keyspace.shard(name) for name in PERMANENT if name != "owned"]
    keys += [keyspace.held("w", 0), keyspace.inbox(POOL, 0), keyspace.owned(POOL, 0), keyspace.archiver(0)]
    keys += [keyspace.cache("k"), keyspace.settles("k"), keyspace.fsync()]

    assert len(set(keys)) == len(keys)
