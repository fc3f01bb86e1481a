"""The process that owns one server: starts it, and stops it when its last user is gone.

Run as a program (`python -I -S watchdog.py`), one for each running server, in a session of its
own. It imports nothing but the standard library, so that it starts in 20 ms and needs no path.

::

    started ──▶ makes the runtime folder, locks it, says where it is
                 │ told what to run                │ opener gone (end of file): remove, exit
                 ▼
             server running, waiting for the exclusive lock on the data folder, which every
             user holds shared: the kernel grants it when the last one has left or died
                 │ granted (or SIGTERM)
                 ▼
             SIGINT ─30 s─▶ SIGQUIT ─10 s─▶ SIGKILL, remove the runtime folder, exit

The exclusive lock is kept until the exit, so that a process that opens meanwhile waits. The
runtime folder's lock says "a watchdog is alive here". It holds the socket, the access rule and, if
the data is temporary, the data. Nothing else is ever removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any

STOP_STEPS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))


def main() -> None:
    if os.fork():
        os._exit(0)  # so that the process that started this one has no child to wait for
    os.umask(0o077)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for number in (signal.SIGHUP, signal.SIGINT):
        # Handlers and not SIG_IGN: the server would inherit that.
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        guard(json.loads(sys.stdin.readline()))
    except Exception:
        say(error=traceback.format_exc(limit=-3))


def guard(place: dict[str, Any]) -> None:
    runtime = tempfile.mkdtemp(prefix="pgmem-", dir=place["parent"])
    alive = os.open(runtime, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX)
        if place["uid"] is not None:
            os.fchown(alive, place["uid"], place["gid"])
        say(runtime=runtime, watchdog=os.getpid())
        order = sys.stdin.readline()
        if order:
            serve(json.loads(order), place)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        remove(runtime)


def serve(order: dict[str, Any], place: dict[str, Any]) -> None:
    users = os.open(order["data"], os.O_RDONLY | os.O_DIRECTORY)
    log = new_log(order["log"], place)
    os.dup2(log, 2)  # our own last words too
    # Opened before the server's account is taken: the data may lie where only root can go. A second
    # time, because the server must not inherit the lock.
    folder = os.open(order["data"], os.O_RDONLY | os.O_DIRECTORY)
    name = order["data"] if order["by_path"] else name_by_descriptor(folder)
    server = subprocess.Popen(  # noqa: S603
        [order["program"], "-D", name, *order["arguments"]],
        cwd="/",
        pass_fds=[folder],
        env=order["environment"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        user=place["uid"],
        group=place["gid"],
        extra_groups=None if place["uid"] is None else [],
    )

    def reap(*_: object) -> None:
        # A dead server must not linger as a zombie: its pid would look alive to the next one.
        if server.poll() is not None:
            say(exit=server.returncode)

    try:
        say(pid=server.pid)  # before anything about its end
        signal.signal(signal.SIGCHLD, reap)
        reap()
        fcntl.flock(users, fcntl.LOCK_EX)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        stop(server)


def name_by_descriptor(folder: int) -> str:
    """Return a name of an open folder that leads there without passing the folders above (Linux).

    A process that opened the folder and gave up its rights, or that inherits the descriptor, can
    enter by this name.
    """
    return f"/proc/self/fd/{folder}"


def stop(server: subprocess.Popen[bytes]) -> None:
    for number, bound in STOP_STEPS:
        if server.poll() is not None:
            return
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the next step is harder
            server.wait(bound)


def new_log(path: str, place: dict[str, Any]) -> int:
    """Create a new log file. One earlier log is kept.

    The folder belongs to the server's account and this may be root: a link put there must not
    make us write to, or give away, any other file.
    """
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, f"{path}.1")
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    if place["uid"] is not None:
        os.fchown(log, place["uid"], place["gid"])
    return log


def remove(folder: str) -> None:
    """Remove a folder in which a dying initdb or backend may still be writing."""
    deadline = time.monotonic() + 10
    while True:
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not os.path.lexists(folder):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(0.02)


def say(**message: object) -> None:
    """Tell the opener, if it still listens."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
