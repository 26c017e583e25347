"""Which terms a text is found by."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from music_discovery.playlist_catalog.search_terms import (
    MAX_QUERY_TERMS,
    MAX_TERM_LENGTH,
    MAX_TERMS,
    indexed_terms,
    query_terms,
)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", ()),
        ("  \t\n", ()),
        ("!?¿ … -- ()", ()),
        ("Rock Clásico", ("rock", "clasico")),
        ("Ñandú", ("nandu",)),
        ("n\u0303andu\u0301", ("nandu",)),
        ("Straße STRASSE ẞ", ("strasse", "ss")),
        ("İstanbul ISTANBUL ıstanbul", ("istanbul",)),
        ("Mø Łódź Æther cœur", ("mo", "lodz", "aether", "coeur")),
        ("Σίσυφος ΣΙΣΥΦΟΣ", ("σισυφοσ",)),
        ("Ёлка Йод", ("елка", "иод")),
        ("AC/DC l'amour don't", ("ac", "dc", "l", "amour", "don", "t")),
        ("Blink-182 2Pac ①²Ⅷ ٣ ９", ("blink", "182", "2pac", "12viii", "3", "9")),
        ("ｆｕｌｌ ﬁne", ("full", "fine")),
        ("so\u00adft zero\u200dwidth", ("soft", "zerowidth")),
        ("日本の音楽", ("日本", "本の", "の音", "音楽", "楽")),
        ("歌", ("歌",)),
        ("J-POPと歌2024", ("j", "pop", "と歌", "歌", "2024")),
        ("ｶﾞ が か\u3099", ("ガ", "が")),
        ("한국 음악", ("한국", "음악")),
        ("เพลง", ("เพ", "พล", "ลง", "ง")),
        ("שָׁלוֹם", ("שלום",)),
        ("क्षेत्र", ("क्षेत्र",)),
        ("🎸🎶 Rock❤️", ("🎸🎶", "🎶", "rock", "❤")),
        ('nul\x00 \ud800 "quo\'te" a*b NEAR(x)', ("nul", "quo", "te", "a", "b", "near", "x")),
        ("x" * 100, ("x" * MAX_TERM_LENGTH,)),
    ],
)
def test_a_text_is_found_by_these_terms(text: str, terms: tuple[str, ...]) -> None:
    assert indexed_terms(text) == terms


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("", ()),
        ("¡!", ()),
        ("Rock rOcK róck", ("rock",)),
        ("ro rock r", ("rock",)),
        ("日本の音楽", ("日本", "本の", "の音", "音楽")),
        ("楽", ("楽",)),
        ("🎸", ("🎸",)),
        ("y" * 256, ("y" * MAX_TERM_LENGTH,)),
    ],
)
def test_a_query_looks_for_these_beginnings(query: str, terms: tuple[str, ...]) -> None:
    assert query_terms(query) == terms


def test_terms_are_bounded_in_number() -> None:
    assert len(indexed_terms(" ".join(map(str, range(2 * MAX_TERMS))))) == MAX_TERMS
    assert len(query_terms(" ".join(map(str, range(100, 200))))) == MAX_QUERY_TERMS


def test_terms_of_all_texts_are_collected_once() -> None:
    assert indexed_terms("Rock", "rock uno", "Uno") == ("rock", "uno")


@given(st.text())
def test_every_text_is_found_by_itself(text: str) -> None:
    indexed = indexed_terms(text)
    assert all(any(term.startswith(wanted) for term in indexed) for wanted in query_terms(text))


@given(st.text())
def test_the_form_of_unicode_makes_no_difference(text: str) -> None:
    terms = indexed_terms(text)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert indexed_terms(unicodedata.normalize(form, text)) == terms  # pyright: ignore[reportArgumentType]  # one of the four


@given(st.text())
def test_a_term_is_never_syntax_and_never_too_long(text: str) -> None:
    for term in (*indexed_terms(text), *query_terms(text)):
        assert 0 < len(term) <= MAX_TERM_LENGTH
        assert not set(term) & set(" \t\n\"'\\*:&|!()<>-+^{}\x00")
        assert term.isascii() <= (term.isalnum() and term == term.lower())
