"""Text from outside: what is taken, in which spelling, and what is refused without being repeated."""

import unicodedata
from collections.abc import Callable
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from seedwork.addresses import email_address, holds_encoded_word
from seedwork.text import InvalidTextError, identifier, one_line
from seedwork.text_types import EmailAddress, Identifier, OneLine, Username
from seedwork.usernames import username, username_key


def title(text: str) -> str:
    return one_line(text, at_most=80)


HALF_A_PAIR = {"a high half": "a\ud800b", "a low half": "\udfffb", "halves the wrong way round": "\ude00\ud83d"}
CONTROLS = {f"U+{ord(one):04X}": f"a{one}b" for one in "\x00\t\n\r\x1b\x7f\x85\x9f\u2028\u2029"}
DIRECTIONS = {f"U+{ord(one):04X}": f"a{one}b" for one in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2069"}
NOTHING_TO_SEE = {
    f"U+{ord(one):04X} {where}": text
    for one in "\u00ad\u034f\u115f\u1160\u17b4\u180e\u200b\u2060\u2800\u3164\ufeff\uffa0\U000e0041\U000e0100"
    for where, text in {"alone": one, "within": f"a{one}b", "at the end": f"a{one}"}.items()
}
BLANK = {
    "nothing": "",
    "blanks": "   ",
    "wide blanks": "\u3000\u2003\xa0",
    "joiners": "\u200d\u200c",
    "selector": "\ufe0f",
}
NO_CHARACTERS = {"U+FFFF": "a\uffff", "U+FDD0": "a\ufdd0", "U+1FFFE": "a\U0001fffe", "U+10FFFF": "a\U0010ffff"}

UNFIT = HALF_A_PAIR | CONTROLS | DIRECTIONS | NOTHING_TO_SEE | BLANK | NO_CHARACTERS


@pytest.mark.parametrize("check", [title, username], ids=["a title", "a user name"])
@pytest.mark.parametrize("text", UNFIT.values(), ids=UNFIT.keys())
def test_what_misleads_or_cannot_be_seen_is_refused_without_being_repeated(
    text: str, check: Callable[[str], str]
) -> None:
    with pytest.raises(InvalidTextError) as refusal:
        check(text)
    assert str(refusal.value).isascii()


@pytest.mark.parametrize(
    "text",
    ["Rock", " a ", "日本の音楽 · קול · ' \" \\ %_ {}", "👩‍👩‍👧 ❤️", "می‌خواهم", "क्‍ष", "<b>&amp;", "½ ﬁ Ǆ", "x" * 80],
)
def test_a_title_of_any_script_is_kept_as_it_is(text: str) -> None:
    assert title(text) == text


def test_a_title_is_kept_in_nfc_and_its_length_counts_before_and_after() -> None:
    assert title("Jose\u0301") == "José"
    for too_long in ("x" * 81, "\u0958" * 41):  # two characters each when composed
        with pytest.raises(InvalidTextError, match="at most 80"):
            title(too_long)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("john_doe", "john_doe"),
        ("Émile Zola", "Émile Zola"),
        ("Jose\u0301", "José"),
        ("ｊｏｈｎ　ｄｏｅ", "john doe"),
        ("李小龍", "李小龍"),
        ("नमस्ते", "नमस्ते"),
        ("عبد الله", "عبد الله"),
        ("שלום123", "שלום123"),
        ("می‌خواهم", "می‌خواهم"),
        ("한국", "한국"),
        ("l·l", "l·l"),
        ("<b>bold</b>", "<b>bold</b>"),
        ("x" * 64, "x" * 64),
    ],
)
def test_user_names_of_all_languages_are_taken_in_one_spelling(text: str, kept: str) -> None:
    assert username(text) == kept


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x" * 65, "at most 64"),
        ("\ufdfa" * 4, "letters and digits"),  # eighteen letters in one
        ("a,b", "comma"),
        ("a；b", "comma or a semicolon"),
        ("a\u037eb", "comma or a semicolon"),  # the Greek question mark is one
        (" a", "begin or end"),
        ("a\u3000", "begin or end"),
        ("a  b", "two blanks"),
        ("a\u2003b", "letters and digits"),
        ("🎸", "letters and digits"),
        ("a’b", "letters and digits"),
        ("½", "letters and digits"),
        ("\u1100\u1100", "letters and digits"),  # jamo that make no syllable
        ("a·b", "letters and digits"),
        ("\u0661\u06f1", "letters and digits"),  # two kinds of Arabic digits
        ("אa", "directions"),
        ("a\u200db", "letters and digits"),
        ("a\u0378", "letters and digits"),  # not assigned
    ],
)
def test_a_user_name_that_precis_refuses_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(InvalidTextError, match=said):
        username(text)


def test_names_that_differ_in_case_or_width_count_as_the_same() -> None:
    assert username_key(username("ＪOHN")) == username_key(username("john"))


ENCODED = "=?utf-8?q?a=0d=0aBcc=3a_evil=40x.example?=@ours.example"


@pytest.mark.parametrize(
    "text",
    [
        ENCODED,
        "=?utf-8?b?YQ0KQmNjOiBl?=@ours.example",
        "a=?x?q?=0a?=@ours.example",
        "john@example.com, jane@example.com",
        "John <john@example.com>",
        '"john"@example.com',
        "john(comment)@example.com",
        "john@example.com\n",
        "john\u200b@example.com",
        "john\ud800@example.com",
        "josé@example.com",
        "john@[127.0.0.1]",
        "john@exam\uff0cple.com",
        "a" * 65 + "@example.com",
        "a@" + "b" * 300,
        "",
    ],
)
@pytest.mark.parametrize("international", [False, True])
def test_what_is_not_one_bare_address_for_every_program_is_refused(text: str, international: bool) -> None:
    if international and text == "josé@example.com":
        assert email_address(text, international=True) == text
        return
    with pytest.raises(InvalidTextError) as refusal:
        email_address(text, international=international)
    assert "john@" not in str(refusal.value)
    assert str(refusal.value).isascii() or "=?…?=" in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("john.doe@example.com", "john.doe@example.com"),
        ("Jose@BÜCHER.example", "Jose@xn--bcher-kva.example"),
        ("!#$%&'*+/=?^_`{|}~-@example.com", "!#$%&'*+/=?^_`{|}~-@example.com"),
        ("a=?=b@example.com", "a=?=b@example.com"),
    ],
)
def test_an_address_has_one_spelling(text: str, kept: str) -> None:
    assert email_address(text) == kept
    assert not holds_encoded_word(kept)


@given(st.text(max_size=70) | st.emails())
def test_what_was_taken_once_is_taken_again_as_it_is(text: str) -> None:
    for check in (title, username, email_address, identifier):
        try:
            kept = check(text)
        except InvalidTextError:
            continue
        assert check(kept) == kept
        assert unicodedata.normalize("NFC", kept) == kept
        assert len(kept.splitlines()) == 1
        kept.encode()


class Everything(BaseModel):
    model_config = ConfigDict(strict=True)

    id: Identifier | None = None
    username: Username | None = None
    email: EmailAddress | None = None
    name: Annotated[str, OneLine(at_most=200)] | None = None


@pytest.mark.parametrize(
    ("field", "text"), [("id", "1"), ("username", "a\u3164"), ("email", ENCODED), ("name", "a\ud800")]
)
def test_as_types_they_refuse_with_the_field_and_without_the_value(field: str, text: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Everything.model_validate({field: text})
    [error] = refusal.value.errors(include_input=False)
    assert error["loc"] == (field,)
    assert error["type"] == "value_error"


def test_as_types_they_are_shown_in_the_schema_whatever_stands_around_them() -> None:
    shown = {
        name: next(one for one in schema["anyOf"] if one["type"] == "string")
        for name, schema in Everything.model_json_schema()["properties"].items()
    }
    assert (shown["username"]["minLength"], shown["username"]["maxLength"]) == (1, 64)
    assert (shown["email"]["format"], shown["email"]["maxLength"]) == ("email", 254)
    assert (shown["id"]["maxLength"], shown["name"]["maxLength"]) == (36, 200)
    for name in ("id", "name"):
        assert shown[name]["pattern"]
    TypeAdapter(Username).json_schema()
