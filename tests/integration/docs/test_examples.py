"""The examples in README, docs and docstrings run on a real server and show what they say."""

import doctest

import pytest

from tests.integration.docs import examples
from tests.integration.docs.examples import Program, Wrong

PAGES = {page.relative_to(examples.CHECKOUT).as_posix(): page for page in examples.pages()}
DOCSTRINGS = examples.docstrings()


@pytest.mark.parametrize("name", PAGES)
def test_page(name, database_url):
    with Program(name, database_url) as program:
        for block in examples.blocks(PAGES[name].read_text(encoding="utf-8")):
            if block.run:
                program.execute(block)
            else:
                examples.compile_(block.source, name, "exec")


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_docstring(name, database_url):
    examples.make_tables(database_url)
    test = DOCSTRINGS[name]
    asynchronous = examples.is_async(test)
    with Program(name, database_url, asynchronous=asynchronous, names=test.globs) as program:
        for example in test.examples:
            program.compare(example)


def test_the_examples_are_found():
    assert {"AsyncMemory", "Memory"} <= {name.rpartition(".")[2] for name in DOCSTRINGS}
    assert "README.md" in PAGES
    assert len(PAGES) > 5
    readme = PAGES["README.md"].read_text(encoding="utf-8")
    assert any(block.run for block in examples.blocks(readme))


def test_every_python_block_of_a_page_is_seen():
    for page in PAGES.values():
        text = page.read_text(encoding="utf-8")
        seen = [b for b in examples.blocks(text) if f"```python\n{b.source}```" in text]
        assert len(seen) == text.count("```python"), page.name


EXAMPLE = """# A page

```python
>>> await memory.state.put("k", 1)
StateEntry(key='k', {}, ...)
```
"""


def _run(page, url):
    with Program("a page", url, asynchronous=True) as program:
        for block in examples.blocks(page):
            program.execute(block)


def test_a_wrong_result_is_noticed(database_url):
    _run(EXAMPLE.format("value=1"), database_url)
    with pytest.raises(Wrong, match="a page, line 4"):
        _run(EXAMPLE.format("value=2"), database_url)


def test_a_failing_example_is_noticed(database_url):
    with pytest.raises(NameError):
        _run("```python\nno_such_name\n```\n", database_url)


def test_an_error_that_does_not_come_is_noticed(database_url):
    page = "```python\n>>> 1\nTraceback (most recent call last):\nValueError: no\n```\n"
    with pytest.raises(Wrong):
        _run(page, database_url)


def test_given_code_runs_and_the_rest_of_a_comment_does_not(database_url):
    page = "<!-- given\nname = 7\n-->\n<!-- 1/0 -->\n```python\n>>> name\n7\n```\n"
    _run(page, database_url)
    assert [block.line for block in examples.blocks(page)] == [2, 6]


def test_what_a_block_prints_is_compared(database_url):
    page = "```python\nprint(7)\n```\n\n<!-- prints -->\n```text\n{}\n```\n"
    _run(page.format(7), database_url)
    with pytest.raises(Wrong, match="a page, line 7"):
        _run(page.format(8), database_url)


def test_docstrings_of_both_forms_are_the_same_examples():
    generated = {n: t for n, t in DOCSTRINGS.items() if n.startswith("pgmem._sync.")}
    written = [t for n, t in DOCSTRINGS.items() if n not in generated and examples.is_async(t)]
    assert not any(map(examples.is_async, generated.values()))
    assert len(written) <= len(generated)
    assert sum(len(t.examples) for t in written) > 10
    assert all(isinstance(test, doctest.DocTest) for test in DOCSTRINGS.values())
