"""A server that goes silent: the connections stay, and nothing comes through them any more.

Every public verb returns or raises, because `Memory(timeout=)` bounds it. A verb without its bound
would never end, because the relay never closes a connection.
"""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgmem import AsyncDelivery, AsyncGroup, AsyncMemory, AsyncSubscription
from pgmem.errors import OutcomeUnknown
from tests.support.relay import Relay
from tests.support.silence import TOGETHER, VERBS, Made, check, ended, public, silenced

pytestmark = [
    pytest.mark.both_forms,
    # Sockets of connections that were given up are closed when the relay ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

GROUPS = {
    "events": lambda m: m.events,
    "state": lambda m: m.state,
    "snapshots": lambda m: m.state.snapshots,
    "dedupe": lambda m: m.dedupe,
    "groups": lambda m: m.groups,
    "leases": lambda m: m.leases,
    "limits": lambda m: m.limits,
    "retention": lambda m: m.retention,
    "folds": lambda m: m.folds,
    "subscriptions": lambda m: m.subscriptions,
}

OTHERS = {
    # They follow the log and wait for ever by themselves; their calls are above.
    "events.subscribe",
    "state.watch",
    "group.run",
    # They ask the server nothing.
    "events.read_page",
    "group.stop",
    "subscription.stop",
    "memory.as_agent",
    "memory.context",
    "memory.using",
    "memory.validate",
    # It opens the connections that go silent; see `test_open_at_a_silent_server`.
    "memory.open",
}


def test_every_public_verb_is_called():
    memory = AsyncMemory("postgresql://nowhere")
    found = {
        f"{name}.{verb}"
        for name, group in GROUPS.items()
        for verb in public(group(memory))
        if callable(getattr(group(memory), verb)) and verb != "snapshots"
    }
    for name, kind in (
        ("group", AsyncGroup),
        ("delivery", AsyncDelivery),
        ("subscription", AsyncSubscription),
        ("memory", AsyncMemory),
    ):
        members = ((verb, getattr(kind, verb)) for verb in public(kind))
        found |= {f"{name}.{verb}" for verb, member in members if inspect.isfunction(member)}
    # What a durable subscription and a lease have is listed by hand.
    found |= {"subscription.commit", "lease.release", "lease.renew"}
    assert set(VERBS) | OTHERS == found


NAMES = sorted(VERBS)


@pytest.mark.parametrize("first", range(0, len(NAMES), TOGETHER))
async def test_every_verb_ends_at_a_silent_server_20(form, make_database, tmp_path, first):
    verbs = NAMES[first : first + TOGETHER]
    check(*await silenced(form, make_database, tmp_path, verbs))


async def test_a_write_that_got_no_answer_says_so(form, database_url):
    with Relay(database_url) as relay, ThreadPoolExecutor(1) as threads:
        made = Made(form, relay.url, threads)
        await made.prepare("", None)
        relay.silence(new=True)
        _, outcome = await ended(made, lambda: made.memory.state.put("k", 2))
        assert isinstance(outcome, OutcomeUnknown)
        assert "did not answer" in str(outcome)
        await made.call(made.memory.close)
