"""Encode pydantic models as JSON text, and refuse those that would not come back equal.

::

    model ──dump──► JSON value ──encode──► text ──read──► model
      └──────────────────── difference ────────────────────┘

The text must give the same object again when the model's own class reads it. That finds an instance
of a subclass in a field of its base class, a masked secret, an alias that validation does not know,
and everything else that serialization would silently change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import orjson
from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from pgmem.errors import InvalidValue, PgmemError

Path = tuple[Any, ...]
"""Field names, keys and indexes that lead to a value."""

_ABSENT = object()
_ATOMS = frozenset({str, int, float, bool, type(None)})

_MASKED_HINT = "give its field a serializer that reveals it, or store a reference to the secret"
_BYTES_HINT = "set ser_json_bytes and val_json_bytes to 'base64' in the model_config of its class"
_HINTS: tuple[tuple[type, str], ...] = (
    (SecretStr, _MASKED_HINT),
    (SecretBytes, _MASKED_HINT),
    (bytes, _BYTES_HINT),
    (BaseModel, "declare the field with its class, or with a union of all that it may hold"),
    (tuple, "declare the field as a tuple, or give a list"),
)


def dump(model: BaseModel, *, by_alias: bool, exclude: set[str] | None = None) -> Any:
    """Return a model as a JSON value. Computed fields are left out, and sets are sorted.

    Sets are sorted because their order differs between processes: a retry with an idempotency key
    from another process would look like another payload.
    """
    # A warning of pydantic shows the value, which must not reach a log.
    dumped = model.model_dump(
        mode="json", by_alias=by_alias, round_trip=True, warnings=False, exclude=exclude
    )
    return _sort_sets(model, dumped) if _has_sets(type(model)) else dumped


def encode_checked(
    given: BaseModel,
    what: str,
    *,
    write: Callable[[bool], str],
    read: Callable[[str], Any],
    ignored: frozenset[str] = frozenset(),
) -> str:
    """Return the JSON text of an object, written under the fields' aliases or else their names.

    Args:
        given: the object.
        what: what it is, for the error.
        write: returns the text, under aliases (True) or names (False).
        read: makes the object again from the text.
        ignored: fields of `given` that are not compared.

    Raises:
        InvalidValue: neither text gives an equal object.
        ValueTooLarge: the text is too long.
    """
    reason, before = "", None
    for by_alias in (True, False):
        try:
            text = write(by_alias)
            if text == before:
                break
            before = text
            found = difference(given, read(text), (), ignored)
        except ValidationError as error:
            found = f"its own class cannot read it back: {_first(error)}"
        except PgmemError as error:
            if not isinstance(error, InvalidValue) or before is None:
                raise
            found = f"its own class cannot read it back: {error}"
        except Exception as error:  # a serializer or validator of the user's
            found = _failure(given, error)
        if found is None:
            return text
        reason = reason or found
    raise InvalidValue(f"{what}: a {type(given).__name__} does not come back equal: {reason}")


def difference(
    given: Any, back: Any, path: Path = (), ignored: frozenset[str] = frozenset()
) -> str | None:
    """Return where and how an object differs from the one that came back, without the values."""
    kind = type(given)
    same_kind = kind is type(back)
    if same_kind and kind in _ATOMS:
        return None if given == back else _changed(given, back, path)
    if isinstance(given, BaseModel):
        if same_kind:
            return _model_difference(given, back, path, ignored)
    elif same_kind and kind in (list, tuple) and len(given) == len(back):
        return _first_difference(enumerate(given), back, path)
    elif same_kind and kind is dict and given.keys() == back.keys():
        return _first_difference(given.items(), back, path)
    elif given == back:
        return None
    return _changed(given, back, path)


def first_line(error: ValidationError) -> str:
    """Return the number of errors and the place of the first, without the input."""
    return f"{error.error_count()} fields differ, first at {_place(error)}"


def _first_difference(items: Iterable[tuple[Any, Any]], back: Any, path: Path) -> str | None:
    for key, item in items:
        found = difference(item, back[key], (*path, key))
        if found is not None:
            return found
    return None


def _model_difference(
    given: BaseModel, back: BaseModel, path: Path, ignored: frozenset[str]
) -> str | None:
    one, other = given.__dict__, back.__dict__
    for name in _field_names(type(given)):
        if name in ignored:
            continue
        found = difference(one.get(name, _ABSENT), other.get(name, _ABSENT), (*path, name))
        if found is not None:
            return found
    if (given.__pydantic_extra__ or {}) != (back.__pydantic_extra__ or {}):
        return f"the extra fields at {_shown(path)} differ: declare them in the class"
    if given.__pydantic_private__ != back.__pydantic_private__:
        return f"the private attributes at {_shown(path)} differ: they are not stored"
    return None


@lru_cache(maxsize=1024)
def _field_names(cls: type[BaseModel]) -> tuple[str, ...]:
    return tuple(cls.model_fields)


def _shown(path: Path) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return ("$" + "".join(parts))[:200]


def _changed(given: Any, back: Any, path: Path) -> str:
    hint = next((text for kind, text in _HINTS if isinstance(given, kind)), "")
    old, new = type(given).__name__, type(back).__name__
    if given is _ABSENT:
        return f"{_shown(path)} is not set, and comes back as a {new}"
    said = f"a {old} at {_shown(path)} comes back " + ("changed" if old == new else f"as a {new}")
    return f"{said}: {hint}" if hint else said


def _failure(given: BaseModel, error: Exception, path: Path = ()) -> str:
    """Describe an exception of a serializer or validator, without its text, which may hold data."""
    for name in type(given).model_fields:
        try:
            given.model_dump(mode="json", include={name}, round_trip=True, warnings=False)
        except Exception:  # the field that is looked for
            value, at = given.__dict__.get(name), (*path, name)
            if isinstance(value, BaseModel):
                return _failure(value, error, at)
            said = f"a {type(value).__name__} at {_shown(at)} cannot be written as JSON"
            return f"{said}: {_BYTES_HINT}" if isinstance(value, bytes) else said
    return f"its class raised {type(error).__name__} at {_shown(path)}"


def _place(error: ValidationError) -> str:
    location = error.errors(include_input=False, include_url=False, include_context=False)[0]["loc"]
    return ".".join(str(part) for part in location) or "top"


def _first(error: ValidationError) -> str:
    kind = error.errors(include_input=False, include_url=False, include_context=False)[0]["type"]
    return f"{kind} at {_place(error)}"


@lru_cache(maxsize=1024)
def _has_sets(cls: type[BaseModel]) -> bool:
    """Return True if a field of the class, or of a class in its fields, is declared as a set.

    A set in a field that is declared as Any comes back as a list, so it is refused.
    """
    schema = repr(cls.__pydantic_core_schema__)
    return "'set'" in schema or "'frozenset'" in schema


def _sort_sets(given: Any, dumped: Any) -> Any:
    """Return a dumped value with the items of every set sorted.

    Where a serializer has made something else of the value, it stays as it is. What comes back is
    compared after this, so a wrong guess is refused and never stored.
    """
    if isinstance(given, BaseModel) and isinstance(dumped, dict):
        fields = type(given).model_fields.items()
        names = {field.serialization_alias or field.alias or name: name for name, field in fields}
        return _sort_items(given.__dict__, dumped, names)
    if dataclasses.is_dataclass(given) and isinstance(dumped, dict) and not isinstance(given, type):
        values = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
        return _sort_items(values, dumped, {})
    if isinstance(given, Mapping) and isinstance(dumped, dict) and len(given) == len(dumped):
        pairs = zip(given.values(), dumped.items(), strict=True)
        return {key: _sort_sets(value, item) for value, (key, item) in pairs}
    if isinstance(dumped, list) and isinstance(given, list | tuple | set | frozenset):
        if len(given) != len(dumped):
            return dumped
        items = [_sort_sets(value, item) for value, item in zip(given, dumped, strict=True)]
        return sorted(items, key=_text) if isinstance(given, set | frozenset) else items
    return dumped


def _sort_items(
    given: Mapping[str, Any], dumped: dict[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
    return {
        key: _sort_sets(given.get(names.get(key, key), given.get(key)), item)
        for key, item in dumped.items()
    }


def _text(item: Any) -> bytes:
    return orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
