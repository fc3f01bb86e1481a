"""`pgmem import-redis`: bring a Redis into a memory, follow it, cut over, and go back.

Only the command line, the progress and the report; what happens is `pgmem.importing`, which is
imported when the command is used.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pgmem.cli.options import AsJson, Schema, Url, print_json, say
from pgmem.names import DEFAULT_SCHEMA

if TYPE_CHECKING:
    from pgmem.importing.run import Import, Report
    from pgmem.importing.verify import Comparison

MEGABYTE = 1024 * 1024

Patterns = list[str] | None


def import_redis(
    redis_url: Annotated[
        str,
        typer.Argument(
            metavar="REDIS",
            help="redis://, rediss:// (TLS) or unix://. A password may also be in REDISCLI_AUTH.",
        ),
    ],
    *,
    stream: Annotated[
        Patterns,
        typer.Option(
            "--stream",
            metavar="PATTERN[=NAME]",
            help="Streams that become streams of events. May be given several times.",
            show_default=False,
        ),
    ] = None,
    hash_: Annotated[
        Patterns,
        typer.Option(
            "--hash",
            metavar="PATTERN[=KEY]",
            help="Hashes that become state entries; {key} and {field} stand in KEY.",
            show_default=False,
        ),
    ] = None,
    dedupe: Annotated[
        Patterns,
        typer.Option(
            "--dedupe",
            metavar="PATTERN[=KEY]",
            help="Sets and strings that become idempotency keys; {key} and {member} in KEY.",
            show_default=False,
        ),
    ] = None,
    hash_as: Annotated[
        Literal["fields", "entry"] | None,
        typer.Option(
            "--hash-as",
            help="Each field of a hash an entry, or each hash one entry.",
            show_default=False,
        ),
    ] = None,
    values: Annotated[
        Literal["auto", "json", "text"] | None,
        typer.Option(
            "--values",
            help="What payloads and values are. Without it, payloads must be JSON, and the rest "
            "is JSON where it can be.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="The name that the progress is kept under. Without it, where the Redis is.",
            show_default=False,
        ),
    ] = None,
    refused: Annotated[
        Path,
        typer.Option("--refused", metavar="FILE", help="Where to list what cannot be brought in."),
    ] = Path("import-redis-refused.jsonl"),
    max_payload_bytes: Annotated[
        int,
        typer.Option(
            "--max-payload-bytes",
            metavar="N",
            min=1,
            max=2**28 - 1,
            help="The limit of one payload or value, as of the Memory that will read it.",
        ),
    ] = MEGABYTE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare both sides afterwards, item by item.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on while Redis is written to, until Ctrl-C.")
    ] = False,
    cut_over: Annotated[
        bool,
        typer.Option(
            "--cut-over", help="Keep writers out of what was imported, and bring in the rest."
        ),
    ] = False,
    reverse: Annotated[
        bool,
        typer.Option("--reverse", help="After a cut-over: write back to Redis what came since."),
    ] = False,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Bring streams, hashes, sets and strings of a Redis into pgmem.

    Run it again to go on where it was. Exit code 1 if something was left out, or is not the same.
    """
    from pgmem import Memory  # noqa: PLC0415
    from pgmem.importing.rules import chosen  # noqa: PLC0415
    from pgmem.importing.session import importing  # noqa: PLC0415

    _check_modes(dry_run=dry_run, follow=follow, cut_over=cut_over, reverse=reverse)
    if verify and (dry_run or reverse):
        raise typer.BadParameter("--verify compares what was imported: not with this mode")
    rules = chosen(stream or (), hash_ or (), dedupe or (), hash_as=hash_as, values=values)
    with (
        _Progress() as progress,
        Memory(url, schema=schema, pool=(1, 3), max_payload_bytes=max_payload_bytes) as memory,
        importing(
            memory,
            redis_url,
            rules,
            refused=refused,
            name=name,
            watcher=progress,
            trial=dry_run,
        ) as importer,
    ):
        if reverse:
            document, good = _reverse(importer)
        else:
            mode = "cut over" if cut_over else "follow" if follow else "import"
            document, good = _bring_in(importer, progress, mode, verify=verify)
    if as_json:
        print_json(document)
    else:
        _print(document, dry_run=dry_run)
    if not good:
        raise typer.Exit(1)


def _check_modes(**modes: bool) -> None:
    given = [f"--{name.replace('_', '-')}" for name, is_given in modes.items() if is_given]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other: give one of them")


def _bring_in(
    importer: Import, progress: _Progress, mode: str, *, verify: bool
) -> tuple[dict[str, Any], bool]:
    from pgmem.importing.cutover import cut_over  # noqa: PLC0415
    from pgmem.importing.follow import Follow  # noqa: PLC0415
    from pgmem.importing.verify import compare  # noqa: PLC0415

    if mode == "cut over":
        report, compared = cut_over(importer, verify=verify)
        ended = "cut over" if compared is None or compared.equal else "cutting over"
    else:
        importer.begin()
        progress.expect(importer.report.survey.total)
        report = importer.run()
        ended = "imported"
        if mode == "follow":
            progress.follow()
            with _stopping() as stop:
                ended = "cut over elsewhere" if Follow(importer, stop).run() else "stopped"
            report = importer.finished()
        compared = compare(importer) if verify else None
    document = _document(importer, report, compared)
    document["ended"] = ended
    return document, report.complete and (compared is None or compared.equal)


def _reverse(importer: Import) -> tuple[dict[str, Any], bool]:
    from pgmem.importing.reverse import reverse  # noqa: PLC0415

    written = reverse(importer)
    return {
        "import": importer.context.name,
        "ended": "written back",
        "written_back": dict(written),
        "refused_file": str(importer.context.refused.path),
    }, not written.get("left")


@contextmanager
def _stopping() -> Iterator[Any]:
    """A function that tells whether Ctrl-C or a SIGTERM has come; a second one ends at once."""
    stopped: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield lambda: bool(stopped)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Progress:
    """Progress with the time left, on stderr; a line now and then where that is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("looking at the keys", total=None)
        self._done = 0
        self._following = False

    def __enter__(self) -> _Progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def expect(self, items: int) -> None:
        """So many items are to come."""
        self._progress.update(self._task, description="importing", total=items)

    def follow(self) -> None:
        """The import is done and goes on."""
        self._following = True
        self._progress.update(self._task, description="following", total=None)
        self.say("following: end it with Ctrl-C, or with --cut-over in another terminal")

    def moved(self, kind: str, done: int, refused: int) -> None:
        """Items were brought in."""
        self._done += done + refused
        self._progress.update(self._task, completed=self._done)

    def compared(self, items: int) -> None:
        """Items were compared."""
        self._progress.update(self._task, description="comparing", completed=items)

    def lag(self, entries: int | None, seconds: float) -> None:
        """How far behind the streams are."""
        behind = "an unknown number of" if entries is None else f"{entries:,}"
        self._progress.update(
            self._task, description=f"following, {behind} entries behind ({seconds:.1f} s)"
        )

    def say(self, words: str) -> None:
        """A line above the progress."""
        self._console.print(words, markup=False)


def _document(importer: Import, report: Report, compared: Comparison | None) -> dict[str, Any]:
    """The report for programs."""
    context = importer.context
    survey = report.survey
    document: dict[str, Any] = {
        "import": context.name,
        "found": {**survey.items},
        "streams": [
            {
                "key": part.detail.get("key", key.decode(errors="backslashreplace")),
                "stream": part.target,
                "events": part.done,
                "refused": part.refused,
                "trimmed_unread": report.missed[key],
                "read_to": part.cursor,
            }
            for key, part in report.streams.items()
        ],
        "removed": report.removed,
        "left": {
            kind: {"keys": count, "examples": examples}
            for kind, (count, examples) in survey.left.items()
        },
        "refused": report.refused,
        "refused_file": str(context.refused.path),
    }
    if compared is not None:
        from dataclasses import asdict  # noqa: PLC0415

        document["compared"] = {**asdict(compared), "equal": compared.equal}
    return document


def _print(document: dict[str, Any], *, dry_run: bool) -> None:
    """The report for people."""
    would = " (on trial: nothing was written)" if dry_run else ""
    say(f"{document['import']}: {document['ended']}{would}")
    for stream in document.get("streams", ()):
        line = f"  stream {stream['key']} → {stream['stream']}: {stream['events']:,} events"
        if stream["refused"]:
            line += f", {stream['refused']:,} refused"
        if stream["trimmed_unread"] != 0:
            many = stream["trimmed_unread"]
            line += f", {'some' if many is None else f'{many:,}'} trimmed before they were read"
        say(line)
    found = document.get("found", {})
    for kind, words in (
        ("hash", "entries of state"),
        ("set", "members of sets"),
        ("string", "strings"),
    ):
        if found.get(kind):
            say(f"  {found[kind]:,} {words}")
    if document.get("removed"):
        say(f"  {document['removed']:,} removed here: they are not in Redis any more")
    for kind, left in document.get("left", {}).items():
        examples = ", ".join(left["examples"])
        say(f"  left in Redis: {left['keys']:,} keys of type {kind} ({examples})")
    for kind, count in document.get("written_back", {}).items():
        say(f"  {kind}: {count:,}")
    if document.get("refused") or document.get("written_back", {}).get("left"):
        say(f"  what was left out is listed in {document['refused_file']}")
    if compared := document.get("compared"):
        counts = ", ".join(
            f"{count:,} {kind.replace('_', ' ')}"
            for kind, count in compared.items()
            if isinstance(count, int) and not isinstance(count, bool) and count
        )
        say(f"  compared: {counts or 'nothing'}")
        for example in compared["examples"]:
            say(f"    {example}")
        say("  both sides are the same" if compared["equal"] else "  the two sides differ")
