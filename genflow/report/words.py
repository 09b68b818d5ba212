"""Words that several parts of a report share."""

FLOOR = "real test split"
"""First cell of a table's row that measures real data, unless its metric's floor is of other data."""

REAL_DATA = "real data"
"""The same where the metric's own words are not at hand."""


def is_floor(name: str) -> bool:
    """Whether a table's row that begins so measures real data."""
    return name.startswith("real ")


WORDS = (
    "process",
    "solver",
    "metric",
    "backbone",
    "reason",
    "key",
    "from",
    "where",
    "best mean",
    "next",
    "verdict",
)
"""Columns of words, set to the left and sorted by letters."""
