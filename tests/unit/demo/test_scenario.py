"""The scenario of a seed: always the same, with every fault in its share."""

from __future__ import annotations

import pytest

from pgmem.demo.scenario import (
    FAULT_RATES,
    HOT_ACCOUNTS,
    INVALID_KINDS,
    PAYMENT_LIMIT,
    Payment,
    objection,
    plan,
)
from pgmem.errors import InvalidInput


def test_the_same_seed_gives_the_same_payments_faults_and_times():
    assert plan(200, seed=5, rate=100) == plan(200, seed=5, rate=100)


def test_another_seed_gives_other_payments():
    assert plan(200, seed=5, rate=100).sendings != plan(200, seed=6, rate=100).sendings


def test_every_fault_comes_in_its_share():
    scenario = plan(2000, seed=1, rate=100)
    counts = scenario.faults()
    assert {kind: counts[kind] for kind in ("retry", "resend", "invalid")} == {
        kind: 2000 * FAULT_RATES[kind] for kind in ("retry", "resend", "invalid")
    }
    # Two pairs may share a payment, so there are a few less.
    assert 0.8 * 2000 * FAULT_RATES["hot_pair"] <= counts["hot_pair"] <= 200
    assert {s.fault for s in scenario.sendings if s.fault.startswith("invalid")} == {
        f"invalid: {kind}" for kind in INVALID_KINDS
    }


def test_a_retry_is_the_same_request_and_a_resend_a_new_one_for_the_same_payment():
    scenario = plan(500, seed=3, rate=100)
    first = {}
    for sending in scenario.sendings:
        if sending.fault not in ("retry", "resend"):
            first[sending.payment.id] = sending
    for sending in scenario.sendings:
        original = first[sending.payment.id]
        if sending.fault == "retry":
            assert (sending.request_id, sending.payment) == (original.request_id, original.payment)
        if sending.fault == "resend":
            assert sending.request_id != original.request_id
            assert sending.payment == original.payment


def test_pair_reaches_one_hot_account_at_the_same_moment():
    moments: dict[float, list[Payment]] = {}
    for sending in plan(500, seed=3, rate=100).sendings:
        if sending.fault == "hot_pair":
            moments.setdefault(sending.at, []).append(sending.payment)
    for pair in moments.values():
        assert len(pair) >= 2
        hot = [{p.sender, p.receiver} & set(HOT_ACCOUNTS) for p in pair]
        assert set.intersection(*hot)


def test_objection_refuses_exactly_the_invalid_payments():
    scenario = plan(1000, seed=2, rate=100)
    accounts = {name: {"currency": "VND"} for name in scenario.opening}
    for sending in scenario.sendings:
        if sending.fault == "retry":
            continue
        refused = objection(sending.payment, accounts, PAYMENT_LIMIT) is not None
        assert refused == sending.fault.startswith("invalid")


@pytest.mark.parametrize(("payments", "rate"), [(0, 100), (-1, 100), (100_001, 100), (10, 0)])
def test_number_out_of_range_is_refused(payments, rate):
    with pytest.raises(InvalidInput):
        plan(payments, seed=1, rate=rate)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_beyond_64_bits_is_refused(seed):
    with pytest.raises(InvalidInput):
        plan(10, seed=seed, rate=100)


@pytest.mark.parametrize("payments", [1, 2, 3, 19, 20, 33])
def test_few_payments_make_a_scenario(payments):
    scenario = plan(payments, seed=1, rate=100)
    assert len({s.payment.id for s in scenario.sendings}) == payments
