"""Docstrings and comments of the async tree, as the sync tree says them.

What it is for: the examples in docstrings run as doctests in both trees, so their code is
turned by the very function that turns the module (`convert`, passed in); prose is turned
word by word with the tables of `sync_names.py`.
What it may not do: touch any other string literal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from sync_names import ASYNC_CLASS, ENGLISH, PHRASES, rename

# Turns one piece of code; the number is its first line, counted from the docstring's.
ConvertCode = Callable[[str, int], str]

_LITERAL: Final = re.compile(r"""([A-Za-z]*)('{3}|"{3}|'|")(.*)\2""", re.DOTALL)
_PROMPT: Final = re.compile(r"(\s*)>>>(?: |$)")
_KEYWORD: Final = re.compile(r"\basync +(?=(?:with|for|def)\b)|\bawait +(?=[A-Za-z_][\w.]*\()")
_PHRASE: Final = re.compile(r"\b(" + "|".join(map(re.escape, PHRASES)) + r")\b")
_ARTICLE: Final = re.compile(r"\b([Aa])n (`*)(" + ASYNC_CLASS.pattern + r")\b")
_MODULE: Final = re.compile(r"\bpgmem([./])_async\b")
_WORD: Final = re.compile(r"\b[A-Za-z_]\w*\b")


def convert_docstring(literal: str, convert: ConvertCode) -> str:
    """Turn a docstring, given and returned as the literal that stands in the source."""
    found = _LITERAL.fullmatch(literal)
    if found is None:
        return literal
    prefix, quotes, body = found.groups()
    return f"{prefix}{quotes}{_convert_lines(body.split(chr(10)), convert)}{quotes}"


def convert_prose(text: str) -> str:
    """Turn the names and the phrases in text that is no code."""
    text = _KEYWORD.sub("", text)
    text = _PHRASE.sub(lambda found: PHRASES[found[1]], text)
    text = _ARTICLE.sub(_with_article, text)
    text = _MODULE.sub(r"pgmem\1_sync", text)
    return _WORD.sub(lambda found: found[0] if found[0] in ENGLISH else rename(found[0]), text)


def _convert_lines(lines: list[str], convert: ConvertCode) -> str:
    """Turn the lines of a docstring: examples as code, the rest as prose."""
    done: list[str] = []
    while len(done) < len(lines):
        start = len(done)
        found = _PROMPT.match(lines[start])
        if found is None:
            done.append(convert_prose(lines[start]))
            continue
        end = start + 1
        while end < len(lines) and re.match(re.escape(found[1]) + r"\.\.\.(?: |$)", lines[end]):
            end += 1
        done += _convert_example(lines[start:end], len(found[1]) + 4, start, convert)
    return "\n".join(done)


def _convert_example(
    lines: list[str], width: int, first_line: int, convert: ConvertCode
) -> list[str]:
    """Turn one `>>>` example with its `...` lines; `width` is that of the prompt."""
    code = convert("\n".join(line[width:] for line in lines) + "\n", first_line)
    turned = code.rstrip("\n").split("\n")
    turned += [""] * (len(lines) - len(turned))
    prompts = [line[:width] for line in lines] + [lines[-1][: width - 4] + "... "] * len(turned)
    return [(prompt + line).rstrip() for prompt, line in zip(prompts, turned, strict=False)]


def _with_article(found: re.Match[str]) -> str:
    """`an AsyncMemory` -> `a Memory`, `an AsyncEngine` -> `an Engine`."""
    name = rename(found[3])
    article = "n" if name.lstrip("_")[:1].lower() in "aeiou" else ""
    return f"{found[1]}{article} {found[2]}{name}"
