"""The files of certificates and keys that the options of a URL name: each is looked at before anything connects.

Drivers tell of a missing one without its name, when the first connection is made; and libpq says nothing at all of most,
and connects without what they were for.
"""

import os
import ssl
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

__all__ = ["POSTGRESQL", "REDIS", "FileOptions", "problems_of_files", "problems_of_url"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """Under which names a driver takes its files."""

    authorities: str
    certificate: str
    key: str
    password: str
    revoked: str | None = None
    folders: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    libpq: bool = False
    """Its variables of the environment count too, `PG` and the name; and a key that others can read is refused."""


REDIS: Final = FileOptions(
    authorities="ssl_ca_certs",
    certificate="ssl_certfile",
    key="ssl_keyfile",
    password="ssl_password",  # noqa: S106 — the name of an option
    folders=("ssl_ca_path",),
)
POSTGRESQL: Final = FileOptions(
    authorities="sslrootcert",
    certificate="sslcert",
    key="sslkey",
    password="sslpassword",  # noqa: S106 — the name of an option
    revoked="sslcrl",
    folders=("sslcrldir",),
    others=("passfile",),
    libpq=True,
)

_CERTIFICATE: Final = "it holds no certificate (expected PEM: -----BEGIN CERTIFICATE-----)"


@dataclass(frozen=True, slots=True)
class _Named:
    option: str
    path: str

    def is_wrong(self, why: str) -> str:
        return f"{self.option}={self.path}: {why}"


def problems_of_url(url: str) -> Iterator[str]:
    """What is wrong with the files that a URL of Redis or PostgreSQL names: `OPTION=FILE: why`. Of another URL nothing.

    Nothing else of the URL is in them.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    given = dict(reversed(parse_qsl(url.partition("?")[2].partition("#")[0])))  # of two, the first counts
    if scheme == "rediss":
        yield from problems_of_files(given, REDIS)
    elif scheme == "postgresql":
        yield from problems_of_files(given, POSTGRESQL)


def problems_of_files(given: Mapping[str, object], names: FileOptions) -> Iterator[str]:
    """What is wrong with the files among the options of a connection: `OPTION=FILE: why`."""
    if names.libpq and (given.get("sslmode") or os.environ.get("PGSSLMODE")) == "disable":
        return
    authorities, certificate, key = (
        _named(given, names, one) for one in (names.authorities, names.certificate, names.key)
    )
    if authorities and not (names.libpq and authorities.path == "system"):
        yield from _of_certificates(authorities)
    for option in names.folders:
        if (folder := _named(given, names, option)) and not Path(folder.path).is_dir():
            yield folder.is_wrong("no such folder")
    for option in filter(None, (names.revoked, *names.others)):
        if named := _named(given, names, option):
            yield from _unreadable(named)
    if key and names.libpq and ":" in key.path:  # a key in hardware, not in a file
        return
    password = given.get(names.password)
    wrong = [*(_of_certificates(certificate) if certificate else ()), *(_of_key(key, names) if key else ())]
    yield from wrong
    if certificate and not wrong:
        yield from _of_pair(certificate, key, names.password, password if isinstance(password, str) else None)
    elif key and not certificate and not names.libpq:
        yield key.is_wrong(f"a key needs its certificate, and {names.certificate} is not given")


def _named(given: Mapping[str, object], names: FileOptions, option: str) -> _Named | None:
    value = given.get(option)
    if isinstance(value, (str, Path)) and str(value):
        return _Named(option, str(value))
    variable = f"PG{option.upper()}"
    if names.libpq and (path := os.environ.get(variable)):
        return _Named(variable, path)
    return None


def _of_certificates(named: _Named) -> Iterator[str]:
    wrong = list(_unreadable(named))
    yield from wrong
    if not wrong and Path(named.path).is_file():
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(named.path)
        except (ssl.SSLError, ValueError):
            yield named.is_wrong(_CERTIFICATE)


def _of_key(named: _Named, names: FileOptions) -> Iterator[str]:
    wrong = list(_unreadable(named))
    yield from wrong
    if not wrong and names.libpq:
        found = Path(named.path).stat()
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o077 and (found.st_uid != 0 or mode & 0o037):
            yield named.is_wrong(
                f"others may read it (mode {mode:o}), and PostgreSQL's library refuses it then: chmod 600"
            )


def _of_pair(certificate: _Named, key: _Named | None, option: str, password: str | None) -> Iterator[str]:
    """Of a certificate and its key, which may be in the same file; both can be read."""
    holder = key or certificate
    if not Path(certificate.path).is_file() or not Path(holder.path).is_file():
        return
    content = Path(holder.path).read_bytes()
    if content.startswith(b"\x30"):  # a key in DER, which libpq takes and Python cannot read
        return
    try:
        # Without a password given, one must not be asked for at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            certificate.path, holder.path, password=lambda: password or ""
        )
    except (ssl.SSLError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            yield holder.is_wrong(f"it is not the key of {certificate.option}={certificate.path}")
        elif b"ENCRYPTED" in content:
            yield holder.is_wrong(
                f"the key is encrypted, and {option} {'does not open it' if password else 'is not given'}"
            )
        else:
            yield holder.is_wrong("it holds no private key (expected PEM: -----BEGIN PRIVATE KEY-----)")


def _unreadable(named: _Named) -> Iterator[str]:
    path = Path(named.path)
    try:
        if path.is_dir():
            yield named.is_wrong("it is a folder, and a file is expected")
        elif path.is_file() or not path.exists():  # nothing that reading would use up, as a pipe
            path.open("rb").close()
    except FileNotFoundError:
        yield named.is_wrong("no such file")
    except PermissionError:
        yield named.is_wrong("this account may not read it")
    except (OSError, ValueError) as error:
        yield named.is_wrong(f"it cannot be read: {getattr(error, 'strerror', None) or error}")
