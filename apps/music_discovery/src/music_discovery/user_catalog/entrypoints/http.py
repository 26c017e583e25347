"""The users' catalogs over HTTP. Bodies are checked to the last nested field, and unknown fields are refused."""

from collections.abc import Mapping
from typing import Annotated, Final

from cauce.fastapi import ReadTx, StrictJsonRoute, Tx, problems
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from seedwork.text_types import Identifier, OneLine, Username

from music_discovery.user_catalog.application import (
    CatalogContendedError,
    CatalogExistsError,
    CatalogNotFoundError,
    UserCatalogUseCases,
)
from music_discovery.user_catalog.domain import (
    MAX_CATALOG_BYTES,
    MAX_FAVORITES_BYTES,
    MAX_LIKED,
    MAX_PLAYLIST_BYTES,
    MAX_PLAYLISTS,
    MAX_SONGS,
    BeyondLimitError,
    CatalogId,
    Favorites,
    Playlist,
    PlaylistId,
    PlaylistNotFoundError,
    Song,
    User,
    UserCatalog,
    UserId,
)

__all__ = ["PROBLEMS", "beyond_limit", "router"]

PROBLEMS: Final[Mapping[type[Exception], int]] = {
    CatalogNotFoundError: 404,
    PlaylistNotFoundError: 404,
    CatalogExistsError: 409,
    CatalogContendedError: 409,
}
"""How the module's errors are answered."""

router = APIRouter(prefix="/user-catalog", tags=["user catalog"], route_class=StrictJsonRoute)

# --- what a body may be -------------------------------------------------------------------------------------

Id = Identifier
Name = Annotated[str, OneLine(at_most=200)]
Title = Annotated[str, OneLine(at_most=300)]
LikedId = Annotated[str, OneLine(at_most=128)]


class Json(BaseModel):
    """camelCase outside, no unknown field, no guessing: `"yes"` is no boolean."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True, frozen=True)


class SongJson(Json):
    id: Id
    title: Title


class PlaylistJson(Json):
    __doc__ = f"""A playlist. As JSON in UTF-8 it may have {MAX_PLAYLIST_BYTES:,} bytes."""

    id: Id
    name: Name
    is_public: bool
    songs: list[SongJson] = Field(max_length=MAX_SONGS)


class UserJson(Json):
    id: Id
    username: Username


class FavoritesJson(Json):
    __doc__ = f"""Ids of what the user likes. A list that is left out is empty: the favorites are replaced as a whole.

    As JSON in UTF-8 they may have {MAX_FAVORITES_BYTES:,} bytes.
    """

    songs: list[LikedId] = Field(default=[], max_length=MAX_LIKED)
    artists: list[LikedId] = Field(default=[], max_length=MAX_LIKED)
    albums: list[LikedId] = Field(default=[], max_length=MAX_LIKED)


class NewCatalog(Json):
    id: Id
    user: UserJson


class PlaylistUpdate(Json):
    user_catalog_id: Id
    playlist: PlaylistJson


class FavoritesUpdate(Json):
    user_id: Id
    favorites: FavoritesJson


# --- what is answered ---------------------------------------------------------------------------------------


class _View(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, from_attributes=True, validate_by_name=True)


class SongView(_View):
    id: str
    title: str


class PlaylistView(_View):
    id: str
    name: str
    is_public: bool
    songs: list[SongView]


class UserView(_View):
    id: str
    username: str


class FavoritesView(_View):
    songs: list[str]
    artists: list[str]
    albums: list[str]


class CatalogView(_View):
    id: str
    user: UserView
    playlists: list[PlaylistView]
    favorites: FavoritesView

    @staticmethod
    def of(catalog: UserCatalog) -> "CatalogView":
        return CatalogView.model_validate(catalog)


class KeptFavoritesView(_View):
    user_id: str
    favorites: FavoritesView


# --- the endpoints ------------------------------------------------------------------------------------------


@router.get("/{id}", responses=problems.responses(404, 422, 503))
async def get_catalog(id: Id, tx: ReadTx) -> CatalogView:  # noqa: A002  # the article's name of the parameter
    """A catalog by its id."""
    use_cases = await tx.get(UserCatalogUseCases)
    return CatalogView.of(await use_cases.get(CatalogId(id)))


@router.get("/user/{userId}", responses=problems.responses(404, 422, 503))
async def get_catalog_of_user(userId: Id, tx: ReadTx) -> CatalogView:  # noqa: N803
    """A catalog by its user."""
    use_cases = await tx.get(UserCatalogUseCases)
    return CatalogView.of(await use_cases.get_of_user(UserId(userId)))


@router.post("", status_code=201, responses=problems.responses(400, 409, 413, 415, 422, 503))
async def create_catalog(body: NewCatalog, tx: Tx, response: Response) -> CatalogView:
    """An empty catalog for a user who has none. Users who sign up get theirs by themselves."""
    use_cases = await tx.get(UserCatalogUseCases)
    user = User(id=UserId(body.user.id), username=body.user.username)
    catalog = await use_cases.create(UserCatalog(id=CatalogId(body.id), user=user))
    response.headers["location"] = f"{router.prefix}/{catalog.id}"
    return CatalogView.of(catalog)


@router.put(
    "/playlists",
    responses=problems.responses(400, 404, 409, 413, 415, 422, 503),
    description="Replace the playlist of that id, or add it; it then stands last. The public finds it if it is public. "
    f"A catalog has at most {MAX_PLAYLISTS} playlists, which may have {MAX_CATALOG_BYTES:,} bytes together as JSON in "
    "UTF-8. The answer is the playlist as it is kept.",
)
async def update_playlist(body: PlaylistUpdate, tx: Tx) -> PlaylistView:
    """Only the playlist is answered: a catalog may be a hundred times as large as what was sent."""
    use_cases = await tx.get(UserCatalogUseCases)
    playlist = Playlist(
        id=PlaylistId(body.playlist.id),
        name=body.playlist.name,
        is_public=body.playlist.is_public,
        songs=tuple(Song(id=song.id, title=song.title) for song in body.playlist.songs),
    )
    await use_cases.update_playlist(CatalogId(body.user_catalog_id), playlist)
    return PlaylistView.model_validate(playlist)


@router.delete("/{id}/playlists/{playlistId}", status_code=204, responses=problems.responses(404, 409, 422, 503))
async def remove_playlist(id: Id, playlistId: Id, tx: Tx) -> None:  # noqa: A002, N803
    """Remove a playlist; the public finds it no longer."""
    use_cases = await tx.get(UserCatalogUseCases)
    await use_cases.remove_playlist(CatalogId(id), PlaylistId(playlistId))


@router.put("/favorites", responses=problems.responses(400, 404, 409, 413, 415, 422, 503))
async def update_favorites(body: FavoritesUpdate, tx: Tx) -> KeptFavoritesView:
    """Replace what a user likes, as a whole. Other services hear of it. The answer is the favorites as they are kept."""
    use_cases = await tx.get(UserCatalogUseCases)
    liked = body.favorites
    favorites = Favorites(songs=tuple(liked.songs), artists=tuple(liked.artists), albums=tuple(liked.albums))
    catalog = await use_cases.update_favorites(UserId(body.user_id), favorites)
    return KeptFavoritesView(user_id=catalog.user.id, favorites=FavoritesView.model_validate(catalog.favorites))


# --- errors -------------------------------------------------------------------------------------------------


async def beyond_limit(_request: Request, error: Exception) -> Response:
    """422, naming the part of the body that is too much."""
    part = error.part if isinstance(error, BeyondLimitError) else ""
    return problems.problem_response(422, detail=str(error), errors=[problems.invalid(f"/{part}", str(error))])
