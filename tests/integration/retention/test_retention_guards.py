"""Guards between an archive and a wrong log, each where no other guard helps."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from pathlib import Path

import psycopg
import pytest

from pgmem import Event, Memory
from pgmem.errors import Conflict, InvalidInput, OutcomeUnknown
from pgmem.retention import archive_ops as archives
from pgmem.retention import ops
from pgmem.retention.models import RestoreReport
from tests.support.both import module_name
from tests.support.cutting import CuttingRelay
from tests.support.retention import (
    add_batch,
    add_delayed,
    fill,
    left,
    marks,
    run,
    store_group,
    store_subscription,
)


async def exported(memory, folder, stream=None, **limits):
    (done,) = (await memory.retention.trim(stream, **limits, export=folder)).streams
    return [Path(file) for file in done.files]


def content(file):
    header, *lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    return json.loads(header), [json.loads(line) for line in lines]


# a file that was changed


async def test_checksum_finds_a_changed_event(both, database_url, tmp_path):
    # Each line is still an event, and the first line is right: only the checksum differs.
    await fill(both, 5)
    (file,) = await exported(both, tmp_path, max_events=2)
    text = gzip.decompress(file.read_bytes())
    assert text.count(b'"t"') == 3
    file.write_bytes(gzip.compress(text.replace(b'"t"', b'"u"')))
    with pytest.raises(InvalidInput, match="were changed"):
        await both.retention.restore(file)
    assert left(database_url) == [4, 5]
    assert marks(database_url) == {"": (3, 3)}


async def test_wrong_last_position_is_refused(both, database_url, tmp_path):
    # Its events are below the low-water mark, so the mark does not show its last event.
    await fill(both, 10)
    store_group(database_url, 10)
    add_batch(database_url, 3)
    await exported(both, tmp_path, max_events=2)
    run(database_url, "DELETE FROM pgmem.batches")
    (file,) = await exported(both, tmp_path, max_events=2)
    header, *rest = gzip.decompress(file.read_bytes()).split(b"\n")
    changed = json.dumps({**json.loads(header), "last": 4}).encode()
    file.write_bytes(gzip.compress(b"\n".join([changed, *rest])))
    with pytest.raises(InvalidInput, match="that its first line names"):
        await both.retention.restore(file)
    assert left(database_url) == [9, 10]


async def test_an_empty_file_is_told_from_a_damaged_one(both, tmp_path):
    # A killed export leaves one, because it takes the name first.
    file = tmp_path / "pgmem.@all.000000000001-000000000003.jsonl.gz"
    file.touch()
    with pytest.raises(InvalidInput, match=r"it is empty: .* are in the log"):
        await both.retention.restore(file)


# a file that tells what is gone, and nothing else


async def test_file_holds_exactly_the_removed_events(both, database_url, tmp_path, monkeypatch):
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
    header, events = content(file)
    gone = [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert [event["position"] for event in events] == gone
    assert header["after"] == {"position": 10, "removed": 9}
    assert marks(database_url) == {"": (10, 9)}
    assert await both.retention.restore(file) == RestoreReport(None, 9, 0, True)


async def test_no_file_is_written_of_events_that_are_gone_already(
    both, database_url, tmp_path, monkeypatch
):
    """Another trim, of a stream, has its own mark: that of the whole log does not show it."""
    await fill(both, 20)
    read_lines, pack, packed = archives.read_lines, archives.pack, []
    with Memory(database_url) as other:

        def overtake(positions):
            monkeypatch.setattr(archives, "read_lines", read_lines)
            other.retention.trim("a", max_events=15)
            return read_lines(positions)

        def count(archive):
            packed.append(archive)
            return pack(archive)

        monkeypatch.setattr(archives, "read_lines", overtake)
        monkeypatch.setattr(archives, "pack", count)
        (file,) = await exported(both, tmp_path, max_events=2)
    assert [event["position"] for event in content(file)[1]] == list(range(6, 19))
    assert len(packed) == 1
    assert marks(database_url) == {"": (18, 13), "a": (5, 5)}


async def test_file_stays_if_the_outcome_is_unknown(form, database_url, tmp_path):
    relay = CuttingRelay(database_url, tmp_path)
    folder = tmp_path / "archives"
    folder.mkdir()
    async with form.memory(relay.url, pool=1) as memory:
        await fill(memory, 5)
        relay.cut_once_after(b"COMMIT\0")
        with pytest.raises(OutcomeUnknown, match="trim"):
            await memory.retention.trim(max_events=2, export=folder)
        assert relay.cuts == 1
        assert left(database_url) == [4, 5]
        (file,) = folder.iterdir()
        assert await memory.retention.restore(file) == RestoreReport(None, 3, 0, True)


# the mark goes back only from where the file has left it


async def leftovers(memory, url, folder):
    """Three files; behind the newest one's mark, one more event was removed without a file."""
    await fill(memory, 20)
    store_group(url, 20)
    add_batch(url, 3)
    files = await exported(memory, folder, max_events=8)
    run(url, "DELETE FROM pgmem.batches")
    assert (await memory.retention.trim(max_events=8)).removed == 1
    return files


async def test_mark_with_another_position_stays(both, database_url, tmp_path, monkeypatch):
    # The position is that of the file, the number is not: other events were removed, too.
    monkeypatch.setattr(ops, "ARCHIVED_BATCH", 4)
    files = await leftovers(both, database_url, tmp_path)
    assert marks(database_url) == {"": (12, 12)}
    for file in reversed(files):
        assert not (await both.retention.restore(file)).complete
    assert marks(database_url) == {"": (12, 12)}
    assert left(database_url) == [1, 2, *range(4, 21)]


async def test_mark_of_a_single_file_with_another_position_stays(both, database_url, tmp_path):
    (file,) = await leftovers(both, database_url, tmp_path)
    assert not (await both.retention.restore(file)).complete
    assert marks(database_url) == {"": (12, 12)}


@pytest.mark.parametrize("first", [True, False], ids=["the first file", "a later one"])
async def test_mark_with_another_count_stays(both, database_url, tmp_path, first):
    # The number is that of the file, the position is not: other events were removed.
    await fill(both, 20)
    if not first:
        await both.retention.trim(max_events=18)
    (file,) = await exported(both, tmp_path, max_events=12)
    removed = marks(database_url)[""][1]
    run(database_url, "UPDATE pgmem.trimmed SET position = 11")
    assert await both.retention.restore(file) == RestoreReport(None, 8 if first else 6, 0, False)
    assert marks(database_url) == {"": (11, removed)}


# what is not final


async def test_old_event_above_an_open_writer_stays(form, database_url, monkeypatch):
    """By its age it is due; but a reader waits for what is below it, and would be told too much."""
    monkeypatch.setattr(f"{module_name(form.name, 'events.reader')}.STABLE_WAIT", 0.05)
    async with form.memory() as memory:
        await fill(memory, 5)
        with psycopg.connect(database_url) as slow:
            slow.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('a', 't', '1')")
            await fill(memory, 5)
            await asyncio.sleep(0.05)
            assert (await memory.retention.trim(max_age=0.01)).removed == 5
            assert marks(database_url) == {"": (5, 5)}
            slow.commit()
        assert [event.position for event in await memory.events.read(after=5)] == list(range(6, 12))
        await asyncio.sleep(0.05)
        assert (await memory.retention.trim(max_age=0.01)).removed == 6


# what else stands there


async def test_version_at_another_position_is_a_conflict(both, database_url, tmp_path):
    # The end of the log was lost, and the stream was written anew.
    for version in range(4):
        await both.events.append("v", Event(type="t"), expected_version=version)
    (file,) = await exported(both, tmp_path, max_events=2)
    run(
        database_url,
        "INSERT INTO pgmem.events (stream, stream_version, type, payload) "
        "VALUES ('v', 2, 't', '1')",
    )
    with pytest.raises(Conflict, match=r"have the positions \[2\]"):
        await both.retention.restore(file)
    assert left(database_url) == [3, 4, 5]
    assert marks(database_url) == {"": (2, 2)}


# writers, while positions are given out by hand


@pytest.fixture
async def foreign(form, make_database, tmp_path):
    """A file of another log, and a database whose log is empty."""
    async with form.memory() as memory:
        await fill(memory, 5)
        (file,) = await exported(memory, tmp_path, max_events=1)
    return file, make_database(template=True)


async def test_restore_waits_for_an_open_writer(form, foreign):
    file, url = foreign
    async with form.memory(url) as target:
        with psycopg.connect(url) as writer:
            writer.execute("LOCK TABLE pgmem.events IN ROW EXCLUSIVE MODE")
            drawn = threading.Timer(0.3, lambda: _append_and_commit(writer))
            drawn.start()
            # It was empty when the restore began, and is not when that may go on.
            with pytest.raises(Conflict, match="another log"):
                await target.retention.restore(file)
            drawn.join()
        assert left(url) == [1]
        assert marks(url) == {}


def _append_and_commit(writer):
    writer.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('a', 't', '1')")
    writer.commit()


async def test_writer_waits_for_the_restore(form, foreign, monkeypatch):
    file, url = foreign
    raise_head, kept_out = archives.raise_head, []

    def write(archive):
        with psycopg.connect(url, options="-c lock_timeout=100") as writer:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                _append_and_commit(writer)
            kept_out.append(True)
        return raise_head(archive)

    monkeypatch.setattr(archives, "raise_head", write)
    async with form.memory(url) as target:
        assert (await target.retention.restore(file)).restored == 4
        assert (await target.events.append("a", Event(type="t"))).position == 5
    assert kept_out == [True]
