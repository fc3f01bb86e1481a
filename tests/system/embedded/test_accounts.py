"""The account of the server and of its files, started by root and by ordinary users."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgmem.embedded import binaries, server
from pgmem.embedded.accounts import account_for
from pgmem.embedded.errors import EmbeddedPostgresError
from pgmem.embedded.postgres import EmbeddedPostgres

from .conftest import CHECKOUT, User, eventually, is_alive, query, server_pid

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="shows what root's server may: be root")
UNPRIVILEGED = 65534


@pytest.fixture
def home(open_folder: Path) -> Iterator[Path]:
    folder = open_folder / "home of röot"
    folder.mkdir(mode=0o700)
    yield folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == 0


@needs_root
def test_root_s_server_runs_as_another_account() -> None:
    with EmbeddedPostgres() as postgres:
        status = Path(f"/proc/{server_pid(postgres.data_dir)}").stat()
        assert status.st_uid == account_for(None).uid != 0


@needs_root
def test_root_s_data_may_lie_under_a_closed_home(home: Path) -> None:
    with EmbeddedPostgres(home / "deep" / "data") as postgres:
        query(postgres.url, "CREATE TABLE t AS SELECT generate_series(1, 50000) AS a")
        query(postgres.url, "CHECKPOINT")
        query(postgres.url, "SELECT pg_reload_conf()")
        query(postgres.url, "SET max_parallel_workers_per_gather = 2; CREATE INDEX ON t (a)")
    with EmbeddedPostgres(home / "deep" / "data") as postgres:
        assert query(postgres.url, "SELECT count(*) FROM t") == 50000


@needs_root
def test_root_s_programs_may_lie_under_a_closed_home(
    home: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = binaries.find_binaries(account_for(None)).folder
    if not (installed.parent / "share").is_dir():
        pytest.skip("these programs were not made to be copied: share/ is not beside bin/")
    name = installed.parents[1].name
    package = home / "site packages" / name
    for part in ("bin", "lib", "share"):
        shutil.copytree(installed.parent / part, package / "pginstall" / part, symlinks=True)
    libraries = package.parent / f"{name}.libs"
    with contextlib.suppress(FileNotFoundError):
        shutil.copytree(installed.parents[2] / f"{name}.libs", libraries)
    libraries.mkdir(mode=0o700, exist_ok=True)
    (libraries / "lib.so").touch(0o600)
    cache = open_folder / "cache"
    cache.mkdir()
    monkeypatch.setattr(binaries, "_CACHE_PARENTS", (str(cache),))
    monkeypatch.setenv("PGMEM_PG_BIN", str(package / "pginstall"))
    for _ in range(2):
        with EmbeddedPostgres() as postgres:
            assert query(postgres.url, "SELECT 1") == 1
    (copy,) = cache.iterdir()
    assert (copy / f"{name}.libs" / "lib.so").stat().st_mode & 0o777 == 0o644
    for place in (copy, *copy.rglob("*")):
        assert place.stat().st_uid == 0
        assert place.stat().st_mode & 0o022 == 0


@needs_root
def test_a_copy_that_is_not_root_s_is_never_run(
    home: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = open_folder / "planted"
    planted.mkdir()
    assert binaries._is_ours(planted)
    planted.chmod(0o777)
    assert not binaries._is_ours(planted)
    planted.chmod(0o755)
    os.chown(planted, UNPRIVILEGED, UNPRIVILEGED)
    assert not binaries._is_ours(planted)
    (open_folder / "link").symlink_to(home)
    assert not binaries._is_ours(open_folder / "link")


@pytest.mark.thorough
@needs_root
def test_an_empty_folder_of_root_s_becomes_the_server_s(open_folder: Path) -> None:
    folder = open_folder / "data"
    folder.mkdir()
    with EmbeddedPostgres(folder) as postgres:
        assert query(postgres.url, "SHOW data_directory") == str(folder)
    assert folder.stat().st_uid == account_for(None).uid
    assert open_folder.stat().st_uid == 0


@needs_root
def test_a_cluster_that_belongs_to_root_is_refused(open_folder: Path) -> None:
    (open_folder / "PG_VERSION").write_text("18\n")
    with pytest.raises(EmbeddedPostgresError, match="belongs to root"):
        EmbeddedPostgres(open_folder).start()


@pytest.mark.thorough
@needs_root
def test_a_link_in_the_data_folder_does_not_lead_root_astray(open_folder: Path) -> None:
    folder, victim = open_folder / "data", open_folder / "victim"
    with EmbeddedPostgres(folder):
        pass
    victim.write_text("root's")
    (folder / "pgmem-server.log").unlink()
    (folder / "pgmem-server.log").symlink_to(victim)
    with EmbeddedPostgres(folder) as postgres:
        assert query(postgres.url, "SELECT 1") == 1
    assert victim.read_text() == "root's"
    assert victim.stat().st_uid == 0


@pytest.fixture
def ordinary(open_folder: Path) -> dict[str, object]:
    """Options to start a process as an ordinary user, with copies of what it needs."""
    for part in ("embedded", "errors.py"):
        source, target = CHECKOUT / "pgmem" / part, open_folder / "pgmem" / part
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    programs = binaries.find_binaries(account_for(None)).folder
    os.chown(open_folder, UNPRIVILEGED, UNPRIVILEGED)
    options: dict[str, object] = {
        "user": UNPRIVILEGED,
        "group": UNPRIVILEGED,
        "extra_groups": [],
        "cwd": open_folder,
        "env": {"PATH": os.defpath, "HOME": str(open_folder), "PGMEM_PG_BIN": str(programs)},
    }
    for python in (
        sys.executable,
        *glob.glob("/usr/bin/python3*"),
        *glob.glob("/usr/local/bin/python3*"),
    ):
        try:
            program = "import sys; sys.exit(sys.version_info < (3, 11))"
            subprocess.run([python, "-c", program], check=True, capture_output=True, **options)
        except (OSError, subprocess.CalledProcessError):
            continue
        return {"python": python, "checkout": open_folder, **options}
    pytest.skip("no Python 3.11 or newer on this machine that an ordinary user can run")


@needs_root
def test_an_ordinary_user_gets_a_server(
    user: Callable[..., User], open_folder: Path, ordinary: dict[str, object]
) -> None:
    temporary = user(None, **ordinary).opened()
    kept = user(open_folder / "my data", **ordinary).opened()
    for each in (temporary, kept):
        assert query(each.url, "SELECT 1") == 1
        assert Path(f"/proc/{server_pid(each.data)}").stat().st_uid == UNPRIVILEGED
    kept.stop()
    temporary.kill()
    assert eventually(lambda: not temporary.data.parent.exists())


@pytest.mark.thorough
@needs_root
def test_root_and_the_owner_share_one_server(
    user: Callable[..., User], open_folder: Path, ordinary: dict[str, object]
) -> None:
    folder = open_folder / "data"
    owner = user(folder, **ordinary).opened()
    with EmbeddedPostgres(folder) as postgres:
        assert postgres.url == owner.url
        owner.stop()
        assert query(postgres.url, "SELECT 1") == 1
        server = server_pid(folder)
        owner = user(folder, **ordinary).opened()
    assert is_alive(server)
    owner.stop()
    assert not is_alive(server)
    with EmbeddedPostgres(folder) as postgres:  # root starts it, the owner joins it
        owner = user(folder, **ordinary).opened()
        assert postgres.url == owner.url
    owner.stop()


@pytest.mark.thorough
@needs_root
def test_data_of_another_account_is_an_error_for_an_ordinary_user(
    user: Callable[..., User], open_folder: Path, ordinary: dict[str, object]
) -> None:
    folder = open_folder / "data"
    with EmbeddedPostgres(folder):
        pass
    if folder.stat().st_uid == UNPRIVILEGED:
        pytest.skip("without a user `postgres`, root's data belongs to the same account")
    refused = user(folder, stderr=subprocess.PIPE, **ordinary)
    assert "EmbeddedPostgresError: tried to use" in refused.process.communicate(timeout=60)[1]


def test_access_rules_are_not_written_through_a_link(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refuse a link: root would write through it, as the account that owns the folder likes."""
    victim = open_folder / "victim"
    victim.write_text("secret")
    write = server._write_new

    def raced(path: Path, text: str) -> None:
        path.symlink_to(victim)
        write(path, text)

    monkeypatch.setattr(server, "_write_new", raced)
    with pytest.raises(EmbeddedPostgresError, match="exists already"):
        EmbeddedPostgres().start()
    assert victim.read_text() == "secret"
