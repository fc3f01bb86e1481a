"""`pgmem import-redis`: bring the data of a Redis into pgmem, follow it, cut over, and go back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from pgmem.cli.commands import Command
from pgmem.cli.options import database_options, json_option
from pgmem.cli.output import print_json
from pgmem.cli.redis_report import Progress, document_of, print_report

if TYPE_CHECKING:
    from pgmem.redis.importing.run import Import

MEGABYTE = 1024 * 1024


@click.command(
    "import-redis",
    cls=Command,
    examples="""
    # What there is, and what cannot be brought in
    pgmem import-redis redis://localhost --dry-run

    # Import, and compare both sides
    pgmem import-redis redis://localhost --verify

    # Only some of it, under other names
    pgmem import-redis redis://localhost --stream 'agent:*' --hash 'user:*=users/{key}'

    # Keep up with Redis; then, in another terminal, switch
    pgmem import-redis redis://localhost --follow
    pgmem import-redis redis://localhost --cut-over --verify
    """,
)
@click.argument("redis_url", metavar="REDIS")
@click.option(
    "--stream",
    metavar="PATTERN[=NAME]",
    multiple=True,
    help="Streams that become streams of events. Repeatable.",
)
@click.option(
    "--hash",
    "hash_",
    metavar="PATTERN[=KEY]",
    multiple=True,
    help="Hashes that become state entries; KEY may contain {key} and {field}. Repeatable.",
)
@click.option(
    "--dedupe",
    metavar="PATTERN[=KEY]",
    multiple=True,
    help="Sets and strings that become idempotency keys; KEY may contain {key} and {member}. "
    "Repeatable.",
)
@click.option(
    "--group",
    metavar="PATTERN=NAME",
    multiple=True,
    help="Names of the groups of the streams that match; NAME may contain {key} and {group}. "
    "Default: STREAM:GROUP. Repeatable.",
)
@click.option(
    "--claim",
    metavar="PATTERN[=VALUE]",
    multiple=True,
    help="Strings that are claims in progress or locks, and stay in Redis. VALUE is a pattern of "
    "their values. Repeatable.",
)
@click.option(
    "--strings",
    type=click.Choice(["done", "claims"]),
    help="What strings with an expiry are, without --stream, --hash and --dedupe: work that is "
    "done, or claims in progress. Default: they stay in Redis, and are reported.",
)
@click.option(
    "--except",
    "except_",
    metavar="KEY",
    multiple=True,
    help="A key, or a pattern of keys, to leave out: it is not imported, compared, fenced or "
    "brought back. Repeatable.",
)
@click.option(
    "--hash-as",
    type=click.Choice(["fields", "entry"]),
    help="Make an entry of each field of a hash, or one entry of the whole hash.",
)
@click.option(
    "--values",
    type=click.Choice(["auto", "json", "text"]),
    help="How payloads and values are read. Default: payloads must be JSON, the rest is JSON where "
    "it can be. The report names values that get another type than their neighbours.",
)
@click.option(
    "--name",
    metavar="NAME",
    help="The name under which the progress is stored. Default: the address of the Redis.",
)
@click.option(
    "--refused",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default="import-redis-refused.jsonl",
    show_default=True,
    help="Where to list what cannot be brought in.",
)
@click.option(
    "--max-payload-bytes",
    metavar="N",
    type=click.IntRange(1, 2**28 - 1),
    default=MEGABYTE,
    show_default=True,
    help="The limit of one payload or value; programs that read it need the same limit.",
)
@click.option("--dry-run", is_flag=True, help="Read and check everything, write nothing.")
@click.option("--verify", is_flag=True, help="Compare both sides afterwards, item by item.")
@click.option("--follow", is_flag=True, help="Keep up while Redis is written to, until Ctrl-C.")
@click.option(
    "--cut-over", is_flag=True, help="Keep writers out of what was imported, and bring in the rest."
)
@click.option(
    "--reverse", is_flag=True, help="After a cut-over: write back to Redis what came since."
)
@database_options
@json_option
def import_redis(
    redis_url: str,
    *,
    stream: tuple[str, ...],
    hash_: tuple[str, ...],
    dedupe: tuple[str, ...],
    group: tuple[str, ...],
    claim: tuple[str, ...],
    strings: Literal["done", "claims"] | None,
    except_: tuple[str, ...],
    hash_as: Literal["fields", "entry"] | None,
    values: Literal["auto", "json", "text"] | None,
    name: str | None,
    refused: Path,
    max_payload_bytes: int,
    dry_run: bool,
    verify: bool,
    follow: bool,
    cut_over: bool,
    reverse: bool,
    url: str | None,
    schema: str,
    as_json: bool,
) -> None:
    """Bring the data of a Redis into pgmem.

    Streams, consumer groups, hashes, sets and strings.
    REDIS is a URL: redis://, rediss:// (TLS) or unix://. A password may also be in REDISCLI_AUTH.
    Run it again to continue where it ended. Exit code 1 if something was left out or differs.
    """
    from pgmem import Memory
    from pgmem.redis import open_import, parse_rules

    _check_modes(dry_run=dry_run, follow=follow, cut_over=cut_over, reverse=reverse)
    if verify and (dry_run or reverse):
        raise _wrong_usage("--verify compares what was imported: not with --dry-run or --reverse.")
    rules = parse_rules(
        stream,
        hash_,
        dedupe,
        groups=group,
        claims=claim,
        excepted=except_,
        strings=strings,
        hash_as=hash_as,
        values=values,
    )
    with (
        Progress() as progress,
        Memory(url, schema=schema, pool=(1, 3), max_payload_bytes=max_payload_bytes) as memory,
        open_import(
            memory,
            redis_url,
            rules,
            refused=refused,
            name=name,
            watcher=progress,
            dry_run=dry_run,
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
        raise click.exceptions.Exit(1)


def _check_modes(**modes: bool) -> None:
    given = [f"--{name.replace('_', '-')}" for name, is_given in modes.items() if is_given]
    if len(given) > 1:
        raise _wrong_usage(f"{' and '.join(given)} exclude each other. Give one of them.")


def _wrong_usage(message: str) -> click.UsageError:
    return click.UsageError(message, click.get_current_context())


def _bring_in(
    importer: Import, progress: Progress, mode: str, *, verify: bool
) -> tuple[dict[str, Any], bool]:
    from pgmem.redis.importing.cutover import cut_over
    from pgmem.redis.importing.follow import Follow
    from pgmem.redis.importing.verify import compare

    if mode == "cut over":
        report, compared = cut_over(importer, verify=verify)
        ended = "cut over" if compared is None or compared.equal else "cutting over"
    else:
        importer.begin(purpose="follow" if mode == "follow" else "import")
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
    from pgmem.redis.importing.reverse import reverse

    written = reverse(importer)
    return {
        "import": importer.context.name,
        "ended": "reversing" if written.get("blocked") else "written back",
        "written_back": dict(written),
        "refused_file": str(importer.context.refused.path),
    }, not any(written.get(kind) for kind in ("left", "blocked", "without their end"))


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Give a function that returns True after Ctrl-C or SIGTERM; a second one ends at once."""
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
