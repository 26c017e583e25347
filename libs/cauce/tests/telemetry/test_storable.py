"""What is written down about trouble must not become trouble itself."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from cauce.telemetry.storable import describe_error, loggable, stack_of, storable_line, storable_text


class Says(Exception):
    """An error that does, when it is asked what it says, what a test gave it to do."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self._act = act

    def __str__(self) -> str:
        return self._act()

    __repr__ = __str__


class Text(str):
    """Looks like text, and every method of it is its own."""

    __slots__ = ()

    def __getitem__(self, _: object) -> str:
        raise SystemExit(3)

    def __len__(self) -> int:
        raise SystemExit(3)

    def split(self, *_: object, **__: object) -> list[str]:
        raise SystemExit(3)


class Nameless(type):
    @property
    def __name__(cls) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  # hostile on purpose
        raise SystemExit(3)


class OfNamelessType(Exception, metaclass=Nameless):
    @property
    def __traceback__(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]  # as above
        raise SystemExit(3)


def endless() -> str:
    return endless()


def leave() -> str:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: "plain", "Says: plain"),
        (lambda: "two\nlines\tand \x85 more", "Says: two lines and more"),
        (lambda: "", "Says"),
        (lambda: "a\0b", r"Says: a\x00b"),
        (lambda: "half \ud800", r"Says: half \ud800"),
        (lambda: Text("own"), "Says: own"),
        (lambda: 5, "Says: (its own text cannot be had: asked for it, it raised TypeError)"),
        (leave, "Says: (its own text cannot be had: asked for it, it raised SystemExit)"),
        (endless, "Says: (its own text cannot be had: asked for it, it raised RecursionError)"),
    ],
)
def test_an_error_is_described_whatever_its_class_does(act: Callable[[], Any], text: str) -> None:
    assert describe_error(Says(act)) == text


def test_a_description_has_a_bound() -> None:
    long = describe_error(Says(lambda: "x" * 5_000_000))

    assert len(long) < 600
    assert long.startswith("Says: xxx")
    assert long.endswith("…")


def test_neither_type_nor_stack_of_an_error_can_raise() -> None:
    error = OfNamelessType("no")

    assert describe_error(error) == "OfNamelessType: no"
    assert stack_of(error) == ""


def test_a_stack_holds_the_innermost_lines_and_is_bounded() -> None:
    with pytest.raises(RecursionError) as caught:
        endless()
    stack = stack_of(caught.value)

    assert "in endless" in stack
    assert len(stack) <= 8_000


def test_a_line_is_one_and_a_text_keeps_its_lines() -> None:
    assert storable_line("a\nb\0\u202ec\ud83d") == r"a\nb\x00\u202ec\ud83d"
    assert storable_text("a\n\tb\0\ud83d") == "a\n\tb\\x00\\ud83d"
    assert storable_line("x" * 5_000, limit=100) == "x" * 99 + "…"
    assert storable_text("first" + "x" * 5_000 + "last", limit=100).endswith("last")
    assert len(storable_text("\0" * 1_000, limit=100)) == len(storable_line("\0" * 1_000, limit=100)) == 100


@pytest.mark.parametrize("act", [lambda: "x" * 1_000_000, lambda: "a\ud800\x1b[2J", leave, endless])
def test_a_log_takes_every_error_and_is_not_flooded(act: Callable[[], str], caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("outer") from Says(act)
    except ValueError as error:
        logging.getLogger("cauce.test").error("failed", exc_info=loggable(error))

    assert "test_storable.py" in caplog.text
    assert "ValueError: outer" in caplog.text
    assert caplog.text.encode()
    assert len(caplog.text) < 10_000


def test_an_ordinary_error_is_logged_as_it_is() -> None:
    error = ValueError("ordinary")

    assert loggable(error) is error
