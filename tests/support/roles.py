"""Roles of a test's database, and sessions of theirs."""

from __future__ import annotations

import uuid
from contextlib import ExitStack, contextmanager

import psycopg
from psycopg.conninfo import make_conninfo

from pgmem import migrate
from tests.support.database import sql


class Roles:
    """Create roles as they are asked for. `other` is granted nothing.

    Attributes:
        database: the URL of the owner.
    """

    def __init__(self, database: str) -> None:
        self.database = database
        self._suffix = uuid.uuid4().hex[:8]
        self._names: dict[str, str] = {}
        self._stack = ExitStack()

    def name(self, kind: str) -> str:
        """Return the name of a role."""
        if kind not in self._names:
            self._names[kind] = f"pgmem_{kind}_{self._suffix}"
            sql(self.database, f"CREATE ROLE {self._names[kind]} LOGIN")
            if kind != "other":
                migrate.grant(self.database, **{kind: self._names[kind]})
        return self._names[kind]

    def url(self, kind: str) -> str:
        """Return the URL of a role."""
        return make_conninfo(self.database, user=self.name(kind))

    def connect(self, kind: str, *, autocommit: bool = True) -> psycopg.Connection:
        """Open a session that ends with the test."""
        connection = psycopg.connect(self.url(kind), autocommit=autocommit)
        return self._stack.enter_context(connection)

    def close(self) -> None:
        """End the sessions and drop the roles."""
        self._stack.close()
        for name in self._names.values():
            sql(self.database, f"DROP OWNED BY {name}")
            sql(self.database, f"DROP ROLE {name}")


@contextmanager
def roles_of(database: str):
    """Yield the roles of a database."""
    roles = Roles(database)
    try:
        yield roles
    finally:
        roles.close()
