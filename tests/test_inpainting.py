"""Sampling under linear constraints: what is given comes back exactly, and Gaussian data have a known conditional."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

import genflow
from genflow.inpainting import WORKING, Measurement, Replacement, colourise, constrain, inpaint
from genflow.registry import registries
from genflow.solver.base import FixedStep

F64 = torch.float64
RHO, GIVEN = 0.8, 1.5
PAIR = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=F64)
EXACT_MEAN, EXACT_VAR = RHO * GIVEN, 1 - RHO**2


def gaussian(process, covariance, shape=None):
    """The exact backbone for X ~ N(0, C), flattened: E[X | x_t] = a C (a² C + b² I)⁻¹ x."""
    values, vectors = torch.linalg.eigh(covariance)

    def backbone(x, condition):
        c = process.at(process.time(condition.double()), x)
        flat, a, b = x.flatten(1), c.a.reshape(-1, 1), c.b.reshape(-1, 1)
        mean = ((flat @ vectors) * (a * values / (a**2 * values + b**2))) @ vectors.T
        return process.prediction.encode(mean.reshape(x.shape), x, c)

    backbone.shape = shape or (len(covariance),)
    return backbone


def with_a_score():
    """One registered SDE process of each class with a score on a path x_t = a X + b N."""
    seen = set()
    for name in registries()["processes"].entries():
        process = genflow.get_process(name)
        able = process.mode == "sde" and not process.why_not("score") and not process.why_not("affine")
        if able and type(process) not in seen:
            seen.add(type(process))
            yield name


def without_a_score():
    for name in registries()["processes"].entries():
        if genflow.get_process(name).why_not("score"):
            yield name


def half_known(process, n=1000, **how):
    """Samples of the second entry of a correlated pair whose first one is given: (n,)."""
    x, mask = torch.tensor([[GIVEN, math.nan]], dtype=F64), torch.tensor([1, 0])
    found = inpaint(process, gaussian(process, PAIR), x, mask, n, Replacement(batch_size=n, **how))
    assert bool((found.x[:, :, 0] == GIVEN).all())
    return found.x[0, :, 1]


# ---- known conditionals ----------------------------------------------------------------------------------


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("name", list(with_a_score()))
def test_independent_entries_are_drawn_from_their_own_distribution(name):
    """Nothing is to be learnt from the known part, so replacement alone is exact."""
    process, n = genflow.get_process(name), 1000
    backbone = gaussian(process, torch.diag(torch.tensor([1.0, 0.25], dtype=F64)))
    x, mask = torch.tensor([[GIVEN, math.nan]], dtype=F64), torch.tensor([True, False])
    found = inpaint(process, backbone, x, mask, n, Replacement(nfe=200, batch_size=n)).x[0, :, 1]
    assert float(found.mean()) == pytest.approx(0, abs=4 * 0.5 / math.sqrt(n))
    assert float(found.var()) == pytest.approx(0.25, rel=4 * math.sqrt(2 / n) + 0.03)


def replacement_limit(process, diffusion=None):
    """Mean and variance of the unknown entry under replacement with many steps and no corrector, by scipy.

    With C_t = a² C + b² I: v = ½ C' C⁻¹ x, s = −C⁻¹ x. Steps are short and the known part's noise is fresh in each,
    so only its mean, a y, is felt. ε is `diffusion`(b), by default the process's own.
    """
    ends = process.safe_interval[::-1]
    toward = math.copysign(1.0, ends[1] - ends[0])

    def rate(t, state):
        at = torch.tensor(t, dtype=F64)
        c = process.coefficients(at)
        spread = c.a**2 * PAIR + c.b**2 * torch.eye(2, dtype=F64)
        inverse = spread.inverse()
        change = c.a * c.da * PAIR + c.b * c.db * torch.eye(2, dtype=F64)
        eps = float(diffusion(c.b) if diffusion else process.natural_diffusion(at))
        pull = (change @ inverse - toward * eps * inverse)[1]
        mean, variance = state
        return [float(pull[1]) * mean + float(pull[0] * c.a) * GIVEN, 2 * float(pull[1]) * variance + 2 * toward * eps]

    scale = float(process.schedule(torch.tensor(ends[0], dtype=F64))[1])
    return solve_ivp(rate, ends, [0.0, scale**2], rtol=1e-8, atol=1e-10, method="LSODA").y[:, -1]


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("name", ["vp_sde", "si_trig_sde"])
def test_replacement_alone_has_the_bias_that_is_known_of_it(name):
    """A third of the conditional mean is missing: each step sees the known part under its own noise only."""
    process, n = genflow.get_process(name), 2000
    mean, variance = replacement_limit(process)
    assert EXACT_MEAN - mean > 0.3
    assert variance - EXACT_VAR > 0.1
    found = half_known(process, n, nfe=300)
    assert float(found.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n) + 0.01)
    assert float(found.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / n) + 0.03)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("churn", [0.0, 3.0])
def test_churn_keeps_its_memory_of_the_grid(churn):
    """N steps that each raise σ by S_churn/N of it are ε |dt| = b² S_churn/N in the limit; none are the ODE."""
    process, n, steps = genflow.get_process("vp_sde"), 2000, 200
    length = abs(process.safe_interval[1] - process.safe_interval[0])
    mean, variance = replacement_limit(process, lambda b: churn * b * b / length)
    solver = genflow.get_solver("edm_churn", S_churn=churn, S_tmin=0, S_tmax=1e9, S_noise=1, grid="uniform")
    found = half_known(process, n, nfe=2 * steps - 1, solver=solver)
    assert float(found.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n) + 0.01)
    assert float(found.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / n) + 0.03)


def sde_steppers():
    """Fixed-step SDE solvers of the registry."""
    for name in registries()["solvers"].entries():
        if isinstance(solver := genflow.get_solver(name), FixedStep) and solver.mode == "sde":
            yield name


@pytest.mark.quick_one_in(11)
@pytest.mark.parametrize("name", list(sde_steppers()))
def test_a_solver_draws_rightly_or_is_refused(name):
    """Entries that are independent of each other: nothing is to be learnt, and no bias is allowed for."""
    process, n = genflow.get_process("vp_sde"), 1000
    solver = genflow.get_solver(name)
    if solver.why_not_control:
        with pytest.raises(ValueError, match=r"cannot be used under a constraint: .*what works: euler_maruyama"):
            Replacement(solver=solver)
        return
    backbone = gaussian(process, torch.diag(torch.tensor([1.0, 0.25], dtype=F64)))
    x, mask = torch.tensor([[GIVEN, math.nan]], dtype=F64), torch.tensor([True, False])
    found = inpaint(process, backbone, x, mask, n, Replacement(nfe=201, batch_size=n, solver=solver)).x[0, :, 1]
    assert float(found.mean()) == pytest.approx(0, abs=4 * 0.5 / math.sqrt(n))
    assert float(found.var()) == pytest.approx(0.25, rel=4 * math.sqrt(2 / n) + 0.03)
    assert name in WORKING or "/" in name


def test_the_solvers_that_are_refused_are_those_that_move_the_known_part():
    assert [n for n in sde_steppers() if genflow.get_solver(n).why_not_control] == ["pc"]
    own = {name for name in sde_steppers() if "/" not in name}
    assert sorted(WORKING.replace(" or", ",").split(", ")) == sorted(own - {"pc"})


@pytest.mark.slow
def test_correctors_bring_the_conditional_to_the_exact_one():
    """More Langevin moves, less bias: that of the mean goes from over 0.35 down to the statistical error."""
    process, n = genflow.get_process("vp_sde"), 1000
    gaps, excess = [], []
    for correctors in (0, 4, 48):
        found = half_known(process, n, nfe=40 * (1 + correctors), correctors=correctors, corrector_step=0.4)
        gaps.append(abs(float(found.mean()) - EXACT_MEAN))
        excess.append(float(found.var()) / EXACT_VAR - 1)
    error = math.sqrt(EXACT_VAR / n)
    assert gaps[0] > 0.35 > gaps[1] + 3 * error
    assert gaps[1] > gaps[2]
    assert gaps[2] < 4 * error
    assert excess[0] > 0.25
    assert abs(excess[2]) < 4 * math.sqrt(2 / n)


def test_any_orthonormal_measurement():
    """The sum of a pair given: the difference is independent of it, so its distribution stays its own."""
    process, n = genflow.get_process("vp_sde"), 1000
    root = math.sqrt(0.5)
    a, y = torch.tensor([[root, root]], dtype=F64), torch.tensor([[0.9]], dtype=F64)
    found = constrain(process, gaussian(process, PAIR), a, y, (2,), n, Replacement(nfe=100, batch_size=n)).x[0]
    torch.testing.assert_close(found @ a.T, y.expand(n, 1), rtol=0, atol=1e-12)
    across = (found[:, 0] - found[:, 1]) * root
    assert float(across.mean()) == pytest.approx(0, abs=4 * math.sqrt((1 - RHO) / n))
    assert float(across.var()) == pytest.approx(1 - RHO, rel=4 * math.sqrt(2 / n) + 0.05)


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.3, 0.59, 0.11)])
def test_colours_keep_their_grey(weights):
    """The weighted mean is the given one, and what lies across it is free: N(0, s²) in the other two directions."""
    process, n, variance = genflow.get_process("vp_sde"), 300, 0.3
    backbone = gaussian(process, variance * torch.eye(12, dtype=F64), shape=(3, 2, 2))
    grey = torch.tensor([[0.4, -0.3], [0.1, 0.9]], dtype=F64).reshape(1, 1, 2, 2)
    found = colourise(process, backbone, grey, n, Replacement(nfe=60), weights).x[0]
    assert found.shape == (n, 3, 2, 2)
    w = torch.tensor(weights, dtype=F64)
    torch.testing.assert_close(torch.einsum("c,nchw->nhw", w, found), grey[0].expand(n, 2, 2), rtol=0, atol=1e-12)
    across = torch.linalg.qr(torch.cat([w[:, None], torch.eye(3, dtype=F64)[:, :2]], dim=1)).Q[:, 1:]
    free = torch.einsum("ck,nchw->nkhw", across, found).flatten()
    assert float(free.mean()) == pytest.approx(0, abs=4 * math.sqrt(variance / len(free)))
    assert float(free.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / len(free)) + 0.05)


# ---- bookkeeping -----------------------------------------------------------------------------------------


def test_an_empty_mask_is_plain_sampling():
    process = genflow.get_process("vp_sde")
    backbone = gaussian(process, PAIR)
    x = torch.full((1, 2), math.nan, dtype=F64)
    found = inpaint(process, backbone, x, torch.zeros(2), 6, Replacement(nfe=20, seed=4)).x[0]
    plain = genflow.sample(process, backbone, "euler_maruyama", 6, nfe=20, seed=4, shape=(2,), dtype=F64).x
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)


def test_a_full_mask_gives_back_what_is_known():
    process = genflow.get_process("vp_sde")
    x = torch.tensor([[0.3, -2.0], [1.0, 5.0]], dtype=F64)
    found = inpaint(process, gaussian(process, PAIR), x, torch.ones(2), 3, Replacement(nfe=4)).x
    assert torch.equal(found, x[:, None].expand(2, 3, 2))


def test_the_last_step_s_mean_is_what_is_returned():
    """The unknown part is x + h v + ε |h| s from the last state the network saw, without noise; the known part is y."""
    process, seen = genflow.get_process("vp_sde"), []
    exact = gaussian(process, PAIR)

    def backbone(x, condition):
        seen.append(x)
        return exact(x, condition)

    x, mask = torch.tensor([[GIVEN, 0.0]], dtype=F64), torch.tensor([1, 0])
    found = inpaint(process, backbone, x, mask, 5, Replacement(nfe=10)).x[0]
    t, s = process.grid(10)[-2:]
    velocity, score = process.field(exact).velocity_and_score(seen[-1], t)
    mean = seen[-1] + float(s - t) * velocity + float(process.natural_diffusion(t) * (s - t).abs()) * score
    torch.testing.assert_close(found[:, 1], mean[:, 1], rtol=0, atol=1e-12)
    assert bool((found[:, 0] == GIVEN).all())
    assert float((seen[-1][:, 0] - GIVEN).abs().min()) > 0  # on the way it carried the noise of its time


@pytest.mark.parametrize(("nfe", "correctors"), [(7, 0), (12, 3), (1, 0), (9, 8)])
def test_every_call_is_counted(nfe, correctors):
    process, calls = genflow.get_process("ve_sde"), []
    exact = gaussian(process, PAIR)

    def backbone(x, condition):
        calls.append(len(x))
        return exact(x, condition)

    how = Replacement(nfe=nfe, correctors=correctors, batch_size=4)
    found = inpaint(process, backbone, torch.zeros(2, 2, dtype=F64), torch.tensor([1, 0]), 3, how)
    assert found.x.shape == (2, 3, 2)
    assert (found.nfe, sum(calls)) == (nfe, 6 * nfe)


def test_a_sample_depends_on_its_seed_and_index_alone():
    process = genflow.get_process("vp_sde")
    backbone, mask = gaussian(process, PAIR), torch.tensor([0, 1])
    x = torch.tensor([[0.0, 0.5], [0.0, -0.5]], dtype=F64)

    def draw(rows, **how):
        return inpaint(process, backbone, rows, mask, 4, Replacement(nfe=12, correctors=1, **how)).x

    whole = draw(x)
    torch.testing.assert_close(draw(x, batch_size=3), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(draw(x[:1]), whole[:1], rtol=0, atol=1e-12)
    assert not torch.allclose(draw(x, seed=1), whole)
    assert len(set(whole[0, :, 0].tolist())) == 4


# ---- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(without_a_score()))
def test_a_process_without_a_score_says_why(name):
    process = genflow.get_process(name)
    with pytest.raises(ValueError, match="cannot be sampled under a constraint") as error:
        inpaint(process, None, torch.zeros(1, 2), torch.tensor([1, 0]))
    assert process.why_not("score") in str(error.value)


@pytest.mark.parametrize(
    ("mask", "what"),
    [
        (torch.ones(3), r"the mask has shape \(3,\); give that of one example, \(2,\)"),
        (torch.ones(1, 1, 2), r"the mask has shape \(1, 1, 2\)"),
        (torch.tensor([0.5, 1.0]), "entries other than 0 and 1"),
        (torch.tensor([math.nan, 1.0]), "entries other than 0 and 1"),
        (torch.tensor([1, 1]), "empty or not finite"),
    ],
)
def test_masks_that_can_not_be_used(mask, what):
    process = genflow.get_process("vp_sde")
    with pytest.raises(ValueError, match=what):
        inpaint(process, gaussian(process, PAIR), torch.tensor([[0.0, math.nan]]), mask)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"nfe": 0}, "nfe = 0 is not allowed"),
        ({"correctors": -1}, "correctors = -1 is not allowed"),
        ({"corrector_step": 1.0}, "corrector_step = 1.0 is not allowed"),
        ({"solver": genflow.get_solver("heun")}, "needs a fixed-step SDE solver, and Heun is not one"),
        ({"solver": genflow.get_solver("rk45")}, "needs a fixed-step SDE solver, and RK45 is not one"),
        ({"nfe": 10, "correctors": 3}, "nfe = 10 is not a whole number of steps.*give 8 or 12"),
        ({"nfe": 2, "correctors": 3}, "nfe = 2 is not a whole number of steps.*give 4$"),
        ({"nfe": 60, "correctors": 1, "solver": genflow.get_solver("heun_sde")}, "nfe = 60 .* HeunSDE .*give 59 or 61"),
    ],
)
def test_settings_that_can_not_be_used(how, what):
    process = genflow.get_process("vp_sde")
    with pytest.raises(ValueError, match=what):
        inpaint(process, gaussian(process, PAIR), torch.zeros(1, 2), torch.tensor([1, 0]), 1, Replacement(**how))


def test_other_wrong_input():
    process = genflow.get_process("vp_sde")
    backbone = gaussian(process, PAIR)
    with pytest.raises(ValueError, match="n = 0 is not allowed"):
        inpaint(process, backbone, torch.zeros(1, 2), torch.tensor([1, 0]), 0)
    with pytest.raises(ValueError, match="not orthonormal: A Aᵀ is off by 1"):
        constrain(process, backbone, torch.tensor([[1.0, 1.0]]), torch.zeros(1, 1), (2,))
    with pytest.raises(ValueError, match=r"want \(k, 2\) and \(B, k\)"):
        constrain(process, backbone, torch.eye(3), torch.zeros(1, 3), (2,))
    with pytest.raises(ValueError, match=r"3 channels; this one's examples have shape \(2,\)"):
        colourise(process, backbone, torch.zeros(1, 1, 2, 2))
    backbone.shape = (3, 2, 2)
    with pytest.raises(ValueError, match=r"want \(B, 1, 2, 2\)"):
        colourise(process, backbone, torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"weights = \(0, 0, 0\) are not allowed"):
        colourise(process, backbone, torch.zeros(1, 1, 2, 2), weights=(0, 0, 0))


def test_a_measurement_given_as_a_projection():
    """`Replacement.sample` takes any orthogonal projection: here onto the mean of three entries."""
    process = genflow.get_process("vp_sde")
    backbone = gaussian(process, torch.eye(3, dtype=F64))

    def project(x):
        return x.mean(1, keepdim=True).expand_as(x)

    known = Measurement(project, torch.full((2, 3), 0.7, dtype=F64))
    found = Replacement(nfe=10).sample(process, backbone, known, 2)
    torch.testing.assert_close(found.x.mean(2), torch.full((2, 2), 0.7, dtype=F64), rtol=0, atol=1e-12)
