"""Words that several parts of a report share."""

REAL_SPLIT = "real test split"
"""First cell of a row that measures real data, unless its metric takes another split."""

REAL_DATA = "real data"
"""The same where the metric is not known."""


def is_real(name: str) -> bool:
    """Whether a table's row with this first cell measures real data."""
    return name.startswith("real ")


WORDS = (
    *("process", "solver", "metric", "backbone", "reason", "key"),
    *("from", "where", "best mean", "next", "verdict"),
)
"""Columns of words, aligned left and sorted alphabetically."""
