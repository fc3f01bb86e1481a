"""Removed events in files: exactly those, complete on the disk before they go, and back again."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path

import psycopg
import pytest

from pgmem import Event, Memory
from pgmem.errors import Conflict, PermissionDenied, PositionTrimmed, TransactionConflict
from pgmem.retention import archive_ops as archives
from pgmem.retention import ops
from pgmem.retention.models import RestoreReport
from tests.support.retention import (
    add_batch,
    add_delayed,
    exported,
    fill,
    insert,
    left,
    marks,
    roles,
    run,
    store_group,
    store_subscription,
)

# Every column, and what JSON can be.
ODD = """
INSERT INTO pgmem.events (stream, type, agent_id, payload, metadata, recorded_at) VALUES
    ('s', 't', NULL,
     '{"b": 1e300, "a": -0.0,  "a": 1.10, "z" :"\\u00e9\\n\\\\\\u2028"}', NULL, 'epoch'),
    (repeat('é', 250), 'ü"\\', 'a
b', 'null', '{"trace" : 1}', '2024-02-29 23:59:59.999999+05:30');
INSERT INTO pgmem.events (stream, stream_version, type, payload) VALUES ('v', 7, 't', '"\u007f"');
INSERT INTO pgmem.events (stream, type, payload, state_key, state_version, state_deleted,
                          state_value, state_expires_at) VALUES
    ('state:k', 'state.put', '{}', 'k', 1, NULL, '{"n" : 1}', 'infinity'),
    ('state:k', 'state.touched', '{}', 'k', NULL, NULL, NULL, '2031-01-01 00:00:00.000001+00'),
    ('state:k', 'state.deleted', 'null', 'k', 2, true, NULL, NULL);
"""


def everything(url):
    return run(url, "SELECT e::text FROM pgmem.events AS e ORDER BY position")


# out and back


async def test_exported_events_come_back_unchanged(both, database_url, tmp_path):
    run(database_url, ODD)
    before = everything(database_url)
    await fill(both, 2)
    (file,) = await exported(both, tmp_path, max_events=2, force=True)
    assert file == tmp_path / "pgmem.@all.000000000001-000000000006.jsonl.gz"
    assert left(database_url) == [3, 7, 8]  # The last of a versioned stream is not in the file.
    header, *events = map(json.loads, gzip.decompress(file.read_bytes()).decode().splitlines())
    assert [event["position"] for event in events] == [1, 2, 4, 5, 6]
    assert (header["count"], header["stream"], header["schema"]) == (5, None, "pgmem")
    assert header["before"] is None
    assert header["after"] == {"position": 6, "removed": 5}
    assert await both.retention.restore(file) == RestoreReport(None, 5, 0, True)
    assert everything(database_url)[:6] == before
    assert marks(database_url) == {}
    assert await both.retention.restore(file) == RestoreReport(None, 0, 5, False)
    assert everything(database_url)[:6] == before


async def test_restore_of_the_newest_file_lowers_the_mark(
    both, database_url, tmp_path, monkeypatch
):
    monkeypatch.setattr(ops, "ARCHIVED_BATCH", 4)
    await fill(both, 12)
    before = everything(database_url)
    files = await exported(both, tmp_path, max_events=1)
    assert [file.name[-34:-9] for file in files] == [
        "000000000001-000000000004", "000000000005-000000000008", "000000000009-000000000011"
    ]  # fmt: skip
    assert sorted(tmp_path.iterdir()) == files
    # The oldest first: what is missing behind it is still told.
    assert await both.retention.restore(files[0]) == RestoreReport(None, 4, 0, False)
    assert marks(database_url) == {"": (11, 11)}
    assert await both.retention.restore(files[2]) == RestoreReport(None, 3, 0, True)
    assert marks(database_url) == {"": (8, 8)}
    assert await both.retention.restore(files[1]) == RestoreReport(None, 4, 0, True)
    assert marks(database_url) == {"": (4, 4)}
    assert await both.retention.restore(files[0]) == RestoreReport(None, 0, 4, True)
    assert marks(database_url) == {}
    assert everything(database_url) == before


async def test_readers_follow_the_low_water_mark(form, database_url, tmp_path):
    async with form.memory() as memory:
        await fill(memory, 20)
        (file,) = await exported(memory, tmp_path, max_events=5)
    async with form.memory() as memory:
        with pytest.raises(PositionTrimmed):
            await memory.events.read(after=3)
        await memory.retention.restore(file)
        assert len(await memory.events.read(after=3)) == 17
        async with memory.events.subscribe(after=3) as subscription:
            assert len(await subscription.receive(100)) == 17


async def test_export_of_one_stream(both, database_url, tmp_path):
    await fill(both, 20, "a/b", "c")
    before = everything(database_url)
    report = await both.retention.trim("a/b", max_events=1, export=tmp_path)
    (file,) = report.streams[0].files
    assert Path(file).name == "pgmem.a%2Fb.000000000001-000000000017.jsonl.gz"
    await both.retention.trim(max_events=4)
    assert marks(database_url) == {"": (14, 7), "a/b": (17, 9)}
    assert await both.retention.restore(file) == RestoreReport("a/b", 9, 0, True)
    assert marks(database_url) == {"": (14, 7)}
    assert set(everything(database_url)) < set(before)


async def test_long_stream_name_is_shortened_in_the_file_name(both, database_url, tmp_path):
    names = ["é" * 250, "é" * 249 + "e"]
    for name in names:
        insert(database_url, 3, stream=name)
        await both.retention.trim(name, max_events=1, export=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    restored = {(await both.retention.restore(file)).stream for file in files}
    assert restored == set(names)


async def test_a_versioned_stream_comes_back_as_it_was(both, database_url, tmp_path):
    for version in range(5):
        await both.events.append("v", Event(type="t"), expected_version=version)
    (file,) = await exported(both, tmp_path, max_events=1)
    await both.events.append("v", Event(type="t"), expected_version=5)
    await both.retention.restore(file)
    assert [event.version for event in await both.events.read("v")] == [1, 2, 3, 4, 5, 6]


async def test_events_below_the_mark_have_their_own_file(both, database_url, tmp_path):
    await fill(both, 10)
    store_group(database_url, 10)
    add_batch(database_url, 3)
    before = everything(database_url)
    (first,) = await exported(both, tmp_path, max_events=2)
    run(database_url, "DELETE FROM pgmem.batches")
    (second,) = await exported(both, tmp_path, max_events=2)
    # Without the second one, the log is not whole: so its mark stays.
    assert not (await both.retention.restore(first)).complete
    assert marks(database_url) == {"": (8, 8)}
    assert (await both.retention.restore(second)).complete
    assert marks(database_url) == {"": (8, 7)}
    assert (await both.retention.restore(first)).complete
    assert marks(database_url) == {}
    assert everything(database_url) == before


async def test_restore_into_an_empty_log(form, database_url, make_database, tmp_path, monkeypatch):
    monkeypatch.setattr(ops, "ARCHIVED_BATCH", 4)
    run(database_url, ODD.replace("infinity", "2031-01-01"))
    before = everything(database_url)
    other = make_database(template=True)
    async with form.memory() as memory, form.memory(other) as target:
        await memory.retention.trim(max_events=4)  # Not in a file.
        await fill(memory, 6)
        files = await exported(memory, tmp_path, max_events=2)
        assert len(files) == 2
        assert await target.retention.restore(files[1]) == RestoreReport(None, 4, 0, True)
        assert await target.retention.restore(files[1]) == RestoreReport(None, 0, 4, False)
        assert await target.retention.restore(files[0]) == RestoreReport(None, 3, 0, True)
        assert marks(other) == {"": (2, 2)}
        # It goes on behind them.
        receipt = await target.events.append("a", Event(type="t"))
        assert receipt.position == 11
        with pytest.raises(PositionTrimmed):
            await target.events.read(after=1)
        assert len(await target.events.read(after=2)) == 8
    assert everything(other)[:3] == before[3:]


async def test_restore_into_another_log_is_refused(form, make_database, tmp_path):
    async with form.memory() as memory:
        await fill(memory, 5)
        (file,) = await exported(memory, tmp_path, max_events=1)
    for used in ("event", "trimmed"):
        other = make_database(template=True)
        async with form.memory(other) as target:
            await fill(target, 2)
            if used == "trimmed":
                run(other, "SET session_replication_role = replica; DELETE FROM pgmem.events")
                run(other, "INSERT INTO pgmem.trimmed (stream, position) VALUES ('', 2)")
            before = everything(other), marks(other)
            with pytest.raises(Conflict, match="another log"):
                await target.retention.restore(file)
            assert (everything(other), marks(other)) == before
            assert (await target.events.append("a", Event(type="t"))).position == 3


async def test_backup_is_the_same_log(form, database_url, make_database, tmp_path):
    async with form.memory() as memory:
        await fill(memory, 10)
        (file,) = await exported(memory, tmp_path, max_events=2)
    (number,) = run(database_url, "SELECT log_id FROM pgmem.meta")
    backup = make_database(template=True)
    run(backup, "UPDATE pgmem.meta SET log_id = %s", number)
    async with form.memory(backup) as target:
        await fill(target, 3)
        # Its end was lost, and others were written in its place.
        with pytest.raises(Conflict, match=r"\[1, 2, 3\]"):
            await target.retention.restore(file)
        assert left(backup) == [1, 2, 3]


async def test_two_databases_of_one_template_are_two_logs(
    form, database_url, make_database, tmp_path
):
    other = make_database(template=True)
    async with form.memory() as memory, form.memory(other) as second:
        for each in (memory, second):
            await fill(each, 5)
            await each.retention.trim(max_events=2)
        await fill(memory, 5)
        (file,) = await exported(memory, tmp_path, max_events=2)
        (mine,) = await exported(second, tmp_path, max_events=1)
        with pytest.raises(Conflict, match="another log"):
            await second.retention.restore(file)
        assert (await second.retention.restore(mine)).restored == 1


async def test_concurrent_first_exports_agree_on_the_log_id(both, database_url, tmp_path):
    await fill(both, 9)
    with psycopg.connect(database_url) as first:
        first.execute("UPDATE pgmem.meta SET log_id = gen_random_uuid()")
        committed = threading.Timer(0.3, first.commit)
        committed.start()
        (file,) = await exported(both, tmp_path, max_events=2)
        assert not committed.is_alive()
    assert (await both.retention.restore(file)).complete


async def test_restore_raises_the_head(form, database_url, tmp_path):
    # The log was set back by a backup from before these events.
    async with form.memory() as memory:
        await fill(memory, 10)
        (file,) = await exported(memory, tmp_path, max_events=2)
        run(database_url, "SET session_replication_role = replica; TRUNCATE pgmem.events")
        run(database_url, "SELECT setval('pgmem.events_position_seq', 1, false)")
        run(database_url, "DELETE FROM pgmem.trimmed")
        assert await memory.retention.restore(file) == RestoreReport(None, 8, 0, False)
        assert (await memory.events.append("a", Event(type="t"))).position == 9


async def test_restore_of_a_rewritten_version_conflicts(both, database_url, tmp_path):
    run(database_url, "INSERT INTO pgmem.state (key, version) VALUES ('k', 9)")
    await both.state.put("k", 1)
    await fill(both, 1)
    (file,) = await exported(both, tmp_path, max_events=1)
    run(database_url, "UPDATE pgmem.state SET version = 9")
    await both.state.put("k", "again")
    with pytest.raises(Conflict, match=r"\[1\]"):
        await both.retention.restore(file)
    assert left(database_url) == [2, 3]


# what is in the way


async def test_events_that_become_protected_are_not_in_the_file(
    both, database_url, tmp_path, monkeypatch
):
    await fill(both, 20)
    store_group(database_url, 20)
    remove = ops.remove

    def protect(*args, **options):
        monkeypatch.setattr(ops, "remove", remove)
        add_delayed(database_url, 5)
        store_subscription(database_url, 10)
        return remove(*args, **options)

    monkeypatch.setattr(ops, "remove", protect)
    (file,) = await exported(both, tmp_path, max_events=2)
    assert list(tmp_path.iterdir()) == [file]
    assert left(database_url) == [5, *range(11, 21)]
    assert (await both.retention.restore(file)).restored == 9
    assert len(left(database_url)) == 20


async def test_events_that_another_trim_removes_are_not_in_the_file(
    both, database_url, tmp_path, monkeypatch
):
    await fill(both, 20)
    read_lines = archives.read_lines
    with Memory(database_url) as other:

        def overtake(positions):
            monkeypatch.setattr(archives, "read_lines", read_lines)
            other.retention.trim(max_events=15)
            return read_lines(positions)

        monkeypatch.setattr(archives, "read_lines", overtake)
        (file,) = await exported(both, tmp_path, max_events=2)
    assert file.name == "pgmem.@all.000000000006-000000000018.jsonl.gz"
    assert (await both.retention.restore(file)).complete
    assert marks(database_url) == {"": (5, 5)}


async def test_trim_gives_up_after_repeated_conflicts(both, database_url, tmp_path, monkeypatch):
    await fill(both, 20)
    remove = ops.remove

    def meddle(*args, **options):
        run(
            database_url,
            "INSERT INTO pgmem.trimmed (stream, position) VALUES ('', 1) "
            "ON CONFLICT (stream) DO UPDATE SET removed = trimmed.removed + 1",
        )
        return remove(*args, **options)

    monkeypatch.setattr(ops, "remove", meddle)
    with pytest.raises(TransactionConflict, match="Try again later"):
        await both.retention.trim(max_events=2, export=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(left(database_url)) == 20


# who may restore, and when


async def test_restore_is_all_or_nothing(both, database_url, tmp_path):
    await fill(both, 5)
    (file,) = await exported(both, tmp_path, max_events=2)
    insert(database_url, 0)
    run(
        database_url,
        "INSERT INTO pgmem.events (position, stream, type, payload) VALUES (3, 'a', 't', '9')",
    )
    with pytest.raises(Conflict, match=r"\[3\].*Nothing was changed"):
        await both.retention.restore(file)
    assert left(database_url) == [3, 4, 5]
    assert marks(database_url) == {"": (3, 3)}


async def test_roles_that_may_restore(form, database_url, tmp_path):
    with roles(database_url) as url_of:
        async with form.memory(url_of("janitor")) as memory:
            await fill(memory, 5)
            (file,) = await exported(memory, tmp_path, max_events=2)
            with pytest.raises(PermissionDenied):
                await memory.retention.restore(file)
        async with form.memory(url_of("agent")) as memory:
            with pytest.raises(PermissionDenied):
                await memory.retention.restore(file)
        assert left(database_url) == [4, 5]
        async with form.memory() as memory:
            assert (await memory.retention.restore(file)).complete


async def test_a_writer_waits_while_another_log_is_restored(form, make_database, tmp_path):
    async with form.memory() as memory:
        await fill(memory, 5)
        (file,) = await exported(memory, tmp_path, max_events=1)
    other = make_database(template=True)
    async with form.memory(other) as target:
        with psycopg.connect(other) as writer:
            writer.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('a','t','1')")
            run(other, f"ALTER DATABASE {writer.info.dbname} SET lock_timeout = 200")
            async with form.memory(other) as impatient:
                with pytest.raises(Exception, match="lock"):
                    await impatient.retention.restore(file)
            writer.rollback()
        assert (await target.retention.restore(file)).restored == 4
        assert (await target.events.append("a", Event(type="t"))).position == 5
