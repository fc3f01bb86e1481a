"""Test the measured servers: private and fresh, or the caller's own, reset afterwards."""

from __future__ import annotations

import contextlib
from pathlib import Path

import orjson
import pytest

from benchmarks import redis_server, servers
from benchmarks.meter import costs
from benchmarks.redis_server import TIERS
from benchmarks.scenarios._base import SIZES, payload


def settings(server):
    with contextlib.closing(server.client()) as client:
        return {name: client.config_get(name)[name] for name in TIERS["strict"]}


@pytest.mark.parametrize("tier", TIERS)
def test_a_private_redis_keeps_its_tier_and_is_gone_afterwards(tier):
    with redis_server.redis(tier) as server:
        assert TIERS[tier].items() <= settings(server).items()
        folder = Path(server.url.removeprefix("unix://")).parent
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_a_private_redis_is_stopped_after_an_error():
    def fail():
        with redis_server.redis("none") as server:
            folders.append(Path(server.url.removeprefix("unix://")).parent)
            raise RuntimeError("a scenario failed")

    folders = []
    with pytest.raises(RuntimeError, match="a scenario failed"):
        fail()
    assert not folders[0].exists()


def test_callers_redis_is_set_to_each_tier_and_reset():
    with redis_server.redis("relaxed") as theirs, contextlib.closing(theirs.client()) as client:
        client.set("theirs", "kept")
        before = settings(theirs)
        with redis_server.redis("strict", theirs.url) as strict:
            assert strict.processes() == []
            with redis_server.redis("none", theirs.url) as none:
                assert settings(none)["appendonly"] == "no"
                strict.prepare()
                assert settings(strict)["appendfsync"] == "always"
                assert strict.key("k") != none.key("k")
                client.set(strict.key("k"), 1)
        assert settings(theirs) == before
        assert client.keys() == [b"theirs"]


def test_missing_redis_is_an_error():
    with (
        pytest.raises(servers.ServerError, match="no answer from Redis"),
        redis_server.redis("strict", "unix:///no/such/socket"),
    ):
        pass


def test_work_is_metered_on_both_sides():
    with redis_server.redis("strict") as server, contextlib.closing(server.client()) as client:
        with costs(server) as spent:
            for number in range(2_000):
                client.xadd("s", {"payload": "x" * 100, "n": number})
        found = spent.figures(2_000)
        assert 100 <= found["log, B each"] < 1_000
        assert 50 <= found["memory, B each"] < 1_000
        assert found["per second"] == pytest.approx(2_000 / spent.seconds)
        assert found["client CPU, µs each"] > 0
        assert found["server CPU, µs each"] > 0


def test_private_postgres_has_processes_and_sizes():
    with servers.postgres() as server, costs(server) as spent, server.database():
        assert len(server.processes()) > 3
    assert spent.sizes["log"] > 100_000
    assert spent.server > 0


@pytest.mark.parametrize("size", SIZES.values())
def test_a_payload_has_the_size_that_it_is_named_for(size):
    assert [len(orjson.dumps(payload(n, size))) for n in (1, 999)] == [size, size]


def test_a_server_that_is_not_metered_is_no_client():
    busy = "local n = 0 for i = 1, 2e7 do n = n + i end return 1"
    with redis_server.redis("none") as server, contextlib.closing(server.client()) as client:
        with costs() as alone:
            client.eval(busy, 0)
        with costs(server) as spent:
            client.eval(busy, 0)
    assert alone.server is None
    assert spent.server > 0.02
    assert alone.client < spent.server / 2
    assert spent.client < spent.server / 2
