"""`pgmem import-redis`: bring a Redis into a memory, follow it, cut over, and go back.

Only the command line; what happens is `pgmem.redis.importing`, which is imported when the command
is
used, and how it shows is `pgmem.cli.import_report`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pgmem.cli.import_report import Progress, document_of, print_report
from pgmem.cli.options import AsJson, Schema, Url, print_json
from pgmem.core.names import DEFAULT_SCHEMA

if TYPE_CHECKING:
    from pgmem.redis.importing.run import Import

MEGABYTE = 1024 * 1024

Patterns = list[str] | None


RedisUrl = Annotated[
    str,
    typer.Argument(
        metavar="REDIS",
        help="redis://, rediss:// (TLS) or unix://. A password may also be in REDISCLI_AUTH.",
    ),
]
Streams = Annotated[
    Patterns,
    typer.Option(
        "--stream",
        metavar="PATTERN[=NAME]",
        help="Streams that become streams of events. May be given several times.",
        show_default=False,
    ),
]
Hashes = Annotated[
    Patterns,
    typer.Option(
        "--hash",
        metavar="PATTERN[=KEY]",
        help="Hashes that become state entries; {key} and {field} stand in KEY.",
        show_default=False,
    ),
]
Dedupe = Annotated[
    Patterns,
    typer.Option(
        "--dedupe",
        metavar="PATTERN[=KEY]",
        help="Sets and strings that become idempotency keys; {key} and {member} in KEY.",
        show_default=False,
    ),
]
HashAs = Annotated[
    Literal["fields", "entry"] | None,
    typer.Option(
        "--hash-as",
        help="Each field of a hash an entry, or each hash one entry.",
        show_default=False,
    ),
]
Values = Annotated[
    Literal["auto", "json", "text"] | None,
    typer.Option(
        "--values",
        help="What payloads and values are. Without it, payloads must be JSON, and the rest "
        "is JSON where it can be.",
        show_default=False,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="The name that the progress is kept under. Without it, where the Redis is.",
        show_default=False,
    ),
]
RefusedFile = Annotated[
    Path,
    typer.Option("--refused", metavar="FILE", help="Where to list what cannot be brought in."),
]
MaxPayloadBytes = Annotated[
    int,
    typer.Option(
        "--max-payload-bytes",
        metavar="N",
        min=1,
        max=2**28 - 1,
        help="The limit of one payload or value, as of the Memory that will read it.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Compare both sides afterwards, item by item.")
]
FollowOn = Annotated[
    bool, typer.Option("--follow", help="Go on while Redis is written to, until Ctrl-C.")
]
CutOver = Annotated[
    bool,
    typer.Option(
        "--cut-over", help="Keep writers out of what was imported, and bring in the rest."
    ),
]
Reverse = Annotated[
    bool,
    typer.Option("--reverse", help="After a cut-over: write back to Redis what came since."),
]


def import_redis(
    redis_url: RedisUrl,
    *,
    stream: Streams = None,
    hash_: Hashes = None,
    dedupe: Dedupe = None,
    hash_as: HashAs = None,
    values: Values = None,
    name: Name = None,
    refused: RefusedFile = Path("import-redis-refused.jsonl"),
    max_payload_bytes: MaxPayloadBytes = MEGABYTE,
    dry_run: DryRun = False,
    verify: Verify = False,
    follow: FollowOn = False,
    cut_over: CutOver = False,
    reverse: Reverse = False,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Bring streams, hashes, sets and strings of a Redis into pgmem.

    Run it again to go on where it was. Exit code 1 if something was left out, or is not the same.
    """
    from pgmem import Memory  # noqa: PLC0415
    from pgmem.redis.importing.rules import chosen  # noqa: PLC0415
    from pgmem.redis.importing.session import importing  # noqa: PLC0415

    _check_modes(dry_run=dry_run, follow=follow, cut_over=cut_over, reverse=reverse)
    if verify and (dry_run or reverse):
        raise typer.BadParameter("--verify compares what was imported: not with this mode")
    rules = chosen(stream or (), hash_ or (), dedupe or (), hash_as=hash_as, values=values)
    with (
        Progress() as progress,
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
        print_report(document, dry_run=dry_run)
    if not good:
        raise typer.Exit(1)


def _check_modes(**modes: bool) -> None:
    given = [f"--{name.replace('_', '-')}" for name, is_given in modes.items() if is_given]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other: give one of them")


def _bring_in(
    importer: Import, progress: Progress, mode: str, *, verify: bool
) -> tuple[dict[str, Any], bool]:
    from pgmem.redis.importing.cutover import cut_over  # noqa: PLC0415
    from pgmem.redis.importing.follow import Follow  # noqa: PLC0415
    from pgmem.redis.importing.verify import compare  # noqa: PLC0415

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
    document = document_of(importer, report, compared)
    document["ended"] = ended
    return document, report.complete and (compared is None or compared.equal)


def _reverse(importer: Import) -> tuple[dict[str, Any], bool]:
    from pgmem.redis.importing.reverse import reverse  # noqa: PLC0415

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
