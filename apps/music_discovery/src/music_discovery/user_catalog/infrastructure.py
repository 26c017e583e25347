"""The catalogs in the service's own database, SQLite or PostgreSQL."""

from typing import Any, Final

from seedwork.statements import changed_a_row
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    MetaData,
    Row,
    Table,
    Text,
    UniqueConstraint,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.elements import ColumnElement

from music_discovery.user_catalog.domain import (
    CatalogId,
    Favorites,
    Playlist,
    PlaylistId,
    Song,
    User,
    UserCatalog,
    UserId,
)

__all__ = ["SqlUserCatalogs", "metadata"]

metadata: Final = MetaData()

_catalogs = Table(
    "user_catalogs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("username", Text, nullable=False),
    Column("favorites", JSON, nullable=False),
    Column("version", BigInteger, nullable=False),
    UniqueConstraint("user_id", name="uq_user_catalogs_user_id"),
)

_playlists = Table(
    "catalog_playlists",
    metadata,
    Column("catalog_id", Text, ForeignKey("user_catalogs.id", ondelete="CASCADE"), primary_key=True),
    Column("playlist_id", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),  # the version of the catalog that put it last
    Column("name", Text, nullable=False),
    Column("is_public", Boolean, nullable=False),
    Column("songs", JSON, nullable=False),
    Index("ix_catalog_playlists_position", "catalog_id", "position"),
)


class SqlUserCatalogs:
    """The port UserCatalogs over one session. Every read makes new objects."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def find(self, catalog_id: CatalogId) -> UserCatalog | None:
        return await self._find(_catalogs.c.id == catalog_id)

    async def find_by_user(self, user_id: UserId) -> UserCatalog | None:
        return await self._find(_catalogs.c.user_id == user_id)

    async def add(self, catalog: UserCatalog) -> bool:
        dialect = postgresql if self._session.get_bind().dialect.name == "postgresql" else sqlite
        return await changed_a_row(
            self._session,
            dialect.insert(_catalogs)
            .values(
                id=catalog.id,
                user_id=catalog.user.id,
                username=catalog.user.username,
                favorites=_favorites_to_json(catalog.favorites),
                version=catalog.version,
            )
            .on_conflict_do_nothing(),
        )

    async def replace(self, before: UserCatalog, after: UserCatalog) -> bool:
        is_last_version = (_catalogs.c.id == before.id) & (_catalogs.c.version == before.version)
        replaced = await changed_a_row(
            self._session,
            update(_catalogs)
            .where(is_last_version)
            .values(
                username=after.user.username,
                favorites=_favorites_to_json(after.favorites),
                version=after.version,
            ),
        )
        if replaced:
            known = {playlist.id: playlist for playlist in before.playlists}
            put = [playlist for playlist in after.playlists if known.get(playlist.id) is not playlist]
            gone = known.keys() - {playlist.id for playlist in after.playlists}
            await self._drop(after.id, [*gone, *(playlist.id for playlist in put)])
            await self._put(after, put)
        return replaced

    async def remove(self, catalog_id: CatalogId) -> bool:
        # The catalog first: it is the row that concurrent changes wait for. Its playlists go with it.
        return await changed_a_row(self._session, delete(_catalogs).where(_catalogs.c.id == catalog_id))

    async def _find(self, wanted: ColumnElement[bool]) -> UserCatalog | None:
        # The version is read first: a change between the two reads is then noticed by `replace`.
        found = (await self._session.execute(select(_catalogs).where(wanted))).one_or_none()
        if found is None:
            return None
        rows = await self._session.execute(
            select(_playlists).where(_playlists.c.catalog_id == found.id).order_by(_playlists.c.position)
        )
        return UserCatalog(
            id=found.id,
            user=User(id=found.user_id, username=found.username),
            playlists=tuple(map(_to_playlist, rows)),
            favorites=Favorites(**{kind: tuple(ids) for kind, ids in found.favorites.items()}),
            version=found.version,
        )

    async def _drop(self, catalog_id: CatalogId, playlist_ids: list[PlaylistId]) -> None:
        if playlist_ids:
            await self._session.execute(
                delete(_playlists).where(
                    _playlists.c.catalog_id == catalog_id, _playlists.c.playlist_id.in_(playlist_ids)
                )
            )

    async def _put(self, catalog: UserCatalog, playlists: list[Playlist]) -> None:
        if playlists:
            rows = [_to_row(catalog, playlist) for playlist in playlists]
            await self._session.execute(insert(_playlists), rows)


def _favorites_to_json(favorites: Favorites) -> dict[str, list[str]]:
    return {
        "songs": list(favorites.songs),
        "artists": list(favorites.artists),
        "albums": list(favorites.albums),
    }


def _to_row(catalog: UserCatalog, playlist: Playlist) -> dict[str, object]:
    return {
        "catalog_id": catalog.id,
        "playlist_id": playlist.id,
        "position": catalog.version,
        "name": playlist.name,
        "is_public": playlist.is_public,
        "songs": [{"id": song.id, "title": song.title} for song in playlist.songs],
    }


def _to_playlist(row: Row[Any]) -> Playlist:
    return Playlist(
        id=row.playlist_id,
        name=row.name,
        is_public=row.is_public,
        songs=tuple(Song(id=song["id"], title=song["title"]) for song in row.songs),
    )
