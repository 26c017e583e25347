"""Every endpoint of the users' catalogs, with what it answers to what is wrong."""

from typing import Any

import pytest


async def test_a_created_catalog_is_empty_and_found_by_its_id_and_by_its_user(discovery: Any) -> None:
    created = await discovery.http.post(
        "/user-catalog",
        json={
            "id": "AAAAAAAA-1234-1234-1234-123456789abc",
            "user": {"id": "12345678-1234-1234-1234-123456789ABC", "username": "john_doe"},
        },
    )

    expected: dict[str, Any] = {
        "id": "aaaaaaaa-1234-1234-1234-123456789abc",
        "user": {"id": "12345678-1234-1234-1234-123456789abc", "username": "john_doe"},
        "playlists": [],
        "favorites": {"songs": [], "artists": [], "albums": []},
    }
    assert (created.status_code, created.json()) == (201, expected)
    assert created.headers["location"] == "/user-catalog/aaaaaaaa-1234-1234-1234-123456789abc"
    for address in ("AAAAAAAA-1234-1234-1234-123456789abc", "user/12345678-1234-1234-1234-123456789ABC"):
        answer = await discovery.http.get(f"/user-catalog/{address}")
        assert (answer.status_code, answer.json()) == (200, expected)


async def test_a_user_has_one_catalog_and_an_id_belongs_to_one_catalog(discovery: Any, new_id: Any) -> None:
    first = await discovery.new_catalog()

    same_user = await discovery.http.post("/user-catalog", json={"id": new_id(), "user": first["user"]})
    other_user = {"id": new_id(), "username": "jane"}
    same_id = await discovery.http.post("/user-catalog", json={"id": first["id"], "user": other_user})

    for answer in (same_user, same_id):
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 409
    assert await discovery.rows("user_catalogs") == 1
    assert await discovery.catalog(first) == first


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/user-catalog/{id}"),
        ("GET", "/user-catalog/user/{id}"),
        ("DELETE", "/user-catalog/{id}/playlists/{id}"),
        ("GET", "/nowhere"),
    ],
)
async def test_what_is_not_there_is_answered_404(discovery: Any, new_id: Any, method: str, path: str) -> None:
    answer = await discovery.http.request(method, path.format(id=new_id()))

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_changes_of_a_catalog_that_is_not_there_are_answered_404(
    discovery: Any, playlist: Any, new_id: Any
) -> None:
    favorites = {"userId": new_id(), "favorites": {"songs": ["a"]}}

    assert (await discovery.try_to_put({"id": new_id()}, playlist())).status_code == 404
    assert (await discovery.http.put("/user-catalog/favorites", json=favorites)).status_code == 404
    assert discovery.published == []


@pytest.mark.parametrize(
    "bad", ["1", "john", "{12345678-1234-1234-1234-123456789abc}", "12345678123412341234123456789abc"]
)
async def test_an_id_of_another_form_is_refused(discovery: Any, bad: str) -> None:
    answer = await discovery.http.get(f"/user-catalog/{bad}")

    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {
            "in": "path",
            "path": "id",
            "detail": "expected hexadecimal digits in the form 8-4-4-4-12, like 12345678-1234-1234-1234-123456789abc",
        }
    ]


async def test_a_playlist_is_added_last_and_replaced_last(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()
    first, second = playlist("First", songs=("Uno", "Dos", "Uno")), playlist("Second", public=False)
    await discovery.put(catalog, first)
    await discovery.put(catalog, second)

    renamed = {**first, "name": "First, renamed"}
    answer = await discovery.put(catalog, renamed)

    assert answer == renamed
    assert await discovery.catalog(catalog) == {**catalog, "playlists": [second, renamed]}


async def test_a_playlist_put_again_unchanged_stands_last(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()
    first, second = playlist("First"), playlist("Second")
    for put in (first, second, first):
        await discovery.put(catalog, put)

    assert (await discovery.catalog(catalog))["playlists"] == [second, first]


async def test_a_playlist_is_removed_once(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()
    kept, removed = playlist("Kept"), playlist("Removed")
    await discovery.put(catalog, kept)
    await discovery.put(catalog, removed)

    path = f"/user-catalog/{catalog['id'].upper()}/playlists/{removed['id']}"
    first, second = await discovery.http.delete(path), await discovery.http.delete(path)

    assert (first.status_code, first.content) == (204, b"")
    assert second.status_code == 404
    assert (await discovery.catalog(catalog))["playlists"] == [kept]
    assert await discovery.found() == ["Kept"]


async def test_favorites_are_replaced_as_a_whole_in_the_users_order(discovery: Any) -> None:
    catalog = await discovery.new_catalog()
    user_id = catalog["user"]["id"]

    async def put(favorites: Any) -> Any:
        answer = await discovery.http.put("/user-catalog/favorites", json={"userId": user_id, "favorites": favorites})
        assert answer.status_code == 200, answer.text
        assert answer.json().keys() == {"userId", "favorites"}
        return answer.json()["favorites"]

    assert await put({"songs": ["b", "a", "b"], "artists": ["x"], "albums": []}) == {
        "songs": ["b", "a"],
        "artists": ["x"],
        "albums": [],
    }
    assert await put({"albums": ["y"]}) == {"songs": [], "artists": [], "albums": ["y"]}
    assert (await discovery.catalog(catalog))["favorites"]["albums"] == ["y"]


ID = "12345678-1234-1234-1234-123456789abc"
GOOD = {"id": ID, "name": "Rock", "isPublic": True, "songs": [{"id": ID, "title": "Uno"}]}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


WRONG_PLAYLISTS: list[tuple[Any, str]] = [
    ({"foo": 1}, "/playlist/foo"),
    (without("id"), "/playlist/id"),
    (without("name"), "/playlist/name"),
    (without("isPublic"), "/playlist/isPublic"),
    (without("songs"), "/playlist/songs"),
    ({**GOOD, "id": "1"}, "/playlist/id"),
    ({**GOOD, "name": ""}, "/playlist/name"),
    ({**GOOD, "name": " \t"}, "/playlist/name"),
    ({**GOOD, "name": "two\nlines"}, "/playlist/name"),
    ({**GOOD, "name": "nul\x00"}, "/playlist/name"),
    ({**GOOD, "name": "line\u2028separator"}, "/playlist/name"),
    ({**GOOD, "name": "x" * 201}, "/playlist/name"),
    ({**GOOD, "name": 5}, "/playlist/name"),
    ({**GOOD, "isPublic": "yes"}, "/playlist/isPublic"),
    ({**GOOD, "isPublic": 1}, "/playlist/isPublic"),
    ({**GOOD, "is_public": True}, "/playlist/is_public"),
    ({**GOOD, "songs": {}}, "/playlist/songs"),
    ({**GOOD, "songs": ["Uno"]}, "/playlist/songs/0"),
    ({**GOOD, "songs": [{"id": ID, "title": "Uno"}, {"id": ID}]}, "/playlist/songs/1/title"),
    ({**GOOD, "songs": [{"id": "1", "title": "Uno"}]}, "/playlist/songs/0/id"),
    ({**GOOD, "songs": [{"id": ID, "title": ""}]}, "/playlist/songs/0/title"),
    ({**GOOD, "songs": [{"id": ID, "title": "Uno", "length": 3}]}, "/playlist/songs/0/length"),
    ([GOOD], "/playlist"),
    (None, "/playlist"),
]


async def test_a_wrong_nested_playlist_is_refused_with_the_path_and_nothing_is_changed(
    discovery: Any, playlist: Any
) -> None:
    catalog = await discovery.new_catalog()
    await discovery.put(catalog, playlist("Before", id=ID))
    before = (await discovery.catalog(catalog), await discovery.search(), len(discovery.published))

    for wrong, path in WRONG_PLAYLISTS:
        answer = await discovery.try_to_put(catalog, wrong)

        assert answer.status_code == 422, wrong
        assert answer.headers["content-type"] == "application/problem+json"
        assert path in [error["path"] for error in answer.json()["errors"]]
        assert (await discovery.catalog(catalog), await discovery.search(), len(discovery.published)) == before


WRONG_BODIES: list[tuple[str, str, Any, str]] = [
    ("PUT", "/user-catalog/playlists", {"userCatalogId": ID}, "/playlist"),
    ("PUT", "/user-catalog/playlists", {"playlist": GOOD}, "/userCatalogId"),
    ("PUT", "/user-catalog/playlists", {"userCatalogId": "1", "playlist": GOOD}, "/userCatalogId"),
    ("PUT", "/user-catalog/playlists", {"userCatalogId": ID, "playlist": GOOD, "more": 1}, "/more"),
    ("POST", "/user-catalog", {"user": {"id": ID, "username": "john"}}, "/id"),
    ("POST", "/user-catalog", {"id": ID}, "/user"),
    ("POST", "/user-catalog", {"id": ID, "user": {"id": ID}}, "/user/username"),
    ("POST", "/user-catalog", {"id": ID, "user": {"id": ID, "username": " "}}, "/user/username"),
    ("POST", "/user-catalog", {"id": ID, "user": {"id": ID, "username": "j"}, "playlists": []}, "/playlists"),
    ("PUT", "/user-catalog/favorites", {"userId": ID}, "/favorites"),
    ("PUT", "/user-catalog/favorites", {"userId": ID, "favorites": {"songs": "a"}}, "/favorites/songs"),
    ("PUT", "/user-catalog/favorites", {"userId": ID, "favorites": {"songs": [1]}}, "/favorites/songs/0"),
    ("PUT", "/user-catalog/favorites", {"userId": ID, "favorites": {"songs": [""]}}, "/favorites/songs/0"),
    ("PUT", "/user-catalog/favorites", {"userId": ID, "favorites": {"films": []}}, "/favorites/films"),
]


async def test_a_wrong_body_is_refused_with_the_path(discovery: Any) -> None:
    for method, path, body, at in WRONG_BODIES:
        answer = await discovery.send(method, path, body)

        assert answer.status_code == 422, body
        assert [error["path"] for error in answer.json()["errors"]] == [at]
    assert discovery.published == []


NO_SUCH_JSON: list[tuple[bytes, int]] = [
    (b"", 422),
    (b"{", 400),
    (b'"text"', 422),
    (b"[]", 422),
    (b"\xff", 400),
    (b'{"userCatalogId": "%s", "playlist": {"name": "a", "name": "b"}}' % ID.encode(), 400),
    (b'{"userCatalogId": "1", "userCatalogId": "2", "playlist": {}}', 400),
    (b'{"userCatalogId": NaN}', 400),
    (b'{"userCatalogId": "\\ud800", "playlist": {"name": "\\ud800", "\\ud800": 1}}', 422),
    (b"[" * 100_000, 400),
    (b" " * (1024 * 1024 + 1), 413),
]


async def test_a_body_that_is_no_such_json_is_answered_4xx(discovery: Any) -> None:
    for content, status in NO_SUCH_JSON:
        answer = await discovery.http.put(
            "/user-catalog/playlists", content=content, headers={"content-type": "application/json"}
        )

        assert answer.status_code == status, content[:50]
        assert answer.headers["content-type"] == "application/problem+json"


UNFIT = ("a\ud800", "\udfff", "\u3164", "a\u3164", "\u2800", "a\u202eb", "a\u200b", "a\x85b", "\uffff", "   ", "")


async def test_in_every_text_there_is_what_is_no_text_is_refused_with_its_path(discovery: Any) -> None:
    user = {"id": ID, "username": "john"}
    for unfit in UNFIT:
        song = {"id": ID, "title": unfit}
        bodies: list[tuple[str, str, Any, str]] = [
            ("POST", "/user-catalog", {"id": ID, "user": user | {"username": unfit}}, "/user/username"),
            ("POST", "/user-catalog", {"id": ID, "user": user | {"id": unfit}}, "/user/id"),
            ("POST", "/user-catalog", {"id": unfit, "user": user}, "/id"),
            (
                "PUT",
                "/user-catalog/playlists",
                {"userCatalogId": ID, "playlist": GOOD | {"name": unfit}},
                "/playlist/name",
            ),
            ("PUT", "/user-catalog/playlists", {"userCatalogId": ID, "playlist": GOOD | {"id": unfit}}, "/playlist/id"),
            (
                "PUT",
                "/user-catalog/playlists",
                {"userCatalogId": ID, "playlist": GOOD | {"songs": [song]}},
                "/playlist/songs/0/title",
            ),
            *(
                ("PUT", "/user-catalog/favorites", {"userId": ID, "favorites": {kind: [unfit]}}, f"/favorites/{kind}/0")
                for kind in ("songs", "artists", "albums")
            ),
        ]
        for method, path, body, at in bodies:
            answer = await discovery.send(method, path, body)

            assert answer.status_code == 422, (ascii(unfit), path)
            assert [error["path"] for error in answer.json()["errors"]] == [at]
    assert discovery.published == []
    assert await discovery.rows("user_catalogs") == 0


async def test_text_of_every_script_comes_back_composed_and_otherwise_as_it_was(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog(username="Ñandú 李小龍")
    put = playlist(
        "日本の音楽 · קול · ' \" \\ %_ {} 👩‍👩‍👧", songs=("𝔘𝔫𝔦𝔠𝔬𝔡𝔢 e\u0301", "'; DROP TABLE user_catalogs; --")
    )

    answer = await discovery.put(catalog, put)

    put["songs"][0]["title"] = "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 é"
    found = await discovery.catalog(catalog)
    assert (answer, found["playlists"], found["user"]["username"]) == (put, [put], "Ñandú 李小龍")


async def test_a_foreign_host_is_refused(discovery: Any) -> None:
    for method, path in (("GET", "/playlists"), ("PUT", "/user-catalog/favorites"), ("GET", "/openapi.json")):
        answer = await discovery.http.request(method, path, headers={"host": "evil.example"})

        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
