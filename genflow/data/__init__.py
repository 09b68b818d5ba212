"""Data sets: digits and 2-D toy densities. This page lists them; it imports no torch."""

from __future__ import annotations

from genflow.registry import Entry


def _toy(name: str, target: str, summary: str, density: bool) -> Entry:
    known = "exact log_prob" if density else "no closed-form density"
    return Entry(name, f"genflow.data.toy:{target}", f"2-D: {summary} ({known})", tags={"kind": "toy"})


CATALOG = [
    Entry(
        "digits",
        "genflow.data.digits:Digits",
        "1,797 handwritten digits, 8x8, 17 grey levels; fixed split of 1,297 to train and 500 to test",
        "scikit-learn load_digits; Alpaydin & Kaynak 1998, UCI",
        tags={"kind": "images", "levels": 17},
    ),
    _toy("eight_gaussians", "EightGaussians", "eight Gaussians on a circle", True),
    _toy("checkerboard", "Checkerboard", "uniform on the dark squares of a board", True),
    _toy("two_moons", "TwoMoons", "two noisy half circles", False),
    _toy("swiss_roll", "SwissRoll", "a noisy spiral", False),
    _toy("heart", "Heart", "uniform inside a heart", True),
    _toy("uniform_disk", "UniformDisk", "uniform inside a disk", True),
    _toy("gaussian_mixture", "GaussianMixture", "Gaussians of given means, scales and weights", True),
    _toy("cauchy", "Cauchy", "the multivariate Cauchy", True),
]
