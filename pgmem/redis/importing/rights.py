"""Check before an import, a cut-over or a way back that the server lets this user do all of it.

Every command is queued in a MULTI that is discarded. A server checks its name and the user's rights
when it queues a command, and discarding changes nothing. Without this check, an import would read
an answer that was refused as something that does not exist, and guess.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pgmem.redis.errors import SourceError
from pgmem.redis.importing.fences import WRITTEN_BACK
from pgmem.redis.importing.source import Command, RedisSource, Refused

Purpose = Literal["import", "follow", "cut over", "reverse"]

KEY = b"pgmem:probe"
"""A key that no command here reads or writes, because all are discarded."""

_ALWAYS: list[Command] = [
    ("SCAN", 0),
    ("TYPE", KEY),
    ("EXISTS", KEY),
    ("PTTL", KEY),
    ("GETRANGE", KEY, 0, 0),
]
_READS: dict[str, list[Command]] = {
    "stream": [
        ("XINFO", "STREAM", KEY),
        ("XINFO", "GROUPS", KEY),
        ("XLEN", KEY),
        ("XRANGE", KEY, "-", "+"),
        ("XPENDING", KEY, "g", "-", "+", 1),
    ],
    "hash": [("HLEN", KEY), ("HGETALL", KEY), ("HSCAN", KEY, 0), ("HMGET", KEY, "f")],
    "set": [("SCARD", KEY), ("SMEMBERS", KEY), ("SSCAN", KEY, 0), ("SMISMEMBER", KEY, "m")],
    "string": [("STRLEN", KEY), ("GET", KEY)],
}
_FENCES: list[Command] = [
    ("EVAL", "return 1", 0),
    ("RENAME", KEY, KEY),
    ("SET", KEY, ""),
    ("DEL", KEY),
]
_WRITES: dict[str, list[Command]] = {
    "stream": [
        ("TIME",),
        ("HGET", KEY, "f"),
        ("HSET", KEY, "f", "v"),
        ("XADD", KEY, "*", "f", "v"),
        ("XGROUP", "CREATE", KEY, "g", "0"),
        ("XGROUP", "SETID", KEY, "g", "0"),
        ("XACK", KEY, "g", "1-0"),
        ("XCLAIM", KEY, "g", "c", 0, "1-0"),
    ],
    "hash": [
        ("HKEYS", KEY),
        ("HSET", KEY, "f", "v"),
        ("HDEL", KEY, "f"),
        ("PEXPIRE", KEY, 1),
        ("PERSIST", KEY),
    ],
    "set": [("SADD", KEY, "m"), ("PEXPIRE", KEY, 1), ("PERSIST", KEY)],
    "string": [],
}
_FIELD_ENDS: Command = ("HPTTL", KEY, "FIELDS", 1, "f")
_OTHER_FIELD_ENDS: list[Command] = [
    ("HTTL", KEY, "FIELDS", 1, "f"),
    ("HPEXPIRE", KEY, 1, "FIELDS", 1, "f"),
    ("HPERSIST", KEY, "FIELDS", 1, "f"),
]


def check_rights(source: RedisSource, kinds: Iterable[str], purpose: Purpose, *, name: str) -> None:
    """Check that the server has and allows the commands of a purpose.

    Also find out whether fields of its hashes may have an end (`source.field_ends`).

    Args:
        source: the Redis.
        kinds: the types of the keys that the rules match.
        purpose: what is to be done.
        name: the name of the import.

    Raises:
        SourceError: the user may not run some of the commands, the server is a replica and would
            have to be written to, or it is a node of a cluster and the purpose needs one server.
    """
    if source.cluster and purpose != "import":
        raise SourceError(
            f"Redis at {source.where} is a node of a cluster, and this can only be done with one "
            f"server: a fence renames a key, which may move it to another node. From a cluster you "
            f"can import, --dry-run and --verify, one primary after the other. Stop the writers, "
            f"import from each primary, and start the new code on pgmem"
        )
    found = sorted(set(kinds))
    asked = [*_ALWAYS, *(command for kind in found for command in _READS[kind])]
    if purpose == "follow":
        asked.append(("XREAD", "STREAMS", KEY, "0"))
    if purpose in ("cut over", "reverse"):
        asked += _FENCES
    if purpose == "reverse":
        asked += [command for kind in found for command in _WRITES[kind]]
    missing = [_name(command) for command in _refused(source, asked)]
    if "hash" in found:
        missing += _check_field_ends(source, writes=purpose == "reverse")
    missing = list(dict.fromkeys(missing))
    if missing:
        grants = " ".join(dict.fromkeys(f"+{one.split()[0].lower()}" for one in missing))
        raise SourceError(
            f"Redis at {source.where} does not let this user run {', '.join(missing)}. Without the "
            f"right, keys, ends or entries would be missed, so nothing was done. Grant it (ACL "
            f"SETUSER NAME {grants}), or import only types that do not need it (--stream, --hash, "
            f"--dedupe)"
        )
    if purpose == "reverse" and "stream" in found:
        _check_marker(source, WRITTEN_BACK + name.encode())


def _check_marker(source: RedisSource, marker: bytes) -> None:
    """Check that the user may use the key that stores the progress of the way back."""
    answers = _queue(source, [("HGET", marker, "f"), ("HSET", marker, "f", "v")])
    if any(isinstance(answer, Refused) and answer.denied_key for answer in answers):
        raise SourceError(
            f"Redis at {source.where} does not let this user read and write the key {marker!r}, "
            f"which stores how far streams are written back. So nothing was done. Grant it (ACL "
            f"SETUSER NAME ~{WRITTEN_BACK.decode()}*)"
        )


def _check_field_ends(source: RedisSource, *, writes: bool) -> list[str]:
    """Find out whether fields may have an end. Return the commands that are refused.

    Commands that an administrator has renamed are missing too. If the server has another command
    for the ends of fields, fields may have an end that cannot be read.
    """
    answers = dict(
        zip(
            ("HPTTL", "HTTL", "HPEXPIRE", "HPERSIST"),
            _queue(source, [_FIELD_ENDS, *_OTHER_FIELD_ENDS]),
            strict=True,
        )
    )
    known = {
        name: not (isinstance(answer, Refused) and answer.unknown_command)
        for name, answer in answers.items()
    }
    source.field_ends = known["HPTTL"] or known["HTTL"] or known["HPEXPIRE"]
    if not source.field_ends:
        return []
    needed = ("HPTTL", "HPEXPIRE", "HPERSIST") if writes else ("HPTTL",)
    return [
        name
        for name in needed
        if not known[name] or (isinstance(found := answers[name], Refused) and found.denied_command)
    ]


def _refused(source: RedisSource, commands: list[Command]) -> list[Command]:
    """Return the commands that the user may not run, or that the server does not have."""
    refused = []
    for command, answer in zip(commands, _queue(source, commands), strict=True):
        if not isinstance(answer, Refused):
            continue
        if answer.reason.startswith("READONLY"):
            raise SourceError(
                f"Redis at {source.where} is a replica, and only its primary can be written to. "
                f"Give the URL of the primary"
            )
        if answer.denied_command or answer.unknown_command:
            refused.append(command)
    return refused


def _queue(source: RedisSource, commands: list[Command]) -> list[Any]:
    """Return the answer to each command, queued and discarded."""
    around = source.many([("MULTI",), ("DISCARD",)])
    if any(isinstance(answer, Refused) for answer in around):
        raise SourceError(
            f"Redis at {source.where} does not let this user run MULTI and DISCARD. A page of a "
            f"stream is read in a MULTI, so that no entry is missed. Grant them (ACL SETUSER NAME "
            f"+@transaction)"
        )
    # In one packet: none of the commands may run outside of the MULTI.
    return source.many([("MULTI",), *commands, ("DISCARD",)])[1:-1]


def _name(command: Command) -> str:
    """Return the name of a command, with its subcommand."""
    return " ".join(command[:2]) if command[0] in ("XINFO", "XGROUP") else str(command[0])
