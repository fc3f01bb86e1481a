"""Rules choose the keys to import and their names."""

import pytest

from pgmem.errors import InvalidInput
from pgmem.redis.importing.rules import Rule, glob, parse_rules


def name(rules, kind, key, part=""):
    rule = rules.match(kind, key.encode())
    return rule and rule.name(key, part)


def test_everything_by_its_type_unless_something_is_asked_for():
    rules = parse_rules(strings="done")
    assert name(rules, "stream", "orders") == "orders"
    assert name(rules, "hash", "user:1", "mail") == "user:1:mail"
    assert name(rules, "set", "processed:events", "e1") == "processed:events:e1"
    assert name(rules, "string", "once:a") == "once:a"
    assert rules.match("string", b"once:a").only_expiring
    assert rules.match("zset", b"board") is None
    only = parse_rules(streams=["orders"])
    assert name(only, "stream", "orders") == "orders"
    assert only.match("stream", b"others") is None
    assert only.match("hash", b"user:1") is None


def test_the_published_hashes_get_the_keys_of_the_layer():
    rules = parse_rules()
    assert name(rules, "hash", "agent:state", "a:t") == "agent:state:a:t"
    assert rules.match("hash", b"agent:state").values == "json"
    assert name(rules, "hash", "resource:7") == "resource:7"
    assert rules.match("hash", b"resource:7").whole
    assert rules.match("hash", b"resource:7").values == "text"
    # Named without a name for pgmem, they are known all the same; with --hash-as they are not.
    assert parse_rules(hashes=["resource:*"]).match("hash", b"resource:7").whole
    assert not parse_rules(hash_as="fields").match("hash", b"resource:7").whole
    assert parse_rules(hash_as="entry").match("hash", b"agent:state").whole


def test_names_are_templates():
    rules = parse_rules(
        ["in:*=out:{key}", "a\\=b"], ["h=<{field}>"], ["s={member}", "k*=did:{key}"], values="text"
    )
    assert name(rules, "stream", "in:1") == "out:in:1"
    assert rules.match("stream", b"a=b").name("a=b") == "a=b"
    assert name(rules, "hash", "h", "{key}") == "<{key}>"  # what is put in is not looked at again
    assert name(rules, "set", "s", "m") == "m"
    assert rules.match("string", b"s") is None  # {member} is of sets
    assert name(rules, "string", "k1") == "did:k1"
    assert rules.match("set", b"k1") is None
    assert {rule.values for rule in rules.all if rule.kind != "set"} == {"text"}


@pytest.mark.parametrize(
    "options",
    [
        {"streams": ["s={field}"]},
        {"streams": ["=x"]},
        {"streams": ["s="]},
        {"streams": ["[ab"]},
        {"streams": ["[z-a]"]},
        {"excepted": ["bad\udcff"]},
        {"hashes": ["h={member}"]},
        {"dedupe": ["s={key}{field}"]},
    ],
)
def test_an_invalid_rule_is_refused(options):
    with pytest.raises(InvalidInput):
        parse_rules(**options)
    with pytest.raises(InvalidInput, match=r"needs \{member\}"):
        Rule("set", "s", "all")


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a*c", ["ac", "abc", "a\nc"], ["abcd", "xac"]),
        ("a?c", ["abc"], ["ac", "abbc"]),
        ("[a-c]x", ["bx"], ["dx", "x"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("a\\*", ["a*"], ["ab"]),
        ("a.c+", ["a.c+"], ["abc+", "a.cc"]),
        ("[.^]", [".", "^"], ["a"]),
        ("é*", ["é", "éa"], ["e"]),
    ],
)
def test_patterns_are_those_of_redis(source, pattern, yes, no):
    found = glob(pattern)
    for key in (*yes, *no):
        assert bool(found.fullmatch(key.encode())) == (key in yes), key
        source.set(key, 1)
    assert {key.decode() for key in source.scan_iter(pattern)} == set(yes)


def test_a_name_leads_back_to_its_field():
    rule = Rule("hash", "*", "{key}:{field}")
    assert rule.part_of("user:1", "user:1:mail") == "mail"
    assert rule.part_of("user:1", "user:1:") is None
    assert rule.part_of("user:2", "user:1:mail") is None
    odd = Rule("hash", "h", "a{field}a")
    assert odd.part_of("h", "aa") is None
    assert odd.part_of("h", "aba") == "b"
    assert Rule("set", "*", "{member}").part_of("s", "m") == "m"
