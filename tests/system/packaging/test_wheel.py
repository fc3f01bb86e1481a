"""The wheel, installed outside the checkout, has its own migrations; so has an editable install.

The dependencies come from the running environment through a `.pth` file, so that this takes
seconds; pgmem itself must come from the wheel.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import psycopg
import pytest

pytest.importorskip("hatchling", reason="builds the wheel without the network")

CHECKOUT = Path(__file__).resolve().parents[3]
PARTS = ("pgmem", "migrations", "pyproject.toml", "README.md", "LICENSE")


def run(*command, cwd, **environment):
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is built, so that the build leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for part in PARTS:
        if (CHECKOUT / part).is_dir():
            shutil.copytree(CHECKOUT / part, folder / part, ignore=ignore)
        else:
            shutil.copy(CHECKOUT / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        source,
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        target,
        cwd=target,
    )
    (made,) = target.glob("*.whl")
    return made


class Environment:
    """A fresh venv with the running one's dependencies behind it."""

    def __init__(self, folder):
        self.folder = folder
        venv.create(folder / "venv", with_pip=False)
        self.python = folder / "venv/bin/python"
        self.site = Path(
            run(
                self.python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder
            ).strip()
        )

    def install(self, *what):
        run(
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.python,
            "install",
            "-q",
            "--no-deps",
            *what,
            cwd=self.folder,
        )
        # After the installation, for pip would take what it finds there for installed.
        # addsitedir is not used: the running environment may itself hold an editable pgmem.
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.site / "zz_dependencies.pth").write_text("\n".join(sorted(paths)) + "\n")

    def pgmem(self, *arguments, **environment):
        return run(self.folder / "venv/bin/pgmem", *arguments, cwd=self.folder, **environment)

    def ask(self, expression):
        code = f"import pgmem; print({expression})"
        return Path(run(self.python, "-c", code, cwd=self.folder).strip())


def test_the_wheel_holds_the_migrations_and_nothing_of_the_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "pgmem/migrations/env.py",
        "pgmem/migrations/script.py.mako",
        "pgmem/migrations/versions/0001_initial.py",
        "pgmem/py.typed",
    } <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pgmem"}
    assert not [name for name in names if "__pycache__" in name]


def test_an_installed_wheel_migrates_outside_the_checkout(wheel, tmp_path, make_database):
    env = Environment(tmp_path)
    env.install(wheel)
    assert env.ask("pgmem.__file__") == env.site / "pgmem/__init__.py"
    assert env.ask("pgmem.migrate.migrations_directory()") == env.site / "pgmem/migrations"
    url = make_database()
    assert env.pgmem("migrate", "current", PGMEM_DATABASE_URL=url) == "(none)\n"
    assert "→ 0001" in env.pgmem("migrate", "up", PGMEM_DATABASE_URL=url)
    assert env.pgmem("migrate", "current", "--url", url) == "0001\n"
    assert "no differences" in env.pgmem("migrate", "check", "--url", url)
    script = env.pgmem("migrate", "sql", "--schema", "other")
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(script)
    env.pgmem("migrate", "check", "--url", url, "--schema", "other")
    env.pgmem("migrate", "down", "base", "--yes", "--url", url)
    assert env.pgmem("migrate", "current", "--url", url) == "(none)\n"


def test_an_editable_install_follows_the_checkouts_migrations(source, tmp_path, make_database):
    # What `pip install -e .` does, with the build backend of the running environment.
    code = "import hatchling.build, sys; print(hatchling.build.build_editable(sys.argv[1]))"
    name = run(sys.executable, "-c", code, tmp_path, cwd=source).strip()
    env = Environment(tmp_path)
    env.install(tmp_path / name)
    assert env.ask("pgmem.__file__") == source / "pgmem/__init__.py"
    assert env.ask("pgmem.migrate.migrations_directory()") == source / "migrations"
    # No second copy that would grow stale.
    assert not (env.site / "pgmem").exists()
    url = make_database()
    assert "→ 0001" in env.pgmem("migrate", "up", "--url", url)
