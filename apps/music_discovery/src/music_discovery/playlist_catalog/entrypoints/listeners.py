"""What the public playlists listen to: what users do with theirs. Heard in the publisher's transaction."""

from cauce import on

from music_discovery.playlist_catalog.application import PublicPlaylistUseCases
from music_discovery.playlist_catalog.domain import PublicPlaylist, PublicSong
from music_discovery.shared.events import CatalogRemoved, PlaylistRemoved, PlaylistUpdated

__all__ = [
    "forget_when_catalog_removed",
    "publish_or_withdraw_when_playlist_updated",
    "withdraw_when_playlist_removed",
]


@on(PlaylistUpdated)
async def publish_or_withdraw_when_playlist_updated(event: PlaylistUpdated, use_cases: PublicPlaylistUseCases) -> None:
    playlist = event.playlist
    if not playlist.is_public:
        await use_cases.withdraw(event.catalog_id, playlist.id, version=event.catalog_version)
        return
    published = PublicPlaylist(
        catalog_id=event.catalog_id,
        id=playlist.id,
        user_id=event.user_id,
        name=playlist.name,
        songs=tuple(PublicSong(id=song.id, title=song.title) for song in playlist.songs),
    )
    await use_cases.publish(published, version=event.catalog_version)


@on(PlaylistRemoved)
async def withdraw_when_playlist_removed(event: PlaylistRemoved, use_cases: PublicPlaylistUseCases) -> None:
    await use_cases.withdraw(event.catalog_id, event.playlist_id, version=event.catalog_version)


@on(CatalogRemoved)
async def forget_when_catalog_removed(event: CatalogRemoved, use_cases: PublicPlaylistUseCases) -> None:
    await use_cases.forget(event.catalog_id)
