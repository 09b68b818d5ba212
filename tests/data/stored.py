"""Rows of a data set as its source holds them, for tests that know the source."""


def stored(data, split):
    """Raw examples of a split in the order of its source."""
    return data.split(split)[data.order(split).argsort()]


def stored_labels(data, split):
    """Their classes."""
    return data.labels(split)[data.order(split).argsort()]
