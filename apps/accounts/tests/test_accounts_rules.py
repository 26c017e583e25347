"""The rules by themselves, on whatever Hypothesis can think of."""

import unicodedata

import pytest
from accounts.domain import (
    Username,
    parse_email,
    parse_password,
    parse_user_id,
    parse_username,
    username_key,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from seedwork.text import InvalidTextError


@given(st.text(max_size=80))
def test_an_accepted_name_fits_one_line_of_a_mail_and_of_a_log(text: str) -> None:
    try:
        name = parse_username(text)
    except InvalidTextError:
        return
    assert len(name.splitlines()) == 1
    for spelling in (name, unicodedata.normalize("NFKC", name)):
        assert not set(spelling) & set(",;")
        assert spelling == spelling.strip()
        assert all(unicodedata.category(one) not in ("Cc", "Zl", "Zp", "Cs") for one in spelling)
        assert 1 <= len(spelling) <= 64


@given(st.text(max_size=80))
def test_a_name_is_kept_when_it_is_read_back_and_its_key_ignores_case(text: str) -> None:
    try:
        name = parse_username(text)
    except InvalidTextError:
        return
    assert parse_username(name) == name
    assert username_key(name) == username_key(Username(name.casefold()))


@given(st.text(max_size=300) | st.emails())
def test_an_accepted_address_is_one_ascii_address_and_stays_as_it_is(text: str) -> None:
    try:
        address = parse_email(text)
    except InvalidTextError:
        return
    assert address.isascii()
    assert address.isprintable()
    assert address.count("@") == 1
    assert not set(address) & set(' ,;<>()"\r\n')
    assert len(address) <= 254
    assert parse_email(address) == address


@given(st.uuids(), st.booleans())
def test_every_uuid_is_an_id_in_lower_case(uuid: object, upper: bool) -> None:
    text = str(uuid)
    assert parse_user_id(text.upper() if upper else text) == text


@given(st.text(alphabet="0123456789abcdefABCDEF-\n", max_size=40))
def test_nothing_else_is_an_id(text: str) -> None:
    assume([len(part) for part in text.split("-")] != [8, 4, 4, 4, 12] or "\n" in text)
    with pytest.raises(InvalidTextError):
        parse_user_id(text)


@given(st.text(st.characters(codec="utf-8"), min_size=8, max_size=128))
def test_a_password_is_the_same_in_every_unicode_form(text: str) -> None:
    decomposed = unicodedata.normalize("NFKD", text)
    assume(8 <= len(decomposed) <= 128)
    assert parse_password(text) == parse_password(decomposed)


@given(st.text(max_size=400).filter(lambda text: not 8 <= len(text) <= 128))
def test_a_refusal_never_repeats_the_password(text: str) -> None:
    with pytest.raises(InvalidTextError) as refusal:
        parse_password(text)
    assert str(refusal.value) == "must have 8 to 128 characters"
