"""YAML 1.2's core schema, and what this reader refuses of YAML."""

from __future__ import annotations

import math

import pytest

from meter_mw.policy.problems import Mark
from meter_mw.policy.yaml12 import DEEPEST, LARGEST_BYTES, Entries, Items, Node, Scalar, parse, plain


def read(text: str | bytes, private: str | None = None) -> tuple[Node | None, list[tuple[str, str, Mark]]]:
    problems: list[tuple[str, str, Mark]] = []

    def complain(message: str, path: str, at: Mark) -> None:
        problems.append((message, path, at))

    return parse(text.encode() if isinstance(text, str) else text, complain, private=private), problems


def value(node: Node | None) -> object:
    match node:
        case Scalar():
            return node.value
        case Items():
            return [value(each) for each in node.nodes]
        case Entries():
            return {name.text: value(each) for name, each in node.pairs}
    return None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None), ("~", None), ("null", None), ("NULL", None), ("nULL", "nULL"),
        ("true", True), ("True", True), ("FALSE", False), ("tRUE", "tRUE"),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("=", "="), ("<<", "<<"),
        ("0", 0), ("-0", 0), ("7", 7), ("+7", 7), ("-7", -7), ("0x1F", 31), ("0o17", 15),
        ("9" * 30, int("9" * 30)),
        ("010", "010"), ("-010", "-010"), ("0b11", "0b11"), ("1_000", "1_000"), ("12:30", "12:30"),
        ("9" * 65, "9" * 65),
        ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("1.5E-1", 0.15), ("01.5", "01.5"), ("1e999", math.inf),
        (".inf", math.inf), ("-.INF", -math.inf), ("+.Inf", math.inf), ("-.nan", "-.nan"),
        ("2026-01-31", "2026-01-31"),
    ],
)  # fmt: skip
def test_scalars_of_the_core_schema(text: str, expected: object) -> None:
    assert plain(text) == expected
    assert type(plain(text)) is type(expected)


def test_not_a_number_is_one() -> None:
    assert isinstance(found := plain(".NaN"), float)
    assert math.isnan(found)


def test_quoted_scalars_are_text() -> None:
    node, problems = read("[\"1\", '010', 'true', \"\"]")
    assert value(node) == ["1", "010", "true", ""]
    assert not problems


def test_names_are_text_whatever_they_look_like() -> None:
    assert value(read("{no: 1, 2026: 2, true: 3, ~: 4, 010: 5}")[0]) == {
        "no": 1, "2026": 2, "true": 3, "~": 4, "010": 5,
    }  # fmt: skip


def test_names_and_values_keep_their_places() -> None:
    node, _ = read("a: 1\nb:\n  - x\n  - {c: y}\n")
    assert isinstance(node, Entries)
    (a, one), (b, items) = node.pairs
    assert (a.at, one.at, b.at, items.at) == (Mark(1, 1), Mark(1, 4), Mark(2, 1), Mark(3, 3))
    assert isinstance(items, Items)
    mapping = items.nodes[1]
    assert isinstance(mapping, Entries)
    assert (mapping.pairs[0][0].at, mapping.pairs[0][1].at) == (Mark(4, 6), Mark(4, 9))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_kind_count_once(end: str) -> None:
    _, problems = read(end.join(["a: 1", "b: 2", "c: *x", ""]))
    assert problems == [("found an alias (*); write the value out", "c", Mark(3, 4))]


def test_byte_order_mark_is_passed_over() -> None:
    node, problems = read(b"\xef\xbb\xbfa: 1")
    assert (value(node), problems) == ({"a": 1}, [])


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        ("\xff".encode("utf-16"), "UTF-16", Mark(1, 1)),
        (b"a: 1\nb: \xff", "not UTF-8", Mark(2, 4)),
        ("a: \x00", "U+0000", Mark(1, 4)),
        ("a: 1\u2028b", "U+2028", Mark(1, 5)),
        ("a:\n\tb: 1", "found a tab", Mark(2, 1)),
        ('a: "\\U00110000"', "an escape", Mark(1, 8)),
        ("? {a: b}\n: c", "a list or a mapping where a name", Mark(2, 3)),
        ("a: 1\n--- \nb: 2", "a second document", Mark(2, 1)),
        ("%YAML 2.0\n---\na", "%YAML", Mark(1, 1)),
        ("%YAML 1." + "9" * 5000 + "\n---\na", "a number", Mark(1, 1)),
        ("[" * (DEEPEST + 1), "more than 20 levels", Mark(1, DEEPEST + 1)),
        ("[" * 3000, "more than 20 levels", Mark(1, DEEPEST + 1)),
        ("- " * 3000, "more than 20 levels", Mark(1, 2 * DEEPEST + 1)),
        (b" " * (LARGEST_BYTES + 1), "at most 1048576", Mark(1, 1)),
        ("a: 'x\n\ny", "no end of this quoted text", Mark(1, 4)),
        ("a: {b: [1", "no end of this list", Mark(1, 8)),
    ],
)
def test_what_cannot_be_read_is_one_problem_with_its_place(text: str | bytes, message: str, at: Mark) -> None:
    node, problems = read(text)
    assert node is None
    assert len(problems) == 1
    assert message in problems[0][0]
    assert problems[0][2].line == at.line
    if "escape" not in message and "number" not in message and "name" not in message:
        assert problems[0][2] == at


def test_twenty_levels_are_read() -> None:
    assert read("[" * DEEPEST + "]" * DEEPEST)[1] == []


def test_reading_goes_on_after_what_is_refused() -> None:
    node, problems = read("a: &x 1\nb: *x\n<<: {c: 1}\na: 2\nd: !!int 3\n")
    assert [message.partition(";")[0] for message, _, _ in problems] == [
        "found an anchor (&), which nothing may refer to",
        "found an alias (*)",
        "found a merge key (<<)",
        'found "a" twice in one mapping, first on line 1',
        "found a tag (!)",
    ]
    assert value(node) == {"a": 1, "b": None, "d": "3"}


def test_quoted_merge_key_is_a_name_like_others() -> None:
    assert read('"<<": 1')[1] == []


def test_empty_documents_are_nothing() -> None:
    for text in ("", "\n\n", "# only", "---\n"):
        node, problems = read(text)
        assert isinstance(node, Scalar)
        assert (node.value, problems) == (None, [])


def test_no_name_is_quoted_where_secrets_may_stand() -> None:
    text = "keys: {canary: 1, canary: 2}"
    assert "canary" in read(text)[1][0][0]
    assert "canary" not in str(read(text, "keys")[1])
    assert "canary" not in str(read("[{canary: *canary, canary: 2}]", "")[1])


def test_nodes_do_not_show_what_they_hold() -> None:
    assert "canary" not in repr(read("canary: [canary, {canary: canary}]")[0])


def test_a_document_of_nothing_but_problems_is_given_up() -> None:
    node, problems = read("[" + "*a," * 5000 + "]")
    assert node is None
    assert len(problems) == 1001
