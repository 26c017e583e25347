"""What music-discovery-ms can be asked."""

from random import Random
from typing import Any, Final
from urllib.parse import quote, urlencode

from testsupport.hostile_requests.hostile_values import hostile_text, identifier
from testsupport.hostile_requests.request import MARK

__all__ = ["BODY_LIMIT", "a_call"]

BODY_LIMIT: Final = 1024 * 1024
_USERS: Final = 80
"""Half of them are those who sign up at accounts-ms, and get catalogs of other ids."""


def a_call(chance: Random) -> tuple[str, str, dict[str, str], Any]:
    """Method, target, headers and body of a request that is right; the body is None where there is none."""
    way = chance.random()
    if way < 0.12:
        user = {"id": identifier(chance, _USERS), "username": f"{MARK} {chance.randrange(60)}"}
        return "POST", "/user-catalog", {}, {"id": _catalog(chance), "user": user}
    if way < 0.4:
        return "PUT", "/user-catalog/playlists", {}, _body(chance)
    if way < 0.52:
        return (
            "PUT",
            "/user-catalog/favorites",
            {},
            {"userId": identifier(chance, _USERS), "favorites": _favorites(chance)},
        )
    if way < 0.6:
        return "DELETE", f"/user-catalog/{_catalog(chance)}/playlists/{_playlist(chance)}", {}, None
    if way < 0.8:
        return "GET", f"/playlists?{_search(chance)}", {}, None
    return "GET", _page(chance), {}, None


def _body(chance: Random) -> dict[str, Any]:
    """A playlist: empty, usual, or about as large as one can be."""
    songs = chance.choices((0, 3, 40, 1_000, 1_001), (20, 60, 15, 3, 2))[0]
    title = chance.choice((f"{MARK} song", "Ñandú", "字" * 20, "e\u0301" * 30, "😀 " * 10, f"{MARK} " * 40))
    return {
        "userCatalogId": _catalog(chance),
        "playlist": {
            "id": _playlist(chance),
            "name": chance.choice((f"{MARK} {chance.randrange(100)}", "l'été", "l’été 字", "😀")),
            "isPublic": chance.random() < 0.8,
            "songs": [{"id": identifier(chance), "title": title[:300]} for _ in range(songs)],
        },
    }


def _catalog(chance: Random) -> str:
    return identifier(chance, chance.choice((5, 40)))


def _playlist(chance: Random) -> str:
    """The first five are changed and removed all the time; with all the others a catalog would have too many."""
    return identifier(chance, chance.choice((5, 250)))


def _favorites(chance: Random) -> dict[str, Any]:
    most = chance.choices((0, 5, 100, 2_000, 2_001), (15, 60, 20, 3, 2))[0]
    liked = [f"{MARK}{chance.randrange(10**6)}" * chance.choice((1, 1, 8)) for _ in range(most)]
    return {kind: liked for kind in ("songs", "artists", "albums") if chance.random() < 0.7}


def _search(chance: Random) -> str:
    words = (MARK, "song", "s", "é", "字", "😀", "ñan", hostile_text(chance)[:260])
    given: dict[str, object] = {}
    if chance.random() < 0.8:
        given["q"] = " ".join(chance.choices(words, k=chance.choice((1, 2, 40))))
    if chance.random() < 0.5:
        given["limit"] = chance.choice((1, 2, 100, 0, 101, -1, "1e2", "٣", 10**30, "9" * 5_000, "", "0x10", "1_0"))
    if chance.random() < 0.3:
        given["cursor"] = chance.choice(("A" * 24, "_" * 24, "AAAAAAAAAAEAAAAAAAAAAAAA", hostile_text(chance)[:50], ""))
    return urlencode(given, errors="surrogatepass")


def _page(chance: Random) -> str:
    return chance.choice(
        (
            f"/user-catalog/{_catalog(chance)}",
            f"/user-catalog/user/{identifier(chance, _USERS)}",
            f"/playlists/{_catalog(chance)}/{_playlist(chance)}",
            f"/playlists/{quote(hostile_text(chance)[:60], errors='surrogatepass')}/{identifier(chance)}",
        )
    )
