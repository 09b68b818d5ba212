"""Bad or degenerate input to every registered process: the right answer or a sentence, never NaN.

A sentence is a ValueError of the package's own; what torch says of a shape is none.
"""

import math
import re

import pytest
import torch

import genflow
from genflow.likelihood import log_likelihood
from genflow.process.distributions import Empirical
from genflow.process.paths import SILinear, SIMirror
from genflow.process.posterior import posterior_mean
from genflow.registry import registries

F64 = torch.float64
NAMES = list(registries()["processes"].entries())
EVERY = pytest.mark.parametrize("name", NAMES)
FREE = {
    "from a box": {"source": "uniform", "gamma": "brownian", "head": "velocity_denoiser", "channels": 2},
    "by transport": {"coupling": "ot", "gamma": "brownian", "head": "velocity_score", "channels": 2},
}


def normal(seed, *shape):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def generator():
    return torch.Generator().manual_seed(0)


def inner(process):
    low, high = process.to_clock(torch.tensor(process.safe_interval, dtype=F64))
    return process.from_clock(low + (high - low) * torch.tensor([0.0, 0.3, 0.63, 1.0], dtype=F64))


def every_answer(process, backbone, x, t):
    """All that a field says at (x, t)."""
    field = process.field(backbone)
    found = [field.velocity(x, t)]
    if not process.why_not("score"):
        found.append(field.score(x, t))
    if not process.why_not("data"):
        found.append(field.data(x, t))
    return found


def processes():
    yield from ((name, genflow.get_process(name)) for name in NAMES)
    yield from ((name, SILinear(**options)) for name, options in FREE.items())


PROCESSES = pytest.mark.parametrize("process", [pytest.param(p, id=n) for n, p in processes()])


# ---- times -----------------------------------------------------------------------------------------------


@PROCESSES
@pytest.mark.parametrize("shape", [(), (3,)])
def test_times_outside_or_not_a_number_are_refused(process, shape):
    process = process.for_data(normal(0, 5, 2))
    x, output = torch.zeros(3, 2, dtype=F64), torch.zeros(3, 2 + process.extra_channels, dtype=F64)
    low, high = sorted(process.training_interval)
    span = high - low
    for bad in (low - 0.01 * span, high + 0.01 * span, math.nan, math.inf, -math.inf):
        t = torch.full(shape, (low + high) / 2, dtype=F64)
        t.view(-1)[-1] = bad
        calls = [process.velocity]
        calls += [process.score] if not process.why_not("score") else []
        calls += [process.data_mean] if not process.why_not("data") else []
        for call in calls:
            with pytest.raises(ValueError, match=r"lies outside the interval of"):
                call(output, x, t)
        with pytest.raises(ValueError, match=r"lies outside the interval|no likelihood"):
            log_likelihood(process, lambda x, c: x, x, t=bad)


@PROCESSES
def test_the_ends_themselves_are_inside(process):
    process = process.for_data(normal(0, 5, 2))
    x, output = normal(1, 3, 2), normal(2, 3, 2 + process.extra_channels)
    for end in (*process.safe_interval, *process.training_interval):
        t = torch.tensor(end, dtype=F64)
        assert bool(process.velocity(output, x, t).isfinite().all())


@pytest.mark.quick_one_in(5)
@PROCESSES
def test_as_many_times_as_samples(process):
    """B equal to the number of entries is no special case: row k belongs to time k."""
    process = process.for_data(normal(0, 5, 2))
    low, high = process.to_clock(torch.tensor(process.safe_interval, dtype=F64))
    t = process.from_clock(low + (high - low) * torch.tensor([0.3, 0.7], dtype=F64))
    x, output = normal(1, 2, 2), normal(2, 2, 2 + process.extra_channels)
    both = process.velocity(output, x, t)
    for k in range(2):
        torch.testing.assert_close(both[k : k + 1], process.velocity(output[k : k + 1], x[k : k + 1], t[k]))
    with pytest.raises(ValueError, match="3 times for 2 samples"):
        process.velocity(output, x, torch.cat([t, t[:1]]))


# ---- shapes and dtypes -----------------------------------------------------------------------------------


@PROCESSES
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_are_no_states(process, dtype):
    """In whole numbers every coefficient below one would be zero."""
    process = process.for_data(normal(0, 5, 2))
    x = torch.ones(3, 2, dtype=dtype)
    with pytest.raises(ValueError, match="floating-point"):
        process.perturb(x, generator=generator())
    t = inner(process)[1]
    with pytest.raises(ValueError, match="floating-point"):
        process.velocity(torch.zeros(3, 2 + process.extra_channels), x, t)


@PROCESSES
def test_half_precision_is_finite(process):
    """Times are float64 whatever the states are, so a small time is not rounded to none."""
    process = process.for_data(normal(0, 5, 2))
    for dtype in (torch.bfloat16, torch.float32):
        pairs = process.perturb(normal(1, 6, 2).to(dtype), generator=generator(), refs=normal(2, 4, 2).to(dtype))
        assert pairs.x_t.dtype == dtype
        assert pairs.t.dtype == F64
        assert bool(pairs.target.isfinite().all())


@EVERY
def test_a_flat_vector_is_no_batch_of_points(name):
    process = genflow.get_process(name)
    with pytest.raises(ValueError, match=r"\(M, \*\)"):
        process.oracle(torch.zeros(4))


# ---- degenerate data -------------------------------------------------------------------------------------


DATA = {
    "one sample": normal(3, 1, 2),
    "one pixel": normal(3, 5, 1),
    "one number": torch.tensor([[0.7]], dtype=F64),
    "one pixel image": normal(3, 5, 1, 1, 1),
    "no variance": torch.full((5, 2), 0.3, dtype=F64),
    "all zero": torch.zeros(5, 2, dtype=F64),
    "duplicates": torch.cat([normal(3, 2, 2)] * 3),
    "far away": 1e6 + normal(3, 4, 2),
}


@pytest.mark.quick_one_in(11)
@EVERY
@pytest.mark.parametrize("kind", DATA)
def test_degenerate_data_give_finite_pairs_and_priors(name, kind):
    data = DATA[kind]
    process = genflow.get_process(name)
    for head in getattr(process, "affine_heads", process.heads)():
        mode = {"mode": "ode"} if head == "velocity" and process.mode == "sde" else {}
        fit = genflow.get_process(name, head=head, **mode).for_data(data)
        again = type(fit)(**fit.config())
        assert again.safe_interval == fit.safe_interval
        pairs = fit.perturb(data, generator=generator(), refs=data)
        assert all(bool(v.isfinite().all()) for v in pairs)
        prior = fit.sample_prior(tuple(data.shape), generator=generator(), dtype=F64)
        assert bool(prior.isfinite().all())
        assert math.isfinite(float(fit.loss(fit.oracle(data), data, generator=generator(), refs=data)))


@pytest.mark.quick_one_in(19)
@EVERY
@pytest.mark.parametrize("kind", DATA)
def test_the_field_of_degenerate_data_is_finite_and_on_a_charge_it_rests(name, kind):
    """At the data's end, exactly on a charge, the posterior mean is the charge itself; duplicates count for nothing."""
    data = DATA[kind]
    process = genflow.get_process(name).for_data(data)
    oracle = process.oracle(data)
    for t in inner(process):
        c = process.at(t, data)
        for x in (c.a * data, c.a * data + c.b * normal(4, *data.shape), 1e3 * c.b * torch.ones_like(data)):
            assert all(bool(v.isfinite().all()) for v in every_answer(process, oracle, x, t))
    near = torch.tensor(process.safe_interval[0], dtype=F64)
    c = process.at(near, data)
    apart = torch.cdist(data.flatten(1), data.flatten(1))
    if float(apart[apart > 1e-9].min() if bool((apart > 1e-9).any()) else 1) > 100 * float(c.b.max()):
        found = posterior_mean(c.a * data, near, data, process)
        torch.testing.assert_close(found, data, rtol=1e-9, atol=1e-6)


@EVERY
def test_duplicates_are_weights(name):
    """A point three times is a point with three times the weight: a (3 : 1) mixture in closed form."""
    points = torch.tensor([[0.5, 0.0], [-0.5, 0.2]], dtype=F64)
    process = genflow.get_process(name).for_data(points)
    x = normal(5, 4, 2)
    for t in inner(process)[1:3]:
        c = process.at(t, x)
        logs = torch.stack([process.base.log_prob((x - c.a * y) / c.b) for y in points], dim=1)
        want = (logs + torch.tensor([3.0, 1.0], dtype=F64).log()).softmax(1) @ points
        found = posterior_mean(x, t, points[[0, 1, 0, 0]], process)
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9)


@pytest.mark.quick_one_in(13)
@EVERY
def test_one_point_is_reached_whatever_the_solver(name):
    """One charge: every sample ends at it, within the noise that the end of the path leaves."""
    data = torch.tensor([[0.4, -0.2]], dtype=F64)
    process = genflow.get_process(name).for_data(data)
    sde = process.mode == "sde" or bool(process.why_not("ode"))
    solver = "euler_maruyama" if sde else "heun"
    x = genflow.sample(process, process.oracle(data), solver, 300, nfe=201, dtype=F64).x
    c = process.at(torch.tensor(process.safe_interval[0], dtype=F64), data)
    radius = process.base.median_radius(2) * float(c.b)
    assert float((x - c.a * data).norm(dim=1).median()) < 3 * radius + 1e-2


# ---- no density ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "process", [SILinear(source=Empirical(DATA["one sample"])), SIMirror().for_data(DATA["duplicates"])]
)
def test_no_density_no_likelihood(process):
    with pytest.raises(ValueError, match=r"no likelihood: .*no density"):
        log_likelihood(process, lambda x, c: x, torch.zeros(2, 2))


@pytest.mark.quick_one_in(13)
@EVERY
def test_likelihood_of_a_single_sample(name):
    """A batch of one row and one pixel, against the same row in a batch of three."""
    process = genflow.get_process(name)
    if process.why_not("likelihood"):
        pytest.skip(process.why_not("likelihood"))
    x = torch.tensor([[0.1], [0.4], [-0.3]], dtype=F64)
    process = process.for_data(x)
    oracle, solver = process.oracle(x), genflow.get_solver("heun")
    t = float(inner(process)[1])
    found = [
        log_likelihood(process, oracle, rows, solver=solver, nfe=61, trace="exact", t=t).log_prob for rows in (x, x[:1])
    ]
    assert bool(found[0].isfinite().all())
    torch.testing.assert_close(found[0][:1], found[1], rtol=1e-9, atol=1e-9)


@PROCESSES
def test_an_empty_or_flat_batch_is_refused(process):
    """No rows: no NaN from a mean over nothing. A vector would be a batch of numbers without entries."""
    process = process.for_data(normal(0, 5, 2))
    for shape in ((0, 2), (4,)):
        with pytest.raises(ValueError, match="at least one"):
            process.perturb(torch.zeros(shape, dtype=F64), generator=generator())


# ---- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("vp_ode", "beta_min", "abc"),
        ("vp_ode", "beta_max", [1]),
        ("vp_ode", "t_min", "abc"),
        ("vp_ode", "t_eps", "abc"),
        ("vp_ode", "levels", "abc"),
        ("subvp_ode", "beta_min", "abc"),
        ("ve_ode", "sigma_min", "abc"),
        ("ve_ode", "sigma_max", "abc"),
        ("pfgmpp", "sigma_min", "abc"),
        ("pfgm", "found", 3),
        ("pfgm", "found", {"dim": "abc"}),
        ("pfgm", "z_exp", "abc"),
        ("si_fourier", "alpha", 3),
        ("si_fourier", "beta", "abcd"),
        ("si_linear", "source_options", 3),
        ("si_linear", "channels", "abc"),
        ("si_linear", "channels", 0),
    ],
)
def test_an_option_of_the_wrong_kind_is_named(name, option, value):
    with pytest.raises(ValueError, match=re.escape(f": {option} = {value!r} is not allowed; give ")):
        genflow.get_process(name, **{option: value})


def test_a_count_that_no_number_holds_is_named():
    with pytest.raises(
        ValueError, match=r"not a finite number with tau = 0\.03 and m_max = 1e\+09; give a smaller m_max"
    ):
        genflow.get_process("pfgm", m_max=1e9)
