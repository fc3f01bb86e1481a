"""Tables, colours, texts and questions."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime

import click
import pytest

from pgmem.cli import output
from pgmem.cli.output import (
    COLOURS,
    Column,
    Table,
    age,
    confirm,
    count_of,
    cut,
    json_text,
    one_line,
    print_labelled,
    size,
)


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that makes stdout a terminal of some width, with or without colours."""

    def make(width, *, colours=False):
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.delenv("COLORTERM", raising=False)
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm-256color" if colours else "xterm")
        return stream

    return make


def test_columns_are_aligned_by_cells(capsys):
    table = Table(Column("A"), Column("NUMBER", right=True))
    table.add([("x", "1"), ("日本", "1,000"), ("\x1b", "")])
    assert capsys.readouterr().out.splitlines() == [
        "A     NUMBER", "x          1", "日本   1,000", "\\x1b"
    ]  # fmt: skip


def test_later_pages_keep_the_alignment_and_have_no_titles(capsys):
    table = Table(Column("KEY"), Column("VALUE"))
    table.add([("a" * 10, "1")])
    table.add([("b", "2")])
    table.add([])
    assert capsys.readouterr().out.splitlines() == [
        "KEY         VALUE", "aaaaaaaaaa  1", "b           2"
    ]  # fmt: skip


def test_no_rows_print_no_titles(capsys):
    Table(Column("A")).add([])
    assert capsys.readouterr().out == ""


def test_nothing_is_cut_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    Table(Column("KEY"), Column("VALUE")).add([("k" * 30, "v" * 300)])
    assert capsys.readouterr().out.splitlines()[1] == f"{'k' * 30}  {'v' * 300}"


def test_last_column_is_cut_at_the_edge_of_the_terminal(terminal):
    out = terminal(40)
    Table(Column("POSITION", right=True), Column("KEY"), Column("VALUE")).add(
        [("1234567", "account:1", "v" * 100), ("8", "b", "short")]
    )
    lines = out.getvalue().splitlines()
    assert lines[1] == " 1234567  account:1  " + "v" * 18 + "…"
    assert {len(line) for line in lines[1:2]} == {40}
    assert lines[2].endswith("  short")


def test_wide_names_are_cut_only_after_the_last_column(terminal):
    out = terminal(40)
    Table(Column("KEY"), Column("N", right=True), Column("VALUE")).add(
        [("k" * 60, "1,234", "v" * 100)]
    )
    line = out.getvalue().splitlines()[1]
    assert line == "k" * 20 + "…  1,234  " + "v" * 9 + "…"


def test_colours_only_on_a_terminal_without_no_color(terminal, monkeypatch):
    out = terminal(80, colours=True)
    columns = (Column("KEY", style="key"), Column("VALUE"))
    Table(*columns).add([("k", "v")])
    assert out.getvalue().splitlines()[1] == "\x1b[38;5;30mk\x1b[0m    v"
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    Table(*columns).add([("k", "v")])
    print_labelled([("a", "b")], 4)
    assert "\x1b" not in out.getvalue()
    out = terminal(80)
    Table(*columns).add([("k", "v")])
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_readable_on_white_and_on_black(name):
    number = COLOURS[name]
    if number >= 232:
        rgb = [8 + 10 * (number - 232)] * 3
    else:
        levels = (0, 95, 135, 175, 215, 255)
        rest = number - 16
        rgb = [levels[rest // 36], levels[rest // 6 % 6], levels[rest % 6]]
    linear = [c / 3294 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) > 3.8
    assert (luminance + 0.05) / 0.05 > 3.8


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 5, "日本…"), ("日本語", 4, "日…")],
)
def test_cut_counts_cells(text, width, shown):
    assert cut(text, width) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0.0 s"), (0.04, "0.0 s"), (9.96, "10.0 s"), (119, "119 s"), (120, "2.0 min"),
     (5400, "90 min"), (86_400, "24 h"), (2_000_000, "23 d")],
)  # fmt: skip
def test_age_has_the_largest_fitting_unit(seconds, shown):
    assert age(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 kB"),
        (150_000, "146 kB"),
        (2**40 * 5000, "5,000.0 TB"),
    ],
)
def test_size_has_the_largest_fitting_unit(number, shown):
    assert size(number) == shown


def test_count_of_has_the_right_noun():
    assert count_of(1, "event") == "1 event"
    assert count_of(0, "event") == "0 events"
    assert count_of(2000, "entry", "entries") == "2,000 entries"


def test_control_characters_are_escaped():
    assert one_line("a\n\tb \x1b[31mc") == r"a b \x1b[31mc"
    assert json_text({"a": "\x9b"}) == r'{"a": "\u009b"}'
    assert json_text(datetime(2026, 1, 2, tzinfo=UTC)) == '"2026-01-02T00:00:00+00:00"'


@pytest.mark.parametrize("answer", ["", "n\n", "\n", "yess\n"])
def test_everything_but_yes_is_no(answer, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    with pytest.raises(click.Abort):
        confirm("Delete it?")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Delete it? [y/N]: ")
    assert "nothing was changed" in captured.err


@pytest.mark.parametrize("answer", ["y\n", "YES\n", " yes \n"])
def test_yes_goes_on(answer, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    confirm("Delete it?")


def test_terminal_width_is_none_in_a_pipe(capsys):
    assert output.terminal_width(sys.stdout) is None
