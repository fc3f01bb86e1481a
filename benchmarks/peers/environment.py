"""Create the peers' environment, once for each content of `requirements.txt`.

It is created beside its place and renamed when complete, so half an environment is never used. This
module imports no peer, and starts only venv and pip.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.crew import CrewError

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
CACHE = Path.home() / ".cache" / "pgmem-benchmarks"
PEERS = ("eventsourcing", "langgraph-checkpoint-postgres", "pgqueuer", "procrastinate")
INSTALL_TIMEOUT = 900.0
SHOWN = 2_000
"""Characters of a failed process's output that an error shows, from its end."""


class PeerError(CrewError):
    """Raised if the peers' environment cannot be created, or a process in it failed."""


def place(requirements: Path = REQUIREMENTS, cache: Path = CACHE) -> Path:
    """Return the place of the environment, which differs for each list and each Python."""
    # A venv depends on the Python that created it, and is useless with another one.
    python = f"{sys.version} {sys.base_prefix}".encode()
    digest = hashlib.sha256(requirements.read_bytes() + python).hexdigest()
    return cache / f"peers-{digest[:16]}"


def python_of(folder: Path) -> Path:
    """Return an environment's Python."""
    return folder / "bin" / "python"


def ready(requirements: Path = REQUIREMENTS, cache: Path = CACHE) -> bool:
    """Return True if the environment exists, so that nothing needs to be downloaded."""
    return python_of(place(requirements, cache)).exists()


def environment(requirements: Path = REQUIREMENTS, cache: Path = CACHE) -> Path:
    """Return the Python of the peers' environment; create the environment if it does not exist.

    Raises:
        PeerError: it cannot be created.
    """
    folder = place(requirements, cache)
    if not python_of(folder).exists():
        cache.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix="half-", dir=cache))
        try:
            _make(half, requirements)
            _move(half, folder)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return python_of(folder)


def versions(requirements: Path = REQUIREMENTS) -> dict[str, str]:
    """Return the peers and their versions, for the report."""
    pinned = dict(
        line.split("==", 1) for line in requirements.read_text().splitlines() if "==" in line
    )
    return {name: pinned[name] for name in PEERS if name in pinned}


def _make(folder: Path, requirements: Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)])
    # By the interpreter, not by bin/pip: scripts contain the name of the folder that they were made
    # in.
    _run(
        [
            *(str(python_of(folder)), "-m", "pip", "install", "--quiet", "--no-input"),
            *("--disable-pip-version-check", "--requirement", str(requirements)),
        ]
    )


def _move(half: Path, folder: Path) -> None:
    try:
        half.rename(folder)
    except OSError:
        # Another process was faster: rename does not replace a folder that is not empty.
        if not python_of(folder).exists():
            raise PeerError(f"{folder} is no environment: remove it") from None


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise PeerError(
            f"the peers' environment was not created in {INSTALL_TIMEOUT:g} s: {' '.join(command)}"
        ) from None
    if done.returncode:
        raise PeerError(
            f"the peers' environment cannot be created: {' '.join(command)}\n"
            + (done.stderr or done.stdout)[-SHOWN:]
        )
