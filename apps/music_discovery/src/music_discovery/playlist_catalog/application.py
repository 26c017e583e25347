"""Publishing, withdrawing and finding public playlists."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from music_discovery.playlist_catalog.domain import ListedPlaylist, PublicPlaylist, PublicPlaylistNotFoundError
from music_discovery.playlist_catalog.search_terms import query_terms

__all__ = ["Page", "PublicPlaylistUseCases", "PublicPlaylists"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the playlists, newest published first."""

    playlists: tuple[ListedPlaylist, ...]
    next: int | None
    """The position after which the next page begins; None when this is the last one."""


class PublicPlaylists(Protocol):
    """The public playlists, in the caller's transaction.

    `version` orders what is said about one playlist: what is older than the last thing said has no effect, in
    whatever order it arrives, and saying the same twice equals saying it once.
    """

    async def publish(self, playlist: PublicPlaylist, *, version: int) -> None:
        """Show it; one that is already shown is changed and keeps its place."""
        ...

    async def withdraw(self, catalog_id: str, playlist_id: str, *, version: int) -> None:
        """Show it no longer. Published again later, it is new."""
        ...

    async def forget(self, catalog_id: str) -> None:
        """Drop all playlists of a catalog and every version heard of them."""
        ...

    async def find(self, catalog_id: str, playlist_id: str) -> PublicPlaylist | None: ...

    async def search(self, terms: Sequence[str] | None, *, limit: int, after: int | None) -> Page:
        """At most `limit` of those that have, for each term, a word beginning with it; all of them for None.

        Newest published first, beginning behind the position `after`. What is published meanwhile comes before all
        that was there, so going on from page to page neither repeats nor misses any of it.
        """
        ...


class PublicPlaylistUseCases:
    """The module's doors, for HTTP and for events alike."""

    def __init__(self, playlists: PublicPlaylists) -> None:
        self._playlists = playlists

    async def publish(self, playlist: PublicPlaylist, *, version: int) -> None:
        await self._playlists.publish(playlist, version=version)

    async def withdraw(self, catalog_id: str, playlist_id: str, *, version: int) -> None:
        await self._playlists.withdraw(catalog_id, playlist_id, version=version)

    async def forget(self, catalog_id: str) -> None:
        await self._playlists.forget(catalog_id)

    async def get(self, catalog_id: str, playlist_id: str) -> PublicPlaylist:
        """Raises PublicPlaylistNotFoundError."""
        playlist = await self._playlists.find(catalog_id, playlist_id)
        if playlist is None:
            raise PublicPlaylistNotFoundError(catalog_id, playlist_id)
        return playlist

    async def search(self, query: str, *, limit: int, after: int | None = None) -> Page:
        """All playlists for a blank query; none for one without a letter, digit or symbol in it."""
        if not query.strip():
            return await self._playlists.search(None, limit=limit, after=after)
        terms = query_terms(query)
        if not terms:
            return Page(playlists=(), next=None)
        return await self._playlists.search(terms, limit=limit, after=after)
