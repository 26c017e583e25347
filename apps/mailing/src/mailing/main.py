"""mailing-ms, put together: `python -m mailing`. It has no HTTP door but the health port."""

import sys
from datetime import timedelta
from email import policy
from email.headerregistry import Address, AddressHeader
from importlib.metadata import version
from typing import Final, cast

from cauce import AtLeastOnce, AtMostOnce, CauceError, Service, utc_now
from cauce.hosting import EXIT_CONFIGURATION, run
from cauce.settings import load
from cauce.stores.sqlalchemy import SqlAlchemyStore
from contracts.accounts import NEST_NAMES
from seedwork import database, logs
from seedwork.settings import bridge_from, transport_from

from mailing.application import WelcomeMail
from mailing.domain import Outcome
from mailing.entrypoints import welcome_listener
from mailing.infrastructure.mail_records import SqlMailRecords
from mailing.infrastructure.patience import Limits, Patience
from mailing.infrastructure.smtp import SmtpMailer
from mailing.infrastructure.templates import Templates
from mailing.infrastructure.upkeep import Upkeep
from mailing.service import MailingService
from mailing.settings import Settings

__all__ = ["build", "main"]

SOURCE: Final = "mailing-ms"
EFFECTS: Final = {"at-least-once": AtLeastOnce(), "at-most-once": AtMostOnce()}
MIGRATIONS: Final = "mailing.migrations"
SLOW_MAILS: Final = 4
"""Half of the events that Cauce handles at a time."""
SLOW_AFTER_S: Final = 10.0
VOLATILE_LANES: Final = 16
"""So many a volatile transport has: nobody tries again there, so no mail is given up for being slow."""
BEYOND_THE_MAIL_S: Final = 60.0
"""For the records before and after it."""


def build(settings: Settings, *, limits: Limits | None = None) -> Service:
    """The service, wired and not started. Its tables must be there: `database.migrate`. `limits` are for tests."""
    engine = database.engine(settings.mailing_database_url)
    sender = _parsed(settings.mail_from)
    transport = transport_from(settings, NEST_NAMES)
    limits = limits or Limits()
    records = SqlMailRecords(
        engine,
        an_hour=settings.mail_per_recipient,
        key=settings.mail_address_key.get_secret_value().encode() if settings.mail_address_key else None,
    )

    def count(outcome: Outcome) -> None:
        service.counters[f"mails_{outcome}"] += 1

    welcome = WelcomeMail(
        records=records,
        mailer=SmtpMailer(
            host=settings.smtp_host,
            port=settings.smtp_port,
            sender=sender,
            tls=settings.smtp_tls,
            user=settings.smtp_user,
            password=settings.smtp_pass.get_secret_value() if settings.smtp_pass else None,
            limits=limits,
            patience=Patience(places=SLOW_MAILS if transport.durable else VOLATILE_LANES, slow_after_s=SLOW_AFTER_S),
        ),
        render=Templates(settings.mail_language),
        sender_domain=sender.domain,
        now=utc_now,
        tried_again=transport.durable,
        count=count,
    )
    listener = welcome_listener(welcome, EFFECTS[settings.mail_delivery], limit_s=limits.total_s + BEYOND_THE_MAIL_S)
    service = MailingService(
        SOURCE,
        upkeep=Upkeep(records, keep=timedelta(days=settings.mail_kept_days), now=utc_now),
        version=version("mailing"),
        modules=[listener],
        store=SqlAlchemyStore(engine),
        transport=transport,
        bridge=bridge_from(settings, NEST_NAMES),
        start="retained",
    )
    return service


def main() -> int:
    """Run until a signal. The exit code: 0 drained, 1 crashed, 2 could not start."""
    try:
        settings = load(Settings)
        logs.configure(settings)
        database.migrate(settings.mailing_database_url, MIGRATIONS)
        service = build(settings)
    except CauceError as error:
        sys.stderr.write(f"{SOURCE}: {error}\n")
        return EXIT_CONFIGURATION
    return run(service, health_port=settings.mailing_health_port)


def _parsed(sender: str) -> Address:
    """The one address of MAIL_FROM, which the settings have checked."""
    header = cast("AddressHeader", policy.default.header_factory("From", sender))
    return header.addresses[0]
