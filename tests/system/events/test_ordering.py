"""The ordering proof; `python -m tests.system.soak` runs it at any size."""

from __future__ import annotations

import pytest

from tests.support.options import size
from tests.support.processes import seed
from tests.system.soak.ordering import Proof

pytestmark = pytest.mark.sized


def test_no_event_is_missed_repeated_or_out_of_order(database_url, tmp_path):
    proof = Proof(database_url, size(10_000, 600), seed(), tmp_path, chaos=size(200, 100) / 1000)
    assert proof.run() == {}
    assert proof.counts["rolled back"] > 10
    assert proof.counts["writer backends ended"] + proof.counts["writers killed"] > 0
    assert proof.counts["subscribers killed"] == 1
