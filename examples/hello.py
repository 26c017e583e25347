from cauce import Bus, DomainEvent, on

class SongPlayed(DomainEvent, name="player.song-played"):
    title: str

@on(SongPlayed)
def announce(event: SongPlayed) -> None:
    print(f"Now playing: {event.title}")

Bus([announce]).emit(SongPlayed(title="Entre dos aguas"))
