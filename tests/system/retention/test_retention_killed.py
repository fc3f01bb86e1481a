"""Kill a trimming process at each step, inside a statement, in the commit, or only its session.

What is gone is recorded then, and in a whole file if files were asked for; a reader behind it is
told. The next trim goes on, and ends where an undisturbed one does; the files bring all back.
"""

from __future__ import annotations

import os
import random
import signal
import time

import psycopg
import pytest

from pgmem import Memory
from pgmem.errors import InvalidInput, PositionTrimmed
from tests.support.options import SIZED_SLOW_FORMS, SLOW_FORMS, full
from tests.support.processes import Worker, seed
from tests.support.retention import left, marks, run
from tests.support.server import MAINTENANCE
from tests.support.trimming import (
    BATCH,
    DELAYED,
    GAPS,
    KEEP,
    LAST,
    TRIMMER,
    VERSIONED,
    archives,
    check,
    positions_in,
    prepare,
    rows_of,
)

KEPT = sorted({DELAYED, VERSIONED[-1], *range(LAST - KEEP + 1, LAST + 1)})
"""What the log holds once it is trimmed."""

STANDS = range(1, LAST + 1, 3)
"""Where readers stand."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    for name in ("BATCH", "ARCHIVED_BATCH"):
        monkeypatch.setattr(f"pgmem.retention.ops.{name}", BATCH)


def trimmer(url, folder, *, name="sync", at=0, how="kill"):
    return Worker(TRIMMER, url, name, BATCH, KEEP, folder or "", at, how)


def steps_of(url, folder, name):
    """Return the steps of an undisturbed process."""
    (said,) = trimmer(url, folder, name=name).finish()
    assert said["error"] is None
    see_all_done(url)
    return said["steps"]


def see_all_done(url):
    assert left(url) == KEPT
    assert marks(url) == {"": (LAST - KEEP, LAST - len(GAPS) - len(KEPT))}
    assert run(url, "SELECT count(*) FROM pgmem.trimmed WHERE trimmed_at = 'infinity'") == [(0,)]


def bring_back(url, before, folder):
    """Restore all files, the newest first: the log is as it was."""
    with Memory(url, pool=1) as memory:
        for file in archives(folder):
            memory.retention.restore(file)
        for empty in {file for file in folder.glob("*.jsonl.gz") if not file.stat().st_size}:
            with pytest.raises(InvalidInput):
                memory.retention.restore(empty)
    assert rows_of(url) == before
    assert marks(url) == {}


def goes_on(url, before, folder):
    """Trim to the end, see that it is the usual one, and bring all back."""
    with Memory(url, pool=1) as memory:
        memory.retention.trim(max_events=KEEP, export=folder)
    see_all_done(url)
    check(url, before, folder, STANDS)
    if folder is not None:
        bring_back(url, before, folder)


def folder_of(tmp_path, export, number):
    if not export:
        return None
    folder = tmp_path / str(number)
    folder.mkdir()
    return folder


ON_FILES = ("open", "second", "fsync", "replace")


def some(steps, rng, name):
    """Choose the steps to kill at: all in one form with --full, otherwise three."""
    every = range(1, len(steps) + 1)
    if full() and name == "sync":
        return every
    second, third = [number for number in every if steps[number - 1] == "trim_find"][1:3]
    last = max(number for number in every if steps[number - 1] == "trim_times")
    return sorted({rng.choice(every), last, *range(second, third + 1)})


@SIZED_SLOW_FORMS
@pytest.mark.parametrize("export", [False, True])
def test_killed_before_each_step(database_url, tmp_path, export, name):
    rng = random.Random(seed())
    prepare(database_url)
    steps = steps_of(database_url, folder_of(tmp_path, export, 0), name)
    struck = some(steps, rng, name)
    print("killed before", [steps[number - 1] for number in struck])
    for number in struck:
        before = prepare(database_url)
        folder = folder_of(tmp_path, export, number)
        dying = trimmer(database_url, folder, name=name, at=number)
        dying.process.join(60)
        assert dying.process.exitcode == -9, dying.lines
        check(database_url, before, folder, STANDS)
        goes_on(database_url, before, folder)


SESSIONS = f"""
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
AND application_name <> '{MAINTENANCE}'
"""


def wait_for(true, what):
    deadline = time.monotonic() + 20
    while not (found := true()):
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
    return found


@SIZED_SLOW_FORMS
@pytest.mark.parametrize("export", [False, True])
def test_its_session_is_ended_before_each_step(database_url, tmp_path, export, name):
    # It goes on, or raises an error and leaves no file of events that are in the log.
    rng = random.Random(seed())
    prepare(database_url)
    steps = steps_of(database_url, folder_of(tmp_path, export, 0), name)
    ends = {}
    for number in some(steps, rng, name):
        if not full() and steps[number - 1].startswith(ON_FILES):
            continue  # The session is as idle there as it is before them.
        before = prepare(database_url)
        folder = folder_of(tmp_path, export, number)
        living = trimmer(database_url, folder, name=name, at=number, how="wait")
        wait_for(lambda each=living: each.lines, "it takes no such step")
        assert run(database_url, SESSIONS) == [(True,)]
        living.say()
        step, said = living.finish(60)
        ends[f"{number} {step}"] = said["error"] or "went on"
        gone = check(database_url, before, folder, STANDS)
        if said["error"] is None:
            assert left(database_url) == KEPT
            assert said["removed"] == len(gone)
        if folder is not None and said["error"] != "OutcomeUnknown":
            assert gone == set().union(*map(positions_in, archives(folder)))
        goes_on(database_url, before, folder)
    print(ends)
    in_transaction = {"trim_remove", "commit"}
    assert {end for step, end in ends.items() if step.split()[1] not in in_transaction} == {
        "went on"
    }
    # The statement before the commit is the first of its transaction, and is sent again.
    assert "OutcomeUnknown" in ends.values()


# inside a statement

# The commit of a trim waits for a lock: what is deferred is done first.
SLOW_COMMIT = """
CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(77);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER wait_here AFTER INSERT OR UPDATE ON pgmem.trimmed
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.trimmed_at = 'infinity') EXECUTE FUNCTION wait_here()
"""

# What a trim has to wait for, and in which statement it then does.
LOCKS = {
    "an event": ("SELECT FROM pgmem.events WHERE position = 15 FOR UPDATE", "trim_events"),
    "the mark": ("SELECT FROM pgmem.trimmed FOR NO KEY UPDATE", "trim_events"),
    "the commit": ("SELECT pg_advisory_xact_lock(77)", "COMMIT"),
}

WAITING = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
AND strpos(query, %s) > 0
"""

ACTIVE = "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
ALIVE = "SELECT FROM pg_stat_activity WHERE pid = %s"


def strike(url, how, dying, held, pid):
    """Kill the process or its session while it waits, and release the lock."""
    if how == "killed":
        dying.kill()
        held.rollback()
    elif how == "stopped":  # All is done when it is killed, and it has not seen the answer.
        os.kill(dying.process.pid, signal.SIGSTOP)
        held.rollback()
        wait_for(lambda: not run(url, ACTIVE, [pid]), "the statement does not end")
        dying.kill()
    else:
        held.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        held.rollback()
    dying.process.join(60)


def to_the_end(memory, subscription):
    """Return the positions that a subscription gives, and the last position told as removed."""
    got, told = set(), 0
    while LAST not in got:
        try:
            found = subscription.receive(10, timeout=10)
        except PositionTrimmed as error:
            told = error.trimmed_to
            subscription.close()
            subscription = memory.events.subscribe(after=told)
            continue
        assert found, "it stands still"
        got |= {event.position for event in found}
    subscription.close()
    return got, told


@SLOW_FORMS
@pytest.mark.parametrize("export", [False, True])
@pytest.mark.parametrize("how", ["killed", "stopped", "session ended"])
def test_killed_inside_a_statement(make_database, tmp_path, monkeypatch, export, how, name):
    monkeypatch.setattr("pgmem._sync.events.buffer.KEPT_EVENTS", 3)
    monkeypatch.setattr("pgmem._sync.events.subscription.BATCH", 3)
    url = make_database(template=True)
    run(url, SLOW_COMMIT)
    for number, (lock, (blocks, statement)) in enumerate(LOCKS.items()):
        before = prepare(url)
        folder = folder_of(tmp_path, export, number)
        with Memory(url) as memory, psycopg.connect(url) as held:
            memory.retention.trim(max_events=32, export=folder)  # So that there is a mark.
            removed = check(url, before, folder, [1, 5])
            behind = memory.events.subscribe(after=max(removed))
            got = {event.position for event in behind.receive(1)}
            held.execute(blocks)
            dying = trimmer(url, folder, name=name)
            ((pid,),) = wait_for(
                lambda s=statement: run(url, WAITING, [s]), f"waits not for {lock}"
            )
            strike(url, how, dying, held, pid)
            wait_for(lambda p=pid: not run(url, ALIVE, [p]), "its session does not end")
            gone = check(url, before, folder, STANDS)
            # A transaction that lost its session in its first statement is sent again.
            took_effect = (lock == "the commit") != (how == "session ended")
            assert (gone > removed) == took_effect
            live, told = to_the_end(memory, behind)
            assert (told > 0) == took_effect
            silently = before.keys() - removed - got - live - set(range(told + 1))
            assert not silently, "a subscription that began before skipped in silence"
        goes_on(url, before, folder)
