"""Statements in the server's own form. No server."""

from psycopg.adapt import PyFormat

from pgmem.core.libpq import compile_statement


def test_each_name_gets_one_number_in_order_of_appearance():
    statement = compile_statement(b"SELECT %(b)s, %(a)s WHERE x = %(b)s")
    assert statement.query == b"SELECT $1, $2 WHERE x = $1"
    assert statement.names == ("b", "a")


def test_a_doubled_percent_sign_is_one():
    assert compile_statement(b"SELECT 5 %% 2, %(a)s").query == b"SELECT 5 % 2, $1"


def test_the_format_of_a_placeholder_is_kept():
    statement = compile_statement(b"SELECT %(a)b, %(b)t, %(c)s")
    assert statement.formats == (PyFormat.BINARY, PyFormat.TEXT, PyFormat.AUTO)
