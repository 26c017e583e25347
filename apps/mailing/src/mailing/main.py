"""mailing-ms, put together: `python -m mailing`. It has no HTTP door but the health port."""

import sys
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
from mailing.entrypoints import welcome_listener
from mailing.infrastructure.mail_records import SqlMailRecords
from mailing.infrastructure.smtp import SmtpMailer
from mailing.infrastructure.templates import Templates
from mailing.settings import Settings

__all__ = ["build", "main"]

SOURCE: Final = "mailing-ms"
EFFECTS: Final = {"at-least-once": AtLeastOnce(), "at-most-once": AtMostOnce()}
MIGRATIONS: Final = "mailing.migrations"


def build(settings: Settings) -> Service:
    """The service, wired and not started. Its tables must be there: `database.migrate`."""
    engine = database.engine(settings.mailing_database_url)
    sender = _parsed(settings.mail_from)
    transport = transport_from(settings, NEST_NAMES)
    welcome = WelcomeMail(
        records=SqlMailRecords(engine),
        mailer=SmtpMailer(
            host=settings.smtp_host,
            port=settings.smtp_port,
            sender=sender,
            tls=settings.smtp_tls,
            user=settings.smtp_user,
            password=settings.smtp_pass.get_secret_value() if settings.smtp_pass else None,
        ),
        render=Templates(settings.mail_language),
        sender_domain=sender.domain,
        now=utc_now,
        tried_again=transport.durable,
    )
    return Service(
        SOURCE,
        version=version("mailing"),
        modules=[welcome_listener(welcome, EFFECTS[settings.mail_delivery])],
        store=SqlAlchemyStore(engine),
        transport=transport,
        bridge=bridge_from(settings, NEST_NAMES),
        start="retained",
    )


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
