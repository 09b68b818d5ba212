"""How long the first command of the README takes, how long it takes again, and how long the help takes.

    python benchmarks/main_command.py

Runs in a folder of its own. Bars on two CPU cores: 6 minutes, 2 seconds, 0.3 seconds. `genflow --help` is the
median of nine runs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

COMMAND = [sys.executable, "-m", "genflow", "bench", "--process", "pfgm,vp_ode", "--backbone", "ncsnv2"]


def seconds(command: list[str], folder: str) -> float:
    """Wall time of a command that must succeed."""
    start = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def main() -> int:
    from common import verdict

    with tempfile.TemporaryDirectory() as folder:
        first = seconds(COMMAND, folder)
        again = statistics.median(seconds(COMMAND, folder) for _ in range(3))
    shown = statistics.median(seconds([sys.executable, "-m", "genflow", "--help"], ".") for _ in range(9))
    held = [
        verdict("first run, minutes", first / 60, 6.0),
        verdict("same command again, seconds", again, 2.0),
        verdict("share of the first run", again / first, 0.02),
        verdict("genflow --help, seconds", shown, 0.3),
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
