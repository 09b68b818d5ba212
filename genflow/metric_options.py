"""Options of the metrics that have a section of their own. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from genflow.shared_options import option


@dataclass(frozen=True)
class NormConfig:
    """The norm–z study."""

    factors: tuple[float, ...] = option(
        (0.5, 0.8, 1.0, 1.25, 2.0), "factors by which |x| is pushed off mid-way", above=0
    )
    level: float = option(1.0, "mid-way: noise to signal ratio at which the norm is pushed", above=0)
    nfe: int = option(20, "backbone calls per sample of the pushed paths", least=2)
    solver: str = option("heun", "fixed-step solver of the pushed paths")


@dataclass(frozen=True)
class LikelihoodConfig:
    """bits/dim."""

    examples: int = option(500, "test examples (all where there are fewer)", least=2)
    rtol: float = option(1e-3, "relative tolerance of rk45", above=0, below=1)
    atol: float = option(1e-3, "absolute tolerance of rk45, data units", above=0)
