"""Turn every way to write a database's address into one connection string for libpq.

It takes libpq's URIs and DSNs, SQLAlchemy's URLs, and None for the environment. The result may hold
a password. Errors and `redacted` never do. libpq's own messages quote the text that they could not
read, so they are not passed on.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from pgmem.errors import InvalidInput

ENVIRONMENT: Final = ("PGMEM_DATABASE_URL", "DATABASE_URL")

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+._-]*)://")
_DATABASES: Final = ("postgresql", "postgres")
# SQLAlchemy drivers that are libpq underneath: their URLs mean the same to pgmem's own psycopg.
_DRIVERS: Final = ("psycopg", "psycopg_async", "psycopg2")
_SHOWN: Final = ("host", "port", "dbname", "user")
_ALLOWED: Final = (
    "allowed are postgresql://user:password@host:port/dbname, postgres://…, "
    "postgresql+psycopg://… (SQLAlchemy), and libpq's 'host=… dbname=…'"
)


def connection_string(url: str | None = None) -> str:
    """Return the connection string for libpq.

    Args:
        url: a libpq URI or DSN, or a SQLAlchemy URL. None: the environment variable
            `PGMEM_DATABASE_URL`, then `DATABASE_URL`, then libpq's own (`PGHOST`, `PGSERVICE` …).

    Raises:
        InvalidInput: it cannot be read, or names another database or driver.
    """
    name = "the database url"
    if url is None:
        variable = next((v for v in ENVIRONMENT if os.environ.get(v)), None)
        if variable is None:
            return ""  # libpq looks at its own variables, service file and defaults
        name, url = variable, os.environ[variable]
    if not isinstance(url, str):
        raise InvalidInput(
            f"{name} must be a string, not {type(url).__name__}; of a SQLAlchemy URL pass "
            "url.render_as_string(hide_password=False)"
        )
    if not url.strip():
        raise InvalidInput(f"{name} is empty; leave it out to use the environment, or {_ALLOWED}")
    if "\0" in url:
        raise InvalidInput(f"{name} holds a NUL character; {_ALLOWED}")
    try:
        options = _parse(name, url.strip())
        _check_places(name, options)
        return make_conninfo(**options)
    except (psycopg.Error, ValueError, UnicodeError) as error:
        if isinstance(error, InvalidInput):
            raise
        # `from None`: libpq and SQLAlchemy quote what they could not read, password and all.
        raise InvalidInput(_unreadable(name, str(error))) from None


def redacted(conninfo: str) -> str:
    """Return host, port, dbname and user of a connection string, for logs and messages.

    What the string leaves open is filled in from libpq's environment.

    Args:
        conninfo: a connection string, or any url that `connection_string` takes.
    """
    try:
        given = conninfo_to_dict(connection_string(conninfo) if conninfo.strip() else "")
    except (InvalidInput, psycopg.Error):
        return "(unreadable connection string)"
    values = {option.keyword.decode(): option.val for option in Conninfo.get_defaults()}
    shown: dict[str, str] = {}
    for key in _SHOWN:
        default = values.get(key)
        value = given.get(key) or (default.decode("utf-8", "replace") if default else None)
        if value is None:
            continue
        # A whole connection string may stand in dbname; what looks like one is not shown.
        shown[key] = "***" if re.search(r"[=@]|://", str(value)) else str(value)
    return " ".join(f"{key}={value}" for key, value in shown.items()) or "libpq's default server"


def _parse(name: str, url: str) -> dict[str, Any]:
    scheme = _SCHEME.match(url)
    if scheme is None:
        return dict(conninfo_to_dict(url))
    database, _, driver = scheme.group(1).lower().partition("+")
    if database not in _DATABASES:
        raise InvalidInput(f"{name} is for {database!r}, and pgmem needs PostgreSQL; {_ALLOWED}")
    if driver and driver not in _DRIVERS:
        raise InvalidInput(
            f"{name} names the driver {driver!r}, and pgmem connects with psycopg; {_ALLOWED}"
        )
    rest = url[scheme.end() :]
    authority, _, path = rest.partition("?")[0].partition("/")
    # A password with a bare @ or / in it would be taken for a host or a database, and be shown.
    if authority.count("@") + path.count("@") > 1 or ("@" in path and not driver):
        raise InvalidInput(_unreadable(name, ""))
    # SQLAlchemy writes several hosts as a repeated host=, of which libpq would keep the last.
    repeated_host = len(re.findall(r"[?&]host=", rest)) > 1
    if driver or repeated_host:
        return _from_sqlalchemy(f"postgresql+psycopg://{rest}")
    return dict(conninfo_to_dict(f"postgresql://{rest}"))


def _check_places(name: str, options: dict[str, Any]) -> None:
    """Refuse what is no host or port: libpq would quote it, and it may be part of a password."""
    port = str(options.get("port") or "")
    host = str(options.get("host") or "")
    if re.fullmatch(r"[0-9]{0,5}(,[0-9]{0,5})*", port) is None or "@" in host.lstrip("@"):
        raise InvalidInput(_unreadable(name, ""))


def _from_sqlalchemy(url: str) -> dict[str, Any]:
    # Imported here: most programs never need it, and it is slow to import.
    from sqlalchemy.dialects.postgresql.psycopg import dialect  # noqa: PLC0415
    from sqlalchemy.engine import make_url  # noqa: PLC0415
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        _, options = dialect().create_connect_args(make_url(url))  # type: ignore[no-untyped-call]
    except ArgumentError as error:
        raise ValueError(str(error)) from None
    # Settings of SQLAlchemy's or psycopg's own, not of libpq.
    options.pop("context", None)
    return dict(options)


def _unreadable(name: str, complaint: str) -> str:
    """Return a message that repeats nothing but libpq's own option names."""
    from difflib import get_close_matches  # noqa: PLC0415  # only for this message

    found = re.search(r'(?:query parameter|connection option)[^"]*"([^"]*)"', complaint)
    if found:
        known = [option.keyword.decode() for option in Conninfo.get_defaults()]
        near = get_close_matches(found.group(1), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{name} has an option that libpq does not know{hint}"
    return (
        f"{name} cannot be read: percent-encode the special characters of user and password "
        f"(@ is %40, / is %2F, : is %3A, % is %25); {_ALLOWED}"
    )
