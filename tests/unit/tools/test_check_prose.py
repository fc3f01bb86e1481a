"""The prose checker finds what breaks a rule, and leaves the rest alone."""

import textwrap

import check_prose
import pytest


def rules(kind, text):
    """Return the rules that a text breaks, without its places."""
    return [rule for _, rule, _ in check_prose.CHECKS[kind](textwrap.dedent(text))]


def places(kind, text):
    return [(line, rule) for line, rule, _ in check_prose.CHECKS[kind](textwrap.dedent(text))]


LONG = "word " * check_prose.MAX_WORDS + "more."


@pytest.mark.parametrize(
    "sentence",
    [
        "No one reads this.",
        "Nobody reads this.",
        "If someone writes, wait.",
        "Whoever waits is woken.",
        "The process who waits is woken.",
        "Who waits is woken.",
        "It rings the doorbell.",
        "The event is parked.",
        "Read below the frontier.",
        "The member loses his lease.",
        "A letter carries the event.",
        "Take a look at the log.",
    ],
)
def test_banned_words_are_found(sentence):
    assert "word" in rules(".md", sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "Who wrote this event?",
        "Dead letters are listed.",
        "Use letters, digits and underscores.",
        "Drop the replication slot.",
        "Look up the position.",
        "A ring buffer holds the newest events.",
        "`someone` is a user of the system.",
        "Some bodies of text.",
    ],
)
def test_other_uses_are_left_alone(sentence):
    assert rules(".md", sentence) == []


def test_a_sentence_above_the_limit_is_found():
    assert rules(".md", LONG) == ["length"]
    assert rules(".md", "word " * (check_prose.MAX_WORDS - 1) + "last.") == []


def test_two_colons_in_a_sentence_are_found():
    assert rules(".md", "One thing: another: a third.") == ["colons"]
    assert rules(".md", "One thing: another. Two things: a third.") == []


def test_code_pictures_and_comments_of_a_page_are_left_out():
    page = """
        Text.

        ```python
        someone = 1
        ```

        <!-- someone
        -->

        | someone | `x` |
        |---|---|
    """
    assert places(".md", page) == [(11, "word")]


def test_list_items_and_cells_are_sentences_of_their_own():
    half = "word " * (check_prose.MAX_WORDS // 2 + 2)
    assert rules(".md", f"- {half}\n- {half}\n") == []
    assert rules(".md", f"| {half} | {half} |\n") == []


def test_docstrings_comments_and_messages_are_checked():
    source = '''
        """Everyone."""

        # Anyone waits.
        def wait():
            """Wait until someone writes."""
            raise ValueError("no one has written anything yet")
    '''
    assert sorted(places(".py", source)) == [(2, "word"), (4, "word"), (6, "word"), (7, "word")]


def test_data_and_sql_are_no_messages():
    assert rules(".py", 'a = "someone"\nb = "SELECT someone FROM anyone WHERE x"\n') == []


@pytest.mark.parametrize(
    "first",
    ["The version.", "A version.", "What it is.", "Returns a version.", "Waiting for it.",
     "read it.", "Read it"],
)  # fmt: skip
def test_other_first_lines_of_functions_are_found(first):
    assert rules(".py", f'def f():\n    """{first}"""\n') == ["first-line"]


@pytest.mark.parametrize("first", ["Read it.", "Pass it on.", "Process events.", "Bring it in."])
def test_imperative_first_lines_pass(first):
    assert rules(".py", f'def f():\n    """{first}"""\n') == []


def test_classes_properties_and_fixtures_may_be_named_by_a_noun():
    source = '''
        class Version:
            """A version."""

            @property
            def number(self):
                """The number."""

        @pytest.fixture(scope="session")
        def server():
            """A running server."""
    '''
    assert rules(".py", source) == []
    assert rules(".py", 'class A:\n    """What users get."""\n') == ["first-line"]


def test_entries_of_arguments_are_not_one_sentence():
    entry = "word " * (check_prose.MAX_WORDS - 5)
    source = f'''
        def f():
            """Do it.

            Args:
                first: {entry}
                second: {entry}
            """
    '''
    assert rules(".py", source) == []


def test_names_are_checked():
    assert rules(".py", "def test_someone_waits(): pass\nclass LeaseKeeper: pass\n") == ["name"] * 2


def test_comments_in_sql_are_checked():
    assert places(".sql", "-- Reads it.\nSELECT 1; -- someone\n") == [(2, "word")]


def test_the_command_reports_and_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("Someone.\n")
    monkeypatch.setattr(check_prose.check, "__defaults__", (tmp_path,))
    assert check_prose.main(["--paths", "docs"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("docs/page.md:1: word: 'Someone'")
    assert shown.err.splitlines()[-1].split()[:2] == ["all", "1"]
    (tmp_path / "docs" / "page.md").write_text("Fine.\n")
    assert check_prose.main(["--paths", "docs"]) == 0
