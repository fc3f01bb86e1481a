"""The data folder: what may be used as one, and how a new cluster gets into it.

::

    missing ─mkdir─▶ empty ─initdb into .pgmem-new-x─▶ rename to .pgmem-done ─move up─▶ cluster
                       ▲                │ died                  │ died
                       └────────────────┘ removed next time     └─▶ moved up next time

initdb works in a folder below, so that a process that dies in the middle leaves nothing that
looks like a cluster. Called with the folder's lock held. May change the data folder itself
(owner, mode, contents) once it is known to be empty, never a folder above it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pgmem.embedded.accounts import Account
from pgmem.embedded.binaries import Binaries
from pgmem.embedded.errors import EmbeddedPostgresError
from pgmem.embedded.watchdog import name_by_descriptor, remove

LOCK_FILE = "pgmem.lock"
LOG_FILE = "pgmem-server.log"
SUPERUSER = "postgres"
_DRAFT = ".pgmem-new-"
_DONE = ".pgmem-done"


def make_folder(path: Path) -> None:
    """Make the data folder and what is missing above it; refuse what is no data folder."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        refuse_foreign(path)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"tried to use {path} as data folder, found: {error.strerror} ({error.filename})."
            " Give a folder that this user may create, or one that a cluster of this user is in."
        ) from error


def refuse_foreign(path: Path) -> None:
    """Refuse a folder with anything in it that is neither a cluster nor ours."""
    names = {entry.name for entry in path.iterdir()}
    if "PG_VERSION" in names or _DONE in names:
        return
    foreign = sorted(name for name in names if name != LOCK_FILE and not name.startswith(_DRAFT))
    if foreign:
        raise EmbeddedPostgresError(
            f"tried to use {path} as data folder, found {', '.join(foreign[:5])} in it and no"
            " PostgreSQL cluster (no PG_VERSION). Nothing was changed. Give an empty or a missing"
            " folder."
        )


def refuse_other_version(path: Path, binaries: Binaries) -> None:
    made_by = (path / "PG_VERSION").read_text(errors="replace").strip()
    if made_by != str(binaries.major):
        raise EmbeddedPostgresError(
            f"tried to open {path} with PostgreSQL {binaries.version} from {binaries.folder}, found"
            f" that PostgreSQL {made_by} made it: each major version has its own format. Set"
            f" PGMEM_PG_BIN to the programs of version {made_by}, or move the data with pg_dump."
        )


def ensure_cluster(path: Path, binaries: Binaries, account: Account) -> None:
    """Make the cluster if there is none yet; finish or clear away what an earlier try left."""
    if not (path / "PG_VERSION").exists():
        own_folder(path, account)
        for draft in path.glob(f"{_DRAFT}*"):
            remove(str(draft))  # the initdb of a killed process may still be at work in it
        if not (path / _DONE).is_dir():
            draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=path))
            own_folder(draft, account)
            run_initdb(draft, binaries, account, durable=True)
            draft.rename(path / _DONE)
        _move_up(path)
    refuse_other_version(path, binaries)


def own_folder(path: Path, account: Account) -> None:
    """Give the folder to the server's account alone."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if account.switch:
            os.fchown(folder, account.uid, account.gid)
        os.fchmod(folder, 0o700)
    finally:
        os.close(folder)


def run_initdb(path: Path, binaries: Binaries, account: Account, *, durable: bool) -> None:
    """Make a cluster in an empty folder that belongs to the account."""
    by_path = reached_by_path(path, account)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    command: list[str | Path] = [
        binaries.initdb,
        *("-D", path if by_path else name_by_descriptor(folder)),
        *("--username", SUPERUSER),
        *("--encoding", "UTF8"),
        *("--locale", "C"),
        # A server that is started on this cluster without pgmem refuses TCP until it is configured.
        *("--auth-local", "trust"),
        *("--auth-host", "reject"),
    ]
    if not durable:
        command.append("--no-sync")
    try:
        done = account.run(command, inherits=[folder])
    finally:
        os.close(folder)
    if done.returncode != 0:
        raise EmbeddedPostgresError(
            f"tried to make a cluster in {path} as {account.name} with {binaries.initdb}, found"
            f" exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-1500:]}"
        )


def reached_by_path(path: Path, account: Account) -> bool:
    """Return True if the server's account can reach the data folder by its path.

    Where it cannot (root's data under a 0700 home), the folder is opened before root gives up its
    rights, and the programs are told its name by descriptor. The working folder would not do:
    the programs of 15 leave it and go back by its path.
    """
    if account.can_enter(path):
        return True
    if Path(name_by_descriptor(0)).parent.exists():
        return False
    raise EmbeddedPostgresError(
        f"tried to serve {path} as {account.name}, found that {account.name} cannot enter it"
        f" because of the mode of {_closed_folder(path, account)}. Give a data folder elsewhere, or"
        " let others pass there (chmod o+x)."
    )


def _closed_folder(path: Path, account: Account) -> Path:
    for folder in reversed([path, *path.parents]):
        if not account.can_enter(folder):
            return folder
    return path


def _move_up(path: Path) -> None:
    """Move a finished cluster into place; PG_VERSION, by which a cluster is known, comes last."""
    done = path / _DONE
    names = sorted((entry.name for entry in done.iterdir()), key=lambda name: name == "PG_VERSION")
    for name in names:
        (done / name).rename(path / name)
    done.rmdir()
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
