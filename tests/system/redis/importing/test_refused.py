"""The file of refused items lists each item once with its bytes, also if the process dies."""

from __future__ import annotations

import json

import pytest

from pgmem.errors import InvalidInput
from pgmem.redis import Imports
from pgmem.redis.importing.refused import Item, RefusedFile
from tests.system.redis.importing.support import published

ITEM = Item("entry", b"s\xff", b"1-0", (b"a", b"\x00\xff"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_a_line_has_everything_to_repair_its_item(tmp_path):
    path = tmp_path / "refused.jsonl"
    assert RefusedFile(path, "r").add([(ITEM, "why")]) == 1
    (line,) = lines(path)
    del line["at"]
    assert line == {
        "import": "r",
        "kind": "entry",
        "key": "s\\xff",
        "name": "1-0",
        "reason": "why",
        "key_base64": "c/8=",
        "name_base64": "MS0w",
        "raw_base64": ["YQ==", "AP8="],
    }


def test_an_item_is_listed_once_over_several_runs(tmp_path):
    path = tmp_path / "refused.jsonl"
    for added in (1, 0):
        file = RefusedFile(path, "r")
        assert file.add([(ITEM, "why"), (ITEM, "why")]) == added
        assert file.add([(ITEM, "why")]) == 0
    file = RefusedFile(path, "r")
    assert file.add([(ITEM, "another reason")]) == 1
    assert file.add([(Item("entry", b"s", b"1-0", (b"a", b"changed")), "why")]) == 1
    assert RefusedFile(path, "another import").add([(ITEM, "why")]) == 1


def test_half_a_line_of_a_killed_process_is_ended(tmp_path):
    path = tmp_path / "refused.jsonl"
    RefusedFile(path, "r").add([(ITEM, "why")])
    whole = path.read_text()
    path.write_text(whole + '{"import": "r", "ki')
    file = RefusedFile(path, "r")
    assert file.add([(ITEM, "why")]) == 0
    assert file.add([(ITEM, "more")]) == 1
    good = [line for line in path.read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["reason"] for line in good] == ["why", "more"]


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_imported(
    source, importing, memory, tmp_path
):
    source.xadd("s", published(1))
    for path in (tmp_path / "no folder" / "f", tmp_path):
        importing.file = path
        with pytest.raises(InvalidInput, match="the file of refused items"):
            importing.run()
    assert memory.events.count() == 0


def test_the_line_is_on_the_disk_before_the_step_is_made(source, importing, memory, monkeypatch):
    """Otherwise a process that is killed between the two would leave an item out silently."""
    source.xadd("s", published(1, payload="no json"))
    append = Imports.append_events
    seen = []

    def appending(self, *args, **more):
        seen.append(importing.file.exists() and len(lines(importing.file)))
        return append(self, *args, **more)

    monkeypatch.setattr(Imports, "append_events", appending)
    importing.run()
    assert seen == [1]
