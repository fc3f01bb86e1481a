"""Check values against the models that `memory.validate` has set for their keys."""

from __future__ import annotations

from pydantic import BaseModel

from pgmem.core.encoding import decoder
from pgmem.core.validation import check_name, check_prefix
from pgmem.errors import InvalidInput
from pgmem.events.codec import Codec


def add_schema(codec: Codec, prefix: str, model: type[BaseModel]) -> None:
    """Refuse from now on values under a prefix that do not fit a model.

    Raises:
        InvalidInput: the prefix cannot be one, or the model is no class of pydantic.
    """
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise InvalidInput(
            f"model= is a subclass of pydantic.BaseModel, got {type(model).__name__}: for a value "
            f"that is no object, a RootModel"
        )
    codec.schemas[check_prefix(prefix, "prefix")] = model


def check_value(codec: Codec, key: str, text: str) -> None:
    """Check the value that is going to be written under a key.

    Args:
        codec: the memory's.
        key: the key.
        text: the value as it is stored.

    Raises:
        InvalidValue: it does not fit the model of a prefix of the key.
    """
    for prefix, model in codec.schemas.items():
        if check_name(key, "key").startswith(prefix):
            decoder(model, f"the value of state {key!r}")(text)


def check_increment(codec: Codec, key: str) -> None:
    """Refuse an increment under a prefix with a model: the server computes the value.

    Raises:
        InvalidInput: the key has such a prefix.
    """
    for prefix, model in codec.schemas.items():
        if check_name(key, "key").startswith(prefix):
            raise InvalidInput(
                f"increment of state {key!r} refused: values under {prefix!r} must fit "
                f"{model.__name__}, and the server computes this one. Use update"
            )
