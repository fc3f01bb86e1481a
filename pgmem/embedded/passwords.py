"""The superuser's password, which a server on a TCP port needs.

It is made once and kept in the data folder, so that a URL stays valid from start to start.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pgmem.embedded import cluster
from pgmem.embedded.errors import EmbeddedPostgresError

PASSWORD_FILE = "pgmem-password"  # noqa: S105 - a name


def ensure(data: Path, url: str) -> str:
    """Make the password in the data folder the one of the running server. Return it.

    Args:
        data: The data folder.
        url: The server over its socket, which needs no password.

    Raises:
        EmbeddedPostgresError: The file cannot be read, or the server refused the statement.
    """
    # Imported here: without a port the embedded server needs no driver.
    import psycopg  # noqa: PLC0415
    from psycopg import sql  # noqa: PLC0415

    try:
        password = _kept(data)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(cluster.SUPERUSER), sql.Literal(password)
                )
            )
    except OSError as error:
        raise EmbeddedPostgresError(
            f"the password in {data / PASSWORD_FILE} cannot be read or made: {error.strerror}"
        ) from error
    except psycopg.Error as error:
        # `from None`: the statement in the server's message may hold the password.
        raise EmbeddedPostgresError(
            f"the server on {data} did not take its password: {type(error).__name__}"
        ) from None
    return password


def _kept(data: Path) -> str:
    path = data / PASSWORD_FILE
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        kept = path.read_text(encoding="ascii").strip()
        if kept:
            return kept
        path.unlink()  # a process was killed between making the file and writing it
        return _kept(data)
    with os.fdopen(file, "w", encoding="ascii") as opened:
        if os.geteuid() == 0:
            owner = data.stat()
            os.fchown(file, owner.st_uid, owner.st_gid)
        password = secrets.token_urlsafe(24)
        opened.write(f"{password}\n")
    return password
