"""When a process notifies without a lock."""

from pgmem.core.silence import SECONDS, STATEMENTS, Silence


def test_many_statements_in_a_moment_are_contention():
    silence = Silence()
    assert not any(silence.add(SECONDS * 0.9 * n / 1000) for n in range(1000))


def test_few_statements_are_no_proof():
    silence = Silence()
    assert not any(silence.add(n * SECONDS) for n in range(STATEMENTS - 1))


def test_locks_that_are_never_free_are_noticed_and_then_at_once():
    silence = Silence()
    found = [silence.add(n * SECONDS) for n in range(STATEMENTS + 2)]
    assert found == [False] * (STATEMENTS - 1) + [True] * 3
