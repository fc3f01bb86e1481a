"""Warn about a call on a memory inside its own `transaction()` block.

Such a call runs on another connection. It does not see what the block has written. If it needs a
row that the block has locked, it waits for the end of the block, which cannot come while it waits.
"""

from __future__ import annotations

import sys
import warnings
from contextvars import ContextVar
from typing import Final

_current: ContextVar[TransactionBlock | None] = ContextVar("pgmem.transaction", default=None)

HARMLESS: Final = frozenset({"lease_renew", "lease_release", "delivery_extend"})
"""Statements for what was acquired before the block. They belong on another connection."""


class TransactionBlock:
    """One open block, in the task or thread that entered it. A task that it starts inherits it.

    Args:
        open_blocks: the open blocks of one memory. The block is in it until `end`.
    """

    def __init__(self, open_blocks: set[TransactionBlock]) -> None:
        self._open_blocks = open_blocks
        self._warned = False
        self._outer = _current.get()
        _current.set(self)
        open_blocks.add(self)

    def end(self) -> None:
        """End the block. It may be called in another task than the one that began it."""
        self._open_blocks.discard(self)
        if _current.get() is self:
            _current.set(self._outer)

    @classmethod
    def warn(cls, open_blocks: set[TransactionBlock], action: str) -> None:
        """Warn, once a block, if the caller runs in one of `open_blocks`.

        Args:
            open_blocks: the open blocks of the memory that was called.
            action: what was called, for the message.
        """
        block = _current.get()
        while block is not None and block not in open_blocks:
            block = block._outer
        if block is None or block._warned:
            return
        block._warned = True
        warnings.warn(
            f"{action}: called on the memory inside its own transaction() block. It runs on "
            f"another connection: it does not see what the block has written, and waits for what "
            f"the block has locked. Call it on the block's `tx`, or outside the block",
            RuntimeWarning,
            stacklevel=_callers_level(),
        )


def _callers_level() -> int:
    """Return the stack level of the caller's code, seen from `TransactionBlock.warn`."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pgmem."):
        level, frame = level + 1, frame.f_back
    return level
