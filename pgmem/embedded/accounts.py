"""The account that the server runs under, its environment, and what it can reach.

PostgreSQL refuses to run as root, so root's servers run under another account. This module chooses
an account that exists already and finds out, by trying, what that account may enter or run. It adds
no user and changes no mode or owner.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgmem.embedded.errors import EmbeddedPostgresError

# Everything else stays outside: PG* would redirect the server, LANG and LC_* change its messages
# and sorting, and a server under another account has no business with this process's secrets.
_KEPT_VARIABLES = ("PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True)
class Account:
    """The account of the server. If `switch` is true, this process is root and changes to it."""

    uid: int
    gid: int
    name: str
    switch: bool

    def run(
        self, command: Sequence[str | Path], *, inherits: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a short command to its end as this account; output is captured.

        It starts in the root folder, which every account can enter, with the descriptors that
        it `inherits`.
        """
        return subprocess.run(  # noqa: S603 - the commands are ours, and no shell reads them
            [str(part) for part in command],
            cwd="/",
            pass_fds=inherits,
            env=server_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            start_new_session=True,
            user=self.uid if self.switch else None,
            group=self.gid if self.switch else None,
            extra_groups=[] if self.switch else None,
        )

    def can_enter(self, folder: Path) -> bool:
        """Return True if this account reaches the folder by its path. Tries it, because of ACLs."""
        if not self.switch:
            return os.access(folder, os.X_OK)
        return self.run(["/bin/sh", "-c", 'cd "$1"', "sh", folder]).returncode == 0


def server_environment() -> dict[str, str]:
    """Return the environment of initdb and of the server."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    # Without a valid locale the postmaster on macOS starts threads and then refuses to run.
    return {"PATH": os.defpath, **kept, "LC_ALL": "C"}


def account_for(data_dir: Path | None) -> Account:
    """Return the account for the server of a data folder: its owner if it holds a cluster."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), _name(os.geteuid()), switch=False)
    if data_dir is not None and (data_dir / "PG_VERSION").exists():
        owner = data_dir.stat()
        if owner.st_uid == 0:
            raise EmbeddedPostgresError(
                f"tried to serve {data_dir}, found that it belongs to root: PostgreSQL refuses to"
                " run as root. Give the folder and all in it to another account (chown -R)."
            )
        return Account(owner.st_uid, owner.st_gid, _name(owner.st_uid), switch=True)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, name, switch=True)
    raise EmbeddedPostgresError(
        "tried to start PostgreSQL as root, found neither a user `postgres` nor `nobody` to run it"
        " as: PostgreSQL refuses to run as root. Add one of them, or start as an ordinary user."
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"  # containers often run as a number that has no name
