"""Elements of HTML and SVG as text; the one place that escapes.

Text becomes markup by `element` only, so a name or a note cannot end a tag, whatever is in it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = frozenset({"br", "meta", "link", "hr", "path", "line", "rect", "circle"})
"""Elements without content; closed in themselves, so that they are well-formed XML too."""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, /, *content: str | Markup, **attributes: object) -> Markup:
    """An element.

    Args:
        name: of the element.
        content: text, which is escaped, and markup, which is not.
        attributes: `class_` is class, `stroke_width` is stroke-width; None and "" are left out.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None and value != ""
    )
    if name in VOID:
        return Markup(f"<{name}{told}/>")
    return Markup(f"<{name}{told}>{joined(content)}</{name}>")


def joined(parts: Iterable[str | Markup]) -> Markup:
    """Text and markup, one after another."""
    return Markup("".join(p if isinstance(p, Markup) else html.escape(p) for p in parts))


def _text(value: object) -> str:
    """Coordinates to a tenth: a page holds some ten thousand of them."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
