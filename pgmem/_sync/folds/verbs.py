# Generated from pgmem/folds/verbs.py by tools/generate_sync.py. Do not edit.
"""`memory.folds`: values that are computed from events.

`TransactionFolds` has the verbs that work inside a transaction, `Folds` all of them.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

from pydantic import BaseModel

from pgmem._sync.core.execution import Executor
from pgmem._sync.events.verbs import Events
from pgmem.core.validation import check_count
from pgmem.errors import CallbackFailed, InvalidInput, InvalidValue, PgmemError
from pgmem.events.codec import Codec
from pgmem.events.filter import EventFilter
from pgmem.folds import ops
from pgmem.folds.models import Fold, Folded

S = TypeVar("S")
M = TypeVar("M", bound=BaseModel)

PAGE = 5_000


class TransactionFolds:
    """Snapshots of folds. Reached as `tx.folds` in a transaction."""

    def __init__(self, executor: Executor, codec: Codec) -> None:
        self._executor = executor
        self._codec = codec

    def save(self, name: str, value: Any, *, position: int, version: int = 1) -> bool:
        """Store a snapshot of a fold.

        Args:
            name: the fold's name.
            value: a JSON value or a pydantic model.
            position: every event up to it is in the value, and none after it.
            version: the version of the fold that computed it.

        Returns:
            True if it was stored, False if there is a snapshot at this position.
        """
        return self._executor.execute(
            ops.save(name, value, position=position, version=version, codec=self._codec)
        )

    @overload
    def load(self, name: str, *, version: int = 1) -> Folded[Any] | None: ...

    @overload
    def load(self, name: str, *, version: int = 1, model: type[M]) -> Folded[M] | None: ...

    def load(
        self, name: str, *, version: int = 1, model: type[BaseModel] | None = None
    ) -> Folded[Any] | None:
        """Return the newest snapshot of a fold, or None.

        Args:
            name: the fold's name.
            version: the version of the fold. A snapshot of another version is never returned.
            model: validate the value with this pydantic model and return an instance of it.
        """
        return self._executor.execute(ops.load(name, version=version, model=model))

    def delete(self, name: str, *, version: int | None = None) -> int:
        """Delete the snapshots of a fold. Return their number.

        Args:
            name: the fold's name.
            version: delete only the snapshots of this version.
        """
        return self._executor.execute(ops.delete(name, version=version))


class Folds(TransactionFolds):
    """Values that are computed from events, and their snapshots. Reached as `memory.folds`."""

    def __init__(self, executor: Executor, codec: Codec, events: Events) -> None:
        super().__init__(executor, codec)
        self._events = events

    def fold(
        self, fold: Fold[S], *, save_every: int = 1_000, model: type[BaseModel] | None = None
    ) -> Folded[S]:
        """Compute the value of a fold from its newest snapshot and the events after it.

        Args:
            fold: how to compute the value.
            save_every: store a new snapshot if at least this many events came after the last one;
                0 stores none.
            model: the pydantic model of the value, if the value is one.

        Raises:
            CallbackFailed: `fold.apply` raised (its exception is the `__cause__`).
            InvalidValue: the value cannot be stored as JSON, or is a model and not a `model`.
        """
        if not isinstance(fold, Fold):
            raise InvalidInput(f"fold() takes a pgmem.Fold, got {type(fold).__name__}")
        check_count(save_every, "save_every", minimum=0)
        kept = self._executor.execute(ops.load(fold.name, version=fold.version, model=model))
        value, position = kept if kept is not None else (fold.initial(), 0)
        applied = 0
        wanted = EventFilter.of(
            fold.stream,
            prefix=fold.prefix,
            type=fold.type,
            agent_id=fold.agent_id,
            run_id=fold.run_id,
            cause=fold.cause,
        )
        while True:
            page = self._events.read_page(wanted, after=position, limit=PAGE)
            for event in page.events:
                try:
                    value = fold.apply(value, event)
                except PgmemError:
                    raise
                except Exception as error:
                    raise CallbackFailed(
                        f"fold {fold.name!r}: apply raised {type(error).__name__} at position "
                        f"{event.position}; no snapshot was stored"
                    ) from error
            applied += len(page.events)
            position = max(position, page.complete_to)
            if len(page.events) < PAGE:
                break
        _check_model(fold.name, value, model)
        if save_every and applied >= save_every:
            self.save(fold.name, value, position=position, version=fold.version)
        return Folded(value, position)


def _check_model(name: str, value: Any, model: type[BaseModel] | None) -> None:
    """Check that the next fold begins with an object of the same class."""
    if isinstance(value, BaseModel) and type(value) is not model:
        given = "no model" if model is None else model.__name__
        raise InvalidValue(
            f"fold {name!r}: its value is a {type(value).__name__}, and model= gives {given}, so "
            f"the next call would begin with another object: give model={type(value).__name__}"
        )
