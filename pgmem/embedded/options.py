"""Server settings: which are allowed, what the defaults are, how they are written.

Pure: nothing here starts, reads or waits. What is checked is the form; whether the server knows
the setting and takes the value is the server's to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from pgmem.errors import InvalidOption

Setting = str | int | float | bool

PORT = 5432  # names the socket file only; fixed, so that neither PGPORT nor a config file moves it

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
    """The caller's settings as text, or `InvalidOption`."""
    texts: dict[str, str] = {}
    for name, value in settings.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise InvalidOption(
                f"tried to use {name!r} as the name of a server setting: names are letters, digits"
                " and underscores, with one dot for an extension's. See SHOW ALL."
            )
        if name.lower() in _RESERVED:
            raise InvalidOption(
                f"tried to set {name}: pgmem sets it itself, so that the server is reachable over"
                " its private socket and nowhere else. Leave it out."
            )
        texts[name.lower()] = _text(name, value)
    return texts


def arguments(settings: Mapping[str, str], runtime: Path) -> list[str]:
    """The command line's `-c name=value` for a server whose socket is in `runtime`."""
    forced = {
        "listen_addresses": "",
        "unix_socket_directories": str(runtime),
        "unix_socket_permissions": "0700",
        "port": str(PORT),
        "hba_file": str(runtime / "pg_hba.conf"),
    }
    merged = {**checked(DEFAULTS), **settings, **forced}
    return [part for name, value in merged.items() for part in ("-c", f"{name}={value}")]


def not_in_force(settings: Mapping[str, str], command_line: str) -> list[str]:
    """The settings that a running server was not started with, given its `postmaster.opts`."""
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
    raise InvalidOption(
        f"tried to set {name} to a {type(value).__name__}: a value is a bool, an int, a finite"
        " float, or a str of printable characters without double quotes."
    )
