"""The Redis that is imported from: one connection, raw answers, and what a failure means.

::

    connection refused, at first       SourceUnavailable at once: a wrong URL is no outage
    connection lost, or loading        again for `timeout` seconds, then SourceUnavailable
    password, TLS, rights, cluster     SourceError, with what to do
    a command refused                  SourceError; where the caller asks for it, `Refused`

Only what reads, or may be sent twice, goes through here: a command whose answer was lost is sent
again. Answers are what the server sent (bytes, integers, lists), whatever redis-py would make of
them: it would drop a field that an entry has twice.

This module does not know what the keys are for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pgmem.errors import InvalidInput
from pgmem.redis.errors import SourceError, SourceUnavailable

if TYPE_CHECKING:
    import redis

Command = tuple[Any, ...]

OUTAGE_SECONDS = 30.0
"""Seconds that a Redis may be away in the middle of an import."""
ANSWER_SECONDS = 15.0
CONNECT_SECONDS = 5.0
PASSWORD_VARIABLE = "REDISCLI_AUTH"  # noqa: S105  # redis-cli's own; no password stands here
LONGEST_PAUSE = 1.0


class Refused(SourceError):
    """The server's answer to a command was an error.

    Attributes:
        reason: the answer.
    """

    def __init__(self, command: Any, reason: str) -> None:
        super().__init__(f"Redis refused {command}: {reason}")
        self.reason = reason


class RedisSource:
    """One Redis server and database.

    Args:
        url: `redis://`, `rediss://` or `unix://`. A password may also come from REDISCLI_AUTH.
        timeout: seconds that the server may be away after it has answered once.
        on_wait: told why, each time that it waits for the server to come back.

    Attributes:
        where: the server and database, without the password.
        server: the server process that answered last; another one has other SCAN cursors.

    Raises:
        InvalidInput: no such URL, or redis-py is not installed.
        SourceUnavailable: no answer.
        SourceError: the server refuses this client.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = OUTAGE_SECONDS,
        on_wait: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._timeout = timeout
        self._on_wait = on_wait
        self._pool, self.where = _pool(url)
        self._client: Any = None
        self._answered = False
        self.server = ""
        self.call("PING")

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self._pool.disconnect()

    def __enter__(self) -> RedisSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, *command: Any) -> Any:
        """One command.

        Raises:
            Refused: the server's answer was an error.
            SourceUnavailable, SourceError: as the module says.
        """
        return self._run(command[0], lambda client: client.execute_command(*command))

    def many(self, commands: Sequence[Command], *, atomic: bool = False) -> list[Any]:
        """Several commands in one round trip. An answer that is an error is a `Refused`.

        Args:
            commands: what to send.
            atomic: as one MULTI.
        """
        if not commands:
            return []

        def run(client: Any) -> list[Any]:
            pipe = client.pipeline(transaction=atomic)
            for command in commands:
                pipe.execute_command(*command)
            answers = pipe.execute(raise_on_error=False)
            return [_answer(*pair) for pair in zip(commands, answers, strict=True)]

        found: list[Any] = self._run(commands[0][0], run)
        return found

    def script(self, text: str, keys: Sequence[bytes], *arguments: bytes) -> Any:
        """Run a Lua script. It must be one that may be run twice.

        Raises:
            Refused: it ended by an error.
        """
        return self.call("EVAL", text, len(keys), *keys, *arguments)

    def _run(self, name: str, call: Callable[[Any], Any]) -> Any:
        import redis  # noqa: PLC0415  # only who imports needs the extra

        deadline = time.monotonic() + self._timeout
        pause = 0.05
        while True:
            try:
                return call(self._client or self._connected())
            except redis.exceptions.AuthenticationError as error:
                raise self._refused_login(error) from None
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
                self.close()
                if not self._answered or time.monotonic() > deadline:
                    raise self._unavailable(error) from None
                self._on_wait(_brief(error))
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            except redis.exceptions.ResponseError as error:
                raise self._refusal(name, error) from None

    def _connected(self) -> Any:
        """A new connection: another server process may answer there."""
        import redis  # noqa: PLC0415

        # One connection, not the pool: that one would replace a broken connection in silence.
        client: Any = redis.Redis(connection_pool=self._pool, single_connection_client=True)
        client.response_callbacks.clear()
        try:
            text = client.execute_command("INFO", "server").decode(errors="replace")
        except BaseException:
            self._pool.disconnect()
            raise
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if lines.get("redis_mode") == "sentinel":
            self._pool.disconnect()
            raise SourceError(f"{self.where} is a sentinel: give the URL of the Redis itself")
        self.server = lines.get("run_id", "")
        self._client, self._answered = client, True
        return client

    def _unavailable(self, error: Exception) -> SourceUnavailable:
        if self._answered:
            return SourceUnavailable(
                f"Redis at {self.where} went away and did not come back within "
                f"{self._timeout:g} s ({_brief(error)}). What was imported so far is kept: run "
                f"the same command again, and it goes on from there"
            )
        reason, hint = _brief(error), "Check that it runs and that the URL is right"
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            hint = "Its certificate is not trusted: add ?ssl_ca_certs=/path/to/ca.pem to the URL"
        elif "SSL" in reason or "WRONG_VERSION" in reason or "record layer" in reason:
            hint = "It does not speak TLS there: use redis:// instead of rediss://"
        elif "refused" in reason or self.where.startswith("unix:"):
            pass  # nobody is there: TLS is no matter
        elif self.where.startswith("rediss:"):
            hint += ". If it does not speak TLS there, use redis:// instead of rediss://"
        else:
            hint += ". If it wants TLS, use rediss:// instead of redis://"
        return SourceUnavailable(f"no answer from Redis at {self.where}: {reason}. {hint}")

    def _refused_login(self, error: Exception) -> SourceError:
        return SourceError(
            f"Redis at {self.where} refused the login ({_brief(error)}): put user and password "
            f"into the URL, redis://USER:PASSWORD@HOST (without a user: redis://:PASSWORD@HOST), "
            f"or the password into the variable {PASSWORD_VARIABLE}"
        )

    def _refusal(self, name: str, error: Exception) -> Exception:
        reason = _brief(error)
        if reason.startswith(("NOAUTH", "WRONGPASS")) or "HELLO must be called" in reason:
            return self._refused_login(error)
        if reason.startswith("NOPERM") or "has no permissions" in reason:
            return SourceError(
                f"Redis at {self.where} does not let this user run {name}: {reason}. Importing "
                f"needs the right to read every key and to run SCAN, TYPE, INFO and XINFO"
            )
        if reason.startswith(("MOVED", "ASK", "CLUSTERDOWN", "CROSSSLOT")):
            return SourceError(
                f"Redis at {self.where} is one node of a cluster: import from each node, with the "
                f"keys that it has ({reason.split()[0]})"
            )
        return Refused(name, reason)


def _pool(url: str) -> tuple[redis.ConnectionPool, str]:
    """How to connect, and where that leads to."""
    try:
        import redis  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError:
        raise InvalidInput(
            'importing from Redis needs redis-py: pip install "pgmem-agents[redis]"'
        ) from None
    try:
        pool = redis.ConnectionPool.from_url(
            url,
            retry=Retry(NoBackoff(), 0),  # a command is sent again here, or not at all
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
        )
    except (ValueError, TypeError):
        # Its message may quote the URL, and with it the password.
        raise InvalidInput(
            "the URL of Redis cannot be read: give redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE],"
            " rediss:// for TLS, or unix:///path/to/redis.sock"
        ) from None
    kwargs = pool.connection_kwargs
    # Answers as they are, whatever the URL or the version of redis-py would have.
    kwargs |= {"protocol": 2, "decode_responses": False}
    if not kwargs.get("password") and os.environ.get(PASSWORD_VARIABLE):
        kwargs["password"] = os.environ[PASSWORD_VARIABLE]
    return pool, _where(url, kwargs)


def _where(url: str, kwargs: dict[str, Any]) -> str:
    scheme, database = url.split("://", 1)[0].lower(), kwargs.get("db") or 0
    if scheme == "unix":
        return f"unix://{kwargs.get('path')}?db={database}"
    return f"{scheme}://{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}/{database}"


def _answer(command: Command, found: Any) -> Any:
    import redis  # noqa: PLC0415

    if isinstance(found, redis.exceptions.ResponseError):
        return Refused(command[0], _brief(found))
    return found


def _brief(error: Exception) -> str:
    """The server's words, in a line."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


@contextmanager
def key_error(key: str) -> Iterator[None]:
    """Says of which key a command was refused."""
    try:
        yield
    except Refused as error:
        raise SourceError(f"the key {key!r} of Redis: {error.reason}") from None
