"""The public playlists in the service's own database, with its full-text index.

The terms of a playlist are made in Python (search_terms) and stored finished; FTS5 in SQLite and a GIN index over a
tsvector in PostgreSQL only look them up. Neither cuts or folds text of its own, so both find the same.
The index itself is in the migrations: FTS5 follows the table by triggers, the tsvector is a generated column.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    CursorResult,
    Integer,
    MetaData,
    Row,
    Table,
    Text,
    UniqueConstraint,
    column,
    delete,
    insert,
    select,
    table,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.expression import Executable

from music_discovery.playlist_catalog.application import Page
from music_discovery.playlist_catalog.domain import PublicPlaylist, PublicSong
from music_discovery.playlist_catalog.search_terms import indexed_terms

__all__ = ["SqlPublicPlaylists", "metadata"]

metadata: Final = MetaData()

_playlists = Table(
    "public_playlists",
    metadata,
    # Given once, when published, and always higher than any before: the order of the search, and its cursor.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("catalog_id", Text, nullable=False),
    Column("playlist_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("songs", JSON, nullable=False),
    Column("terms", Text, nullable=False),
    UniqueConstraint("catalog_id", "playlist_id", name="uq_public_playlists_catalog_playlist"),
    sqlite_autoincrement=True,
)

_versions = Table(
    "public_playlist_versions",
    metadata,
    Column("catalog_id", Text, primary_key=True),
    Column("playlist_id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
)

_fts5 = table("public_playlists_terms", column("rowid", Integer))
_MATCH = text("public_playlists_terms MATCH :terms")
_TSVECTOR = text("term_vector @@ CAST(:terms AS tsquery)")


class SqlPublicPlaylists:
    """The port PublicPlaylists over one session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._on_postgresql = session.get_bind().dialect.name == "postgresql"

    async def publish(self, playlist: PublicPlaylist, *, version: int) -> None:
        if not await self._is_news(playlist.catalog_id, playlist.id, version):
            return
        values = {
            "user_id": playlist.user_id,
            "name": playlist.name,
            "songs": [{"id": song.id, "title": song.title} for song in playlist.songs],
            "terms": " ".join(indexed_terms(playlist.name, *(song.title for song in playlist.songs))),
        }
        key = {"catalog_id": playlist.catalog_id, "playlist_id": playlist.id}
        if not await self._changed(update(_playlists).filter_by(**key).values(values)):
            await self._session.execute(insert(_playlists).values(key | values))

    async def withdraw(self, catalog_id: str, playlist_id: str, *, version: int) -> None:
        if await self._is_news(catalog_id, playlist_id, version):
            await self._session.execute(delete(_playlists).filter_by(catalog_id=catalog_id, playlist_id=playlist_id))

    async def forget(self, catalog_id: str) -> None:
        for forgotten in (_playlists, _versions):
            await self._session.execute(delete(forgotten).filter_by(catalog_id=catalog_id))

    async def search(self, terms: Sequence[str] | None, *, limit: int, after: int | None) -> Page:
        position = _playlists.c.position
        query = select(_playlists)
        if terms is not None and self._on_postgresql:
            query = query.where(_TSVECTOR.bindparams(terms=_tsquery(terms)))
        elif terms is not None:
            # By FTS5's own row number, which it walks downwards and stops at the limit.
            position = _fts5.c.rowid
            query = query.join(_fts5, position == _playlists.c.position)
            query = query.where(_MATCH.bindparams(terms=_fts5_query(terms)))
        if after is not None:
            query = query.where(position < after)
        rows = (await self._session.execute(query.order_by(position.desc()).limit(limit + 1))).all()
        return Page(
            playlists=tuple(map(_to_playlist, rows[:limit])),
            next=rows[limit - 1].position if len(rows) > limit else None,
        )

    async def _is_news(self, catalog_id: str, playlist_id: str, version: int) -> bool:
        """Note the version. False if something at least as new was said; waits for a concurrent saying."""
        dialect = postgresql if self._on_postgresql else sqlite
        said = dialect.insert(_versions).values(catalog_id=catalog_id, playlist_id=playlist_id, version=version)
        return await self._changed(
            said.on_conflict_do_update(
                index_elements=["catalog_id", "playlist_id"],
                set_={"version": said.excluded.version},
                where=_versions.c.version < said.excluded.version,
            )
        )

    async def _changed(self, statement: Executable) -> bool:
        """Whether the statement changed a row."""
        options = {"preserve_rowcount": True}  # of an INSERT, too
        result = await self._session.execute(statement, execution_options=options)
        return isinstance(result, CursorResult) and result.rowcount == 1


# Terms hold only letters, digits, marks and symbols, never a quote: quoted, none of them is syntax.


def _fts5_query(terms: Sequence[str]) -> str:
    return " AND ".join(f'"{term}"*' for term in terms)


def _tsquery(terms: Sequence[str]) -> str:
    return " & ".join(f"'{term}':*" for term in terms)


def _to_playlist(row: Row[Any]) -> PublicPlaylist:
    return PublicPlaylist(
        catalog_id=row.catalog_id,
        id=row.playlist_id,
        user_id=row.user_id,
        name=row.name,
        songs=tuple(PublicSong(id=song["id"], title=song["title"]) for song in row.songs),
    )
