"""The files of an archive: written whole and never over another one, and refused when damaged."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest

from pgmem.errors import ArchiveFailed, InvalidInput
from pgmem.retention import archive_ops
from tests.support.retention import exported, fill, left, marks


def rewritten(file, change, *, sign=True):
    """Change the contents of a file."""
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")[:-1]
    header, events = json.loads(lines[0]), lines[1:]
    header, events = change(header, events) or (header, events)
    rest = "".join(f"{line}\n" for line in events).encode()
    if sign:
        header["sha256"] = hashlib.sha256(rest).hexdigest()
    file.write_bytes(gzip.compress(json.dumps(header).encode() + b"\n" + rest))


# folders and files


async def test_existing_file_is_not_overwritten(both, database_url, tmp_path):
    await fill(both, 5)
    mine = tmp_path / "pgmem.@all.000000000001-000000000003.jsonl.gz"
    mine.write_text("mine")
    (file,) = await exported(both, tmp_path, max_events=2)
    assert file.name == "pgmem.@all.000000000001-000000000003.2.jsonl.gz"
    assert mine.read_text() == "mine"
    assert (await both.retention.restore(file)).restored == 3


async def test_files_are_for_their_owner_alone(both, database_url, tmp_path):
    await fill(both, 5)
    (file,) = await exported(both, tmp_path, max_events=2)
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
async def test_full_disk_loses_nothing(both, database_url, tmp_path, monkeypatch, step):
    await fill(both, 5)

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = Path if step == "replace" else os
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, refuse)
        with pytest.raises(ArchiveFailed, match=r"No space left on device.*not removed"):
            await both.retention.trim(max_events=2, export=tmp_path)
    assert len(left(database_url)) == 5
    assert marks(database_url) == {}
    assert [file for file in tmp_path.iterdir() if file.stat().st_size] == []
    (file,) = await exported(both, tmp_path, max_events=2)
    assert (await both.retention.restore(file)).restored == 3


async def test_the_file_is_on_the_disk_before_the_events_go(
    both, database_url, tmp_path, monkeypatch
):
    await fill(both, 5)
    fsync, seen = os.fsync, []

    def watch(descriptor):
        fsync(descriptor)
        seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), len(left(database_url))))

    monkeypatch.setattr(os, "fsync", watch)
    await exported(both, tmp_path, max_events=2)
    (first, second) = seen
    assert (first[0].endswith(".tmp"), second[0]) == (True, str(tmp_path))
    assert (first[1], second[1]) == (5, 5)


@pytest.mark.parametrize("folder", ["/no/where", "", 5, None.__class__])
async def test_export_needs_an_existing_folder(both, folder):
    with pytest.raises(InvalidInput, match="existing folder"):
        await both.retention.trim(max_events=1, export=folder)


async def test_a_dry_run_writes_no_file(both, tmp_path):
    await fill(both, 5)
    report = await both.retention.trim(max_events=2, export=tmp_path, dry_run=True)
    assert (report.removed, list(tmp_path.iterdir())) == (3, [])


async def test_nothing_to_remove_is_no_file(both, tmp_path):
    await fill(both, 5)
    assert await exported(both, tmp_path, max_events=9) == []
    assert list(tmp_path.iterdir()) == []


# files that are none


def _truncated(file):
    file.write_bytes(file.read_bytes()[:-20])


def _flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _one_line(change):
    def event(header, events):
        found = json.loads(events[1])
        change(found)
        events[1] = json.dumps(found)

    return lambda file: rewritten(file, event)


def _header(**changes):
    return lambda file: rewritten(file, lambda header, events: header.update(changes))


def _end_of_the_log(file):
    def change(header, events):
        last = json.loads(events[-1])
        header["last"] = last["position"] = header["after"]["position"] = 2**63 - 1
        events[-1] = json.dumps(last)

    rewritten(file, change)


DAMAGES = {
    "a position that would end the log": _end_of_the_log,
    "empty": lambda file: file.write_bytes(b""),
    "no gzip": lambda file: file.write_bytes(b"not at all"),
    "gzip of something": lambda file: file.write_bytes(gzip.compress(b"something\n")),
    "gzip of JSON": lambda file: file.write_bytes(gzip.compress(b"{}\n[]\n")),
    "truncated": _truncated,
    "a bit flipped": _flipped,
    "another form": _header(pgmem_archive=2),
    "another count": _header(count=4),
    "another end": _header(last=9),
    "another beginning": _header(first=2),
    "another stream": _header(stream="b"),
    "another mark": _header(after={"position": 3, "removed": 9}),
    "a mark that is none": _header(before={"position": 3}),
    "a word too many": _header(more=1),
    "a type": _header(log=1),
    "a number of no log": _header(log="1"),
    "changed unsigned": lambda file: rewritten(
        file, lambda header, events: events.__setitem__(1, events[1].replace("1", "2")), sign=False
    ),
    "an event less": lambda file: rewritten(file, lambda header, events: (header, events[:-1])),
    "an event twice": lambda file: rewritten(file, lambda header, events: events.append(events[0])),
    "an event without a stream": _one_line(lambda event: event.pop("stream")),
    "an event of a number": _one_line(lambda event: event.update(stream=5)),
    "an event of a truth": _one_line(lambda event: event.update(position=True)),
    "no JSON": lambda file: rewritten(file, lambda h, events: events.__setitem__(1, "{")),
    "no object": lambda file: rewritten(file, lambda h, events: events.__setitem__(1, "[]")),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_file_that_is_damaged_or_foreign(both, database_url, tmp_path, damage):
    await fill(both, 5)
    (file,) = await exported(both, tmp_path, max_events=2)
    DAMAGES[damage](file)
    with pytest.raises(InvalidInput, match="Nothing was changed") as error:
        await both.retention.restore(file)
    assert str(file) in str(error.value)
    assert left(database_url) == [4, 5]
    assert marks(database_url) == {"": (3, 3)}


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "{"},
        {"recorded_at": "yesterday or so"},
        {"stream_version": 0},
        {"type": ""},
    ],
)
async def test_event_that_no_log_can_hold_is_refused(both, database_url, tmp_path, change):
    await fill(both, 5)
    (file,) = await exported(both, tmp_path, max_events=2)
    _one_line(lambda event: event.update(change))(file)
    with pytest.raises(InvalidInput):
        await both.retention.restore(file)
    assert left(database_url) == [4, 5]


async def test_missing_file_is_an_error(both, tmp_path):
    for file in (tmp_path / "none", str(tmp_path)):
        with pytest.raises(ArchiveFailed, match="restore of"):
            await both.retention.restore(file)
    with pytest.raises(InvalidInput, match="got int"):
        await both.retention.restore(5)


async def test_file_that_unpacks_to_too_much_is_refused(both, tmp_path, monkeypatch):
    await fill(both, 5)
    (file,) = await exported(both, tmp_path, max_events=2)
    monkeypatch.setattr(archive_ops, "MAX_UNPACKED", 100)
    with pytest.raises(InvalidInput, match="unpacks to more than 100 bytes"):
        await both.retention.restore(file)
