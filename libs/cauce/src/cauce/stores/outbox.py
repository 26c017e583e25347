"""The outbox for code that owns its session: `async with session.begin()`, or synchronous SQLAlchemy.

    outbox = Outbox("accounts-ms", publishes=[UserCreated])

    with Session(engine) as session, session.begin():
        session.add(user)
        outbox.add(session, UserCreated(id=user.id, …))

The event is written in the session's own transaction and sent by the relay of this service: a running Service on the
same database, in this process or another. Nothing has to run here.
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cauce.errors import ConfigurationError
from cauce.events.envelope import Clock, Envelope, NewId, new_id, utc_now
from cauce.events.event import IntegrationEvent, check_fields, describe
from cauce.events.publishable import Publishable
from cauce.formats.publication import published
from cauce.ports.outbox import Outgoing
from cauce.ports.savepoints import Savepoints
from cauce.stores.sql.sessions import follow

__all__ = ["Outbox"]


class Outbox:
    """Publishes a service's integration events through sessions that your own code begins and commits.

    `version`: of the service's code.

    Raises ConfigurationError if one of `publishes` belongs to another service.
    """

    def __init__(
        self,
        service: str,
        *,
        publishes: Sequence[type[IntegrationEvent]],
        version: str | None = None,
        clock: Clock = utc_now,
        new_id: NewId = new_id,
    ) -> None:
        self._publishable = Publishable(service, publishes, version=version, clock=clock, new_id=new_id)
        # One key for each outbox, so that two may write in one session.
        self._key = f"cauce_outbox:{id(self)}"
        problems = [
            f"{one.__name__} belongs to {describe(one).source}; this is the outbox of {service}"
            for one in publishes
            if describe(one).source != service
        ]
        if problems:
            raise ConfigurationError(problems, where="the outbox")
        for one in publishes:
            check_fields(one, travels=True)

    def add(self, session: Session | AsyncSession, event: IntegrationEvent) -> Envelope:
        """Publish as part of the session's transaction; the envelope holds the event's id.

        What a savepoint or the transaction rolls back was never published. Raises PublishError for an event that this
        service does not publish, and, with `path` and `expectation`, for one that no service could read as it is.
        """
        if type(event) not in self._publishable:
            raise self._publishable.undeclared(type(event))
        envelope, message = published(event, self._publishable.envelope)
        owner = session.sync_session if isinstance(session, AsyncSession) else session
        if not owner.in_transaction():
            owner.begin()  # so that the commit that follows is one, even if nothing else is written
        self._savepoints(owner).add(Outgoing(envelope=envelope, message=message))
        return envelope

    def _savepoints(self, session: Session) -> Savepoints[Outgoing]:
        savepoints: Savepoints[Outgoing] | None = session.info.get(self._key)
        if savepoints is None:
            savepoints = Savepoints[Outgoing]()
            session.info[self._key] = savepoints
            for savepoint in _open_savepoints(session):
                savepoints.opened(savepoint)
            follow(session, savepoints, _as_they_are)
        return savepoints


def _as_they_are(published: Sequence[Outgoing]) -> Sequence[Outgoing]:
    return published


def _open_savepoints(session: Session) -> list[int]:
    """Find the savepoints that are open already, outermost first, by the ids that `follow` uses."""
    found: list[int] = []
    transaction = session.get_nested_transaction()
    while transaction is not None and transaction.nested:
        found.append(id(transaction))
        transaction = transaction.parent
    return found[::-1]
