"""`genflow` and `python -m genflow`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line."""
    from genflow.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
