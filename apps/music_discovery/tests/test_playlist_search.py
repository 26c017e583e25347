"""GET /playlists: what is found, in which order, page by page; the same on both databases."""

import base64
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from music_discovery.playlist_catalog.application import PublicPlaylistUseCases
from music_discovery.playlist_catalog.cursor import InvalidCursorError, read_cursor, write_cursor
from music_discovery.playlist_catalog.domain import PublicPlaylist, PublicSong
from music_discovery.playlist_catalog.search_terms import indexed_terms, query_terms
from sqlalchemy import event, text

FOUND = (
    "",
    "   ",
    "rock",
    "ROCK",
    "ro",
    "clasico",
    "Clásico",
    "cla",
    "rock clasico",
    "clasico rock",
    "nandu",
    "ñandú rock",
    "strasse",
    "音楽",
    "本",
    "🎸",
    "'rock'",
)
NOT_FOUND = ("ock", "rock jazz", "楽音", "!!!", "*", '"', "'")


async def test_a_playlist_is_found_by_beginnings_of_words_of_its_name_and_titles(discovery: Any, playlist: Any) -> None:
    songs = ("El Ñandú", "Lange Straße", "日本の音楽")
    await discovery.put(await discovery.new_catalog(), playlist("Rock Clásico 🎸", songs=songs))

    assert [q for q in FOUND + NOT_FOUND if await discovery.found(q) == ["Rock Clásico 🎸"]] == list(FOUND)


LIKE_SYNTAX = (
    'rock" OR "jazz',
    "rock OR jazz",
    "rock NOT jazz",
    "NEAR(rock jazz)",
    "terms:rock",
    "rock*",
    "^rock",
    "-rock",
    "rock & jazz",
    "rock | !jazz",
    "rock:*",
    "'; DROP TABLE public_playlists; --",
    "\\",
    "%",
    "rock\x00jazz",
    "((((",
    "{rock}: jazz",
    "r" * 256,
    " ".join("abcdefghijklmnopqrstuvwxyz"),
)


async def test_no_query_is_syntax(both: Any, playlist: Any) -> None:
    names = ("Rock", "Jazz", "Rock and jazz", "Rock or jazz", "Rock, not jazz", "Near rock: jazz terms")
    for discovery in both:
        catalog = await discovery.new_catalog()
        for name in names:
            await discovery.put(catalog, playlist(name))

    for q in LIKE_SYNTAX:
        wanted = query_terms(q)
        expected = [
            name
            for name in reversed(names)
            if wanted and all(any(term.startswith(one) for term in indexed_terms(name)) for one in wanted)
        ]
        assert [await discovery.found(q) for discovery in both] == [expected, expected], q


async def test_pages_neither_repeat_nor_miss_while_playlists_come_and_go(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()
    playlists = [playlist(f"Rock {number}") for number in range(10)]
    for one in playlists:
        await discovery.put(catalog, one)

    first = await discovery.search("rock", limit=4)
    await discovery.put(catalog, playlist("Rock, new"))
    await discovery.put(catalog, {**playlists[2], "name": "Rock 2, renamed"})
    await discovery.put(catalog, {**playlists[8], "isPublic": False})
    second = await discovery.search("rock", limit=4, cursor=first["nextCursor"])
    await discovery.put(catalog, {**playlists[6], "isPublic": False})  # the last of the first page
    third = await discovery.search("rock", limit=4, cursor=second["nextCursor"])
    again = await discovery.search("rock", limit=6, cursor=first["nextCursor"])

    def names(page: Any) -> list[str]:
        return [item["name"] for item in page["items"]]

    assert names(first) == ["Rock 9", "Rock 8", "Rock 7", "Rock 6"]
    assert names(second) == ["Rock 5", "Rock 4", "Rock 3", "Rock 2, renamed"]
    assert (names(third), third["nextCursor"]) == (["Rock 1", "Rock 0"], None)
    assert (names(again), again["nextCursor"]) == (names(second) + names(third), None)
    assert (await discovery.found("rock", limit=1)) == ["Rock, new"]


async def test_the_whole_is_read_page_by_page_without_a_query(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()
    for number in range(7):
        await discovery.put(catalog, playlist(f"{number}"))

    read: list[str] = []
    parameters: dict[str, Any] = {"limit": 3}
    while True:
        page = await discovery.search(**parameters)
        read += [item["name"] for item in page["items"]]
        if page["nextCursor"] is None:
            break
        parameters["cursor"] = page["nextCursor"]

    assert read == list("6543210")


WRONG_PARAMETERS: list[tuple[dict[str, Any], str]] = [
    ({"limit": 0}, "limit"),
    ({"limit": 101}, "limit"),
    ({"limit": -1}, "limit"),
    ({"limit": "ten"}, "limit"),
    ({"limit": 10**30}, "limit"),
    ({"q": "x" * 257}, "q"),
    ({"cursor": ""}, "cursor"),
    ({"cursor": "1"}, "cursor"),
    ({"cursor": "x" * 24}, "cursor"),
    ({"cursor": "é" * 24}, "cursor"),
    ({"cursor": "x" * 25}, "cursor"),
    ({"cursor": "x" * 23 + "\n"}, "cursor"),
    ({"cursor": write_cursor(5, "rock")}, "cursor"),
    ({"q": "rock", "cursor": write_cursor(5, "")}, "cursor"),
]


async def test_a_wrong_parameter_is_refused_by_name(discovery: Any) -> None:
    for parameters, at in WRONG_PARAMETERS:
        answer = await discovery.http.get("/playlists", params=parameters)

        assert answer.status_code == 422, parameters
        assert answer.headers["content-type"] == "application/problem+json"
        assert [(error["in"], error["path"]) for error in answer.json()["errors"]] == [("query", at)]


@given(position=st.integers(1, 2**63 - 1), query=st.text())
def test_a_cursor_says_what_was_written(position: int, query: str) -> None:
    assert read_cursor(write_cursor(position, query), query) == position


@given(position=st.integers(1, 2**63 - 1), bit=st.integers(0, 18 * 8 - 1))
def test_a_cursor_with_any_bit_turned_is_refused(position: int, bit: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(write_cursor(position, "rock")))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidCursorError):
        read_cursor(base64.urlsafe_b64encode(raw).decode(), "rock")


def test_a_cursor_of_no_position_is_refused() -> None:
    with pytest.raises(InvalidCursorError):
        read_cursor(write_cursor(0, ""), "")


async def test_what_is_older_than_the_last_word_has_no_effect(discovery: Any) -> None:
    def of(name: str) -> PublicPlaylist:
        return PublicPlaylist(catalog_id="c", id="p", user_id="u", name=name, songs=())

    async with discovery.service.transaction() as tx:
        use_cases = await tx.get(PublicPlaylistUseCases)
        await use_cases.publish(of("Third"), version=3)
        await use_cases.publish(of("Second"), version=2)
        await use_cases.publish(of("Third again"), version=3)
        await use_cases.withdraw("c", "p", version=2)
    assert await discovery.found() == ["Third"]

    async with discovery.service.transaction() as tx:
        use_cases = await tx.get(PublicPlaylistUseCases)
        await use_cases.withdraw("c", "p", version=5)
        await use_cases.publish(of("Fourth"), version=4)
    assert await discovery.found() == []

    async with discovery.service.transaction() as tx:
        await (await tx.get(PublicPlaylistUseCases)).publish(of("Sixth"), version=6)
    assert await discovery.found("sixth") == ["Sixth"]
    assert await discovery.found("third") == []


async def test_as_many_words_as_a_body_can_hold_are_indexed(both: Any) -> None:
    """PostgreSQL refuses more than 1 MB of terms in a row."""
    widest = [chr(0x20000 + number) for number in range(40_000)]
    titles = ["a" + " a".join(one * 39 for one in widest[start : start + 7]) for start in range(0, 40_000, 7)]
    songs = tuple(PublicSong(id="s", title=title) for title in titles)
    for discovery in both:
        async with discovery.service.transaction() as tx:
            use_cases = await tx.get(PublicPlaylistUseCases)
            await use_cases.publish(
                PublicPlaylist(catalog_id="c", id="p", user_id="u", name="Wide", songs=songs), version=1
            )
        assert await discovery.found("wide " + widest[0]) == ["Wide"]


LETTERS = st.sampled_from("aábBßñÑİııσΣς日本音楽がか\u3099แ한국🎸❤\ufe0f123٣ -'\"*&|!():\\\u0301\u00ad\u200døÆœﬁ²")
TEXTS = st.text(LETTERS, max_size=12) | st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=12
)


@st.composite
def searches(draw: st.DrawFn) -> tuple[list[tuple[str, list[str]]], list[str]]:
    playlists = draw(st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=3)), min_size=1, max_size=6))
    words = [text for name, titles in playlists for text in (name, *titles)]
    part = st.sampled_from(words).flatmap(
        lambda word: st.integers(0, len(word)).map(lambda start: word[start : start + 3])
    )
    return playlists, draw(st.lists(TEXTS | part | st.tuples(part, part).map(" ".join), min_size=1, max_size=6))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(searches())
async def test_both_databases_find_the_same_in_the_same_order(
    both: Any, case: tuple[list[tuple[str, list[str]]], list[str]]
) -> None:
    playlists, queries = case
    for discovery in both:
        async with discovery.service.transaction() as tx:
            use_cases = await tx.get(PublicPlaylistUseCases)
            await use_cases.forget("c")
            for number, (name, titles) in enumerate(playlists):
                songs = tuple(PublicSong(id="s", title=title) for title in titles)
                one = PublicPlaylist(catalog_id="c", id=f"{number}", user_id="u", name=name, songs=songs)
                await use_cases.publish(one, version=1)

    for query in queries:
        wanted = query_terms(query)
        expected = [
            f"{number}"
            for number, (name, titles) in reversed(list(enumerate(playlists)))
            if not query.strip()
            or (wanted and all(any(term.startswith(one) for term in indexed_terms(name, *titles)) for one in wanted))
        ]
        for discovery in both:
            async with discovery.service.transaction(read_only=True) as tx:
                page = await (await tx.get(PublicPlaylistUseCases)).search(query, limit=100)
            assert [one.id for one in page.playlists] == expected, query


async def test_the_full_text_index_is_used(discovery: Any) -> None:
    rows = [
        {"id": f"{number}", "name": f"Number {number}", "terms": " ".join(f"word{number}x{n}" for n in range(30))}
        for number in range(3_000)
    ]
    async with discovery.service.transaction() as tx:
        insert = (
            "INSERT INTO public_playlists (catalog_id, playlist_id, user_id, name, songs, terms) "
            "VALUES ('c', :id, 'u', :name, '[]', :terms)"
        )
        await tx.session.execute(text(insert), rows)
        await tx.session.execute(text("ANALYZE"))
    asked: list[tuple[str, Any]] = []

    def remember(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    engine = discovery.service.store.engine
    event.listen(engine.sync_engine, "before_cursor_execute", remember)
    assert await discovery.found("word7x") == ["Number 7"]
    event.remove(engine.sync_engine, "before_cursor_execute", remember)

    on_sqlite = engine.dialect.name == "sqlite"
    statement, parameters = [one for one in asked if "public_playlists" in one[0]][-1]
    async with engine.connect() as connection:
        explain = "EXPLAIN QUERY PLAN " if on_sqlite else "EXPLAIN "
        rows = await connection.exec_driver_sql(explain + statement, parameters)
        plan = "\n".join(str(tuple(row)) for row in rows)
    if on_sqlite:
        assert "SCAN public_playlists_terms VIRTUAL TABLE INDEX" in plan
        assert "SEARCH public_playlists USING INTEGER PRIMARY KEY" in plan
        assert "TEMP B-TREE" not in plan  # it walks in the order wanted, and stops at the limit
    else:
        assert "Bitmap Index Scan on ix_public_playlists_terms" in plan
