"""`pgmem.redis` and redis-py are loaded only when they are named."""

import subprocess
import sys

import pytest

from pgmem import redis


def loaded_by(statement):
    """Return the modules of Redis that a new interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*(m for m in sys.modules if 'redis' in m))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return found.stdout.decode().split()


@pytest.mark.parametrize(
    "statement",
    [
        "import pgmem",
        "from pgmem import Memory, AsyncMemory",
        "import pgmem; pgmem.Memory('postgresql://localhost/x')",
    ],
)
def test_pgmem_loads_nothing_of_redis(statement):
    assert loaded_by(statement) == []


def test_naming_pgmem_redis_loads_neither_redis_py_nor_the_import():
    assert loaded_by("import pgmem.redis") == ["pgmem.redis"]
    assert "redis" not in loaded_by("from pgmem.redis import SharedMemoryLayer, position_of")


@pytest.mark.parametrize("name", redis.__all__)
def test_each_public_name_exists(name):
    assert getattr(redis, name).__name__ == name
    assert name in dir(redis)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'SharedMemory'"):
        _ = redis.SharedMemory
