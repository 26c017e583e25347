"""A playlist as the public finds it: who published it, its name, its songs. No drafts, no owner's catalog."""

from dataclasses import dataclass

__all__ = ["ListedPlaylist", "PublicPlaylist", "PublicPlaylistNotFoundError", "PublicSong"]


class PublicPlaylistNotFoundError(LookupError):
    """There is no such public playlist; it may never have been one."""

    def __init__(self, catalog_id: str, playlist_id: str) -> None:
        super().__init__(f"There is no public playlist {playlist_id} in the catalog {catalog_id}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicSong:
    id: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicPlaylist:
    """Known by its catalog and its id together: two users may use one id without knowing of each other."""

    catalog_id: str
    id: str
    user_id: str
    name: str
    songs: tuple[PublicSong, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPlaylist:
    """A public playlist in a list, where the number of its songs stands for them."""

    catalog_id: str
    id: str
    user_id: str
    name: str
    song_count: int
