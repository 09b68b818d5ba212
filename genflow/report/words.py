"""Words that several parts of a report share."""

FLOOR = "real test split"
"""First cell of a table's row that measures real data."""

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
