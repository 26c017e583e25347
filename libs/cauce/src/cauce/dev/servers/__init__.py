"""Real servers as child processes: Valkey, PostgreSQL and a mail sink."""

from cauce.dev.servers.embedded import EmbeddedServer
from cauce.dev.servers.mail_sink import MailSinkServer
from cauce.dev.servers.postgres import PostgresServer
from cauce.dev.servers.scratch import ScratchDatabases
from cauce.dev.servers.valkey import ValkeyServer

__all__ = ["EmbeddedServer", "MailSinkServer", "PostgresServer", "ScratchDatabases", "ValkeyServer"]
