"""Time grids: ends exact, monotone, and each with the property it is named for, found another way."""

import math

import pytest
import torch
from scipy.optimize import brentq

import genflow
from genflow.process.grids import SPACINGS, check_spacing, parse
from genflow.process.paths import SIEncDec, SILinear, SIMirror, SITrig
from genflow.process.poisson import PFGM, PFGMPP
from genflow.process.score_sde import VE, VP, SubVP
from genflow.registry import registries

F64 = torch.float64
AFFINE = [VP(), SubVP(), VE(), SILinear(), SITrig(), SILinear(gamma="brownian"), PFGM(), PFGMPP()]
IDS = [type(p).__name__ for p in AFFINE]
EDM_RATIOS = {
    VP: lambda t: math.sqrt(math.expm1(0.1 * t + 9.95 * t * t)),
    SubVP: lambda t: -math.expm1(-(0.1 * t + 9.95 * t * t)) * math.exp((0.1 * t + 9.95 * t * t) / 2),
    VE: lambda t: 0.01 * 5000**t,
    SILinear: lambda t: (1 - t) / t,
    SITrig: lambda t: 1 / math.tan(math.pi * t / 2),
    PFGM: lambda t: t,
    PFGMPP: lambda t: t,
}
"""σ = b/a of each process, from its formula."""


def ratio_of(process):
    if getattr(process, "gamma", "none") == "brownian":
        return lambda t: math.sqrt((1 - t) ** 2 + t * (1 - t)) / t
    return EDM_RATIOS[type(process)]


def refused(process, spacing):
    """Whether a grid is refused; anything else it raises is an error."""
    try:
        process.grid(5, spacing=spacing)
    except ValueError:
        return True
    return False


@pytest.mark.quick_one_in(13)
@pytest.mark.parametrize("name", registries()["processes"].entries())
@pytest.mark.parametrize("spacing", [*SPACINGS, "edm(1)", "edm(3.5)"])
def test_ends_are_exact_and_times_never_turn(name, spacing):
    process = genflow.get_process(name).for_data(torch.eye(3, dtype=F64))
    if refused(process, spacing):
        by_ratio = spacing.startswith("edm") or spacing == "snr"
        assert (by_ratio and process.why_not("affine")) or (spacing == "log" and process.safe_interval[0] == 0)
        return
    for training in (False, True):
        near_data, near_prior = process.training_interval if training else process.safe_interval
        for steps in (1, 2, 7, 50):
            grid = process.grid(steps, training=training, spacing=spacing)
            assert grid.dtype == F64
            assert (len(grid), float(grid[0]), float(grid[-1])) == (steps + 1, near_prior, near_data)
            assert bool((grid.diff() * (near_data - near_prior) > 0).all())


@pytest.mark.parametrize("process", AFFINE, ids=IDS)
@pytest.mark.parametrize("rho", [1, 7, 3.5])
def test_edm_is_even_in_a_root_of_sigma(process, rho):
    ratio = ratio_of(process)
    roots = torch.tensor([ratio(float(t)) ** (1 / rho) for t in process.grid(12, spacing=f"edm({rho:g})")], dtype=F64)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(12), rtol=1e-6, atol=0)


def test_edm_is_the_published_schedule():
    """σ_i = (σ_max^(1/ρ) + i/(n−1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ with ρ = 7, 0.002 and 80, where time is σ."""
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    want = torch.tensor([(high + i / 17 * (low - high)) ** 7 for i in range(18)], dtype=F64)
    for spacing in ("edm", "edm(7)", "edm(7.0)", " edm "):
        torch.testing.assert_close(PFGMPP().grid(17, spacing=spacing), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("process", AFFINE, ids=IDS)
def test_snr_is_even_in_the_log_ratio(process):
    """Each time is the root, by Brent's method, of the evenly spaced log ratio."""
    ratio, steps = ratio_of(process), 9
    near_data, near_prior = process.safe_interval
    low, high = math.log(ratio(near_data)), math.log(ratio(near_prior))
    for i, t in enumerate(process.grid(steps, spacing="snr").tolist()):
        level = high + i / steps * (low - high)
        if 0 < i < steps:
            root = brentq(
                lambda t, level=level: math.log(ratio(t)) - level, *sorted((near_data, near_prior)), xtol=1e-15
            )
            assert t == pytest.approx(root, rel=1e-8)


@pytest.mark.parametrize("process", [p for p in AFFINE if not isinstance(p, VE)], ids=[i for i in IDS if i != "VE"])
def test_log_is_geometric_in_the_distance_from_the_data(process):
    grid = process.grid(8, spacing="log")
    distance = (grid - process.t_data).abs() if process.t_prior < process.t_data else grid
    steps = distance.log().diff()
    torch.testing.assert_close(steps, steps.mean().expand(8), rtol=1e-9, atol=0)


@pytest.mark.parametrize("process", AFFINE, ids=IDS)
def test_uniform_cosine_and_the_clock(process):
    near_data, near_prior = process.safe_interval
    share = (process.grid(6, spacing="uniform") - near_prior) / (near_data - near_prior)
    torch.testing.assert_close(share, torch.arange(7, dtype=F64) / 6, rtol=0, atol=1e-12)
    share = (process.grid(6, spacing="cosine") - near_prior) / (near_data - near_prior)
    want = torch.tensor([math.sin(math.pi * i / 12) ** 2 for i in range(7)], dtype=F64)
    torch.testing.assert_close(share, want, rtol=0, atol=1e-12)
    clock = process.grid(6).log() if process.clock == "log" else process.grid(6)
    torch.testing.assert_close(clock.diff(), clock.diff().mean().expand(6), rtol=1e-9, atol=0)
    assert torch.equal(process.grid(6), process.grid(6, spacing="process"))


# ---- lists of times --------------------------------------------------------------------------------------


def test_ends_written_with_four_digits_are_the_ends():
    process = genflow.get_process("pfgm")
    near_data, near_prior = process.safe_interval
    grid = process.grid(2, spacing=[float(f"{near_prior:.4g}"), 1.0, float(f"{near_data:.4g}")])
    assert grid.tolist() == [near_prior, 1.0, near_data]
    assert float(f"{near_prior:.4g}") != near_prior
    with pytest.raises(ValueError, match="must begin at"):
        process.grid(2, spacing=[1.01 * near_prior, 1.0, near_data])


def test_explicit_times_are_taken_as_they_are():
    times = [0.001, 0.2, 0.7, 0.999]
    assert SILinear().grid(3, spacing=times).tolist() == times
    assert VP().grid(2, spacing=(1, 0.5, 0.001)).tolist() == [1.0, 0.5, 0.001]
    assert VP().grid(2, spacing=[1.0, 0.5, 0.1]).tolist() == [1.0, 0.5, 0.1]  # it may stop before the data


@pytest.mark.parametrize(
    ("times", "steps", "words"),
    [
        ([1.0, 0.5, 0.001], 3, "3 times, that is 2 steps, but 3"),
        ([0.001, 0.5, 1.0], 2, "do not go from the prior"),
        ([1.0, 0.5, 0.5, 0.001], 3, "do not go from the prior"),
        ([1.0, math.nan, 0.001], 2, "do not go from the prior"),
        ([0.9, 0.5, 0.001], 2, "must begin at t = 1"),
        ([1.0, 0.5, 0.0001], 2, "end at t = 0.001 or before"),
    ],
)
def test_times_that_do_not_fit_are_refused(times, steps, words):
    with pytest.raises(ValueError, match=words):
        VP().grid(steps, spacing=times)


# ---- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spacing", "want"),
    [("edm(7)", ("edm", 7.0)), ("edm", ("edm", 7.0)), ("edm(2.5)", ("edm", 2.5)), ("snr", ("snr", 7.0))],
)  # fmt: skip
def test_names_are_parsed(spacing, want):
    assert parse(spacing) == want
    check_spacing(spacing)


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ("edn", "did you mean 'edm'"),
        ("edm(0)", "above 0"),
        ("edm(-1)", "above 0"),
        ("edm(inf)", "above 0"),
        ("edm(nan)", "above 0"),
        ("edm()", "above 0"),
        ("edm(seven)", "above 0"),
        ("snr(3)", "only edm takes a number"),
        ("", "known"),
        ("edm(7", "known"),
    ],
)
def test_bad_names_are_refused(spacing, words):
    for call in (parse, check_spacing, lambda s: VP().grid(4, spacing=s), lambda s: genflow.get_solver("heun", grid=s)):
        with pytest.raises(ValueError, match=words):
            call(spacing)


@pytest.mark.parametrize("spacing", [[], [1.0], [1.0, math.nan], [1.0, "a"], [1.0, None]])
def test_bad_lists_are_refused_before_any_process_is_known(spacing):
    with pytest.raises(ValueError, match="at least two finite times"):
        check_spacing(spacing)


@pytest.mark.parametrize(
    ("process", "spacing", "words"),
    [
        (VE(), "log", "use uniform"),
        (SIEncDec(), "edm", "no data"),
        (SIEncDec(), "snr", "no data"),
        (SIMirror(), "edm", "does not belong to one time"),
        (SILinear(source="uniform"), "snr", "not an affine path"),
    ],
)
def test_grids_a_process_has_not_are_refused(process, spacing, words):
    with pytest.raises(ValueError, match=words):
        process.grid(40, spacing=spacing)


@pytest.mark.parametrize("spacing", ["edm", "snr", "log", "cosine"])
def test_a_solver_spends_its_budget_on_the_grid_it_was_given(spacing):
    process, seen = VP(), []
    solver = genflow.get_solver("euler", grid=spacing)
    field = process.field(process.oracle(torch.zeros(1, 2, dtype=F64)))
    found = solver.solve(field, torch.ones(3, 2, dtype=F64), nfe=6, observer=lambda x, t: seen.append(t))
    assert found.nfe == 6
    assert seen == process.grid(6, spacing=spacing).tolist()
