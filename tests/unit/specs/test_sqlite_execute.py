"""sqlite.execute on files as programs really make them: what is shown is what is written, and can be taken back."""

from __future__ import annotations

import pytest

from tests.outside_steps import Effect, Shop

PRICES = (
    "CREATE TABLE price (item TEXT PRIMARY KEY, cents INTEGER NOT NULL, note TEXT)",
    "INSERT INTO price VALUES ('tea', 250, NULL), ('milk', 120, 'cold'), ('salt', 90, '')",
)


def test_an_update_is_shown_as_rows_and_applied_and_taken_back() -> None:
    shop = Shop.of(*PRICES)
    was = shop.data
    effect = shop.plan("UPDATE price SET cents = cents + ? WHERE item <> 'salt'", 10)
    assert effect == Effect(
        {
            "price/milk": '"item" text = "milk"\n"cents" integer = "120"\n"note" text = "cold"\n',
            "price/tea": '"item" text = "tea"\n"cents" integer = "250"\n"note" null = null\n',
        },
        {
            "price/milk": '"item" text = "milk"\n"cents" integer = "130"\n"note" text = "cold"\n',
            "price/tea": '"item" text = "tea"\n"cents" integer = "260"\n"note" null = null\n',
        },
    )
    shop.done("rehearse", effect)
    shop.done("apply", effect)
    assert shop.data != was
    assert shop.rows("SELECT item, cents FROM price ORDER BY item") == [("milk", 130), ("salt", 90), ("tea", 260)]
    shop.done("undo", effect.back)
    assert shop.rows("SELECT item, cents FROM price ORDER BY item") == [("milk", 120), ("salt", 90), ("tea", 250)]
    assert shop.step("apply", effect=effect.back).code == 5


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO price VALUES ('rye', 1, 'x')",
        "DELETE FROM price",
        "DELETE FROM price WHERE item = 'tea'",
        "UPDATE price SET item = item || '!'",
        "REPLACE INTO price VALUES ('tea', 1, 'x')",
        "INSERT INTO price VALUES ('tea', 1, 'x') ON CONFLICT DO UPDATE SET cents = excluded.cents RETURNING *",
        "UPDATE price SET cents = n FROM (SELECT 'tea' AS i, 5 AS n) WHERE item = i",
        "WITH x(a) AS (VALUES ('rye'), ('oat')) INSERT INTO price SELECT a, length(a), NULL FROM x",
        'INSERT INTO price SELECT value, 1, NULL FROM json_each(\'["rye", "oat"]\')',
        "-- why\n/* and how */ UPDATE price SET note = NULL;",
        "UPDATE price SET cents = cents",
        "UPDATE OR IGNORE price SET item = 'tea'",
    ],
)
def test_statements_of_all_kinds(sql: str) -> None:
    Shop.of(*PRICES).round_trip(sql)
