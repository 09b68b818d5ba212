"""What the benchmark scripts share: interleaved timing, and a line that says whether a bar is held."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch


def interleaved(
    runs: int,
    *functions: Callable[[], object],
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Seconds of each function, `runs` times in turn A B A B ..., so that a machine's drift meets all alike."""
    times: list[list[float]] = [[] for _ in functions]
    for i in range(runs + warm_up):
        for k, function in enumerate(functions):
            start = clock()
            function()
            if i >= warm_up:
                times[k].append(clock() - start)
    return times


def ratio(top: list[float], bottom: list[float]) -> float:
    """Median of the pairwise ratios top/bottom."""
    return statistics.median(a / b for a, b in zip(top, bottom, strict=True))


def verdict(what: str, value: float, bar: float, at_most: bool = True) -> bool:
    """Prints a line and returns whether the bar is held."""
    held = value <= bar if at_most else value >= bar
    print(f"{'held  ' if held else 'MISSED'} {what}: {value:.3g} (bar: {'at most' if at_most else 'at least'} {bar:g})")
    return held


def spread(top: list[float], bottom: list[float]) -> str:
    """Range of the pairwise ratios top/bottom."""
    pairs = sorted(a / b for a, b in zip(top, bottom, strict=True))
    return f"{pairs[0]:.2f} to {pairs[-1]:.2f}"


def about() -> None:
    """Prints where the figures are from."""
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
