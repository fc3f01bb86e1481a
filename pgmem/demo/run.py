"""The names of one run: streams, keys, and which agent follows what.

Everything of a run starts with its id, so that runs stand beside each other in one schema.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, get_args

Mode = Literal["shared", "isolated"]
Role = Literal["validator", "processor", "notifier"]

ROLES: Final[tuple[Role, ...]] = get_args(Role)
SCHEMA: Final = "pgmem_demo"
"""pgmem's tables of the demo. The SQL files name it too."""
BANK_SCHEMA: Final = "pgmem_demo_bank"
"""The demo's own tables: the user's rows, in the words of pgmem's documentation."""
WORKERS: Final[dict[Role, int]] = {"validator": 2, "processor": 4, "notifier": 3}


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        id: names it; the streams and keys start with it.
        mode: with a shared memory, or without.
    """

    id: str
    mode: Mode

    @classmethod
    def new(cls, mode: Mode) -> Run:
        """A run with an id that no other has."""
        moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        return cls(f"{moment}-{secrets.token_hex(2)}-{mode}", mode)

    def name(self, rest: str) -> str:
        """A stream, key or idempotency key of this run."""
        return f"{self.id}/{rest}"

    @property
    def incoming(self) -> str:
        """The stream of what the gateway sent."""
        return self.name("incoming")

    @property
    def validated(self) -> str:
        """The stream of the payments that the validator let through."""
        return self.name("validated")

    @property
    def outcomes(self) -> str:
        """The stream of what became of each: rejected, declined, processed."""
        return self.name("outcomes")

    @property
    def notified(self) -> str:
        """The stream of what the payers were told."""
        return self.name("notified")

    @property
    def operations(self) -> str:
        """The stream of what happened around them: starts, kills, conflicts, duplicates."""
        return self.name("operations")

    @property
    def limits(self) -> str:
        """The key of the payment limit."""
        return self.name("limits")

    def account(self, name: str) -> str:
        """The key of an account's state."""
        return self.name(f"account/{name}")

    def position(self, role: Role) -> str:
        """The key under which an agent keeps how far it has read."""
        return self.name(f"position/{role}")

    def followed(self, role: Role) -> str:
        """The stream that an agent follows."""
        return {
            "validator": self.incoming,
            "processor": self.validated,
            "notifier": self.outcomes,
        }[role]

    def sql_params(self) -> dict[str, str]:
        """The names as the SQL files want them."""
        return {
            "run": self.id,
            "incoming": self.incoming,
            "validated": self.validated,
            "outcomes": self.outcomes,
            "notified": self.notified,
            "operations": self.operations,
            "accounts": self.account(""),
            "positions": self.name("position/"),
            "marks": self.name("payment/"),
        }
