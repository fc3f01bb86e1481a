"""A private PostgreSQL server that runs for as long as a process uses it.

For demos, tests and a first look: no container, no installation as root, no user added, no port
opened. Not for production: one machine, one socket, no password.

::

               start() / with                       last user left, or died
    stopped ───────────────────▶ starting ─▶ ready ───────────────────────▶ stopping ─▶ stopped
       ▲   initdb if the folder is empty       │ postmaster crashed            │
       │                                       ▼                               │ data_dir=None:
       └──── start() again, also in ◀─────── dead                              │ data removed
             another process                                                   ▼

- `data_dir=None`: temporary data, private to this process; its children may use the `.url`.
- `data_dir=…`: made if it is missing, with the folders above; kept, and the same data is there
  when it is opened again. All processes (and instances) that name the same folder share one
  server. A setting asked for must be in force: if a running server was started without it, that
  is an error. A caller that asks for no setting takes the server as it is.
- A user counts until `stop()`, or until its process ends in any way, `kill -9` included: a small
  watchdog process then stops the server. A forked child is no user: it neither keeps the server
  alive nor stops it. Leave by `stop()` before `exec` in place.
- The server is reached over a Unix socket in a 0700 folder of its own, as superuser without a
  password: only the owner of the data, and root, can open that socket. With `port=` it is reached
  on 127.0.0.1 too, with a password that is kept in the data folder.
- As root the server runs as `postgres`, else `nobody`, or as the owner of existing data. Programs
  of that same account can reach the data: give the server an account of its own where that matters.
- PostgreSQL 15 to 18, Linux and macOS. As root on macOS the data folder must be reachable for the
  server's account (Linux has a way around that).

The other modules of `pgmem/embedded` run the server; this one is the public face.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from pgmem.embedded.errors import EmbeddedPostgresError

if sys.platform != "win32":
    from pgmem.embedded import cluster, options, passwords, sharing

__all__ = ["EmbeddedPostgres"]


class EmbeddedPostgres:
    """A PostgreSQL server that starts with `with` or `start()` and is gone after its last user.

    Args:
        data_dir: where the data is kept; None for temporary data.
        settings: server settings by name, as in `SHOW`: `{"work_mem": "64MB", "fsync": False}`.
            They override pgmem's defaults and the data folder's own configuration. Those that
            decide where the server can be reached are not accepted.
        port: a TCP port on 127.0.0.1 at which the server is reached too (`tcp_url`). None: no port.
        start_timeout: seconds to wait for a server to start, or for an earlier one to stop.

    Raises:
        InvalidInput: a setting that has not the form of one.
        EmbeddedPostgresError: from `start()`: no programs found, no data folder that can be used,
            or a server that did not start; the last lines of its log are in the message.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        settings: Mapping[str, str | int | float | bool] | None = None,
        *,
        port: int | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        if sys.platform == "win32":
            raise EmbeddedPostgresError(
                "tried to start an embedded PostgreSQL, found Windows, which is not supported."
                " Use WSL, or give pgmem the URL of a server."
            )
        self._wanted_dir = None if data_dir is None else Path(os.path.realpath(data_dir))
        self._settings = options.checked(settings or {})
        self._port = options.checked_port(port)
        self._password: str | None = None
        self._start_timeout = start_timeout
        self._share: sharing.Share | None = None
        self._owner_pid = 0
        self._busy = threading.Lock()

    @property
    def url(self) -> str:
        """A URL for libpq, psycopg and SQLAlchemy: `postgresql://postgres@/postgres?host=…`."""
        host = quote(str(self._running().runtime), safe="")
        user = cluster.SUPERUSER
        return f"postgresql://{user}@/postgres?host={host}&port={self._running().port}"

    @property
    def tcp_url(self) -> str:
        """A URL with a password for programs that cannot use the socket. Needs `port=`."""
        share = self._running()
        if self._password is None:
            raise EmbeddedPostgresError(
                "this EmbeddedPostgres was made without port=: it is reached at .url only"
            )
        login = f"{cluster.SUPERUSER}:{self._password}"
        return f"postgresql://{login}@{options.LOOPBACK}:{share.port}/postgres"

    @property
    def data_dir(self) -> Path:
        """The server's data folder; its log is in it."""
        return self._running().data

    @property
    def log_path(self) -> Path:
        """The server's log since its start. That of the start before it ends in `.1`."""
        return self.data_dir / cluster.LOG_FILE

    def start(self) -> Self:
        """Start the server, or join the one that runs on the same folder; returns when ready."""
        with self._busy:
            if self._share is not None and self._owner_pid == os.getpid():
                raise EmbeddedPostgresError(
                    "tried to start an EmbeddedPostgres, found it started already: use its .url,"
                    " or make another instance for the same folder."
                )
            self._share = sharing.join(
                self._wanted_dir, self._settings, self._port, self._start_timeout
            )
            self._owner_pid = os.getpid()
        if self._port is not None:
            try:
                self._password = passwords.ensure(self._share.data, self.url)
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """Stop using the server. If no other process uses it, it is gone when this returns.

        Does nothing if it is not started, or if a parent process started it.
        """
        if self._owner_pid != os.getpid():
            return
        with self._busy:
            share, self._share = self._share, None
            if share is not None:
                sharing.leave(share)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _running(self) -> sharing.Share:
        if self._share is None:
            raise EmbeddedPostgresError(
                "tried to use an EmbeddedPostgres, found it not started: use it in a `with`"
                " statement, or call start() first."
            )
        return self._share
