"""The users' catalogs over HTTP. Bodies are checked to the last nested field, and unknown fields are refused."""

import re
from collections.abc import Mapping
from typing import Annotated, Final

from cauce.fastapi import ReadTx, Tx, problems
from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from music_discovery.user_catalog.application import (
    CatalogContendedError,
    CatalogExistsError,
    CatalogNotFoundError,
    UserCatalogUseCases,
)
from music_discovery.user_catalog.domain import (
    CatalogId,
    Favorites,
    Playlist,
    PlaylistId,
    PlaylistNotFoundError,
    Song,
    User,
    UserCatalog,
    UserId,
    canonical_id,
    is_id,
)

__all__ = ["PROBLEMS", "router"]

PROBLEMS: Final[Mapping[type[Exception], int]] = {
    CatalogNotFoundError: 404,
    PlaylistNotFoundError: 404,
    CatalogExistsError: 409,
    CatalogContendedError: 409,
}
"""How the module's errors are answered."""

router = APIRouter(prefix="/user-catalog", tags=["user catalog"])

# --- what a body may be -------------------------------------------------------------------------------------

_NOT_IN_TEXT: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
_TEXT: Final = re.compile(rf"[^{_NOT_IN_TEXT}]*[^\s{_NOT_IN_TEXT}][^{_NOT_IN_TEXT}]*")


def _id(value: str) -> str:
    if not is_id(value):
        raise ValueError("expected an id like 12345678-1234-1234-1234-123456789abc")
    return canonical_id(value)


def _text(value: str) -> str:
    if not _TEXT.fullmatch(value):
        raise ValueError("expected text on one line: not blank, no control characters")
    return value


Id = Annotated[
    str,
    AfterValidator(_id),
    Field(
        description="8-4-4-4-12 hexadecimal digits, of any UUID version",
        examples=["12345678-1234-1234-1234-123456789abc"],
        json_schema_extra={"pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"},
    ),
]
_SHOWN_PATTERN: Final[dict[str, JsonValue]] = {"pattern": f"^{_TEXT.pattern}$"}
Name = Annotated[str, AfterValidator(_text), Field(max_length=200, json_schema_extra=_SHOWN_PATTERN)]
Title = Annotated[str, AfterValidator(_text), Field(max_length=300, json_schema_extra=_SHOWN_PATTERN)]
LikedId = Annotated[str, AfterValidator(_text), Field(max_length=128, json_schema_extra=_SHOWN_PATTERN)]

MAX_ITEMS: Final = 10_000


class Json(BaseModel):
    """camelCase outside, no unknown field, no guessing: `"yes"` is no boolean."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True, frozen=True)


class SongJson(Json):
    id: Id
    title: Title


class PlaylistJson(Json):
    id: Id
    name: Name
    is_public: bool
    songs: list[SongJson] = Field(max_length=MAX_ITEMS)


class UserJson(Json):
    id: Id
    username: Name


class FavoritesJson(Json):
    """Ids of what the user likes. A list that is left out is empty: the favorites are replaced as a whole."""

    songs: list[LikedId] = Field(default=[], max_length=MAX_ITEMS)
    artists: list[LikedId] = Field(default=[], max_length=MAX_ITEMS)
    albums: list[LikedId] = Field(default=[], max_length=MAX_ITEMS)


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


@router.put("/playlists", responses=problems.responses(400, 404, 409, 413, 415, 422, 503))
async def update_playlist(body: PlaylistUpdate, tx: Tx) -> CatalogView:
    """Replace the playlist of that id, or add it; it then stands last. The public finds it if it is public."""
    use_cases = await tx.get(UserCatalogUseCases)
    playlist = Playlist(
        id=PlaylistId(body.playlist.id),
        name=body.playlist.name,
        is_public=body.playlist.is_public,
        songs=tuple(Song(id=song.id, title=song.title) for song in body.playlist.songs),
    )
    return CatalogView.of(await use_cases.update_playlist(CatalogId(body.user_catalog_id), playlist))


@router.delete("/{id}/playlists/{playlistId}", status_code=204, responses=problems.responses(404, 409, 422, 503))
async def remove_playlist(id: Id, playlistId: Id, tx: Tx) -> None:  # noqa: A002, N803
    """Remove a playlist; the public finds it no longer."""
    use_cases = await tx.get(UserCatalogUseCases)
    await use_cases.remove_playlist(CatalogId(id), PlaylistId(playlistId))


@router.put("/favorites", responses=problems.responses(400, 404, 409, 413, 415, 422, 503))
async def update_favorites(body: FavoritesUpdate, tx: Tx) -> CatalogView:
    """Replace what a user likes, as a whole. Other services hear of it."""
    use_cases = await tx.get(UserCatalogUseCases)
    liked = body.favorites
    favorites = Favorites(songs=tuple(liked.songs), artists=tuple(liked.artists), albums=tuple(liked.albums))
    return CatalogView.of(await use_cases.update_favorites(UserId(body.user_id), favorites))
