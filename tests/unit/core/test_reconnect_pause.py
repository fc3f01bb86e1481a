"""ReconnectPause: how often the follower tries to connect while the server is away."""

from __future__ import annotations

import pytest

from pgmem.core.outage import PAUSE_LAST, PAUSE_QUICK, ReconnectPause


def tries(away: float, took: float) -> list[float]:
    """Return when each try begins, until the first one that reaches the server again."""
    pauses, now, began = ReconnectPause(), 0.0, []
    while True:
        began.append(now)
        if now >= away:
            return began
        now += took + pauses.failed(took)


@pytest.mark.parametrize("away", [0.05, 0.5, 5.0, 60.0])
def test_server_that_refuses_at_once_is_reached_within_one_quick_pause(away):
    began = tries(away, took=0.001)
    assert began[-1] - away <= PAUSE_QUICK
    # Not more tries than one in half of the pause, after the first few.
    assert len(began) <= away / (PAUSE_QUICK / 2) + 6


def test_host_that_does_not_answer_is_asked_less_often():
    began = tries(60.0, took=2.0)
    assert began[-1] - 60.0 <= 2.0 + PAUSE_LAST
    assert len(began) <= 60 / (2.0 + PAUSE_LAST / 2) + 4


def test_after_a_success_the_first_pause_comes_again():
    pauses = ReconnectPause()
    late = [pauses.failed(0.001) for _ in range(20)][-1]
    pauses.succeeded()
    assert late >= PAUSE_QUICK / 2 > pauses.failed(0.001)
