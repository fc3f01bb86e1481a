"""One module of the async tree, turned into its sync twin.

What it is for: `convert_module` takes source and gives source. It edits tokens, so layout
and comments stay where they are, and it collects a `Problem` with file and line for
everything that it cannot turn.
What it may not do: read or write files, or guess. What is in no table is refused.
"""

from __future__ import annotations

import ast
import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from sync_checks import Problem, RefusedError, find_collisions, find_formatted
from sync_names import MODULES, hint, is_forbidden, rename, rename_dotted
from sync_text import convert_docstring, convert_prose

_LAYOUT: Final = {tokenize.NL, tokenize.COMMENT}
_NO_CODE: Final = _LAYOUT | {tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_PAIRS: Final = {"(": ")", "[": "]", "{": "}"}
_PLAIN_PATH: Final = re.compile(r"""(["'])([A-Za-z_][\w.]*)\1""")
_WRAPPERS: Final = {"Awaitable": 1, "Coroutine": 3}  # the argument that remains: the last


def convert_module(source: str, path: str) -> str:
    """Turn a whole module; raise `RefusedError` with every problem found in it."""
    if not source.endswith("\n"):
        source += "\n"
    try:
        compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        message = f"this is no valid Python: {error.msg}"
        if re.search(r"\basync\s+lambda\b", error.text or ""):
            message = "there is no async lambda: write an async def"
        raise RefusedError([Problem(path, error.lineno or 1, message)]) from error
    return _convert(source, path, 0)


def _convert(source: str, path: str, lines_before: int) -> str:
    """Turn a module, or an example of a docstring that begins after `lines_before` lines."""
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError) as error:
        line = lines_before + (getattr(error, "lineno", None) or 1)
        raise RefusedError([Problem(path, line, f"this is no valid Python: {error}")]) from error
    converter = _Converter(source, path, lines_before, tokens)
    converter.problems += [
        Problem(path, lines_before + line, message)
        for line, message in (*find_collisions(tree), *find_formatted(tree))
    ]
    result = converter.run()
    if converter.problems:
        raise RefusedError(converter.problems)
    return result


@dataclass
class _Converter:
    """The edits of one piece of source: what each token, by its index, is replaced with."""

    source: str
    path: str
    lines_before: int
    tokens: list[tokenize.TokenInfo]
    edits: dict[int, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def run(self) -> str:
        self.code = _code_indexes(self.tokens)
        self.place = {index: place for place, index in enumerate(self.code)}
        self.match = _match_brackets(self.tokens, self.code)
        for line in self._logical_lines():
            self._statement(line)
        for index, token in enumerate(self.tokens):
            if token.type == tokenize.COMMENT:
                self.edits[index] = convert_prose(token.string)
        return self._assemble()

    def _assemble(self) -> str:
        """Put the tokens together again, with the text between them as it was."""
        starts = [0]
        for text in self.source.split("\n"):
            starts.append(starts[-1] + len(text) + 1)
        parts: list[str] = []
        position, swallow = 0, False
        for index, token in enumerate(self.tokens):
            start, end = (starts[line - 1] + column for line, column in (token.start, token.end))
            start = max(start, position)  # Python 3.12 misplaces the end of `{{` in f-strings
            gap = self.source[position:start]
            parts.append("" if swallow and not gap.strip(" \t\\\n") else gap)
            parts.append(self.edits.get(index, self.source[start:end]))
            swallow = token.string in ("async", "await") and self.edits.get(index) == ""
            position = max(position, end)
        return "".join(parts)

    def _logical_lines(self) -> Iterator[list[int]]:
        """The indexes of the code tokens of each logical line."""
        line: list[int] = []
        for index in self.code:
            if self.tokens[index].type != tokenize.NEWLINE:
                line.append(index)
            elif line:
                yield line
                line = []

    def _statement(self, line: list[int]) -> None:
        if all(self.tokens[index].type == tokenize.STRING for index in line):
            for index in line:
                self._docstring(index)
            return
        imports = self.tokens[line[0]].string in ("from", "import")
        if imports:
            self._module(line)
        for index in line:
            token = self.tokens[index]
            if index in self.edits:
                continue
            if token.type == tokenize.NAME:
                self._name(index, imports)
            elif token.type == tokenize.STRING and (found := _PLAIN_PATH.fullmatch(token.string)):
                self.edits[index] = f"{found[1]}{rename_dotted(found[2])}{found[1]}"

    def _docstring(self, index: int) -> None:
        line = self.tokens[index].start[0] - 1 + self.lines_before

        def convert(code: str, first_line: int) -> str:
            try:
                return _convert(code, self.path, line + first_line)
            except RefusedError as refused:
                self.problems += refused.problems
                return code

        self.edits[index] = convert_docstring(self.tokens[index].string, convert)

    def _module(self, line: list[int]) -> None:
        """Replace the module of an import statement by the table."""
        dotted: list[int] = []
        for index in line[1:]:
            if self.tokens[index].string in ("import", "as", ","):
                break
            dotted.append(index)
        target = MODULES.get("".join(self.tokens[index].string for index in dotted))
        if target is not None:
            self.edits.update(dict.fromkeys(dotted, ""))
            self.edits[dotted[0]] = target

    def _name(self, index: int, imports: bool) -> None:
        name = self.tokens[index].string
        if name in ("async", "await"):
            self.edits[index] = ""
            if name == "await":
                self._unwrap_parentheses(index)
        elif name in _WRAPPERS and self._text(index, 1) == "[":
            self._unwrap_type(index)
        elif name == "_async" and (imports or self._text(index, -2) == "pgmem"):
            self.edits[index] = "_sync"
        elif imports and name in _WRAPPERS:
            pass  # ruff removes the import once nothing uses it
        elif is_forbidden(rename(name)):
            self._problem(index, f"{name!r} cannot be turned: {hint(name)}")
        else:
            if name == "AsyncGenerator" and self._text(index, 1) == "[":
                self._add_return_type(self._near(index, 1))
            self.edits[index] = rename(name)

    def _unwrap_type(self, index: int) -> None:
        """`Awaitable[X]` and `Coroutine[A, B, X]` -> `X`."""
        opening = self._near(index, 1)
        closing = self.match[opening]
        commas = self._commas(opening)
        trailing = bool(commas) and self._near(closing, -1) == commas[-1]
        if len(commas) - trailing + 1 != _WRAPPERS[self.tokens[index].string]:
            self._problem(index, "the number of its arguments is wrong")
            return
        first = index
        while self._text(first, -1) == ".":  # typing.Awaitable
            first = self._near(first, -2)
        last = commas[1] if len(commas) - trailing == 2 else opening
        dropped = range(first, last + 1)
        if any(self.tokens[place].type == tokenize.COMMENT for place in dropped):
            self._problem(index, "a comment stands in the part that the sync tree drops")
        self.edits.update(dict.fromkeys(dropped, ""))
        if trailing:
            self.edits[commas[-1]] = ""
        long = self.tokens[index].start[0] != self.tokens[closing].start[0]
        self.edits[opening], self.edits[closing] = ("(", ")") if long else ("", "")

    def _add_return_type(self, opening: int) -> None:
        """`AsyncGenerator[X, S]` -> `Generator[X, S, None]`."""
        closing = self.match[opening]
        commas = self._commas(opening)
        trailing = bool(commas) and self._near(closing, -1) == commas[-1]
        if len(commas) - trailing == 1:
            self.edits[closing] = " None]" if trailing else ", None]"

    def _unwrap_parentheses(self, index: int) -> None:
        """`(await x.y())[0]` -> `x.y()[0]`, if only the await needed the parentheses."""
        opening = self._near(index, -1)
        if opening not in self.match or self.tokens[opening].string != "(":
            return
        closing, before = self.match[opening], self.tokens[self._near(opening, -1)]
        called = before.string in (")", "]", "}") or before.type == tokenize.STRING
        called |= before.type == tokenize.NAME and not keyword.iskeyword(before.string)
        start, end = self.tokens[opening].start, self.tokens[closing].end
        glued = before.type == tokenize.NAME and before.end == start
        glued |= self.tokens[closing].line[end[1] : end[1] + 1].isidentifier()
        if not called and not glued and self._is_primary(index + 1, closing):
            self.edits[opening] = self.edits[closing] = ""

    def _is_primary(self, index: int, end: int) -> bool:
        """Whether the tokens are one name or group with attributes, calls and subscripts."""
        previous = "."
        while index < end:
            token = self.tokens[index]
            if token.type == tokenize.NAME:
                if keyword.iskeyword(token.string):
                    return False
            elif token.string == "(" or (token.string == "[" and previous != "."):
                index = self.match[index]
            elif token.string != "." or previous == ".":
                return False
            previous = token.string
            index += 1
        return previous != "."

    def _commas(self, opening: int) -> list[int]:
        """The commas between a bracket and its partner, those in inner brackets left out."""
        commas: list[int] = []
        index, closing = opening + 1, self.match[opening]
        while index < closing:
            if self.tokens[index].string == ",":
                commas.append(index)
            index = self.match.get(index, index) + 1
        return commas

    def _near(self, index: int, distance: int) -> int:
        """The index of the code token so many places away (at the ends: the last there is)."""
        place = self.place[index] + distance
        return self.code[min(max(place, 0), len(self.code) - 1)]

    def _text(self, index: int, distance: int) -> str:
        return self.tokens[self._near(index, distance)].string

    def _problem(self, index: int, message: str) -> None:
        line = self.tokens[index].start[0] + self.lines_before
        self.problems.append(Problem(self.path, line, message))


def _code_indexes(tokens: list[tokenize.TokenInfo]) -> list[int]:
    """The tokens that are code. Of an f-string (tokens since Python 3.12): its begin and end."""
    code: list[int] = []
    depth = 0
    for index, token in enumerate(tokens):
        kind = tokenize.tok_name[token.type]
        depth -= kind.endswith("STRING_END")
        if token.type not in _NO_CODE and depth == 0:
            code.append(index)
        depth += kind.endswith("STRING_START")
    return code


def _match_brackets(tokens: list[tokenize.TokenInfo], code: list[int]) -> dict[int, int]:
    """The closing bracket of each opening one, by index."""
    match: dict[int, int] = {}
    stack: list[int] = []
    for index in code:
        if tokens[index].type != tokenize.OP:
            continue
        if tokens[index].string in _PAIRS:
            stack.append(index)
        elif tokens[index].string in _PAIRS.values() and stack:
            match[stack.pop()] = index
    return match
