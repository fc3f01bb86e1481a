"""One server: is it running, start it through a watchdog, wait until it is ready.

A running server is known by `postmaster.pid` in its data folder, and by a process with that pid
whose working folder it is. The file outlives a crash, and then its pid may belong to another
program.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from pgmem.embedded import options
from pgmem.embedded.accounts import Account, server_environment
from pgmem.embedded.binaries import Binaries
from pgmem.embedded.cluster import LOG_FILE, reached_by_path
from pgmem.embedded.errors import EmbeddedPostgresError
from pgmem.embedded.locks import Lock
from pgmem.embedded.watchdog import remove

_RUNTIME_NAME = "pgmem-"
_LONGEST_PARENT = 70  # of 103 bytes for a socket's path on macOS, 107 on Linux
_POLL = 0.005
_ANSWER_TIMEOUT = 20.0
_READY = ("ready", "standby")
_BACKENDS_REMAIN = "pre-existing shared memory block"  # in the server's log; LC_ALL is C
# Only the owner of the data folder and root can reach the socket, and they could read the files
# anyway: the socket's folder is 0700 and belongs to the server's account. A password would add
# nothing.
_ACCESS_RULE = "local all all trust\nlocal replication all trust\n"
# Every account of the machine can reach a port, so that one needs a password.
_PORT_RULE = f"host all all {options.LOOPBACK}/32 scram-sha-256\n"


class BackendsRemain(EmbeddedPostgresError):
    """Backends of a server that was killed still run on the folder. They end by themselves."""


@dataclass(frozen=True)
class Running:
    """A running server, as its `postmaster.pid` describes it."""

    pid: int
    runtime: Path
    status: str
    port: int

    def is_watched(self) -> bool:
        """Return True if a watchdog holds the runtime folder's lock."""
        try:
            lock = Lock(self.runtime, os.O_DIRECTORY)
        except OSError:
            return False
        try:
            return not lock.try_shared()
        finally:
            lock.close()

    def is_ours(self, account: Account) -> bool:
        """Return True if pgmem started it. Checks the owner, since others may write the file."""
        try:
            owner = self.runtime.lstat().st_uid
        except OSError:
            return False
        return self.runtime.name.startswith(_RUNTIME_NAME) and owner == account.uid


def _write_new(path: Path, text: str) -> None:
    """Write a file that the server's account can read, and that must not exist.

    The folder is that account's. Through a link that it has put there, root would write elsewhere.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
    except FileExistsError as error:
        raise EmbeddedPostgresError(
            f"tried to write {path}, found that it exists already: another process of the server's "
            "account has put it there. Nothing was written."
        ) from error


class Watchdog:
    """Our end of a watchdog that was just started: it gives up when this end is closed."""

    def __init__(self, account: Account) -> None:
        if not sys.executable:
            raise EmbeddedPostgresError(
                "tried to start the watchdog of the server, found no Python interpreter"
                " (sys.executable is empty): run inside an ordinary Python."
            )
        script = Path(__file__).with_name("watchdog.py")
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", str(script)],
            bufsize=0,  # a line already read into a buffer would be hidden from select()
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for Python, which then ends the server in order
        )
        try:
            self._tell(
                parent=str(_runtime_parent(account)),
                uid=account.uid if account.switch else None,
                gid=account.gid if account.switch else None,
            )
            answer = self._hear_about("runtime")
            self.runtime, self._pid = Path(answer["runtime"]), int(answer["watchdog"])
        except BaseException:
            self.close()
            raise

    def launch(
        self, program: Path, arguments: list[str], data: Path, *, by_path: bool, on_tcp: bool
    ) -> int:
        """Have the server started; its pid. From here on the data folder's lock keeps it alive."""
        rules = _ACCESS_RULE + (_PORT_RULE if on_tcp else "")
        _write_new(self.runtime / "pg_hba.conf", rules)
        self._tell(
            program=str(program),
            arguments=arguments,
            environment=server_environment() | _stale_pid(data),
            data=str(data),
            by_path=by_path,
            log=str(data / LOG_FILE),
        )
        return int(self._hear_about("pid")["pid"])

    def hear(self, timeout: float) -> dict[str, Any]:
        """Return the next message, or `{}` if none came in time."""
        assert self._process.stdout is not None  # noqa: S101 - opened above
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            return {}
        line = self._process.stdout.readline()
        message = json.loads(line) if line else {"error": "it ended without a word"}
        if "error" in message:
            raise EmbeddedPostgresError(
                f"tried to start the server through its watchdog, found: {message['error']}"
            )
        return dict(message)

    def end(self) -> None:
        """Have it end at once: after a start that failed it waits for the folder's other users."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()  # it left its child behind and ended at once

    def _hear_about(self, key: str) -> dict[str, Any]:
        message = self.hear(_ANSWER_TIMEOUT)
        if key not in message:
            raise EmbeddedPostgresError(
                f"tried to start the watchdog of the server, found no answer in"
                f" {_ANSWER_TIMEOUT:.0f} s. The machine is overloaded, or a program stops new"
                " processes. Try again."
            )
        return message

    def _tell(self, **message: object) -> None:
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.hear(1)  # raises with what it said before it ended


def find_running(data: Path) -> Running | None:
    """Return the server that runs on this data folder now, or None."""
    try:
        lines = os.fsdecode((data / "postmaster.pid").read_bytes()).splitlines()
    except FileNotFoundError:
        return None
    if not lines or not lines[0].isdigit() or not _serves(int(lines[0]), data):
        return None
    lines += [""] * 8
    port = int(lines[3]) if lines[3].isdigit() else options.PORT
    return Running(int(lines[0]), Path(lines[4]), lines[7].strip(), port)


def start(
    watchdog: Watchdog,
    data: Path,
    *,
    binaries: Binaries,
    account: Account,
    settings: Mapping[str, str],
    port: int | None,
    deadline: float,
) -> None:
    """Start a server on the folder and wait until it takes connections."""
    pid = watchdog.launch(
        binaries.postgres,
        options.arguments(settings, watchdog.runtime, port),
        data,
        by_path=reached_by_path(data, account),
        on_tcp=port is not None,
    )
    while True:
        message = watchdog.hear(_POLL)
        if "exit" in message:
            words = _last_words(data)
            kind = BackendsRemain if _BACKENDS_REMAIN in words else EmbeddedPostgresError
            raise kind(
                f"tried to start {binaries.postgres} on {data} as {account.name}, found that it"
                f" ended with status {message['exit']}. {words}"
            )
        found = find_running(data)
        if found is not None and found.pid == pid and found.status in _READY:
            return
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(
                f"tried to start {binaries.postgres} on {data}, found it not ready in time (it may"
                f" be recovering from a crash: give a longer start_timeout). {_last_words(data)}"
            )


def wait_ready(data: Path, deadline: float) -> Running | None:
    """Wait for a server that another process started. Return None if it ended instead."""
    while (found := find_running(data)) is not None and found.status not in _READY:
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(
                f"tried to join the server on {data} (pid {found.pid}), found it"
                f" `{found.status or 'starting'}` and not ready in time. {_last_words(data)}"
            )
        time.sleep(_POLL)
    return found


def end_orphan(running: Running, data: Path, deadline: float) -> None:
    """Stop a server of pgmem whose watchdog was killed and that no process uses."""
    for number, share in ((signal.SIGINT, 0.7), (signal.SIGQUIT, 1.0)):
        until = time.monotonic() + share * max(0.0, deadline - time.monotonic())
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, number)
        while _serves(running.pid, data):
            if time.monotonic() > until:
                break
            time.sleep(_POLL)
        else:
            remove(str(running.runtime))
            return
    raise EmbeddedPostgresError(
        f"tried to stop the server on {data} (pid {running.pid}), which its watchdog had left"
        f" behind, found it still running. Stop it by hand: kill -QUIT {running.pid}."
    )


def _serves(pid: int, data: Path) -> bool:
    """Return True if this pid is a live server on this folder, not a program with a reused pid."""
    if Path("/proc/self/cwd").exists():
        try:
            return (Path("/proc") / str(pid) / "cwd").samefile(data)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False  # gone, a zombie, or another account's: the server's account is ours
    listed = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "stat=,comm=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split(maxsplit=1)
    return len(listed) == 2 and listed[0][0] != "Z" and "postgres" in listed[1]


def _stale_pid(data: Path) -> dict[str, str]:
    """Tell the server that the pid in a stale `postmaster.pid` is not another server.

    It refuses to start while a process with that pid exists, whatever it is, except for its own
    grandparent's: the variable by which pg_ctl says so. Removing the file instead would also
    remove the server's protection against backends that outlived a killed server.
    """
    try:
        first = (data / "postmaster.pid").read_text(errors="replace").partition("\n")[0]
    except FileNotFoundError:
        return {}
    return {"PG_GRANDPARENT_PID": first} if first.isdigit() else {}


def _last_words(data: Path) -> str:
    log = data / LOG_FILE
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"Its log {log} cannot be read: {error.strerror}."
    return "The last lines of its log:\n" + "\n".join(lines[-12:])


def _runtime_parent(account: Account) -> Path:
    """Return a folder for temporary folders, short and plain enough for a socket's path."""
    parents = list(_plain_parents())
    for parent in parents:
        if os.access(parent, os.W_OK | os.X_OK) and account.can_enter(parent):
            return parent
    raise EmbeddedPostgresError(
        f"tried to find a folder for the server's socket, found none that is writable and that"
        f" {account.name} can enter among {', '.join(map(str, parents))}. Set TMPDIR to one with a"
        f" path of at most {_LONGEST_PARENT} plain characters."
    )


def _plain_parents() -> Iterator[Path]:
    for text in (gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp makes ours below it
        # Spaces, commas and quotes mean something in unix_socket_directories.
        plain = text.isascii() and all(c.isalnum() or c in "/._-" for c in text)
        if plain and len(text) <= _LONGEST_PARENT and Path(text).is_dir():
            yield Path(text)
