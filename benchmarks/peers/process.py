"""Start a process in the peers' environment that takes orders as a crew's member does.

Both sides send lines of JSON: first what the process is to be, then orders; see
`worker/works/serving.py` for the other end. A `Peer` can act `together` with crews and other peers
from the same moment on. This module measures nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from benchmarks.crew import ANSWER_TIMEOUT, together
from benchmarks.peers.environment import SHOWN, PeerError, environment

WORKER = Path(__file__).with_name("worker")


class Peer:
    """Hold one process of a peer; see `peer`."""

    def __init__(
        self, work: str, process: subprocess.Popen[bytes], errors: IO[bytes], timeout: float
    ) -> None:
        self._work = work
        self._process = process
        self._errors = errors
        self._timeout = timeout
        self._read = b""

    def run(self, order: str, argument: float = 0.0) -> Any:
        """Have it carry out an order, and return its answer.

        Raises:
            PeerError: it failed.
        """
        return together((self, order, argument))[0][0]

    def send(self, what: object) -> None:
        """Send it a message.

        Raises:
            PeerError: it has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
        except OSError:
            raise self._failed("has ended") from None

    def answers(self) -> list[Any]:
        """Return its next answer in a list, as a crew of one.

        Raises:
            PeerError: it failed, ended, did not answer, or sent no valid answer.
        """
        line = self._line()
        try:
            good, answer = json.loads(line)
        except (ValueError, TypeError):
            raise self._failed(f"said {line[:200]!r}, which is not a valid answer") from None
        if good is not True:
            raise self._failed(f"failed:\n{answer}")
        return [answer]

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        deadline = time.monotonic() + self._timeout
        # Only the latest piece is searched, because a round's answer comes in hundreds of them.
        pieces = [self._read]
        while b"\n" not in pieces[-1]:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1_000):
                raise self._failed(f"did not answer in {self._timeout:g} s")
            pieces.append(os.read(pipe, 1 << 16))
            if not pieces[-1]:
                raise self._failed("ended without an answer")
        line, _, self._read = b"".join(pieces).partition(b"\n")
        return line

    def _failed(self, what: str) -> PeerError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)  # its output may still be in the pipe
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()[-SHOWN:]
        return PeerError(f"{self._work} {what}" + (f"\n{said}" if said else ""))


@contextlib.contextmanager
def peer(
    work: str,
    url: str,
    payload: Mapping[str, Any],
    *,
    python: Path | None = None,
    worker: Path = WORKER,
    timeout: float = ANSWER_TIMEOUT,
) -> Iterator[Peer]:
    """Start a process that does the work of a peer; end it after the block.

    Args:
        work: the work, as `worker/works` names it.
        url: the database.
        payload: what each event, entry or job is made from.
        python: the interpreter; None takes the one of the peers' environment, created on demand.
        worker: the program: a script, or a folder with a `__main__.py`.
        timeout: seconds that it may take for an answer.

    Raises:
        PeerError: the environment cannot be created, or the process failed.
    """
    interpreter = python or environment()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            # -P: import neither from the folder of the worker nor from the current one.
            [interpreter, "-P", worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            start_new_session=True,  # Ctrl-C stops this process, which stops the worker
        )
        try:
            found = Peer(work, process, errors, timeout)
            # Not as arguments: other users can read those, and the URL may contain a password.
            found.send({"work": work, "url": url, "payload": dict(payload)})
            found.answers()
            yield found
            found.send(None)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
