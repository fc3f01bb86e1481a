"""Encode values as JSON text, and refuse what would not come back equal.

A value passes only if it comes back exactly: it is encoded, decoded again and compared. That finds
NaN, tuples, datetimes, UUIDs and everything else that JSON would silently turn into something else.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from string import ascii_letters
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from pgmem.core.model_encoding import dump, encode_checked, first_line
from pgmem.errors import InvalidInput, InvalidValue, PgmemError, ValueTooLarge

DEFAULT_MAX_BYTES = 1024 * 1024

M = TypeVar("M", bound=BaseModel)

Default = Callable[[Any], Any]
"""Returns a JSON value for an object that is none."""

_PLAIN = frozenset({dict, list, str, int, float, bool, type(None)})
"""The types of most values. isinstance() of a pydantic class is slow, so they are tested first."""

MAX_DEPTH = 200

TOGETHER = 16
"""How many values of a batch are decoded and compared at once. More live objects start the garbage
collector: a thousand at once take twice as long as one by one."""

# In JSON text, NUL is always written as this escape; an even number of backslashes before it
# means that they are escaped themselves and the text merely looks like one.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

# Maps digits to zeros: 19 of them in a row may be an integer that needs more than 64 bits.
_DIGITS = bytes(ord("0") if ord("0") <= code <= ord("9") else ord(" ") for code in range(256))

_LONG_NUMBER = b"0" * 19

# Separates JSON texts that are parsed as one. It is random, so no text can contain it.
_MARK = "".join(secrets.choice(ascii_letters) for _ in range(24))

_BETWEEN = b',"%b",' % _MARK.encode()


def encode(value: Any, what: str, *, limit: int, default: Default | None = None) -> str:
    """Encode a JSON value, or a pydantic model, as the text that is stored.

    Args:
        value: the value.
        what: what it is, for the error.
        limit: the most bytes of text.
        default: returns a JSON value for an object that is none, as `default=` of `json.dumps`.

    Raises:
        InvalidValue: it would not come back exactly as it is.
        ValueTooLarge: its text has more than `limit` bytes.
    """
    if type(value) not in _PLAIN and isinstance(value, BaseModel):
        return _encode_model(value, what, limit)
    try:
        data = orjson.dumps(value)
        exact = orjson.loads(data) == value
    except (TypeError, ValueError, RecursionError) as error:
        if default is not None:
            return encode(_converted(value, what, default), what, limit=limit)
        raise InvalidValue(f"{what}: {_culprit(value) or error}") from None
    if not exact:
        if default is not None:
            return encode(_converted(value, what, default), what, limit=limit)
        raise InvalidValue(f"{what}: {_culprit(value) or 'it would not come back as it is'}")
    if len(data) > limit:
        raise _too_large(what, len(data), limit)
    text = data.decode()
    if "\\u0000" in text and _NUL.search(text):
        raise InvalidValue(f"{what}: {_culprit(value) or 'it holds a NUL character'}")
    return text


def _encode_model(model: BaseModel, what: str, limit: int) -> str:
    return encode_checked(
        model,
        what,
        write=lambda by_alias: encode(dump(model, by_alias=by_alias), what, limit=limit),
        read=type(model).model_validate_json,
    )


def check_default(default: Default | None) -> Default | None:
    """Check a `default=` and return it.

    Raises:
        InvalidInput: it is no function.
    """
    if default is not None and not callable(default):
        raise InvalidInput(
            f"default= takes a function that returns a JSON value, got {type(default).__name__}"
        )
    return default


def _converted(value: Any, what: str, default: Default, depth: int = 0) -> Any:
    """Return a copy of a value in which `default` has replaced what is no JSON value.

    Raises:
        InvalidValue: `default` raised.
    """
    if value is None or isinstance(value, str | int | float) or depth > MAX_DEPTH:
        return value  # `encode` says what is wrong with it, or that it is too deep
    if isinstance(value, list):
        return [_converted(item, what, default, depth + 1) for item in value]
    if isinstance(value, dict):
        return {key: _converted(item, what, default, depth + 1) for key, item in value.items()}
    try:
        replacement = default(value)
    except PgmemError:
        raise
    except Exception as error:
        raise InvalidValue(
            f"{what}: default= raised {type(error).__name__} for a {type(value).__name__}"
        ) from error
    return _converted(replacement, what, default, depth + 1)


def _too_large(what: str, size: int, limit: int) -> ValueTooLarge:
    return ValueTooLarge(
        f"{what} has {size} bytes as JSON, {limit} are allowed (max_payload_bytes): "
        f"store it elsewhere and keep a reference, or raise the limit",
        size=size,
        limit=limit,
    )


def check_text(text: bytes, what: str, *, limit: int) -> bytes:
    """Check a JSON text that is stored as it is given: half the work of decoding and encoding it.

    Raises:
        InvalidValue: it is no JSON, or JSON that pgmem would not give back as every reader of the
            text takes it.
        ValueTooLarge: it has more than `limit` bytes.
    """
    if len(text) > limit:
        raise _too_large(what, len(text), limit)
    try:
        orjson.loads(text)
        suspicious = b"\\u0000" in text or _LONG_NUMBER in text.translate(_DIGITS)
        # orjson would take a larger integer for a float; the standard library tells.
        value = json.loads(text) if suspicious else None
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"{what}: it is no JSON: {error}") from None
    if suspicious:
        encode(value, what, limit=limit)
    return text


def are_texts(texts: Sequence[bytes], *, limit: int) -> bool:
    """Return True if `check_text` would pass each JSON text. They are parsed as one.

    False is no verdict: one may be wrong, or all together are over the limit of one.
    """
    joined = _BETWEEN.join(texts)
    if len(joined) > limit or b"\\u0000" in joined or _LONG_NUMBER in joined.translate(_DIGITS):
        return False
    try:
        values = orjson.loads(b"[%b]" % joined)
    except ValueError:
        return False
    # A text with a comma at its top level would be two values.
    return len(values) == 2 * len(texts) - 1 and values[1::2] == [_MARK] * (len(texts) - 1)


def encode_all(
    values: list[Any], what: str, *, limit: int, default: Default | None = None
) -> list[str]:
    """Encode several values, each as `encode` does.

    Raises:
        InvalidValue, ValueTooLarge: as `encode`, for the first that is wrong.
    """
    texts: list[str] = []
    for start in range(0, len(values), TOGETHER):
        some = values[start : start + TOGETHER]
        texts += _together(some, limit) or [
            encode(value, what, limit=limit, default=default) for value in some
        ]
    return texts


def _together(values: list[Any], limit: int) -> list[str] | None:
    """Encode several values as one; None if they must be encoded one by one.

    One by one is needed for models, for texts that look as if they held a NUL, if all together are
    over the limit of one, and to find the value that is wrong.
    """
    try:
        texts = list(map(orjson.dumps, values))
        joined = b"[%b]" % b",".join(texts)
        exact = orjson.loads(joined) == values
    except (TypeError, ValueError, RecursionError):
        return None
    if not exact or len(joined) > limit or b"\\u0000" in joined:
        return None
    # Not kept as they are: what orjson returns sits in a buffer of several times its size.
    return list(map(bytes.decode, texts))


def encode_object(
    value: Mapping[str, Any], what: str, *, limit: int, default: Default | None = None
) -> str:
    """Encode a JSON object.

    Raises:
        InvalidValue: it is no mapping, or as `encode`.
    """
    return encode(check_object(value, what), what, limit=limit, default=default)


def check_object(value: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Check that a value is a JSON object.

    Raises:
        InvalidValue: it is no dict.
    """
    if not isinstance(value, dict):
        raise InvalidValue(f"{what} must be a dict, got {type(value).__name__}")
    return value


def digest_of(content: Any) -> bytes:
    """Return a digest of a JSON value, whatever the order of the keys of its objects."""
    data = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(data, digest_size=16).digest()


def decode(text: str | None) -> Any:
    """Return the value of a stored JSON text; None for SQL NULL."""
    return None if text is None else orjson.loads(text)


def check_model(model: type[M]) -> type[M]:
    """Check what a caller has given as `model=`.

    Raises:
        InvalidInput: it is no class of pydantic's.
    """
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        given = model.__name__ if isinstance(model, type) else type(model).__name__
        raise InvalidInput(
            f"model= takes a subclass of pydantic.BaseModel, got {given}. Leave it out for JSON "
            f"values"
        )
    return model


def decoder(model: type[M] | None, what: str) -> Callable[[str | None], Any]:
    """Return a function from stored text to the caller's value.

    Raises:
        InvalidInput: `model` is no class of pydantic's.

    Raises (the function):
        InvalidValue: the stored value does not fit the model.
    """
    if model is None:
        return decode
    check_model(model)

    def decode_model(text: str | None) -> Any:
        try:
            return model.model_validate_json(text or "null")
        except ValidationError as error:
            found = first_line(error)
        except PgmemError:
            raise
        except Exception as error:  # a validator of the user's
            found = f"it raised {type(error).__name__}"
        # The stored value must not reach a log through the message or the cause.
        raise InvalidValue(f"{what} does not fit {model.__name__}: {found}") from None

    return decode_model


def _culprit(value: Any, path: str = "$", depth: int = 0) -> str | None:
    """Return where a value cannot be stored and why, without the value."""
    culprit = None
    match value:
        case _ if depth > MAX_DEPTH:
            culprit = f"it is nested too deeply at {path[:60]}…: more than {MAX_DEPTH} levels"
        case None | bool():
            pass
        case str():
            culprit = _text_culprit(value, path)
        case int() | float():
            culprit = _number_culprit(value, path)
        case dict():
            culprit = _dict_culprit(value, path, depth)
        case list():
            found = (
                _culprit(item, f"{path}[{i}]"[:200], depth + 1) for i, item in enumerate(value)
            )
            culprit = next((culprit for culprit in found if culprit), None)
        case _:
            hint = "give a list" if isinstance(value, tuple) else "convert it first"
            kind = type(value).__name__
            culprit = f"a {kind} at {path} does not come back from JSON as one: {hint}"
    return culprit


def _number_culprit(number: float, path: str) -> str | None:
    if isinstance(number, float):
        return None if math.isfinite(number) else f"{number} at {path} is no JSON number"
    if -(2**63) <= number < 2**64:
        return None
    return f"the integer at {path} needs more than 64 bits: give it as a str"


def _text_culprit(text: str, path: str) -> str | None:
    if "\0" in text:
        return f"the text at {path} holds a NUL character, which PostgreSQL cannot store"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"the text at {path} holds a lone surrogate, which is no character"
    return None


def _dict_culprit(value: dict[Any, Any], path: str, depth: int) -> str | None:
    for key, item in value.items():
        if not isinstance(key, str):
            return f"the key {key!r} at {path} is a {type(key).__name__}: JSON keys are str"
        culprit = _text_culprit(key, f"{path} (a key)") or _culprit(
            item, f"{path}.{key}"[:200], depth + 1
        )
        if culprit:
            return culprit
    return None
