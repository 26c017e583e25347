"""`*` is one segment, `**` is zero or more; a star inside a segment is a star."""

import itertools
import json
from pathlib import Path

import pytest
from cauce.events.names import is_pattern, matcher, matches
from hypothesis import given
from hypothesis import strategies as st

TABLE = json.loads((Path(__file__).parent / "name_patterns.json").read_text(encoding="utf-8"))["pairs"]


@pytest.mark.parametrize("pair", TABLE, ids=lambda pair: f"{pair['pattern']}|{pair['name']}")
def test_the_table_of_patterns_and_names_holds(pair: dict[str, object]) -> None:
    assert matches(str(pair["pattern"]), str(pair["name"])) is pair["matches"]


def test_the_table_is_not_empty_on_either_side() -> None:
    assert {pair["matches"] for pair in TABLE} == {True, False}
    assert len(TABLE) > 50


def by_brute_force(pattern: list[str], name: list[str]) -> bool:
    """The definition itself, exponential and obvious."""
    if not pattern:
        return not name
    head, *rest = pattern
    if head == "**":
        return any(by_brute_force(rest, name[taken:]) for taken in range(len(name) + 1))
    return bool(name) and head in ("*", name[0]) and by_brute_force(rest, name[1:])


segments = st.sampled_from(["a", "b", "*", "**", "", "a*", "A"])
names = st.lists(st.sampled_from(["a", "b", "", "a*", "A"]), min_size=1, max_size=7).map(".".join)


@given(pattern=st.lists(segments, min_size=1, max_size=6).map(".".join), name=names)
def test_the_matcher_agrees_with_the_definition(pattern: str, name: str) -> None:
    assert matches(pattern, name) is by_brute_force(pattern.split("."), name.split("."))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_matcher_agrees_with_the_definition_on_every_short_pattern(size: int) -> None:
    words = ["a", "b", "*", "**"]
    for length in range(1, 5):
        for pattern in itertools.product(words, repeat=size):
            for name in itertools.product("ab", repeat=length):
                expected = by_brute_force(list(pattern), list(name))
                assert matches(".".join(pattern), ".".join(name)) is expected, (pattern, name)


def test_many_double_stars_do_not_make_it_slow() -> None:
    # The brute force above would need longer than the universe has.
    assert not matches(".".join(["**", "a"] * 60), ".".join(["a"] * 59 + ["b"] * 60))
    assert matches(".".join(["**", "a"] * 60), ".".join(["a"] * 60))


def test_whole_segments_only_make_a_pattern() -> None:
    assert [text for text in ("a.*", "**", "*", "a.**.b") if not is_pattern(text)] == []
    assert [text for text in ("a", "a.b*", "a**.b", "***", "") if is_pattern(text)] == []


def test_the_cache_of_split_patterns_is_bounded() -> None:
    for number in range(3000):
        assert matches(f"n{number}.*", f"n{number}.x")
    info = matcher.cache_info()
    assert info.maxsize is not None
    assert info.currsize <= info.maxsize == 1024
