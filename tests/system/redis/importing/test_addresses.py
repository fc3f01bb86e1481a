"""Sentinels, clusters, replicas and odd URLs work, or are refused with a clear word."""

from __future__ import annotations

import contextlib
import socket
import subprocess

import pytest

from benchmarks import redis_server
from pgmem.errors import InvalidInput
from pgmem.redis.errors import SourceError
from pgmem.redis.importing.source import RedisSource
from tests.support.waiting import wait_until
from tests.system.redis.importing.servers import client_of, running
from tests.system.redis.importing.support import Importing, fill, numbers


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def on_port(folder, *options):
    """Run a server with a port. Yield the port and a client."""
    folder.mkdir()
    port = free_port()
    with running(redis_server.redis_binary(), folder, "--port", port, *options):
        url = f"redis://127.0.0.1:{port}"
        with contextlib.closing(client_of(url)) as client:
            yield port, client


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+sentinel://h:26379/mymaster/0", "Sentinel .* get-master-addr-by-name"),
        ("redis-sentinel://h:26379", "Sentinel"),
        ("redis+cluster://h:7000", "cluster .* each primary"),
        ("redis://h:7000,h:7001", "several hosts"),
        ("redis://h/zero", "database in the URL of Redis is a number"),
        ("redis://h/1/2", "database in the URL of Redis is a number"),
        ("valkey://h", "redis://"),
    ],
)
def test_a_url_that_means_something_else_is_refused(url, words):
    with pytest.raises(InvalidInput, match=words):
        RedisSource(url)


def test_a_database_that_does_not_exist_is_named(source, importing):
    with pytest.raises(SourceError, match="does not have this database"):
        RedisSource(f"{importing.url}?db=99")


def test_a_sentinel_names_its_primaries(tmp_path):
    with on_port(tmp_path / "primary") as (port, _):
        folder = tmp_path / "sentinel"
        folder.mkdir()
        own = free_port()
        conf = folder / "sentinel.conf"
        conf.write_text(f"port {own}\nsentinel monitor orders 127.0.0.1 {port} 1\n")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [redis_server.redis_binary(), conf, "--sentinel"], stdout=log, stderr=log
            )
        try:
            url = f"redis://127.0.0.1:{own}"
            redis_server.await_redis(redis_server.Redis(url), process, folder / "log")
            words = rf"is a sentinel.*orders is redis://127.0.0.1:{port}"
            with pytest.raises(SourceError, match=words):
                RedisSource(url)
        finally:
            redis_server.stop(process)


def test_a_replica_is_imported_from_and_not_fenced(tmp_path, memory):
    with on_port(tmp_path / "primary") as (port, primary):
        fill(primary, 3)
        replica = ("--replicaof", f"127.0.0.1 {port}")
        with on_port(tmp_path / "replica", *replica) as (own, client):
            wait_until(lambda: client.exists("agent:events"), 20)
            importing = Importing(f"redis://127.0.0.1:{own}", memory, tmp_path)
            assert importing.run().complete
            with pytest.raises(SourceError, match="is a replica"):
                importing.cut_over()
    assert numbers(memory) == [1, 2, 3]


@pytest.fixture
def cluster(tmp_path):
    """Two primaries, each with half of the keys."""
    clustered = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf")
    # Without a port of its own, the bus takes one that may be above the highest.
    bus = free_port()
    with (
        on_port(tmp_path / "one", *clustered, "--cluster-port", free_port()) as (first, one),
        on_port(tmp_path / "two", *clustered, "--cluster-port", bus) as (second, two),
    ):
        one.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        two.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        one.execute_command("CLUSTER", "MEET", "127.0.0.1", second, bus)
        for node in (one, two):
            wait_until(lambda: is_ready(node), 20)  # noqa: B023  # called at once
        yield (first, one), (second, two)


def is_ready(node):
    return node.execute_command("CLUSTER INFO")["cluster_state"] == "ok"


def slot_of(client, key):
    return client.execute_command("CLUSTER", "KEYSLOT", key)


def test_each_primary_of_a_cluster_is_imported_by_itself(cluster, memory, tmp_path):
    count = 0
    for n in range(20):
        ((_, one), (_, two)) = cluster
        node = one if slot_of(one, f"h:{n}") < 8192 else two
        node.hset(f"h:{n}", "a", n)
        node = one if slot_of(one, f"s:{n}") < 8192 else two
        fill(node, 2, f"s:{n}")
        count += 1
    for port, node in cluster:
        importing = Importing(f"redis://127.0.0.1:{port}", memory, tmp_path)
        assert importing.run(name=f"node {port}").complete
        found = importing.compared(name=f"node {port}")
        assert found.equal
        assert node.dbsize() > 0
        for act in (importing.cut_over, importing.reverse):
            with pytest.raises(SourceError, match="is a node of a cluster"):
                act(name=f"node {port}")
        with (
            importing.opened(name=f"node {port}") as importer,
            pytest.raises(SourceError, match="is a node of a cluster"),
        ):
            importer.begin(purpose="follow")
        # What is deleted in Redis is removed, although the fence's name is on another node.
        key = next(iter(node.scan_iter("h:*")))
        node.delete(key)
        assert importing.run(name=f"node {port}").removed == 1
    assert len(memory.state.list(limit=100)) == count - 2
    assert all(numbers(memory, f"s:{n}") == [1, 2] for n in range(20))
