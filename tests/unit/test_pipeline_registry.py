"""Pipelines by name and version."""

from __future__ import annotations

import pytest

from flujo_client import ConfigurationError, Flujo, Pipeline, PipelineRegistry, step


@step
async def one(value: str) -> str:
    return "one"


@step
async def two(value: str) -> str:
    return "two"


def registry(*versions: str) -> PipelineRegistry:
    made = PipelineRegistry()
    for number, version in enumerate(versions):
        made.register(Pipeline([one if number == 0 else two]), "p", version)
    return made


@pytest.mark.parametrize(
    ("versions", "latest"),
    [
        (["1.0.0"], "1.0.0"),
        (["1.9", "1.10"], "1.10"),
        (["2.0", "1.0"], "2.0"),
        (["2.0rc1", "1.0"], "1.0"),
        (["2.0rc1"], "2.0rc1"),
        (["1.0", "1.0.post1"], "1.0.post1"),
    ],
)
def test_the_newest_version_is_that_of_pep_440(versions: list[str], latest: str) -> None:
    made = registry(*versions)

    assert made.get_latest_version("p") == latest
    newest = made.get_latest("p")
    assert newest is not None
    assert (newest.name, newest.version) == ("p", latest)


def test_a_version_is_found_however_it_is_written() -> None:
    made = registry("1.0", "2.0")

    found = made.get("p", "1.0.0")
    assert found is not None
    assert found.steps == [one]
    assert made.get("p", "3.0") is None
    assert (made.get("nobody", "1.0"), made.get_latest("nobody"), made.get_latest_version("nobody")) == (None,) * 3
    with pytest.raises(ValueError, match="PEP 440"):
        registry("new")


def test_flujo_runs_what_the_registry_has() -> None:
    made = registry("1.0", "2.0")

    assert Flujo(registry=made, pipeline_name="p").run("x").output == "two"
    assert Flujo(registry=made, pipeline_name="p", pipeline_version="1.0").run("x").output == "one"
    root = Flujo(registry=made, pipeline_name="p", pipeline_version="1.0").run("x").trace_tree
    assert root.attributes["flujo.pipeline.version"] == "1.0"
    with pytest.raises(ConfigurationError, match="No pipeline registered under name 'q'"):
        Flujo(registry=made, pipeline_name="q")
    with pytest.raises(ConfigurationError):
        Flujo()


def test_a_version_of_its_own_goes_with_the_pipeline() -> None:
    pipeline = Pipeline([one], name="p", version="3.1")

    assert (pipeline >> two).version == "3.1"
    assert pipeline.to_spec().pipeline_version == "3.1"
    assert Flujo(pipeline, pipeline_version="4.0").pipeline.version == "4.0"
    assert Flujo(pipeline).pipeline.version == "3.1"
