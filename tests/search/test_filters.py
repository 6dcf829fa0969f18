"Random filters mean the same in SQLite as in plain Python, and no typed text reaches a database unparsed."

import json
import random
import re
import sqlite3

import pytest
from error_sentence import sentence

from fashionern.search.stores.filters import MAX_CHARACTERS, MAX_LEVELS, And, Compare, In, Like, Missing, Not, Or, columns_of, parse_filter, to_milvus, to_sql  # noqa: E501

NAMES = ("gender", "price", "base colour", 'a"b', "in", "größe")
TEXTS = (
    "",
    "Men",
    "men",
    "Women",
    "12",
    "a_b",
    "axb",
    "50%",
    "x*y",
    "[a]",
    "a?",
    "Levi's",
    'say "hi"',
    "back\\slash",
    "日本",
    "\U0001f600",
    "two\nlines",
    "'; drop table photos; --",
)
NUMBERS = (0, 1, -3, 12, 12.5, 0.1, 1e10, -0.25)
PATTERNS = (
    "%",
    "",
    "M%",
    "%en",
    "%e%",
    "a_b",
    "a_%",
    "%*%",
    "[a]%",
    "%?",
    "%\\%",
    "%日%",
    "t%s",
    "%%",
    "50%%",
    "_%",
)
OPS = ("=", "!=", "<", "<=", ">", ">=")


def random_filter(rng: random.Random, level: int = 0):
    "A random tree."
    if level < 4 and rng.random() < 0.55:
        if rng.random() < 0.3:
            return Not(random_filter(rng, level + 1))
        return rng.choice((And, Or))(tuple(random_filter(rng, level + 1) for _ in range(rng.randint(2, 3))))
    column = rng.choice(NAMES)
    value = lambda: rng.choice(rng.choice((TEXTS, NUMBERS)))
    return rng.choice(
        (
            lambda: Compare(column, rng.choice(OPS), value()),
            lambda: In(column, tuple(value() for _ in range(rng.randint(1, 4)))),
            lambda: Like(column, rng.choice(PATTERNS)),
            lambda: Missing(column),
        )
    )()


def as_text(f, rng: random.Random) -> str:
    "The filter as a person might write it, in one of several ways."
    word = lambda w: rng.choice((w, w.upper(), w.title()))
    if isinstance(f, (And, Or)):
        return f" {word('and' if isinstance(f, And) else 'or')} ".join(f"({as_text(part, rng)})" for part in f.parts)
    if isinstance(f, Not):
        return f"{word('not')} ({as_text(f.part, rng)})"
    literal = lambda v: repr(v) if not isinstance(v, str) else "'" + v.replace("'", "''") + "'"
    plain = re.fullmatch(r"[A-Za-z_]\w*", f.column) and f.column != "in" and rng.random() < 0.7
    column = f.column if plain else '"' + f.column.replace('"', '""') + '"'
    gap = rng.choice(("", " ", "\n\t "))
    if isinstance(f, Missing):
        return f"{column} {word('is')} {word('null')}"
    if isinstance(f, Like):
        return f"{column} {word('like')} {literal(f.pattern)}"
    if isinstance(f, In):
        return f"{column} {word('in')}{gap}({f'{gap},'.join(map(literal, f.values))})"
    return f"{column}{gap}{f.op}{gap}{literal(f.value)}"


def compare(op: str, a, b):
    "True, False, or None if a text is ordered against a number."
    if isinstance(a, str) != isinstance(b, str):
        return {"=": False, "!=": True}.get(op)
    return {"=": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op]


def holds(f, columns: dict):
    "True, False or None (unknown), computed in plain Python."
    if isinstance(f, (And, Or)):
        parts = [holds(part, columns) for part in f.parts]
        decisive = isinstance(f, Or)
        if decisive in parts:
            return decisive
        return None if None in parts else not decisive
    if isinstance(f, Not):
        inside = holds(f.part, columns)
        return None if inside is None else not inside
    value = columns.get(f.column)
    if isinstance(f, Missing):
        return value is None
    if value is None:
        return None
    if isinstance(f, In):
        return any(compare("=", value, v) for v in f.values)
    if isinstance(f, Like):
        pattern = ".*".join(map(re.escape, f.pattern.split("%")))
        return bool(re.fullmatch(pattern, value, re.DOTALL)) if isinstance(value, str) else None
    return compare(f.op, value, f.value)


def random_columns(rng: random.Random) -> dict:
    "The columns of a random photo; some are missing, and a column may hold a text or a number."
    return {name: rng.choice(rng.choice((TEXTS, NUMBERS))) for name in NAMES if rng.random() < 0.75}


@pytest.fixture(scope="module")
def table():
    "An in-memory table of 150 photos, their columns, and the SQL of a column."
    rng = random.Random(1)
    rows = [random_columns(rng) for _ in range(150)]
    db = sqlite3.connect(":memory:")
    db.execute("create table photos (id integer, columns text)")
    db.executemany("insert into photos values (?, ?)", [(i, json.dumps(columns)) for i, columns in enumerate(rows)])
    return db, rows, lambda name: f"(select value from json_each(columns) where key = '{name}')"


def test_random_filters_mean_the_same_in_sqlite_and_python(table):
    db, rows, column = table
    rng = random.Random(2)
    sizes = set()
    for _ in range(3000):
        f = random_filter(rng)
        text = as_text(f, rng)
        assert parse_filter(text) == f, text
        sql, values = to_sql(f, column)
        found = [i for (i,) in db.execute(f"select id from photos where {sql} order by id", values)]
        assert found == [i for i, columns in enumerate(rows) if holds(f, columns) is True], text
        sizes.add(len(found))
    assert {0, len(rows)} <= sizes and len(sizes) > 50  # filters of every selectivity, not only ones that match nothing


def test_number_formats():
    for text, value in {
        "12": 12,
        "-3": -3,
        "+4": 4,
        "1.5": 1.5,
        ".5": 0.5,
        "2.": 2.0,
        "1e3": 1000.0,
        "-2.5E-1": -0.25,
        "9" * 30: 1e30,
    }.items():
        found = parse_filter(f"price<{text}")
        assert found == Compare("price", "<", value) and type(found.value) is type(value), text


def test_declared_column_types_do_not_convert_texts_to_numbers(table):
    db = sqlite3.connect(":memory:")
    db.execute("create table t (size text, price real)")
    db.execute("insert into t values ('38', 38)")

    def count(text: str) -> int:
        sql, values = to_sql(parse_filter(text), str)
        return db.execute(f"select count(*) from t where {sql}", values).fetchone()[0]

    assert count("size = '38'") == count("price = 38") == count("size != 38") == count("price not in ('38')") == 1
    assert (
        count("size = 38")
        == count("price = '38'")
        == count("size in (38)")
        == count("size < 40")
        == count("price like '3%'")
        == 0
    )


@pytest.mark.parametrize(
    "evil",
    [
        "' or 1=1 --",
        "'; drop table photos; --",
        '" or 1==1 or "',
        "\\' or 1=1",
        "x' union select 1 --",
        "{a}",
        "?",
        "%s",
        "\\",
        "\n",
        "'' ''",
    ],
)
def test_typed_text_stays_a_value(table, evil):
    db, rows, column = table
    literal = "'" + evil.replace("'", "''") + "'"
    for text in (f"gender = {literal}", f"gender in ({literal}, 'nobody')", f"gender like {literal}"):
        f = parse_filter(text)
        sql, values = to_sql(f, column)
        assert evil == "?" or evil not in sql
        found = [i for (i,) in db.execute(f"select id from photos where {sql} order by id", values)]
        assert found == [i for i, columns in enumerate(rows) if holds(f, columns)]
    assert db.execute("select count(*) from photos").fetchone() == (len(rows),)
    inside = to_milvus(parse_filter(f"gender = {literal}")).removeprefix('(columns["gender"] == ').removesuffix(")")
    assert json.loads(inside) == evil
    try:
        parse_filter(f"gender = '{evil}'")  # quotes not doubled: refused, or parsed as a value
    except Exception as e:
        assert type(e).__name__ == "ErnError"
    message = sentence(to_sql, parse_filter('"a b); drop table photos" = 1'), refuse)
    assert "drop table" in message


def refuse(name: str) -> str:
    "A `column` argument that knows no column."
    from fashionern.errors import ErnError

    raise ErnError(f"There is no column {name!r}.")


def test_column_names_reach_milvus_as_json():
    name = 'x"] == 1 or exists columns["y'
    assert (
        to_milvus(parse_filter('"' + name.replace('"', '""') + '" is not null'))
        == f"(exists columns[{json.dumps(name)}])"
    )
    differs = '((exists columns["x"]) and (columns["x"] != 1))'  # a server cannot parse this without the parentheses
    for text in ("x != 1", "not x = 1", "x not in (1)"):
        assert to_milvus(parse_filter(text)) == differs


@pytest.mark.parametrize(
    "text, position, words",
    [
        ("", 1, "a column"),
        ("   ", 4, "the end"),
        ('gender = "Men"', 10, "a text in single quotes, found the column Men. Write 'Men' for the text"),
        ("gender = Men", 10, "single quotes"),
        ("price = null", 9, "a number or a text"),
        ("gender == 'Men'", 9, "found '='"),
        ("price <", 8, "the end"),
        ("price < 20 and", 15, "a column"),
        ("price < 20 price", 12, "'and', 'or' or the end"),
        ("price < 12abc", 11, "found 'abc'"),
        ("(price < 20", 12, "')'"),
        ("price < 20)", 11, "found ')'"),
        ("a in ()", 7, "a number or a text"),
        ("a in (1 2)", 9, "',' or ')'"),
        ("a not = 1", 7, "'in' or 'like'"),
        ("a is 1", 6, "'null'"),
        ("a like 5", 8, "a text"),
        ("in = 3", 1, "a column"),
        ('"" = 3', 1, "a name"),
        ("a = 'Levi's'", 12, "never closed"),
        ("a = 1; b", 6, "';'"),
        ("a = 1e999", 5, "too large"),
        ("a = 'x\0y'", 7, "not a text character"),
        ("a = '\udc80'", 6, "not a text character"),
        ("a = 1\nand b ~ 2", 13, "'~'"),
    ],
)
def test_errors_name_the_position(text, position, words):
    message = sentence(parse_filter, text)
    assert f"at character {position}:" in message and words in message, message


def test_depth_and_length_are_limited():
    allowed = "(" * MAX_LEVELS + "a = 1" + ")" * MAX_LEVELS
    assert parse_filter(allowed) == Compare("a", "=", 1)
    message = sentence(parse_filter, f"({allowed})")
    assert f"at character {MAX_LEVELS + 2}:" in message and "nested deeper" in message
    assert "nested deeper" in sentence(parse_filter, "not " * 51 + "a = 1")
    assert "nested deeper" in sentence(parse_filter, "(" * 2000)
    assert "4,001 characters" in sentence(parse_filter, "a" * (MAX_CHARACTERS + 1))


def deepest_filters() -> list[str]:
    "Filters of the maximum depth, nested in several ways."
    pairs = MAX_LEVELS // 2
    return [
        "not " * MAX_LEVELS + "price=1",
        "(gender='Men' or (price!=2 and " * pairs + "price<3" + "))" * pairs,
        "(gender='Men' and not " * pairs + "gender like 'M%'" + ")" * pairs,
        "not (gender='Men' or " * pairs + "price<3" + ")" * pairs,
    ]


def test_the_longest_filters_run_in_sqlite(table):
    db, rows, column = table
    for text in (
        " or ".join(["price=1"] * 360),
        f"price in ({','.join(['1'] * 1990)})",
        " and ".join(["price!=1"] * 300),
        *deepest_filters(),
    ):
        f = parse_filter(text)
        sql, values = to_sql(f, column)
        found = [i for (i,) in db.execute(f"select id from photos where {sql} order by id", values)]
        assert found == [i for i, columns in enumerate(rows) if holds(f, columns)] and to_milvus(f)


def test_patterns_that_milvus_does_not_support_are_refused():
    assert "'a_%'" in sentence(to_milvus, parse_filter("x like 'a_%'"))
    assert to_milvus(parse_filter("x like 'a_b'")) == '((columns["x"] == "a_b") and (columns["x"] >= ""))'
    assert to_milvus(parse_filter("x not like 'a%'")) == '((columns["x"] >= "") and (not (columns["x"] like "a%")))'


def test_columns_of_all_conditions():
    f = parse_filter("a = 1 and (b in (2) or not c like 'x') and \"d e\" is not null and not a < 3")
    assert columns_of(f) == {"a", "b", "c", "d e"}
