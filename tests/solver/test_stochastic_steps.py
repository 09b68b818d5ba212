"""SDE-DPM-Solver++, DEIS and DDIM with noise: orders, weights and laws against closed forms and quadrature."""

import functools
import itertools
import math

import pytest
import torch
from scipy.integrate import quad

import genflow
from genflow.process.distributions import GaussianMixture
from genflow.process.poisson import PFGM
from genflow.process.score_sde import VE, VP
from genflow.sampling import draw_prior, sample
from genflow.solver.adaptive import RK45
from genflow.solver.dpm import DPMpp2M, SDEDPMpp2M, SDEDPMpp3M
from genflow.solver.frames import SigmaField
from genflow.solver.multistep import AB2, AB3, AB4, DEIS, exponential_adams_weights, lagrange
from genflow.solver.noise import Noise
from genflow.solver.ode import DDIM
from genflow.solver.predictor import Ancestral
from genflow.testing import GaussianField, error_slope

F64 = torch.float64
POINTS = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
PATHS = ("vp", "ve", "subvp", "si_linear", "si_trig")


def exact(family, mode="ode", data=POINTS):
    process = genflow.get_process(family, mode=mode) if family != "pfgm" else PFGM(dim=3, norm=1.7)
    return process, process.field(process.oracle(data))


# ---- DEIS --------------------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("grid", [lambda u: u, lambda u: u * (1 + u) / 2], ids=["even", "uneven"])
@pytest.mark.parametrize("frame", ["native", "sigma"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_order_of_deis(order, frame, grid):
    solver = DEIS(order, frame=frame)
    assert solver.order == order + 1
    assert error_slope(solver, [160, 320, 640, 1280], grid) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("family", ["vp", "si_trig", "pfgm"])
def test_weights_of_deis_against_quadrature(family):
    """∫ ℓ_j dσ, by scipy over native time with σ' from autograd; together they are σ_s − σ_t."""
    process, field = exact(family)
    inner, times = SigmaField(field, DEIS()), process.grid(4)
    found, sigma = exponential_adams_weights(inner, times, 3), process.noise_ratio(times)

    def rate(t):
        t = torch.tensor(t, dtype=F64, requires_grad=True)
        a, b = process.coefficients(t)[:2]
        return float(torch.autograd.grad(torch.as_tensor(b / a), t)[0])

    for i, weights in enumerate(found):
        assert sum(weights) == pytest.approx(float(sigma[i + 1] - sigma[i]), rel=1e-11)
        nodes = times[max(0, i - 2) : i + 1]
        for j, weight in enumerate(weights):

            def integrand(t, j=j, nodes=nodes):
                return float(lagrange(nodes, torch.tensor([t], dtype=F64))[j]) * rate(t)

            cuts = process.from_clock(torch.linspace(*process.to_clock(times[i : i + 2]).tolist(), 5, dtype=F64))
            want = sum(quad(integrand, p, q, epsrel=1e-9)[0] for p, q in itertools.pairwise(cuts.tolist()))
            assert weight == pytest.approx(want, rel=1e-6, abs=1e-7 * abs(float(sigma[i] - sigma[i + 1]))), (i, j)


@pytest.mark.parametrize(("order", "adams"), [(1, AB2), (2, AB3), (3, AB4)])
def test_deis_is_adams_bashforth_where_time_is_sigma(order, adams):
    """Under Poisson flow z = σ, so the polynomials are the same; in σ they are on every path."""
    process, field = exact("pfgm")
    x, _ = draw_prior(process, (3,), 0, range(5), F64)
    for nfe in (1, 3, 9, 70):
        ours, theirs = (solver.solve(field, x, nfe=nfe).x for solver in (DEIS(order), adams()))
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8 * float(theirs.abs().max()))
    process, field = exact("vp")
    x, _ = draw_prior(process, (3,), 0, range(5), F64)
    ours, theirs = (solver.solve(field, x, nfe=9).x for solver in (DEIS(order, frame="sigma"), adams(frame="sigma")))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_of_one_mean_deis_is_ddim():
    process, field = exact("vp")
    x, _ = draw_prior(process, (3,), 0, range(5), F64)
    torch.testing.assert_close(DEIS().solve(field, x, nfe=1).x, DDIM().solve(field, x, nfe=1).x)


@functools.cache
def fine(family):
    process, field = exact(family)
    x, _ = draw_prior(process, (3,), 1, range(30), F64)
    return field, x, RK45(1e-8, 1e-8).solve(field, x).x


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("family", [*PATHS, "pfgm"])
def test_deis_ends_where_a_fine_solve_does(family, order):
    field, x, want = fine(family)
    gaps = [float((DEIS(order).solve(field, x, nfe=n).x - want).norm(dim=1).median()) for n in (20, 200)]
    assert gaps[1] < 1e-4
    assert gaps[1] < 0.2 * gaps[0]


def test_deis_solves_backwards_and_forgets_its_last_solve():
    field, x = GaussianField(), torch.ones(1, 2, dtype=F64)
    grid = field.grid(200)
    there = DEIS().solve(field, x, grid=grid.flip(0)).x
    torch.testing.assert_close(DEIS().solve(field, there, grid=grid).x, x, rtol=0, atol=1e-5)
    solver = DEIS()
    ends = [solver.solve(field, x, nfe=nfe).x for nfe in (9, 60, 9)]
    assert torch.equal(ends[0], ends[2])
    assert (solver.past, solver.sigma) == ([], None)
    with pytest.raises(ValueError, match="deis needs to know its grid: call solve"):
        solver.step(field, x, grid[0], grid[1], None, 1)
    with pytest.raises(ValueError, match="order = 4 is not allowed; give 1, 2 or 3"):
        DEIS(4)


# ---- DDIM with noise ---------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("frame", ["native", "sigma"])
@pytest.mark.parametrize("family", PATHS)
def test_ddim_of_one_is_ancestral_and_of_none_the_ode(family, frame):
    process, field = exact(family, "sde")
    x, _ = draw_prior(process, (3,), 0, range(5), F64)

    def end(solver):
        return solver.solve(field, x, nfe=17, noise=Noise(3, range(5))).x

    torch.testing.assert_close(
        end(DDIM(1.0, frame=frame)), end(Ancestral("posterior", frame=frame)), rtol=1e-8, atol=1e-9
    )
    torch.testing.assert_close(end(DDIM(1e-9, frame=frame)), end(DDIM(frame=frame)), rtol=1e-6, atol=1e-6)
    assert float((end(DDIM(0.5, frame=frame)) - end(DDIM(1.0, frame=frame))).norm()) > 1e-3


def test_ddim_says_what_it_needs():
    assert (DDIM().mode, DDIM(0.3).mode, genflow.get_solver("ddim_sde").eta) == ("ode", "sde", 1.0)
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"eta = .* is not allowed; give a number from 0 to 1"):
            DDIM(eta)
    process, _ = exact("pfgm")
    with pytest.raises(ValueError, match=r"DDIM cannot sample PFGM: .*StudentT base"):
        sample(process, process.oracle(POINTS), DDIM(0.5), 2, nfe=3)
    with pytest.raises(ValueError, match="DDIM needs noise"):
        DDIM(0.5).solve(exact("vp")[1], POINTS, nfe=3)


# ---- SDE-DPM-Solver++ --------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("frame", ["native", "sigma"])
@pytest.mark.parametrize("family", PATHS)
def test_without_diffusion_it_is_the_ode_s_solver(family, frame):
    process, field = exact(family, "sde")
    x, noise = draw_prior(process, (3,), 0, range(5), F64)
    ours = SDEDPMpp2M(0.0, frame=frame).solve(field, x, nfe=11, noise=noise).x
    torch.testing.assert_close(ours, DPMpp2M(frame=frame).solve(field, x, nfe=11).x, rtol=1e-9, atol=1e-9)


class Impulses(Noise):
    """Rows 0 and 1 get no noise; row k + 2 gets ones at draw k."""

    def __init__(self):
        self.draws = 0

    def like(self, x):
        found = torch.zeros_like(x)
        found[self.draws + 2] = 1.0
        self.draws += 1
        return found


def variance_error(solver, process, nfe, std=0.5):
    """Error of the variance at the end for normal data, relative, without sampling error: a solve is linear.

    The last step adds its noise, so that nothing but the steps themselves is looked at.
    """
    data = GaussianMixture([[0.0]], std=std, weights=[1.0])
    field = process.field(process.oracle(data)).until(None, noiseless=False)
    start = torch.zeros(nfe + 2, 1, dtype=F64)
    start[0] = 1.0
    end = solver.solve(field, start, nfe=nfe, noise=Impulses()).x[:, 0]
    (a_0, a_1), (b_0, b_1) = (v.tolist() for v in process.schedule(process.grid(1)))
    before, want = (a_0 * std) ** 2 + b_0**2, (a_1 * std) ** 2 + b_1**2
    return float((end[0] - end[1]) ** 2) * before / want + float((end[2:] - end[1]).square().sum()) / want - 1


@pytest.mark.quick_one_in(11)
@pytest.mark.parametrize("frame", ["native", "sigma"])
@pytest.mark.parametrize("family", ["vp", "ve", "si_trig"])
@pytest.mark.parametrize(
    ("solver", "order"),
    [(SDEDPMpp2M, 2), (SDEDPMpp3M, 2), (functools.partial(SDEDPMpp2M, 0.5), 2), (functools.partial(DDIM, 0.5), 1)],
    ids=["2m", "3m", "2m half", "ddim"],
)
def test_the_weak_order(solver, order, family, frame):
    """As slopes of the error of the variance over four step sizes."""
    process = genflow.get_process(family, mode="sde")
    made = solver(grid="snr", frame=frame)
    errors = [abs(variance_error(made, process, nfe)) for nfe in (60, 120, 240, 480)]
    slopes = [math.log2(one / other) for one, other in itertools.pairwise(errors)]
    assert sum(slopes) / 3 == pytest.approx(order, abs=0.15)
    assert errors[-1] < 0.03


@pytest.mark.quick_one_in(4)
@pytest.mark.parametrize("budget", [1, 2, 7])
@pytest.mark.parametrize("diffusion", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("family", ["vp", "ve", "si_linear"])
def test_exact_for_one_point_at_any_budget(family, diffusion, budget):
    """Then D is constant: the mean and the variance of x_s are those of the SDE, whatever the steps."""
    process, field = exact(family, "sde", POINTS[:1])
    field = field.until(None, noiseless=False)
    start = torch.zeros(budget + 2, 3, dtype=F64)
    start[0] = 1.0
    for solver in (SDEDPMpp2M, SDEDPMpp3M):
        end = solver(diffusion).solve(field, start, nfe=budget, noise=Impulses()).x
        (a_0, a_1), (b_0, b_1) = (v.tolist() for v in process.schedule(process.grid(1)))
        fade = (b_1 * a_0 / (b_0 * a_1)) ** diffusion * b_1 / b_0
        torch.testing.assert_close(end[0] - end[1], torch.full((3,), fade, dtype=F64), rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(end[1], a_1 * POINTS[0] - fade * a_0 * POINTS[0], rtol=1e-6, atol=1e-9)
        added = (end[2:] - end[1]).square().sum(0)
        torch.testing.assert_close(added, b_1**2 - fade**2 * b_0**2 * torch.ones(3, dtype=F64), rtol=1e-6, atol=1e-12)


SHARES = (0.2, 0.8)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("name", ["sde_dpmpp_2m", "sde_dpmpp_3m", "ddim_sde", "ddim(eta=0.5)"])
@pytest.mark.parametrize("frame", ["native", "sigma"])
def test_class_shares_and_spread_at_the_end(name, frame):
    """Two classes of unlike weight far apart: 4,000 samples, so 0.025 is four standard errors of a share."""
    process = VE() if frame == "sigma" else VP()
    data = GaussianMixture([[-1.5], [1.0]], std=0.3, weights=list(SHARES))
    how = {"grid": "snr", "frame": frame}
    solver = DDIM(0.5, **how) if "eta" in name else genflow.get_solver(name, **how)
    nfe = 60 if "dpmpp" in name else 300
    x = sample(process, process.oracle(data), solver, 4000, nfe=nfe, shape=(1,), dtype=F64, batch_size=4000).x[:, 0]
    assert float((x < -0.25).double().mean()) == pytest.approx(SHARES[0], abs=0.025)
    for part, mean in ((x[x < -0.25], -1.5), (x[x > -0.25], 1.0)):
        assert float(part.mean()) == pytest.approx(mean, abs=0.05)
        assert float(part.std()) == pytest.approx(0.3, rel=0.12)


@pytest.mark.parametrize("solver", [SDEDPMpp2M(), SDEDPMpp3M(), DDIM(0.7), SDEDPMpp2M(frame="sigma")])
def test_a_sample_depends_on_its_seed_alone(solver):
    process = VP()
    how = {"nfe": 12, "shape": (3,), "dtype": F64}
    whole = sample(process, process.oracle(POINTS), solver, 6, **how).x
    parts = sample(process, process.oracle(POINTS), solver, 6, batch_size=2, **how).x
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-10)
    alone = sample(process, process.oracle(POINTS), solver, 1, first_index=4, **how).x
    torch.testing.assert_close(alone, whole[4:5], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("diffusion", [-1.0, math.inf, math.nan])
def test_a_diffusion_that_cannot_be(diffusion):
    with pytest.raises(ValueError, match=r"diffusion = .* is not allowed; give a number of at least 0"):
        SDEDPMpp2M(diffusion)
