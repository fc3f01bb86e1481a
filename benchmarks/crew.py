"""Start worker processes once, and give them orders.

The members of a crew wait at a pipe. `Crew.run` sends all of them the same order, waits until each
is ready, sends the start time and collects the answers. So no figure contains the start of a
process. A member creates its work object in its own process, because a connection does not survive
a fork. This module measures nothing.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

START_DELAY = 0.05
ANSWER_TIMEOUT = 300.0


class Work(Protocol):
    """Define what a member does."""

    def go(self, order: str, start: float, argument: float) -> Any:
        """Carry out an order from `start` (of `time.monotonic`) on, and return the answer."""

    def close(self) -> None:
        """Close what is open."""


class WorkFactory(Protocol):
    """Create a member's work in its process; a class or function that pickle finds by name."""

    def __call__(self, number: int, url: str) -> Work:
        """Create the work of one member."""


class Team(Protocol):
    """Take orders: a crew, or a process of another environment."""

    def send(self, what: object) -> None:
        """Send the same message to all members."""

    def answers(self) -> list[Any]:
        """Collect one answer from each member."""


class CrewError(Exception):
    """Raised if a member failed, ended or did not answer."""


def until(start: float) -> None:
    """Wait until a moment of `time.monotonic`."""
    delay = start - time.monotonic()
    if delay > 0:
        time.sleep(delay)


def _member(make: WorkFactory, number: int, url: str, pipe: Connection) -> None:
    try:
        work = make(number, url)
        # Collecting the imported modules in 32 processes at once takes longer than a short round.
        gc.collect()
        gc.freeze()
        pipe.send((True, None))
        while (order := pipe.recv()) is not None:
            gc.collect()
            pipe.send((True, None))
            pipe.send((True, work.go(order, *pipe.recv())))
        work.close()
    except EOFError:
        return  # The parent is gone.
    except BaseException:  # The parent raises it, an interrupt too.
        with contextlib.suppress(OSError):
            pipe.send((False, traceback.format_exc()))


class Crew:
    """Run the same work in several processes at the same time; see `crew`."""

    def __init__(self, members: Sequence[tuple[BaseProcess, Connection]]) -> None:
        self._members = members

    def run(self, order: str, argument: float = 0.0) -> list[Any]:
        """Have all members carry out an order, and return their answers.

        Raises:
            CrewError: one of them failed.
        """
        return together((self, order, argument))[0]

    def send(self, what: object) -> None:
        """Send the same message to all members."""
        for _, pipe in self._members:
            pipe.send(what)

    def answers(self) -> list[Any]:
        """Collect one answer from each member."""
        answers = []
        for process, pipe in self._members:
            try:
                if not pipe.poll(ANSWER_TIMEOUT):
                    raise CrewError(f"{process.name} did not answer in {ANSWER_TIMEOUT:g} s")
                good, answer = pipe.recv()
            except EOFError:
                raise CrewError(f"{process.name} ended without an answer") from None
            if not good:
                raise CrewError(f"{process.name} failed:\n{answer}")
            answers.append(answer)
        return answers


def together(*orders: tuple[Team, str, float]) -> list[list[Any]]:
    """Have several teams carry out one order each from the same moment on; return their answers.

    Raises:
        CrewError: a member failed.
    """
    for team, order, _ in orders:
        team.send(order)
    for team, _, _ in orders:
        team.answers()
    start = time.monotonic() + START_DELAY
    for team, _, argument in orders:
        team.send((start, argument))
    return [team.answers() for team, _, _ in orders]


@contextlib.contextmanager
def crew(make: WorkFactory, size: int, url: str = "") -> Iterator[Crew]:
    """Start a crew of `size` processes, and end it after the block.

    Args:
        make: creates a member's work from its number and `url`.
        size: the number of members.
        url: given to each member.
    """
    # Not fork: the parent has threads (the progress display, a pool). The fork server imports pgmem
    # once, which for 32 processes is most of the work.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.scenarios"])
    members = []
    try:
        for number in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_member,
                args=(make, number, url, theirs),
                name=f"member {number}",
                daemon=True,
            )
            process.start()
            theirs.close()
            members.append((process, ours))
        found = Crew(members)
        found.answers()
        yield found
        for _, pipe in members:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process, _ in members:
            process.join(10)
    finally:
        for process, pipe in members:
            pipe.close()
            if process.is_alive():
                process.terminate()
                process.join(5)


def killed(target: Callable[..., object], *args: object) -> None:
    """Run a function in a process that it ends by `kill -9`, and wait for the end.

    Args:
        target: the function; pickle finds it by name.
        args: the arguments of the function.

    Raises:
        CrewError: the process ended in another way.
    """
    process = multiprocessing.get_context("forkserver").Process(
        target=target, args=args, daemon=True
    )
    process.start()
    process.join(30)
    if process.exitcode != -signal.SIGKILL:
        process.kill()
        raise CrewError(f"the process that was to be killed ended with {process.exitcode}")
