"""Read the URL of a Redis, and make the pool of its one connection."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pgmem.errors import InvalidInput

if TYPE_CHECKING:
    import redis

ANSWER_SECONDS = 15.0
CONNECT_SECONDS = 5.0
PASSWORD_VARIABLE = "REDISCLI_AUTH"  # noqa: S105  # redis-cli's own; no password stands here

_NOT_VALID = (
    "the URL of Redis is not valid. Give redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE],"
    " rediss:// for TLS, or unix:///path/to/redis.sock?db=DATABASE"
)
_SCHEMES = ("redis", "rediss", "unix")


def pool_of(url: str) -> tuple[redis.ConnectionPool, str]:
    """Return a pool for a URL, and the address without the password.

    Raises:
        InvalidInput: the URL is not valid, or redis-py is not installed.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise InvalidInput(
            'importing from Redis needs redis-py. Run: pip install "pgmem-agents[redis]"'
        ) from None
    _check(url)
    try:
        pool = redis.ConnectionPool.from_url(
            url,
            retry=Retry(NoBackoff(), 0),  # RedisSource retries
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
        )
    except (ValueError, TypeError):
        # Its message may quote the URL, and with it the password.
        raise InvalidInput(_NOT_VALID) from None
    kwargs = pool.connection_kwargs
    # Raw answers, whatever the URL says and the version of redis-py prefers.
    kwargs |= {"protocol": 2, "decode_responses": False}
    if not kwargs.get("password") and os.environ.get(PASSWORD_VARIABLE):
        kwargs["password"] = os.environ[PASSWORD_VARIABLE]
    return pool, _where(url, kwargs)


def _check(url: str) -> None:
    """Refuse what redis-py would read as another server or database than the URL means."""
    scheme = url.split("://", 1)[0].lower() if "://" in url else ""
    if "sentinel" in scheme:
        raise InvalidInput(
            f"a URL of Sentinel ({scheme}://) is not supported: an import reads one server. Ask "
            f"Sentinel for the primary (SENTINEL get-master-addr-by-name NAME), and give its URL, "
            f"redis://HOST:PORT"
        )
    if "cluster" in scheme:
        raise InvalidInput(
            f"a URL of a cluster ({scheme}://) is not supported: an import reads one server. "
            f"Import from each primary of the cluster, redis://HOST:PORT, one after the other"
        )
    if scheme not in _SCHEMES:
        raise InvalidInput(_NOT_VALID)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidInput(_NOT_VALID) from None
    if scheme != "unix" and "," in parts.netloc.rpartition("@")[2]:
        raise InvalidInput(
            "the URL of Redis has several hosts, and an import reads one server. Give one host"
        )
    # redis-py reads a database that is no number as 0.
    if scheme != "unix" and not re.fullmatch(r"/?|/\d+/?", parts.path):
        raise InvalidInput(
            f"the database in the URL of Redis is a number, as in redis://HOST/0, and not "
            f"{parts.path[1:60]!r}"
        )


def _where(url: str, kwargs: dict[str, Any]) -> str:
    scheme, database = url.split("://", 1)[0].lower(), kwargs.get("db") or 0
    if scheme == "unix":
        return f"unix://{kwargs.get('path')}?db={database}"
    return f"{scheme}://{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}/{database}"
