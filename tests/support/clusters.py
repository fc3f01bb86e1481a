"""Kill, restart, copy and promote servers that only one test uses."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgmem import EmbeddedPostgres
from pgmem.errors import PgmemError


def postmaster(server: EmbeddedPostgres) -> int:
    return int((Path(server.data_dir) / "postmaster.pid").read_text().splitlines()[0])


def kill(server: EmbeddedPostgres) -> None:
    """`kill -9` of the postmaster; its backends end by themselves."""
    os.kill(postmaster(server), signal.SIGKILL)
    server.stop()


def reopened(folder, timeout=20, settings=None) -> EmbeddedPostgres:
    """Start the server again; retry while backends of the killed one are still ending."""
    deadline = time.monotonic() + timeout
    while True:
        server = EmbeddedPostgres(folder, settings)
        try:
            server.start()
        except PgmemError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return server


def standby_of(primary: EmbeddedPostgres, folder: Path, through: str) -> EmbeddedPostgres:
    """Make a hot standby from a copy of the running primary; it streams `through` a URL."""
    with psycopg.connect(primary.url, autocommit=True) as connection:
        connection.execute("SELECT pg_backup_start('standby', fast => true)")
        _copy(Path(primary.data_dir), folder)
        label = connection.execute("SELECT labelfile FROM pg_backup_stop()").fetchone()[0]
    owner = (Path(primary.data_dir) / "PG_VERSION").stat()
    for name, text in (("backup_label", label), ("standby.signal", "")):
        (folder / name).write_text(text)
        os.chown(folder / name, owner.st_uid, owner.st_gid)
    info = conninfo_to_dict(through)
    settings = {
        "primary_conninfo": f"host={info['host']} port={info['port']} user=postgres",
        "wal_retrieve_retry_interval": "100ms",
    }
    return reopened(folder, settings=settings)


_LEFT_OUT = ("postmaster.pid", "postmaster.opts", "pgmem.lock", "pgmem-server.log*")


def _copy(source: Path, target: Path) -> None:
    """Copy a data folder with its owners, without files that vanish during the copy."""

    def copy(name, to):
        try:
            shutil.copy2(name, to)
            found = os.stat(name)
            os.chown(to, found.st_uid, found.st_gid)
        except FileNotFoundError:
            pass
        return to

    shutil.copytree(source, target, copy_function=copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for folder, _, _ in os.walk(source):
        found = os.stat(folder)
        path = target / Path(folder).relative_to(source)
        os.chown(path, found.st_uid, found.st_gid)


def caught_up(primary_url: str, standby_url: str, timeout: float = 20) -> None:
    """Wait until the standby shows all that the primary has now."""
    deadline = time.monotonic() + timeout
    with psycopg.connect(primary_url) as primary:
        wanted = primary.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]
    with psycopg.connect(standby_url, autocommit=True) as standby:
        while not standby.execute(
            "SELECT coalesce(pg_last_wal_replay_lsn() >= %s, false)", [wanted]
        ).fetchone()[0]:
            assert time.monotonic() < deadline, "the standby does not catch up"
            time.sleep(0.01)


def promote(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        assert connection.execute("SELECT pg_promote(true, 60)").fetchone()[0]
