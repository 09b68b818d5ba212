"""Solvers: from a field and a start to a solution, with an exact count. This page lists them; it imports no torch."""

from __future__ import annotations

from genflow.registry import Entry

ENDS = {
    "none": "the state at the last time, with the noise that it has; the last step of an SDE solver adds none",
    "mean": "E[X given x_t] at the last time, for one call of the budget: no noise is left",
    "zero": "the same as the solver's own last step, to no noise at all, as EDM's published sampler ends; only where "
    "steps take several calls does it differ from mean: they run down to the last time",
    "published": "as the process's paper or its code does: zero, mean or none",
}
"""How a path may end: the option `end` of every solver. Beside it, `end_noise` is the noise at which it ends."""

FRAMES = {
    "native": "x_t and the process's own time",
    "sigma": "x_t/a and σ = b/a, which are the same on every path with one base; the calls are those of the same times",
}
"""Where a fixed-step solver takes its steps: the option `frame`; see `genflow.solver.frames`."""

SHARED_OPTIONS = {"end": "str", "end_noise": "float | str | None"}
"""Options that every solver takes beside its own, with their types: those of `genflow.solver.ending.Ending`."""

STEP_OPTIONS = {"frame": "str"}
"""Those of solvers that take their steps on a given grid."""

_DATA = ("data", "affine")
_SCORE = ("score", "affine")

CATALOG = [
    Entry(
        "euler",
        "genflow.solver.ode:Euler",
        "order 1, one call a step",
        tags={"mode": "ode", "order": 1, "budget": True},
    ),
    Entry(
        "heun",
        "genflow.solver.ode:Heun",
        "order 2 (improved Euler), two calls a step, one on the last; an even budget has one on the last two",
        tags={"mode": "ode", "order": 2, "budget": True},
    ),
    Entry(
        "midpoint",
        "genflow.solver.ode:Midpoint",
        "order 2, two calls a step; an odd budget ends on an Euler step",
        tags={"mode": "ode", "order": 2, "budget": True},
    ),
    Entry(
        "rk4",
        "genflow.solver.ode:RK4",
        "order 4, four calls a step; a budget's last one to four calls are steps of two and one",
        "Kutta 1901",
        tags={"mode": "ode", "order": 4, "budget": True},
    ),
    Entry(
        "ddim",
        "genflow.solver.ode:DDIM",
        "order 1, posterior means held fixed over a step; one call a step; eta above 0 adds noise",
        "Song, Meng & Ermon 2021, arXiv:2010.02502",
        tags={"mode": "ode", "order": 1, "budget": True},
    ),
    Entry(
        "ab2",
        "genflow.solver.multistep:AB2",
        "order 2 (Adams–Bashforth on uneven grids), one call a step",
        tags={"mode": "ode", "order": 2, "budget": True},
    ),
    Entry(
        "ab3",
        "genflow.solver.multistep:AB3",
        "order 3 (Adams–Bashforth on uneven grids), one call a step; the first takes two where the budget allows",
        tags={"mode": "ode", "order": 3, "budget": True},
    ),
    Entry(
        "ab4",
        "genflow.solver.multistep:AB4",
        "order 4 (Adams–Bashforth on uneven grids), one call a step; the first three take more where the budget allows",
        tags={"mode": "ode", "order": 4, "budget": True},
    ),
    Entry(
        "deis",
        "genflow.solver.multistep:DEIS",
        "order 3 (tAB2: a polynomial in time through noise means, all else exact), one call a step; order=3 gives 4",
        "Zhang & Chen 2022, arXiv:2204.13902",
        tags={"mode": "ode", "order": 3, "budget": True, "needs": _DATA},
    ),
    Entry(
        "dpmpp_2m",
        "genflow.solver.dpm:DPMpp2M",
        "order 2 in log(a/b), from posterior means, one call a step; lower where a step is long",
        "Lu et al. 2022, arXiv:2211.01095",
        tags={"mode": "ode", "order": 2, "budget": True, "needs": _DATA},
    ),
    Entry(
        "dpmpp_3m",
        "genflow.solver.dpm:DPMpp3M",
        "order 3 in log(a/b), from posterior means, one call a step; lower where a step is long",
        "Lu et al. 2022, arXiv:2211.01095",
        tags={"mode": "ode", "order": 3, "budget": True, "needs": _DATA},
    ),
    Entry(
        "unipc",
        "genflow.solver.dpm:UniPC",
        "order 3 in log(a/b), predictor and corrector from posterior means, one call a step",
        "Zhao et al. 2023, arXiv:2302.04867",
        tags={"mode": "ode", "order": 3, "budget": True, "needs": _DATA},
    ),
    Entry(
        "rk45",
        "genflow.solver.adaptive:RK45",
        "order 5(4), steps chosen per sample by tolerance; its NFE is a result",
        "Dormand & Prince 1980",
        tags={"mode": "ode", "order": 5, "budget": False, "batch_options": {"control": "batch"}},
    ),
    Entry(
        "rk23",
        "genflow.solver.adaptive:RK23",
        "order 3(2), steps chosen per sample by tolerance; its NFE is a result",
        "Bogacki & Shampine 1989",
        tags={"mode": "ode", "order": 3, "budget": False, "batch_options": {"control": "batch"}},
    ),
    *(
        Entry(
            f"torchdiffeq/{method}",
            "genflow.solver.backends:TorchDiffEq",
            f"{method} of torchdiffeq, order {order}, one sample at a time",
            "Chen 2018",
            preset={"method": method},
            tags={"mode": "ode", "order": order, "budget": False},
        )
        for method, order in {"dopri5": 5, "dopri8": 8, "bosh3": 3, "adaptive_heun": 2}.items()
    ),
    *(
        Entry(
            f"scipy/{method}",
            "genflow.solver.backends:Scipy",
            f"{method} of scipy, order {order}{extra}, one sample at a time",
            "Virtanen et al. 2020",
            preset={"method": method},
            tags={"mode": "ode", "order": order, "budget": False},
        )
        for method, order, extra in (
            ("RK45", 5, ""),
            ("DOP853", 8, ""),
            ("RK23", 3, ""),
            ("LSODA", 12, " at most, implicit where stiff"),
            ("BDF", 5, " at most, implicit"),
            ("Radau", 5, ", implicit"),
        )
    ),
    Entry(
        "euler_maruyama",
        "genflow.solver.sde:EulerMaruyama",
        "weak and strong order 1 (the noise is additive), one call a step; needs a score",
        tags={"mode": "sde", "order": 1, "budget": True, "needs": ("sde",)},
    ),
    Entry(
        "heun_sde",
        "genflow.solver.sde:HeunSDE",
        "weak order 2, strong order 1, two calls a step, one on the last; needs a score",
        "Kloeden & Platen 1992",
        tags={"mode": "sde", "order": 2, "budget": True, "needs": ("sde",)},
    ),
    Entry(
        "sde_dpmpp_2m",
        "genflow.solver.dpm:SDEDPMpp2M",
        "weak order 2 in log(a/b), from two posterior means, noise exact, one call a step; needs a score",
        "Lu et al. 2022, arXiv:2211.01095",
        tags={"mode": "sde", "order": 2, "budget": True, "needs": ("sde", *_DATA)},
    ),
    Entry(
        "sde_dpmpp_3m",
        "genflow.solver.dpm:SDEDPMpp3M",
        "weak order 2 in log(a/b), from three posterior means, noise exact, one call a step; needs a score",
        "Lu et al. 2022, arXiv:2211.01095",
        tags={"mode": "sde", "order": 2, "budget": True, "needs": ("sde", *_DATA)},
    ),
    Entry(
        "ddim_sde",
        "genflow.solver.ode:DDIM",
        "ddim with noise, eta = 1 unless given: then ancestral with posterior variance; one call a step; needs a score",
        "Song, Meng & Ermon 2021, arXiv:2010.02502",
        preset={"eta": 1.0},
        tags={"mode": "sde", "order": 1, "budget": True, "needs": _SCORE},
    ),
    Entry(
        "edm_churn",
        "genflow.solver.churn:EDMChurn",
        "noise added before each step of Heun's in b/a, two calls a step, one on the last; needs a score",
        "Karras et al. 2022, arXiv:2206.00364",
        tags={"mode": "sde", "order": 2, "budget": True, "needs": ("sde", *_DATA)},
    ),
    Entry(
        "reverse_diffusion",
        "genflow.solver.predictor:ReverseDiffusion",
        "weak and strong order 1, the discrete forward chain reversed, one call a step; needs a score",
        "Song et al. 2021, arXiv:2011.13456",
        tags={"mode": "sde", "order": 1, "budget": True, "needs": _SCORE},
    ),
    Entry(
        "ancestral",
        "genflow.solver.predictor:Ancestral",
        "weak and strong order 1, the mean of x_s given x_t, one call a step; needs a score",
        "Ho, Jain & Abbeel 2020, arXiv:2006.11239",
        tags={"mode": "sde", "order": 1, "budget": True, "needs": _SCORE},
    ),
    Entry(
        "pc",
        "genflow.solver.predictor:PredictorCorrector",
        "a reverse step and n_steps of Langevin dynamics at every time, 1 + n_steps calls; needs a score",
        "Song et al. 2021, arXiv:2011.13456",
        tags={
            "mode": "sde",
            "order": 1,
            "budget": True,
            "needs": ("sde", *_SCORE),
            "batch_options": {"norms": "batch"},
        },
    ),
    *(
        Entry(
            f"torchsde/{method}",
            "genflow.solver.backend_sde:TorchSDE",
            f"{method} of torchsde, strong order {order:g}, {calls} a step; needs a score",
            "Li et al. 2020, arXiv:2001.01328",
            preset={"method": method},
            tags={"mode": "sde", "order": order, "budget": True, "needs": ("sde",)},
        )
        for method, order, calls in (
            ("euler", 1, "one call"),
            ("milstein", 1, "one call"),
            ("srk", 1.5, "two calls"),
            ("euler_heun", 1, "one call"),
            ("heun", 1, "two calls"),
            ("midpoint", 1, "two calls"),
        )
    ),
]
