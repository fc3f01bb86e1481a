"""Measure pgmem's append statement under pgbench: the work of the server, without Python.

The text comes from `pgmem.core.statements`, because a copy would drift from what pgmem sends. The
same INSERT without a notification runs beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import LiteralString

from psycopg.conninfo import conninfo_to_dict

from benchmarks.audit import Faults
from benchmarks.harness import Arm, Comparison, Sample, Scenario
from benchmarks.scenarios._base import (
    AGENT,
    PLAIN_INSERT,
    STREAM,
    TYPE,
    Bare,
    Bench,
    Entry,
    append_statement,
    bare,
    encoded,
)
from benchmarks.servers import ServerError, pgbench_binary

# Clients to the most time of an append, beside the plain INSERT; None is for information.
TARGETS: dict[int, float | None] = {1: None, 8: 1 / 0.6, 32: 1 / 0.85}

_NAMED = re.compile(rb"%\((\w+)\)s")
_RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_DONE = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)


def script(statement: bytes) -> bytes:
    """Return a statement for pgbench: psycopg's %(name)s become :name."""
    return _NAMED.sub(rb":\1", statement).strip() + b";\n"


@contextlib.contextmanager
def pgbench_statement(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run pgmem's append statement and a plain INSERT under pgbench with 1, 8 and 32 clients.

    Raises:
        ServerError: there is no pgbench.
    """
    binary = pgbench_binary()
    if binary is None:
        raise ServerError("no pgbench: install pgmem-agents[bench], or PostgreSQL's own package")
    seconds = 1 if bench.quick else 4
    with (
        bench.postgres.database() as url,
        bare(url) as connection,
        tempfile.TemporaryDirectory(prefix="pgmem-bench-") as folder,
    ):
        pgbench = _Pgbench(binary, url, connection, Path(folder), seconds)
        texts = {"pgmem": append_statement(connection, "if_free"), "no notification": PLAIN_INSERT}
        for name, text in texts.items():
            pgbench.file(name).write_bytes(script(text))

        def arm(name: str, clients: int, note: str) -> Arm:
            return Arm(name, lambda: pgbench.run(name, clients), note)

        yield [
            Scenario(
                f"pgbench_statement/{clients}",
                f"the append statement under pgbench, {clients} clients ({seconds} s a round)",
                "events/s",
                [
                    arm("pgmem", clients, "pgmem's statement, with the notification"),
                    arm("no notification", clients, "INSERT … RETURNING position"),
                ],
                [Comparison("pgmem", "no notification", at_most=target)],
                rounds=bench.counted(3, 2),
            )
            for clients, target in TARGETS.items()
        ]


class _Pgbench:
    """Run pgbench with one of the statements, and count what it left in the log."""

    def __init__(
        self, binary: Path, url: str, connection: Bare, folder: Path, seconds: int
    ) -> None:
        self._options = conninfo_to_dict(url)
        self._connection = connection
        self._folder = folder
        values = {
            "stream": STREAM,
            "type": TYPE,
            "payload": encoded(1),
            "agent_id": AGENT,
            "metadata": "{}",  # pgbench has no NULL for a parameter
        }
        self._command = [
            str(binary),
            *("--no-vacuum", "--protocol=prepared", f"--time={seconds}"),
            *(part for name, value in values.items() for part in ("-D", f"{name}={value}")),
        ]

    def file(self, statement: str) -> Path:
        """Return the script of a statement."""
        return self._folder / f"{statement.replace(' ', '_')}.sql"

    def run(self, statement: str, clients: int) -> Sample:
        """Run one round.

        Raises:
            ServerError: pgbench failed.
        """
        before = self._number("SELECT coalesce(max(position), 0) FROM pgmem.events", 0)
        done = subprocess.run(
            [
                *self._command,
                f"--file={self.file(statement)}",
                f"--client={clients}",
                f"--jobs={min(clients, 2)}",
                str(self._options["dbname"]),
            ],
            env={**os.environ, **_environment(self._options)},
            capture_output=True,
            text=True,
            check=False,
        )
        rate, processed = _RATE.search(done.stdout), _DONE.search(done.stdout)
        if done.returncode or rate is None or processed is None:
            raise ServerError(f"pgbench failed: {done.stderr[-500:]}")
        found = self._number("SELECT count(*) FROM pgmem.events WHERE position > %s", before)
        missing = int(processed[1]) - found
        return Sample(float(rate[1]), Faults(lost=max(0, missing), duplicated=max(0, -missing)))

    def _number(self, query: LiteralString, after: int) -> int:
        row = self._connection.execute(query, (after,) if "%s" in query else None).fetchone()
        return int(row[0]) if row else 0


def _environment(options: dict[str, str | int | None]) -> dict[str, str]:
    names = {
        "host": "PGHOST",
        "port": "PGPORT",
        "user": "PGUSER",
        "password": "PGPASSWORD",
        "sslmode": "PGSSLMODE",
    }
    return {variable: str(options[name]) for name, variable in names.items() if options.get(name)}


ENTRIES = (
    Entry(
        "pgbench_statement",
        "pgmem's append statement beside the same INSERT without a notification, under pgbench",
        pgbench_statement,
        (95, 25),
        quick=False,
    ),
)
