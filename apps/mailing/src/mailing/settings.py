"""The settings of mailing-ms, from the environment."""

import ipaddress
from email.headerregistry import Address
from typing import Annotated, Literal, Self

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, Field, SecretStr, model_validator
from seedwork.settings import BrokerSettings, DatabaseUrl, LogSettings, RedisUrl, own_broker_url

__all__ = ["Settings"]


def _address(value: str) -> str:
    try:
        parsed = validate_email(value, check_deliverability=False, allow_display_name=True, allow_smtputf8=False)
    except EmailNotValidError as error:
        raise ValueError(
            f"expected one address: no-reply@example.com or Name <no-reply@example.com>. {error}"
        ) from None
    return str(Address(display_name=parsed.display_name or "", addr_spec=parsed.ascii_email or parsed.normalized))


class Settings(BrokerSettings, LogSettings):
    redis_url: RedisUrl | None = own_broker_url("MAILING_REDIS_URL")
    mailing_database_url: DatabaseUrl = Field(
        "sqlite+aiosqlite:///.cauce/data/mailing.sqlite", repr=False, description="the database of mailing-ms"
    )
    mailing_health_port: int = Field(9014, ge=1, le=65535, description="health and counters, on loopback")
    smtp_host: str = Field("localhost", description="the mail server's host")
    smtp_port: int = Field(1025, ge=1, le=65535, description="the mail server's port")
    smtp_user: str | None = Field(None, description="the user at the mail server, if it wants one")
    smtp_pass: SecretStr | None = Field(None, description="the password at the mail server")
    smtp_tls: Literal["off", "starttls", "tls"] = Field(
        "off", description="off, starttls (usually port 587) or tls (usually 465); certificates are verified"
    )
    mail_from: Annotated[str, AfterValidator(_address)] = Field(
        "no-reply@clonespotify.example", description="the sender: an address, or Name <address>"
    )
    mail_delivery: Literal["at-least-once", "at-most-once"] = Field(
        "at-least-once", description="a mail cut off by a crash: sent again (same Message-ID), or left to a person"
    )
    mail_per_recipient: int = Field(3, ge=1, le=1000, description="how many mails one mailbox is sent within an hour")
    mail_kept_days: int = Field(30, ge=1, le=3650, description="how long the record of a mail is kept")
    mail_address_key: Annotated[SecretStr, Field(min_length=16)] | None = Field(
        None, description="secret of the hashes that recipients are counted by; else one in the service's database"
    )
    mail_language: Literal["es", "en"] = Field("es", description="the language of the mails")

    @model_validator(mode="after")
    def _login(self) -> Self:
        if bool(self.smtp_user) != bool(self.smtp_pass):
            given, missing = ("SMTP_USER", "SMTP_PASS") if self.smtp_user else ("SMTP_PASS", "SMTP_USER")
            raise ValueError(f"{given} is set and {missing} is not: a login needs both")
        if self.smtp_user and self.smtp_tls == "off" and not _is_loopback(self.smtp_host):
            raise ValueError(
                f"SMTP_TLS=off would send SMTP_PASS readable to {self.smtp_host}: set SMTP_TLS to starttls or tls"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
