"""A playlist as the public finds it: who published it, its name, its songs. No drafts, no owner's catalog."""

from dataclasses import dataclass

__all__ = ["PublicPlaylist", "PublicSong"]


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
