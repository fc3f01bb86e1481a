"""Check prose against the rules that a machine can hold.

Reads Markdown pages, Python (docstrings, comments, messages, names) and comments in SQL. Reports
banned words, long sentences, chains of colons, and functions whose docstring does not begin with
an imperative sentence. Exits with 1 if there is a finding.

    python tools/check_prose.py                          # everything
    python tools/check_prose.py --paths pgmem/groups     # some of it
    python tools/check_prose.py --counts                 # only the table of counts
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[1]
ROOTS = ["README.md", "CHANGELOG.md", "docs", "pgmem", "tests", "benchmarks", "tools", "migrations"]
LEFT_OUT = ["pgmem/_sync", "benchmarks/RESULTS.md", "docs/_build"]  # generated
RULES_OF_ITS_OWN = ["check_prose.py", "test_check_prose.py"]  # they quote what is banned

MAX_WORDS = 35
"""Words in a sentence. Technical sentences of 20 words read well; above 35 each needs cutting."""

_MACHINES = (
    "agent|caller|client|connection|consumer|follower|group|holder|listener|member|owner|process|"
    "reader|server|session|subscriber|task|thread|transaction|waiter|worker|writer"
)

BANNED = {
    r"no ?(?:body|one)": "name the actor: no process, no reader, none",
    r"(?:some|any|every)(?:body|one)": "name the actor",
    r"who(?:m|so)?ever": "name the actor",
    r"(?:one|ones|those|him|he) who": "name the actor",
    rf"(?:{_MACHINES})(?:e?s)? (?:who|whom)": "a machine is a 'that'",
    r"he|him|his|himself|she|hers|herself": "a machine is an 'it'",
    r"so many": "give the number or the parameter",
    r"tells? whether": "Return True if ...",
    r"doorbells?|bells?": "notification",
    r"(?:rings?|ringing|ringers?|rang|rung)(?! buffer)": "notify",
    r"(?<!dead )(?<!dead-)(?<!case )(?<!capital )(?<!ASCII )letters?(?!,? \w* ?digits)": "payload",
    r"keepers?": "LeaseRenewer",
    r"frontiers?": "stable position",
    r"tailers?": "LogFollower",
    r"parks?|parked|parking": "delayed",
    r"bury|buries|buried|burying|burials?": "dead_letter",
    r"patience": "timeout",
    r"at hand": "idle",
    r"lets? go": "async_commit, or release",
    r"meets?": "record, find, reach",
    r"settles?|settled|settling": "stable; wait until stable",
    r"(?:an?|one|each|every|another|next|last|the|no|its|same) looks?": "poll",
    r"looks? (?:again|once)": "poll",
    r"(?<!replication )(?<!hash )(?<!cluster )slots?": "batch",
    r"dedupe marks?": "dedupe record",
}  # fmt: skip
_BANNED = {re.compile(rf"\b(?:{word})\b", re.IGNORECASE): better for word, better in BANNED.items()}

_NAMES = re.compile(
    r"who|whose|who(?:m|so)?ever|(?:no|some|any|every)(?:body|one)|his|him|"
    r"doorbells?|bells?|rings?|keepers?|frontiers?|tailers?|parked|bury|buried|patience|meets?"
)
_NOT_IMPERATIVE = re.compile(
    r"(?:what|who|whose|who(?:so)?ever|which|how|where|when|whether|why|the|a|an|this|that|"
    r"these|those|it|its|if|all|each|every|no|one|is|are|has|true|false)\b"
    r"|(?!alias)\w+(?<![su])s\b|(?!bring|ping|string)\w+ing\b",
    re.IGNORECASE,
)
_NOT_A_NOUN = re.compile(r"(?:what|who(?:ever)?|tells)\b", re.IGNORECASE)
_NOUN_DECORATORS = {"property", "cached_property", "fixture", "computed_field"}

_CODE = re.compile(r"```.*?```|``[^`]*``|`[^`]*`", re.DOTALL)
_PICTURE = re.compile(r"[─│┌┐└┘├┤▼►▲◄═║┬┴┼]|-->|^\s*(?:>>>|\.\.\.)(?:\s|$)|^\s*\|?[-=+|: ]{5,}$")
_ENTRY = re.compile(r"^\s*\*{0,2}[\w.]+(?:, \*{0,2}\w+)*(?: \([^)]*\))?:(?:\s|$)")
_BULLET = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
_END = re.compile(r"(?<=[.!?])[)\"'”*_]*\s+(?=[A-Z0-9`\"'“(*_])|(?<=[.!?:])\s*\n\s*\n")
_SQL = re.compile(r"\s*(?:--|/\*|[A-Z]{4,} |WITH |SET |\()")


class Finding(NamedTuple):
    """A place where the prose breaks a rule."""

    path: str
    line: int
    rule: str
    text: str


class Piece(NamedTuple):
    """A paragraph and the line that it begins on."""

    line: int
    text: str


def paragraphs(lines: Iterable[tuple[int, str]]) -> Iterator[Piece]:
    """Group lines into paragraphs, list items and entries of `Args:`; leave pictures out."""
    begin, held = 0, list[str]()
    for number, line in lines:
        stripped = line.strip()
        starts = _BULLET.match(line) or _ENTRY.match(line)
        if (not stripped or starts or _PICTURE.search(line)) and held:
            yield Piece(begin, " ".join(held))
            held = []
        if not stripped or _PICTURE.search(line):
            continue
        if not held:
            begin = number
        held.append(_ENTRY.sub("", _BULLET.sub("", line)).strip())
    if held:
        yield Piece(begin, " ".join(held))


def sentences(text: str) -> list[str]:
    """Split a paragraph into sentences; a piece of code or a link counts as one word."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", _CODE.sub("`code`", text))
    return [sentence for sentence in _END.split(text) if sentence.strip()]


def check_text(piece: Piece, *, words_only: bool = False) -> Iterator[tuple[int, str, str]]:
    """Check one paragraph: banned words, length of sentences, chains of colons."""
    plain = _CODE.sub("`code`", piece.text)
    for banned, better in _BANNED.items():
        for match in banned.finditer(plain):
            yield piece.line, "word", f"{match[0]!r}: {better}"
    if words_only:
        return
    for sentence in sentences(piece.text):
        count = len(re.findall(r"[\w`][^\s]*", sentence))
        if count > MAX_WORDS:
            yield piece.line, "length", f"{count} words: {sentence[:60]!r}"
        if len(re.findall(r":\s", sentence)) > 1:
            yield piece.line, "colons", f"{sentence[:70]!r}"
        if re.match(r"(?:Who|Whose) ", sentence) and not sentence.rstrip().endswith("?"):
            yield piece.line, "word", f"{sentence[:40]!r}: name the actor"


def check_markdown(text: str) -> Iterator[tuple[int, str, str]]:
    """Check a page, without its code, its pictures and what it comments out."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    text = re.sub(r"^( *)```.*?^\1```|<!--.*?-->|^---\n.*?^---\n", blank, text, flags=re.S | re.M)
    prose = list[tuple[int, str]]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("|"):
            for cell in line.strip().strip("|").split("|"):
                prose += [(number, cell), (number, "")]
        elif line.startswith("#"):
            prose += [(number, ""), (number, line.lstrip("# ")), (number, "")]
        else:
            prose.append((number, line.lstrip("> ") if line.startswith(">") else line))
    for piece in paragraphs(prose):
        yield from check_text(piece)


def check_sql(text: str) -> Iterator[tuple[int, str, str]]:
    """Check the comments of an SQL file."""
    comments = list[tuple[int, str]]()
    for number, line in enumerate(text.splitlines(), 1):
        code, _, comment = line.partition("--")
        comments += [(number, "")] if code.strip() else []
        comments.append((number, comment))
    for piece in paragraphs(comments):
        yield from check_text(piece)


def _comments(text: str) -> Iterator[tuple[int, str]]:
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line, body = token.start[0], token.string.lstrip("#!: ")
            if re.match(r"noqa|type:|pragma|fmt:|pyright|language=", body):
                continue
            if line != last + 1 or token.line[: token.start[1]].strip():
                yield line, ""
            yield line, body
            last = line


def _docstring(node: ast.AST) -> ast.Constant | None:
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value
    return None


def check_first_line(node: ast.AST, docstring: str) -> Iterator[str]:
    """Check the form of a docstring's first line."""
    first = docstring.strip().splitlines()[0].strip() if docstring.strip() else ""
    if not first:
        yield "empty"
        return
    if not (first[0].isupper() or first[0] in "`\"'" or first[0].isdigit()):
        yield f"no capital: {first[:60]}"
    if not first.endswith((".", "?", "::", ".)", "!")):
        yield f"no period: ...{first[-50:]}"
    decorators = {name for d in getattr(node, "decorator_list", []) for name in _words_of(d)}
    function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    if function and not decorators & _NOUN_DECORATORS:
        if _NOT_IMPERATIVE.match(first):
            yield f"not imperative: {first[:60]}"
    elif _NOT_A_NOUN.match(first):
        yield f"names no thing: {first[:60]}"


def _words_of(decorator: ast.expr) -> set[str]:
    found = (getattr(n, "attr", getattr(n, "id", "")) for n in ast.walk(decorator))
    return {name for name in found if name}


def check_python(text: str) -> Iterator[tuple[int, str, str]]:
    """Check the docstrings, comments, messages and names of a module."""
    for piece in paragraphs(_comments(text)):
        yield from check_text(piece)
    seen = set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for part in re.findall(r"[A-Z]?[a-z]+", node.name):
                if _NAMES.fullmatch(part.lower()):
                    yield node.lineno, "name", f"{node.name}: {part!r}"
        docstring = _docstring(node)
        if docstring is not None:
            seen.add(id(docstring))
            for complaint in check_first_line(node, str(docstring.value)):
                yield docstring.lineno, "first-line", complaint
            lines = enumerate(str(docstring.value).splitlines(), docstring.lineno)
            for piece in paragraphs(lines):
                yield from check_text(piece)
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "X" for p in node.values]
            seen |= {id(part) for part in node.values}
            yield from _check_message(node.lineno, "".join(map(str, parts)))
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in seen
        ):
            yield from _check_message(node.lineno, node.value)


def _check_message(line: int, message: str) -> Iterator[tuple[int, str, str]]:
    """Check a string that reads like prose: four words or more, and no SQL."""
    if len(message.split()) >= 4 and not _SQL.match(message):
        code = "\n" in message or "=" in message
        for found in check_text(Piece(line, message), words_only=code):
            if found[1] != "colons":  # "path:line: what: why" is a usual form of an error
                yield found


CHECKS = {".md": check_markdown, ".py": check_python, ".sql": check_sql}


def files(paths: Iterable[str], root: Path = CHECKOUT) -> Iterator[Path]:
    """Find the files to check at or below some paths."""
    for path in (root / name for name in paths):
        if not path.exists():
            raise SystemExit(f"{path} does not exist")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            place = file.relative_to(root).as_posix()
            left_out = any(place == out or place.startswith(f"{out}/") for out in LEFT_OUT)
            if file.suffix in CHECKS and not left_out and file.name not in RULES_OF_ITS_OWN:
                yield file


def check(paths: Iterable[str], root: Path = CHECKOUT) -> list[Finding]:
    """Check all files at or below some paths, and return what breaks a rule."""
    found = list[Finding]()
    for file in files(paths, root):
        place = file.relative_to(root).as_posix()
        results = CHECKS[file.suffix](file.read_text(encoding="utf-8"))
        found += sorted(Finding(place, *result) for result in results)
    return found


def counts(findings: Iterable[Finding]) -> str:
    """Format a table of findings by folder and rule."""
    table = Counter(("/".join(f.path.split("/")[:-1][:2]) or f.path, f.rule) for f in findings)
    rules = ["word", "name", "length", "colons", "first-line"]
    rows = {"": rules}
    for folder in sorted({folder for folder, _ in table}):
        rows[folder] = [str(table[folder, rule]) for rule in rules]
    rows["all"] = [str(sum(n for (_, r), n in table.items() if r == rule)) for rule in rules]
    return "\n".join(f"{name:28}" + "".join(f"{n:>12}" for n in row) for name, row in rows.items())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description="Check prose in docs and code.")
    parser.add_argument("--paths", nargs="+", default=ROOTS, help="files or folders, from the root")
    parser.add_argument("--counts", action="store_true", help="print only the counts per folder")
    options = parser.parse_args(arguments)
    findings = check(options.paths)
    if not options.counts:
        for finding in findings:
            print(f"{finding.path}:{finding.line}: {finding.rule}: {finding.text}")
    print(counts(findings) if findings else "prose: no findings", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
