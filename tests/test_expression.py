"""Conditions in SQL: what they select, and what they refuse."""

import polars as pl
import pytest

from genrec_cli.data.expression import matches
from genrec_cli.errors import UsageError

ITEMS = pl.DataFrame(
    {
        "raw_id": ["a", "b", "c"],
        "price": [5, 50, None],
        "category": [["lens"], ["lens", "film"], []],
        "brand": ["x", "y", "x"],
    },
    schema_overrides={"category": pl.List(pl.String)},
)


@pytest.mark.parametrize(
    "text, chosen",
    [
        ("price < 20", [True, False, False]),
        ("price < 20 or brand = 'x'", [True, False, True]),
        ("array_contains(category, 'film')", [False, True, False]),
        ("brand in ('y', 'z')", [False, True, False]),
        ("brand like 'x%' and price is null", [False, False, True]),
        ("upper(brand) = 'Y' or round(price) = 5", [True, True, False]),
    ],
)
def test_a_condition_selects_rows(text, chosen):
    assert matches(ITEMS, text).to_list() == chosen


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "it takes 1 to 2,000"),
        ("price <", "not an SQL expression"),
        ("select 1", "has the word 'select'"),
        ("brand in (SELECT a FROM read_csv('/etc/passwd'))", "has the word 'SELECT'"),
        ("price < 1 or " * 1000 + "price < 2", "it takes 1 to 2,000"),
        ("price < 20; drop table items", "not an SQL expression"),
        ("read_csv('/etc/passwd') = 'x'", "has the word 'read_csv'"),
        ("__import__('os')", "not an SQL expression"),
        ("prize < 20", "Did you mean 'price'"),
        ("price >= avg(price)", "uses an aggregate"),
        ("1 = 1", "names no column"),
        ("price", "gives Int64"),
        ("price = 'cheap'", "cannot be computed"),
        ("category = 'lens'", "cannot be computed"),
        ("unnest(category) = 'lens'", "only expressions over the columns of one row"),
    ],
)
def test_another_text_is_one_clear_error(text, said):
    with pytest.raises(UsageError) as raised:
        matches(ITEMS, text)
    assert said in raised.value.message and "--where" in raised.value.message and "\n" not in raised.value.message


def test_the_hint_for_lists_names_the_function():
    with pytest.raises(UsageError) as raised:
        matches(ITEMS, "category = 'lens'")
    assert "array_contains(category" in str(raised.value.hint)
