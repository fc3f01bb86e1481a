"""Joining and leaving a server that several processes may share.

Two locks on the data folder, both dropped by the kernel when their holder dies:

- `pgmem.lock` in it, exclusive: one process at a time looks, starts, joins or leaves;
- the folder itself, shared by every user; the watchdog waits for it exclusively.

::

    join:   mutex ▶ share the folder (waits while a watchdog is stopping its server) ▶
              no server ───────────────────────▶ watchdog, cluster if missing, server;
                                                 again while a killed one's backends still run
              ours, watched, settings in force ▶ use it
              ours, its watchdog was killed ───▶ if it has no user: stop it, then start as above
              not pgmem's ─────────────────────▶ error
            ▶ release the mutex, keep the share
    leave:  mutex ▶ does another process share? ▶ give up the share ▶
              if none does: wait until the watchdog has stopped the server and is gone
            ▶ release the mutex

A process that dies at any point leaves no state behind but files: its locks are gone, and the
watchdog sees that. A private server is the same without the mutex, since no other process knows its
folder.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgmem.embedded import cluster, options, server
from pgmem.embedded.accounts import Account, account_for
from pgmem.embedded.binaries import find_binaries
from pgmem.embedded.errors import EmbeddedPostgresError
from pgmem.embedded.locks import Lock, closing_on_error
from pgmem.embedded.watchdog import remove

_BUSY_TIMEOUT = 5.0
_RETRY_PAUSE = 0.1
_STOP_TIMEOUT = 50.0  # the watchdog's own bounds add up to 45 s


@dataclass(frozen=True)
class Share:
    """This process's part in a running server."""

    data: Path
    runtime: Path
    account: Account
    port: int
    users: Lock
    alive: Lock  # on the runtime folder; free once the watchdog has ended
    private: bool


def join(
    data_dir: Path | None, settings: Mapping[str, str], port: int | None, timeout: float
) -> Share:
    """Use the server of the data folder, starting it if need be; None: a private one."""
    deadline = time.monotonic() + timeout
    if data_dir is None:
        return _start_private(settings, port, deadline)
    cluster.make_folder(data_dir)
    try:
        with _mutex(data_dir, deadline):
            cluster.refuse_foreign(data_dir)
            return _join_locked(data_dir, settings, port, deadline)
    except PermissionError as error:
        raise EmbeddedPostgresError(
            f"tried to open the data folder {data_dir}, found: {error.strerror} ({error.filename})."
            " Only its owner, and root, may serve it."
        ) from error


def leave(share: Share) -> None:
    """Stop using the server. The last one waits until it has stopped and been cleared away."""
    deadline = time.monotonic() + _STOP_TIMEOUT
    with contextlib.ExitStack() as stack:
        stack.callback(share.alive.close)
        stack.callback(share.users.close)
        if not share.private:
            # One at a time. So of two that leave at once one is the last, and no process can join
            # while the last one waits.
            try:
                stack.enter_context(_mutex(share.data, time.monotonic() + _BUSY_TIMEOUT))
            except FileNotFoundError:
                pass  # the whole folder was removed, so no other process can join it
            except EmbeddedPostgresError:
                return  # another process starts a server in place of the dead one
            # While we ask, our share is dropped: the watchdog may take the lock. Then we are last.
            if not share.users.try_exclusive() and share.users.try_shared():
                return
        share.users.close()
        _await_end(share, deadline)


def _start_private(settings: Mapping[str, str], port: int | None, deadline: float) -> Share:
    account = account_for(None)
    binaries = find_binaries(account)
    with contextlib.closing(server.Watchdog(account)) as watchdog:
        data = watchdog.runtime / "data"
        data.mkdir(mode=0o700)
        cluster.own_folder(data, account)
        with closing_on_error(Lock(data, os.O_DIRECTORY)) as users:
            users.wait_shared(deadline)
            cluster.run_initdb(data, binaries, account, durable=False)
            server.start(
                watchdog,
                data,
                binaries=binaries,
                account=account,
                settings=settings,
                port=port,
                deadline=deadline,
            )
            alive = Lock(watchdog.runtime, os.O_DIRECTORY)
            at = port or options.PORT
            return Share(data, watchdog.runtime, account, at, users, alive, private=True)


def _join_locked(
    data: Path, settings: Mapping[str, str], port: int | None, deadline: float
) -> Share:
    account = account_for(data)
    with closing_on_error(Lock(data, os.O_DIRECTORY)) as users:
        running = _usable(data, account, users, deadline)
        if running is not None:
            _refuse_other_settings(data, settings, port, running)
            runtime, at = running.runtime, running.port
        else:
            runtime = _start_shared(data, account, settings, port, deadline)
            at = port or options.PORT
        alive = Lock(runtime, os.O_DIRECTORY)
        return Share(data, runtime, account, at, users, alive, private=False)


def _start_shared(
    data: Path, account: Account, settings: Mapping[str, str], port: int | None, deadline: float
) -> Path:
    binaries = find_binaries(account)
    if (data / "PG_VERSION").exists():
        cluster.refuse_other_version(data, binaries)
    while True:
        with contextlib.closing(server.Watchdog(account)) as watchdog:
            cluster.ensure_cluster(data, binaries, account)
            try:
                server.start(
                    watchdog,
                    data,
                    binaries=binaries,
                    account=account,
                    settings=settings,
                    port=port,
                    deadline=deadline,
                )
            except server.BackendsRemain:
                watchdog.end()
                if time.monotonic() > deadline:
                    raise
                # So that the one earlier log that is kept stays that of the killed server.
                (data / cluster.LOG_FILE).unlink(missing_ok=True)
            else:
                return watchdog.runtime
        time.sleep(_RETRY_PAUSE)


def _usable(data: Path, account: Account, users: Lock, deadline: float) -> server.Running | None:
    """Join the running server, with the share taken. Return None if one must be started."""
    if not users.wait_shared(deadline):
        raise EmbeddedPostgresError(
            f"tried to open {data}, found that its last server is still stopping. Try again later."
        )
    running = server.wait_ready(data, deadline)
    if running is None or running.is_watched():
        return running
    if not running.is_ours(account):
        raise EmbeddedPostgresError(
            f"tried to open {data}, found it in use by a PostgreSQL that pgmem did not start"
            f" (pid {running.pid}, socket in {running.runtime}). Connect to that one, or stop it."
        )
    if not users.try_exclusive():
        raise EmbeddedPostgresError(
            f"tried to open {data}, found its server (pid {running.pid}) in use by others, but"
            " without a watchdog to stop it (it was killed). End its users, then open it again."
        )
    server.end_orphan(running, data, deadline)
    users.wait_shared(deadline)
    return None


def _refuse_other_settings(
    data: Path, settings: Mapping[str, str], port: int | None, running: server.Running
) -> None:
    wanted = {**settings, **options.listening(port)} if port is not None else settings
    missing = options.not_in_force(wanted, os.fsdecode((data / "postmaster.opts").read_bytes()))
    if missing:
        raise EmbeddedPostgresError(
            f"tried to open {data} with {', '.join(missing)}, found a server (pid {running.pid})"
            " that another user of the folder started without. Use the same settings everywhere,"
            " leave them out to take the server as it is, or end its other users first."
        )


def _await_end(share: Share, deadline: float) -> None:
    """Wait for the watchdog to end; do its work if it was killed."""
    if not share.alive.wait_shared(deadline):
        raise EmbeddedPostgresError(
            f"tried to stop the server on {share.data}, found it still running after"
            f" {_STOP_TIMEOUT:.0f} s. Its watchdog goes on trying."
        )
    if not share.runtime.exists():
        return
    running = server.find_running(share.data)
    if running is not None and running.runtime == share.runtime:
        server.end_orphan(running, share.data, deadline)
    else:
        remove(str(share.runtime))


@contextlib.contextmanager
def _mutex(data: Path, deadline: float) -> Iterator[None]:
    path = data / cluster.LOCK_FILE
    with contextlib.suppress(FileExistsError):
        created = os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.geteuid() == 0:
            # The folder's owner must be able to lock it too, also if root made the file.
            owner = data.stat()
            os.fchown(created, owner.st_uid, owner.st_gid)
        os.close(created)
    lock = Lock(path)
    try:
        if not lock.wait_exclusive(deadline):
            raise EmbeddedPostgresError(
                f"tried to open {data}, found another process busy starting or stopping its server"
                " all the time allowed. Try again, or look for a hanging process."
            )
        yield
    finally:
        lock.close()
