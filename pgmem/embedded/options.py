"""Server settings: which are allowed, what the defaults are, how they are written.

Pure: nothing here starts, reads or waits. What is checked is the form; whether the server knows
the setting and takes the value is the server's to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from pgmem.errors import InvalidInput

Setting = str | int | float | bool

PORT = 5432  # without `port=` it names the socket file only; neither PGPORT nor a config moves it

LOOPBACK = "127.0.0.1"

DEFAULTS: Mapping[str, Setting] = {
    "max_connections": 200,
    "shared_buffers": "128MB",
    "jit": False,  # short statements: compiling costs more than it saves
    "logging_collector": False,  # the log goes to stderr, which is a file in the data folder
}

# What the guarantees rest on: nothing on TCP, one known socket, only pgmem's own access rule.
_RESERVED = {
    "listen_addresses",
    "unix_socket_directories",
    "unix_socket_permissions",
    "unix_socket_group",
    "port",
    "data_directory",
    "config_file",
    "hba_file",
    "external_pid_file",
}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")


def checked(settings: Mapping[str, Setting]) -> dict[str, str]:
    """Return the caller's settings as text, or raise `InvalidInput`."""
    texts: dict[str, str] = {}
    for name, value in settings.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise InvalidInput(
                f"tried to use {name!r} as the name of a server setting: names are letters, digits"
                " and underscores, with one dot for an extension's. See SHOW ALL."
            )
        if name.lower() in _RESERVED:
            raise InvalidInput(
                f"the setting {name} is pgmem's own: the server is reached over its private socket"
                " and, with port=, on 127.0.0.1. Leave it out."
            )
        texts[name.lower()] = _text(name, value)
    return texts


def checked_port(port: int | None) -> int | None:
    """Return the port, or raise `InvalidInput`."""
    if port is not None and (isinstance(port, bool) or not 1 <= port <= 65_535):
        raise InvalidInput(f"port must be 1 to 65535, got {port!r}")
    return port


def listening(port: int | None) -> dict[str, str]:
    """Return the settings for where the server listens besides its socket's folder."""
    return {
        "listen_addresses": "" if port is None else LOOPBACK,
        "port": str(port or PORT),
    }


def arguments(settings: Mapping[str, str], runtime: Path, port: int | None = None) -> list[str]:
    """Return the arguments `-c name=value` for a server whose socket is in `runtime`."""
    forced = {
        "unix_socket_directories": str(runtime),
        "unix_socket_permissions": "0700",
        **listening(port),
        "hba_file": str(runtime / "pg_hba.conf"),
    }
    merged = {**checked(DEFAULTS), **settings, **forced}
    return [part for name, value in merged.items() for part in ("-c", f"{name}={value}")]


def not_in_force(settings: Mapping[str, str], command_line: str) -> list[str]:
    """Return the settings that a server was not started with, by its `postmaster.opts`."""
    wanted = (f"{name}={value}" for name, value in settings.items())
    return [setting for setting in wanted if f'"-c" "{setting}"' not in command_line]


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, str) and value.isprintable() and '"' not in value:
        return value
    raise InvalidInput(
        f"tried to set {name} to a {type(value).__name__}: a value is a bool, an int, a finite"
        " float, or a str of printable characters without double quotes."
    )
