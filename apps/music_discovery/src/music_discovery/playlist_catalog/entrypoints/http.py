"""The public playlists over HTTP."""

from collections.abc import Mapping
from typing import Annotated, Final

from cauce.fastapi import ReadTx, StrictJsonRoute, problems
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from seedwork.text_types import Identifier

from music_discovery.playlist_catalog.application import PublicPlaylistUseCases
from music_discovery.playlist_catalog.cursor import (
    MAX_CURSOR_LENGTH,
    InvalidCursorError,
    read_cursor,
    write_cursor,
)
from music_discovery.playlist_catalog.domain import ListedPlaylist, PublicPlaylist, PublicPlaylistNotFoundError

__all__ = ["PROBLEMS", "router"]

PROBLEMS: Final[Mapping[type[Exception], int]] = {PublicPlaylistNotFoundError: 404}
"""How the module's errors are answered."""

router = APIRouter(tags=["public playlists"], route_class=StrictJsonRoute)


class _View(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, from_attributes=True, validate_by_name=True)


class PublicSongView(_View):
    id: str
    title: str


class PublicPlaylistView(_View):
    id: str
    user_catalog_id: str
    user_id: str
    name: str
    songs: list[PublicSongView]

    @staticmethod
    def of(playlist: PublicPlaylist) -> "PublicPlaylistView":
        return PublicPlaylistView(
            id=playlist.id,
            user_catalog_id=playlist.catalog_id,
            user_id=playlist.user_id,
            name=playlist.name,
            songs=[PublicSongView.model_validate(song) for song in playlist.songs],
        )


class ListedPlaylistView(_View):
    """A playlist in a list. Its songs are on its own page, `/playlists/{userCatalogId}/{id}`."""

    id: str
    user_catalog_id: str
    user_id: str
    name: str
    song_count: int

    @staticmethod
    def of(playlist: ListedPlaylist) -> "ListedPlaylistView":
        return ListedPlaylistView(
            id=playlist.id,
            user_catalog_id=playlist.catalog_id,
            user_id=playlist.user_id,
            name=playlist.name,
            song_count=playlist.song_count,
        )


class PageView(_View):
    items: list[ListedPlaylistView]
    next_cursor: str | None
    """For the next request, with the same `q`; null on the last page."""


@router.get("/playlists", responses=problems.responses(422, 503))
async def find_playlists(
    tx: ReadTx,
    q: Annotated[
        str,
        Query(
            max_length=256,
            description="Words, or their beginnings, of the name or the song titles; all must be found. "
            "Case and accents do not matter. Empty: all playlists.",
        ),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[
        str | None,
        Query(max_length=MAX_CURSOR_LENGTH, description="`nextCursor` of the page before, for the same `q`"),
    ] = None,
) -> PageView:
    """The public playlists, newest published first; without their songs, which are on the page of each."""
    try:
        after = None if cursor is None else read_cursor(cursor, q)
    except InvalidCursorError as error:
        raise problems.Problem(
            422, detail=str(error), errors=[problems.invalid("cursor", str(error), place="query")]
        ) from None
    use_cases = await tx.get(PublicPlaylistUseCases)
    page = await use_cases.search(q, limit=limit, after=after)
    return PageView(
        items=[ListedPlaylistView.of(playlist) for playlist in page.playlists],
        next_cursor=None if page.next is None else write_cursor(page.next, q),
    )


@router.get("/playlists/{userCatalogId}/{id}", responses=problems.responses(404, 422, 503))
async def get_playlist(
    userCatalogId: Identifier,  # noqa: N803
    id: Identifier,  # noqa: A002  # the name in the path
    tx: ReadTx,
) -> PublicPlaylistView:
    """A public playlist with its songs."""
    use_cases = await tx.get(PublicPlaylistUseCases)
    return PublicPlaylistView.of(await use_cases.get(userCatalogId, id))
