"""How text becomes lines: within the screen, names whole, and commands as a shell takes them when they are copied."""

import shlex

import pytest
from cauce.cli.flowing import command_lines, flowing, visible
from hypothesis import given
from hypothesis import strategies as st

NAME = "mail.tell_everybody_who_follows_the_artist_of_a_new_playlist1"


def copied(lines: list[str], beginning: str = "cauce") -> list[str]:
    """The arguments a shell gets of the command that begins so, with the lines it goes on in."""
    at = next(number for number, line in enumerate(lines) if line.strip().removeprefix("→ ").startswith(beginning))
    end = at
    while lines[end].endswith("\\"):
        end += 1
    return shlex.split("\n".join(lines[at : end + 1]).replace("→ ", "").replace("\\\n", ""))


def test_a_text_that_fits_stays_as_it_is() -> None:
    assert flowing("a  b", wide=80, indent=4) == ["    a  b"]
    assert flowing("", wide=80, indent=4, first="  label  ") == ["  label"]
    assert flowing("one\n\ntwo", wide=80, indent=2) == ["  one", "", "  two"]


def test_it_is_broken_at_spaces_under_its_beginning() -> None:
    assert flowing("alpha beta gamma", wide=15, indent=4, first="  x ") == ["  x alpha beta", "    gamma"]


def test_a_name_that_does_not_fit_under_its_label_begins_further_left_and_stays_whole() -> None:
    lines = flowing(f"one for {NAME} and more", wide=80, indent=26)
    assert lines == [" " * 26 + "one for", " " * (80 - len(NAME)) + NAME, " " * 26 + "and more"]
    assert flowing("x" * 90, wide=80, indent=26, first="  label  ") == ["  label", "  " + "x" * 90]


@pytest.mark.parametrize("indent", [0, 2, 28, 60])
def test_a_command_is_in_one_line_wherever_one_can_hold_it(indent: int) -> None:
    command = "cauce waiting list mail --listener mail.welcome_by_a_letter --state trouble"
    lines = flowing(f"first this → {command}, or wait", wide=80, indent=indent)
    assert sum(command in line for line in lines) == 1
    assert max(map(len, lines)) <= 80


def test_a_longer_one_goes_on_as_a_shell_reads_it() -> None:
    command = f"cauce waiting discard --listener {NAME} --because 'nobody wants them any more, says Ann'"
    for lines in (
        command_lines(command, wide=80, indent=2),
        flowing(f"gone → {command}", wide=80, indent=30),
        flowing(f"move it, or {command}; or both", wide=80),
    ):
        assert max(map(len, lines)) <= 80
        assert NAME in "\n".join(lines)
        said = copied(lines)
        assert " ".join(said).rstrip(";") == " ".join(shlex.split(command))


def test_prose_around_a_command_is_broken_as_any() -> None:
    text = "cauce dev is running for /srv/shop already. Use that one, or stop it: cauce status shop; it is 'over' soon."
    lines = flowing(text, wide=40)
    assert " ".join(lines) == text
    assert max(map(len, lines)) <= 40
    assert any("cauce status shop;" in line for line in lines)


def test_what_looks_like_a_quotation_holds_nothing_together_outside_a_command() -> None:
    text = "'it is a long sentence of somebody else that begins with a quote and ends with one, far from there'"
    assert max(map(len, flowing(text, wide=40))) <= 40
    assert flowing("cauce explain 'half", wide=80) == ["cauce explain 'half"]


def test_colours_take_no_room() -> None:
    assert flowing("\x1b[31mabc def\x1b[0m", wide=7) == ["\x1b[31mabc def\x1b[0m"]
    assert visible("\x1b[1m\x1b[0m") == 0


WORDS = st.lists(st.text("ab'\"·→,;cue-", min_size=1, max_size=30) | st.sampled_from(["cauce", "→", "dead", "--x"]))


@given(WORDS, st.integers(0, 40))
def test_nothing_is_lost_or_added_and_nothing_is_wider_than_the_screen_that_need_not_be(
    words: list[str], indent: int
) -> None:
    lines = flowing(" ".join(words), wide=60, indent=indent)
    told = " ".join(line.strip().removesuffix(" \\") for line in lines)
    assert told.split() == " ".join(words).split()
    for line in lines:
        assert len(line) <= 60 or "'" in line or '"' in line or " " not in line.strip()
