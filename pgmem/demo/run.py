"""The names of one run: streams, keys, and the stream that each agent follows.

Every name begins with the id of the run, so that one schema can hold several runs.
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
"""The schema of pgmem's tables. The SQL files name it too."""
BANK_SCHEMA: Final = "pgmem_demo_bank"
"""The schema of the demo's own tables, which stand for those of an application."""
WORKERS: Final[dict[Role, int]] = {"validator": 2, "processor": 4, "notifier": 3}


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        id: The name of the run. Its streams and keys begin with it.
        mode: "shared" with a shared memory, "isolated" without.
    """

    id: str
    mode: Mode

    @classmethod
    def new(cls, mode: Mode) -> Run:
        """Return a run with a unique id."""
        moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        return cls(f"{moment}-{secrets.token_hex(2)}-{mode}", mode)

    def name(self, rest: str) -> str:
        """Return the name of a stream, key or idempotency key of this run."""
        return f"{self.id}/{rest}"

    @property
    def incoming(self) -> str:
        """The stream of the requests that the gateway sent."""
        return self.name("incoming")

    @property
    def validated(self) -> str:
        """The stream of the payments that the validator accepted."""
        return self.name("validated")

    @property
    def outcomes(self) -> str:
        """The stream of the outcomes: rejected, declined, processed."""
        return self.name("outcomes")

    @property
    def notified(self) -> str:
        """The stream of the notifications to payers."""
        return self.name("notified")

    @property
    def operations(self) -> str:
        """The stream of starts, kills, conflicts and duplicates."""
        return self.name("operations")

    @property
    def limits(self) -> str:
        """The key of the payment limit."""
        return self.name("limits")

    def account(self, name: str) -> str:
        """Return the key of an account's state."""
        return self.name(f"account/{name}")

    def position(self, role: Role) -> str:
        """Return the key of the position that an agent stores."""
        return self.name(f"position/{role}")

    def followed(self, role: Role) -> str:
        """Return the stream that an agent follows."""
        return {
            "validator": self.incoming,
            "processor": self.validated,
            "notifier": self.outcomes,
        }[role]

    def sql_params(self) -> dict[str, str]:
        """Return the names as parameters of the SQL files."""
        return {
            "run": self.id,
            "incoming": self.incoming,
            "validated": self.validated,
            "outcomes": self.outcomes,
            "notified": self.notified,
            "operations": self.operations,
            "accounts": self.account(""),
            "positions": self.name("position/"),
            "records": self.name("payment/"),
        }
