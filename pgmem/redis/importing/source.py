"""Send commands to the Redis that is imported from, over one connection.

- Connection refused at first: SourceUnavailable at once, because the URL may be wrong.
- Connection lost, or loading: retried for `timeout` seconds, then SourceUnavailable.
- Password, TLS, rights, cluster: SourceError that says what to do.
- Error reply to a command: SourceError, or `Refused` if the caller asks for it.

A command whose answer was lost is sent again. So only reads and repeatable commands go through
here. Answers are the values that the server sent (bytes, integers, lists), without the conversions
of redis-py, which would drop a repeated field of an entry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pgmem.redis.errors import SourceError, SourceUnavailable
from pgmem.redis.importing.address import PASSWORD_VARIABLE, pool_of

Command = tuple[Any, ...]

OUTAGE_SECONDS = 30.0
"""How long to wait for a Redis that goes away during an import."""
LONGEST_PAUSE = 1.0


class KeyFault(SourceError):
    """One key cannot be imported, fenced or written back. The other keys can."""


class Refused(SourceError):
    """The server answered a command with an error.

    Attributes:
        reason: the error, with its code.
    """

    def __init__(self, command: Any, reason: str) -> None:
        super().__init__(f"Redis refused {command}: {reason}")
        self.reason = reason

    @property
    def denied_command(self) -> bool:
        """True if the user may not run the command, whatever the key is."""
        return self.reason.startswith("NOPERM") and "to run" in self.reason

    @property
    def denied_key(self) -> bool:
        """True if the user may run the command, and not on this key."""
        return self.reason.startswith("NOPERM") and not self.denied_command

    @property
    def elsewhere(self) -> bool:
        """True if another node of a cluster has the key."""
        return self.reason.startswith(("MOVED", "ASK", "CROSSSLOT", "TRYAGAIN"))

    @property
    def unknown_command(self) -> bool:
        """True if the server does not have the command."""
        return "unknown command" in self.reason.lower()


class RedisSource:
    """One Redis server and database.

    Args:
        url: `redis://`, `rediss://` or `unix://`. A password may also come from REDISCLI_AUTH.
        timeout: seconds to wait for a server that goes away after it has answered once.
        on_wait: called with the reason each time that the source waits.

    Attributes:
        where: the server and database, without the password.
        server: the server process that answered last. Each has SCAN cursors of its own.
        cluster: the server is a node of a cluster.
        field_ends: fields of hashes may have an end (HPEXPIRE), as `check_rights` has found.

    Raises:
        InvalidInput: the URL is not valid, or redis-py is not installed.
        SourceUnavailable: the server does not answer.
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
        self._pool, self.where = pool_of(url)
        self._client: Any = None
        self._answered = False
        self.server = ""
        self.cluster = False
        self.field_ends = False
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
        """Send one command.

        Raises:
            Refused: the server answered with an error.
            SourceUnavailable, SourceError: see the module.
        """
        return self._run(command[0], lambda client: client.execute_command(*command))

    def many(self, commands: Sequence[Command], *, atomic: bool = False) -> list[Any]:
        """Send several commands in one round trip. Error replies are returned as `Refused`.

        Args:
            commands: the commands.
            atomic: send them as one MULTI.
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
        """Run a Lua script, which must be repeatable.

        Raises:
            Refused: the script failed.
        """
        return self.call("EVAL", text, len(keys), *keys, *arguments)

    def _run(self, name: str, call: Callable[[Any], Any]) -> Any:
        import redis

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
        """Open a connection, and find out which server process answers."""
        import redis

        # One connection, because the pool would replace a broken one silently.
        client: Any = redis.Redis(connection_pool=self._pool, single_connection_client=True)
        client.response_callbacks.clear()
        try:
            text = client.execute_command("INFO", "server").decode(errors="replace")
        except BaseException:  # Ctrl-C too: the pool would reuse the connection, with its answer
            self._pool.disconnect()
            raise
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        # Valkey 9 has the second name.
        mode = lines.get("redis_mode") or lines.get("server_mode")
        if mode == "sentinel":
            primaries = _primaries(client)
            self._pool.disconnect()
            raise SourceError(
                f"{self.where} is a sentinel, which has no data. Give the URL of a primary that it "
                f"watches: {primaries}"
            )
        self.cluster = mode == "cluster"
        self.server = lines.get("run_id", "")
        self._client, self._answered = client, True
        return client

    def _unavailable(self, error: Exception) -> SourceUnavailable:
        if self._answered:
            return SourceUnavailable(
                f"Redis at {self.where} went away and did not come back within "
                f"{self._timeout:g} s ({_brief(error)}). The items imported so far are kept. Run "
                f"the same command again to continue"
            )
        reason, hint = _brief(error), "Check that it runs and that the URL is right"
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            hint = "Its certificate is not trusted. Add ?ssl_ca_certs=/path/to/ca.pem to the URL"
        elif "SSL" in reason or "WRONG_VERSION" in reason or "record layer" in reason:
            hint = "It does not speak TLS on this port. Use redis:// instead of rediss://"
        elif "refused" in reason or self.where.startswith("unix:"):
            pass  # no server listens, so TLS is not the cause
        elif self.where.startswith("rediss:"):
            hint += ". If it does not speak TLS on this port, use redis:// instead of rediss://"
        else:
            hint += ". If it wants TLS, use rediss:// instead of redis://"
        return SourceUnavailable(f"no answer from Redis at {self.where}: {reason}. {hint}")

    def _refused_login(self, error: Exception) -> SourceError:
        return SourceError(
            f"Redis at {self.where} refused the login ({_brief(error)}). Put user and password "
            f"into the URL, redis://USER:PASSWORD@HOST (or redis://:PASSWORD@HOST without a user), "
            f"or the password into the variable {PASSWORD_VARIABLE}"
        )

    def _refusal(self, name: str, error: Exception) -> Exception:
        refused = Refused(name, _reason(error))
        reason = refused.reason
        if reason.startswith(("NOAUTH", "WRONGPASS")) or "HELLO must be called" in reason:
            return self._refused_login(error)
        if "DB index is out of range" in reason or "invalid DB index" in reason:
            return SourceError(
                f"Redis at {self.where} does not have this database ({reason}). Databases count "
                f"from 0 to one less than its setting `databases`; a cluster may only have 0"
            )
        if refused.denied_command:
            return SourceError(
                f"Redis at {self.where} does not let this user run {name} ({reason}). Importing "
                f"needs the right to read every key and to run SCAN, TYPE, INFO and XINFO"
            )
        if refused.elsewhere or reason.startswith("CLUSTERDOWN"):
            return SourceError(
                f"Redis at {self.where} is one node of a cluster ({reason.split()[0]}). Import "
                f"from each primary, with the keys that it has"
            )
        return refused


def _answer(command: Command, found: Any) -> Any:
    import redis

    if isinstance(found, redis.exceptions.ResponseError):
        return Refused(command[0], _reason(found))
    return found


def _primaries(client: Any) -> str:
    """Return the names and addresses of the primaries that a sentinel watches."""
    import redis

    try:
        answers = client.execute_command("SENTINEL", "MASTERS")
    except redis.exceptions.ResponseError as error:
        return f"unknown ({_brief(error)})"
    known = [dict(zip(answer[::2], answer[1::2], strict=True)) for answer in answers]
    found = [b"%b is redis://%b:%b" % (one[b"name"], one[b"ip"], one[b"port"]) for one in known]
    return b", ".join(found).decode(errors="replace") or "none"


_CODES = {
    "NoPermissionError": "NOPERM",
    "ReadOnlyError": "READONLY",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
}
"""The codes of errors that redis-py takes off the message."""


def _reason(error: Exception) -> str:
    """Return the message of an error reply, with its code."""
    code, text = _CODES.get(type(error).__name__, ""), _brief(error)
    return text if text.startswith(code) else f"{code} {text}"


def _brief(error: Exception) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


@contextmanager
def key_error(key: str) -> Iterator[None]:
    """Name the key in the error of a refused command.

    Raises:
        KeyFault: the server refused a command inside the block.
    """
    try:
        yield
    except Refused as error:
        raise KeyFault(f"the key {key!r} of Redis: {error.reason}") from None
