"""Advisory locks on files and folders (flock) that belong to the process that took them.

The kernel drops a lock when its holder dies, however it dies. So the life of the server depends on
locks and not on clean-up code. A forked child would hold its parent's locks too and keep a server
alive for ever. So every lock is closed in the child at once. A program that the process starts gets
none of them (O_CLOEXEC). Nothing here knows about PostgreSQL.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

_POLL = 0.005

_held: set[Lock] = set()


class Lock:
    """One open file description on a path, unlocked at first."""

    def __init__(self, path: Path, flags: int = os.O_RDONLY) -> None:
        self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        _held.add(self)

    def try_shared(self) -> bool:
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Also turns a shared lock into an exclusive one. On failure nothing is held any more."""
        return self._try(fcntl.LOCK_EX)

    def wait_shared(self, deadline: float) -> bool:
        return self._wait(fcntl.LOCK_SH, deadline)

    def wait_exclusive(self, deadline: float) -> bool:
        return self._wait(fcntl.LOCK_EX, deadline)

    def close(self) -> None:
        """Give the lock back. Unlocks first: a copy of the descriptor elsewhere must not count."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Close without unlocking: what a forked child does with its parent's lock."""
        _held.discard(self)
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _try(self, mode: int) -> bool:
        try:
            fcntl.flock(self._fd, mode | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def _wait(self, mode: int, deadline: float) -> bool:
        while not self._try(mode):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True


@contextlib.contextmanager
def closing_on_error(lock: Lock) -> Iterator[Lock]:
    """Close the lock if the block fails; keep it if the block succeeds."""
    try:
        yield lock
    except BaseException:
        lock.close()
        raise


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_all)
