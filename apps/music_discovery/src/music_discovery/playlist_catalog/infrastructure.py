"""The public playlists in the service's own database, with its full-text index.

The terms of a playlist are made in Python (search_terms) and stored finished; FTS5 in SQLite and a GIN index over a
tsvector in PostgreSQL only look them up. Neither cuts or folds text of its own, so both find the same.
The index is the table public_playlists_terms, made in the migrations, and follows public_playlists by triggers.
"""

from collections.abc import Sequence
from typing import Any, Final

from seedwork.statements import changed_a_row
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Integer,
    MetaData,
    Row,
    Select,
    Table,
    Text,
    UniqueConstraint,
    cast,
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
from sqlalchemy.sql.elements import ColumnElement

from music_discovery.playlist_catalog.application import Page
from music_discovery.playlist_catalog.domain import ListedPlaylist, PublicPlaylist, PublicSong
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
    Column("song_count", Integer, nullable=False, server_default="0"),
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

_position = _playlists.c.position
# What a list shows: the songs and the terms of a hundred playlists may be 40 MB.
_entry = tuple(
    _playlists.c[name] for name in ("position", "catalog_id", "playlist_id", "user_id", "name", "song_count")
)
_LOOKED_THROUGH: Final = 25
"""How many of the newest playlists are looked through for each one wanted, before PostgreSQL's index is asked."""

_fts5 = table("public_playlists_terms", column("rowid", Integer))
_MATCH = text("public_playlists_terms MATCH :terms")

_vectors = table("public_playlists_terms", column("position", BigInteger), column("term_vector", postgresql.TSVECTOR))


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
            "song_count": len(playlist.songs),
            "terms": " ".join(indexed_terms(playlist.name, *(song.title for song in playlist.songs))),
        }
        key = {"catalog_id": playlist.catalog_id, "playlist_id": playlist.id}
        if not await changed_a_row(self._session, update(_playlists).filter_by(**key).values(values)):
            await self._session.execute(insert(_playlists).values(key | values))

    async def withdraw(self, catalog_id: str, playlist_id: str, *, version: int) -> None:
        if await self._is_news(catalog_id, playlist_id, version):
            await self._session.execute(delete(_playlists).filter_by(catalog_id=catalog_id, playlist_id=playlist_id))

    async def forget(self, catalog_id: str) -> None:
        for forgotten in (_playlists, _versions):
            await self._session.execute(delete(forgotten).filter_by(catalog_id=catalog_id))

    async def find(self, catalog_id: str, playlist_id: str) -> PublicPlaylist | None:
        query = select(_playlists).filter_by(catalog_id=catalog_id, playlist_id=playlist_id)
        row = (await self._session.execute(query)).one_or_none()
        return None if row is None else _to_playlist(row)

    async def search(self, terms: Sequence[str] | None, *, limit: int, after: int | None) -> Page:
        rows: Sequence[Row[Any]] = ()
        for query in self._searches(terms, wanted=limit + 1, after=after):
            rows = (await self._session.execute(query)).all()
            if len(rows) > limit:
                break
        return Page(
            playlists=tuple(map(_to_entry, rows[:limit])),
            next=rows[limit - 1].position if len(rows) > limit else None,
        )

    def _searches(self, terms: Sequence[str] | None, *, wanted: int, after: int | None) -> list[Select[Any]]:
        """What to ask, one after the other, until there are `wanted` rows; the last one finds whatever there is."""
        if terms is None:
            return [_newest(select(*_entry), _position, wanted, after)]
        if self._on_postgresql:
            return _by_tsvector(_tsquery(terms), wanted, after)
        return [_by_fts5(_fts5_query(terms), wanted, after)]

    async def _is_news(self, catalog_id: str, playlist_id: str, version: int) -> bool:
        """Note the version. False if something at least as new was said; waits for a concurrent saying."""
        dialect = postgresql if self._on_postgresql else sqlite
        said = dialect.insert(_versions).values(catalog_id=catalog_id, playlist_id=playlist_id, version=version)
        return await changed_a_row(
            self._session,
            said.on_conflict_do_update(
                index_elements=["catalog_id", "playlist_id"],
                set_={"version": said.excluded.version},
                where=_versions.c.version < said.excluded.version,
            ),
        )


def _newest(query: Select[Any], position: ColumnElement[int], wanted: int, after: int | None) -> Select[Any]:
    if after is not None:
        query = query.where(position < after)
    return query.order_by(position.desc()).limit(wanted)


def _by_fts5(terms: str, wanted: int, after: int | None) -> Select[Any]:
    """In the order of FTS5's own row numbers, which it walks downwards and stops at the limit."""
    query = select(*_entry).join(_fts5, _fts5.c.rowid == _position).where(_MATCH.bindparams(terms=terms))
    return _newest(query, _fts5.c.rowid, wanted, after)


def _by_tsvector(terms: str, wanted: int, after: int | None) -> list[Select[Any]]:
    """First look through the newest playlists, then ask the index.

    A GIN index finds what is rare at once, but must gather everything before it can tell what is newest; walking
    down finds what is common at once, but goes through everything for what is rare. The planner would choose by
    guessing how often a prefix occurs, and guesses wrong for rare ones. So each way is tried where it cannot fail.
    """
    query = cast(terms, postgresql.TSQUERY)
    position, vector = _vectors.c.position, _vectors.c.term_vector
    window = _newest(select(_vectors), position, _LOOKED_THROUGH * wanted, after).subquery()
    in_window = select(window.c.position).where(window.c.term_vector.op("@@")(query))
    gathered = select(position).where(vector.op("@@")(query)).cte("gathered").prefix_with("MATERIALIZED")
    ways = (
        _newest(in_window, window.c.position, wanted, None).subquery(),
        _newest(select(gathered), gathered.c.position, wanted, after).subquery(),
    )
    return [select(*_entry).join(found, found.c.position == _position).order_by(_position.desc()) for found in ways]


# Terms hold only letters, digits, marks and symbols, never a quote: quoted, none of them is syntax.


def _fts5_query(terms: Sequence[str]) -> str:
    return " AND ".join(f'"{term}"*' for term in terms)


def _tsquery(terms: Sequence[str]) -> str:
    return " & ".join(f"'{term}':*" for term in terms)


def _to_entry(row: Row[Any]) -> ListedPlaylist:
    return ListedPlaylist(
        catalog_id=row.catalog_id,
        id=row.playlist_id,
        user_id=row.user_id,
        name=row.name,
        song_count=row.song_count,
    )


def _to_playlist(row: Row[Any]) -> PublicPlaylist:
    return PublicPlaylist(
        catalog_id=row.catalog_id,
        id=row.playlist_id,
        user_id=row.user_id,
        name=row.name,
        songs=tuple(PublicSong(id=song["id"], title=song["title"]) for song in row.songs),
    )
