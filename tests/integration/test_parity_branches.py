"""Sentences of docs/parity.md about parallel steps and routers, each in process and on one fleet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flujo_client import PipelineResult, RunStatus, UsageLimitExceededError, UsageLimits
from flujo_client.protocol.accounts import read_accounts
from tests.integration import parity_branches as made
from tests.integration.conftest import Open, account_fields, last, run
from tests.integration.parity_branches import Board


async def board(flujo: Open, pipeline: Any, value: Any = 5, **options: Any) -> PipelineResult:
    return await run(flujo(pipeline, context_model=Board, **options), value)


class TestBranches:
    async def test_each_gets_the_same_input_and_a_copy_of_the_context(self, flujo: Open) -> None:
        result = await board(flujo, made.copies)

        assert result.output == {"a": [5, 1, ["old"]], "b": [5, 1, ["old"]]}
        assert (result.final_pipeline_context.n, result.final_pipeline_context.words) == (1, ["old"])

    async def test_outputs_and_executed_branches_stand_in_declared_order_however_they_end(self, flujo: Open) -> None:
        part = await last(flujo(made.reversed_ends))

        assert list(part.output.items()) == [("z", "slower"), ("m", "slow"), ("a", "quick")]
        assert part.metadata_["executed_branches"] == ["z", "m", "a"]
        assert [inner.name for inner in part.step_history] == ["both_z", "both_m", "both_a"]
        assert part.feedback == "All 3 branches executed successfully"

    async def test_all_of_them_begin_at_once(self, flujo: Open) -> None:
        spans = (await run(flujo(made.crowd))).output.values()

        assert max(begun for begun, _ in spans) < min(ended for _, ended in spans)

    async def test_each_has_an_equal_share_and_what_one_leaves_another_may_use(self, flujo: Open) -> None:
        """4 tokens each of 8: one needs 6, the other 1."""
        async with flujo(made.sharing, usage_limits=UsageLimits(total_tokens_limit=8)) as runner:
            result = await runner.run_async(1, run_id="sharing")
            fields = await account_fields(runner, "sharing")

        shares = read_accounts({name: value for name, value in fields.items() if name.startswith("split|")})
        assert [row.granted for row in shares] == [4, 4]
        assert (result.success, result.total_tokens) == (True, 7)

    async def test_a_limit_that_one_breaks_ends_the_run_with_what_is_known_of_all(self, flujo: Open) -> None:
        with pytest.raises(UsageLimitExceededError) as raised:
            await board(flujo, made.half_done, usage_limits=UsageLimits(total_tokens_limit=100))

        (part,) = raised.value.result.step_history
        assert part.success is False
        assert "both_bad" in [inner.name for inner in part.step_history]

    async def test_an_abort_in_one_ends_the_others(self, flujo: Open) -> None:
        assert (await board(flujo, made.aborting)).status is RunStatus.ABORTED


class TestMerging:
    @pytest.mark.parametrize(
        ("strategy", "n", "seen", "words", "facts"),
        [
            ("no_merge", 1, False, ["old"], {"old": 1}),
            ("overwrite", 4, True, ["old", "a", "b"], {"old": 1, "b": 2}),
            ("context_update", 6, True, ["old", "a", "b"], {"old": 1, "a": 1, "b": 2}),
            ("keep_first", 3, True, ["old", "a"], {"old": 1, "a": 1, "b": 2}),
        ],
    )
    async def test_strategies_by_name(
        self, flujo: Open, strategy: str, n: int, seen: bool, words: list[str], facts: dict[str, int]
    ) -> None:
        result = await board(flujo, made.strategies[f"write_{strategy}"])

        context = result.final_pipeline_context
        assert (context.n, context.seen, context.words, context.facts) == (n, seen, words, facts)

    @pytest.mark.parametrize(
        ("strategy", "word", "words"),
        [("no_merge", "first", ["old"]), ("overwrite", "y", ["y"]), ("keep_first", "x", ["x"])],
    )
    async def test_the_last_or_the_first_that_changed_a_field_wins(
        self, flujo: Open, strategy: str, word: str, words: list[str]
    ) -> None:
        context = (await board(flujo, made.strategies[f"say_{strategy}"])).final_pipeline_context

        assert (context.word, context.words) == (word, words)
        assert {"says_x", "says_y"} <= context.step_outputs.keys()  # of every branch, whatever the strategy

    @pytest.mark.parametrize("strategy", ["context_update", "error_on_conflict"])
    async def test_two_values_of_a_word_are_a_conflict(self, flujo: Open, strategy: str) -> None:
        feedback = (await board(flujo, made.strategies[f"say_{strategy}"])).step_history[0].feedback or ""

        assert feedback.startswith("Merge conflict for key 'word'. Branches 'a' and 'b' set different values.")

    async def test_lists_are_joined_without_what_is_there_twice(self, flujo: Open) -> None:
        context = (await board(flujo, made.strategies["list_context_update"])).final_pipeline_context

        assert context.words == ["x", "y"]

    @pytest.mark.parametrize(("what", "key"), [("list", "words"), ("write", "n")])
    async def test_error_on_conflict_refuses_lists_and_numbers_too(self, flujo: Open, what: str, key: str) -> None:
        feedback = (await board(flujo, made.strategies[f"{what}_error_on_conflict"])).step_history[0].feedback or ""

        assert feedback.startswith(f"Merge conflict for key '{key}'.")

    async def test_numbers_may_take_the_larger_one(self, flujo: Open) -> None:
        assert (await board(flujo, made.largest)).final_pipeline_context.n == 4

    async def test_a_function_gets_the_context_and_those_of_the_branches(self, flujo: Open) -> None:
        assert (await board(flujo, made.by_function)).final_pipeline_context.word == "a:x+b:y"


class TestReducing:
    @pytest.mark.parametrize(
        ("name", "output"),
        [
            ("results", [["both_a", "from a"], ["both_b", "from b"]]),
            ("outputs", [["a", "b"], 6]),
            ("later", 2),
            ("result", 2),
        ],
    )
    async def test_a_reducer_makes_the_output(self, flujo: Open, name: str, output: Any) -> None:
        assert (await board(flujo, made.reduced[name])).output == output

    async def test_one_that_raises_fails_the_step(self, flujo: Open) -> None:
        part = (await board(flujo, made.reduced["breaking"])).step_history[0]

        assert part.success is False
        assert part.feedback == "The merge or the reducer of step 'both' failed with LookupError: no sum"


class TestRouters:
    @pytest.mark.parametrize(
        ("router", "output", "named"),
        [
            ("names_one", {"a": "from a"}, ["a"]),
            ("names_some", {"a": "from a", "b": "from b"}, ["b", "a"]),
            ("names_nobody", {}, []),
        ],
    )
    async def test_the_branches_that_are_named_run_and_unknown_names_are_dropped(
        self, flujo: Open, router: str, output: dict[str, str], named: list[str]
    ) -> None:
        result = await board(flujo, made.routes[router])

        part = result.step_history[0]
        assert (part.success, list(part.output.items())) == (True, list(output.items()))
        assert part.metadata_["executed_branches"] == named
        assert part.step_history[0].name == "route_router"
        assert result.final_pipeline_context.n == {0: 1, 1: 3, 2: 6}[len(output)]

    async def test_what_is_neither_a_name_nor_a_list_of_names_fails_it(self, flujo: Open) -> None:
        part = (await board(flujo, made.routes["names_a_number"])).step_history[0]

        assert part.success is False
        assert "A router returns the name of a branch or a list of names, not a int" in (part.feedback or "")

    async def test_what_the_router_costs_is_the_steps(self, flujo: Open) -> None:
        part = (await board(flujo, made.routes["names_dearly"])).step_history[0]

        assert part.token_counts == 12  # 11, and one of the branch's text

    async def test_its_strategy_may_be_given_by_name(self, flujo: Open) -> None:
        assert (await board(flujo, made.mergeless)).final_pipeline_context.n == 1


async def test_runs_at_once_do_not_mix(flujo: Open) -> None:
    async with flujo(made.copies, context_model=Board) as runner:
        results = await asyncio.gather(*(runner.run_result_async(number) for number in range(4)))

    assert [result.output["a"][0] for result in results] == [0, 1, 2, 3]
