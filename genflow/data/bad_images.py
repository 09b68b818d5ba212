"""What is done about images that cannot be used."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from genflow.checks import is_count, require
from genflow.data.downloads import DataError
from genflow.data.sources import BadImageError


@dataclass
class BadImages:
    """What is done about images that cannot be used, and those found so far.

    Arguments:
        action: "stop" ends with the image's name; "skip" counts it, says the first one, and goes on without it.
        limit: Most images that are skipped.
    """

    action: str = "stop"
    limit: int = 100
    reasons: dict[str, str] = field(default_factory=dict, init=False)
    """Why each skipped image cannot be used, by title."""

    def __post_init__(self) -> None:
        require(
            "images",
            {
                "on_bad_image": (self.action, self.action in ("stop", "skip"), "'stop' or 'skip'"),
                "bad_limit": (self.limit, is_count(self.limit, least=0), "a whole number of at least 0"),
            },
        )

    def add(self, title: str, error: BadImageError) -> None:
        """Counts an image, or ends.

        Raises:
            DataError: The action is "stop", or the limit is reached.
        """
        if self.action == "stop":
            raise DataError(f"{title} {error}; repair or remove it, or give on_bad_image=skip") from error
        if not self.reasons:
            print(f"genflow: skipping {title}, which {error}; further bad images are counted", file=sys.stderr)
        self.reasons[title] = str(error)
        if len(self.reasons) > self.limit:
            first = next(iter(self.reasons))
            raise DataError(
                f"more than bad_limit = {self.limit} images cannot be used: the first is {first}, "
                f"the last {title}, which {error}"
            ) from error
