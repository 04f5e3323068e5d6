"""`TypeValidator`: what a value must be to reach the next step."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from pydantic import AfterValidator, BaseModel, Field

from flujo_client import Flujo, Step
from flujo_client.protocol.errors import (
    PayloadError,
    TypeMismatchError,
)
from flujo_client.protocol.types import Producer, TypeValidator, describe_type


class Page(BaseModel):
    title: str
    words: int


class Row(TypedDict):
    a: int


@dataclass
class Local:
    number: int


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, b"5", 5),
        (int | None, b"null", None),
        (str | int, b'"x"', "x"),
        (list[int], b"[1,2]", [1, 2]),
        (Page, b'{"title":"t","words":1}', Page(title="t", words=1)),
        (Row, b'{"a":1}', {"a": 1}),
        (Any, b'{"x":[1]}', {"x": [1]}),
        (dict[str, Page], b'{"p":{"title":"t","words":1}}', {"p": Page(title="t", words=1)}),
        (int, b"true", True),
        (Iterable[int], b"[1,2]", [1, 2]),
        (BaseModel, b'{"x":1}', {"x": 1}),
    ],
)
def test_json_becomes_what_the_next_step_declares(annotation: Any, text: bytes, value: Any) -> None:
    consumer = Producer("b", Any, annotation)

    assert TypeValidator().validate_step_output(Producer("a"), None, consumer, text=text) == value


@pytest.mark.parametrize(
    ("annotation", "text", "place"),
    [
        (int, b'"5"', "value"),
        (list[int], b'[1,"x"]', "1"),
        (Page, b'{"title":"t"}', "words"),
        (int, b"null", "value"),
    ],
)
def test_a_mismatch_names_both_steps_both_types_and_the_place(annotation: Any, text: bytes, place: str) -> None:
    consumer = Producer("second", Any, annotation)

    with pytest.raises(TypeMismatchError) as caught:
        TypeValidator().validate_step_output(Producer("first", "Report"), None, consumer, text=text)

    message = str(caught.value)
    assert message.startswith("Type mismatch: Output of 'first' (returns Report)")
    for part in ("'second'", describe_type(annotation), f"{place}: "):
        assert part in message


def test_live_values_pass_as_they_are() -> None:
    value = Local(1)

    assert TypeValidator().validate_step_output(Producer("a"), value, Producer("b", Any, Local)) is value
    assert TypeValidator().validate_step_output(Producer("a"), value, None) is value
    assert TypeValidator().validate_step_output(
        Producer("a"), {"title": "t", "words": 1}, Producer("b", Any, Page)
    ) == Page(title="t", words=1)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Row, {"a": 1}),
        (list[Row], [{"a": 1}]),
        (int | None, None),
        (Annotated[int, Field(gt=0)], 5),
        (tuple[int, str], (1, "x")),
        (object, "anything"),
        (Iterable[int], [1, 2]),
        (dict[str, Iterator[int]], {"a": [1]}),
    ],
    ids=str,
)
def test_live_values_of_every_kind_of_annotation_pass(annotation: Any, value: Any) -> None:
    assert TypeValidator().validate_step_output(Producer("a"), value, Producer("b", Any, annotation)) == value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(int, "5"), (list[int], ["x"]), (Row, {"b": 1}), (Annotated[int, Field(gt=0)], -1)],
    ids=str,
)
def test_live_values_that_do_not_fit_are_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(TypeMismatchError, match="is not the input that 'b' expects"):
        TypeValidator().validate_step_output(Producer("a"), value, Producer("b", Any, annotation))


def test_a_live_value_without_json_that_does_not_fit_says_so() -> None:
    with pytest.raises(TypeMismatchError, match="cannot be sent") as caught:
        TypeValidator().validate_step_output(Producer("a"), object(), Producer("b", Any, int))

    assert isinstance(caught.value.__cause__, PayloadError)


class Opaque:
    """A class that pydantic knows nothing of."""


def test_classes_that_pydantic_does_not_know_are_checked_by_instance() -> None:
    validator, value = TypeValidator(), Opaque()

    assert validator.validate_step_output(Producer("a"), value, Producer("b", Any, Opaque)) is value
    assert validator.validate_step_output(Producer("a"), [value], Producer("b", Any, list[Opaque])) == [value]
    with pytest.raises(TypeMismatchError):
        validator.validate_step_output(Producer("a"), 1, Producer("b", Any, Opaque))


class Unresolvable(TypedDict):
    a: Nowhere  # type: ignore[name-defined]  # noqa: F821 - meant


class Endless(TypedDict):
    children: list[Endless]


@pytest.mark.parametrize(
    "annotation",
    [
        list["Nowhere"],  # type: ignore[name-defined]  # noqa: F821 - meant
        Unresolvable,
        Endless,
        Annotated[Page | Local, Field(discriminator="kind")],  # neither has a kind
    ],
    ids=str,
)
def test_an_annotation_that_cannot_be_resolved_accepts_everything(annotation: Any) -> None:
    value = {"x": 1}

    assert TypeValidator().validate_step_output(Producer("a"), value, Producer("b", Any, annotation)) is value


def test_no_annotation_is_any() -> None:
    validator, bare = TypeValidator(), Producer("a", inspect.Parameter.empty, inspect.Parameter.empty)

    assert (validator.get_step_input_type(bare), validator.get_step_output_type(bare)) == (Any, Any)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "int"),
        (Page, "Page"),
        (list[int], "list[int]"),
        (int | None, "int | None"),
        (Any, "Any"),
        ("Page", "Page"),
    ],
)
def test_types_are_described_as_people_write_them(annotation: Any, words: str) -> None:
    assert describe_type(annotation) == words


def test_both_models_of_a_nested_mismatch_stand_in_its_place() -> None:
    class Book(BaseModel):
        pages: list[Page]

    async def read(book: Book) -> None: ...

    text = b'{"pages":[{"title":"t","words":1},{"title":"t","words":"many"}]}'

    with pytest.raises(TypeMismatchError, match=r"pages\.1\.words: "):
        TypeValidator().validate_step_output(Producer("a"), None, Producer("b", Any, Book), text=text)
    assert Step.from_callable(read).name == "read"


@pytest.mark.parametrize(
    ("declared", "output", "fits"),
    [
        (int, 1, True),
        (int, "1", False),
        (Any, object(), True),
        (list[int], [1, "x"], False),
        (int | None, None, True),
        (dict[str, Any], {"a": object()}, True),
        (list[str], {"a": object()}, True),  # no JSON form: encoding it will say so
    ],
)
def test_a_step_returns_what_it_declares(declared: Any, output: Any, fits: bool) -> None:
    step = Producer("counts", declared)

    if fits:
        TypeValidator().check_own_output(step, output)
    else:
        with pytest.raises(TypeMismatchError, match="Step 'counts' declares that it returns"):
            TypeValidator().check_own_output(step, output)


@pytest.mark.parametrize(
    ("annotation", "value", "text", "expected"),
    [
        (int, None, b"1", 1),
        (int, None, b'"x"', "x"),
        (int, "x", None, "x"),
        (Any, None, b"[1]", [1]),
    ],
)
def test_a_value_is_restored_as_declared_where_it_fits(
    annotation: Any, value: Any, text: bytes | None, expected: Any
) -> None:
    assert TypeValidator().restore(annotation, value, text) == expected


def _not_shouting(text: str) -> str:
    if text.isupper():
        raise ValueError("do not shout")
    return text


Calm = Annotated[str, AfterValidator(_not_shouting)]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [(Calm, "str"), (list[Calm], "list[str]"), (dict[str, Calm], "dict[str, str]")],
)
def test_a_rule_stands_in_no_description_since_it_has_an_address(annotation: Any, words: str) -> None:
    assert describe_type(annotation) == words


@pytest.mark.parametrize("takes", [True, False], ids=["taken", "given"])
def test_a_rule_in_an_annotation_is_kept_by_values(takes: bool) -> None:
    async def reply(mood: str) -> str:
        return mood.upper()

    async def publish(text: Calm) -> str:
        return text

    async def ruled(mood: str) -> Calm:
        return mood.upper()

    first, then = (reply, publish) if takes else (ruled, reply)
    flujo = Flujo(Step.from_callable(first) >> Step.from_callable(then))

    with pytest.raises(TypeMismatchError, match="do not shout"):
        flujo.run("angry")
