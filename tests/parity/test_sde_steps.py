"""One reverse step and two Langevin steps against score_sde_pytorch, on its own 1000 noise levels.

The stored arrays were computed in float32, so agreement ends at its rounding; our functions get the discrete r and V of
the published levels: β_k and σ_k at k = int(t (N − 1)).
"""

from __future__ import annotations

import math

import pytest
import torch

from genflow.backbone.ncsnpp import NCSNpp
from genflow.backbone.unet_design import published_options
from genflow.process.score_sde import VE, VP, SubVP
from genflow.solver.noise import Noise
from genflow.solver.predictor import (
    Ancestral,
    PredictorCorrector,
    ReverseDiffusion,
    ald_size,
    ancestral_mean,
    langevin_size,
    langevin_step,
    reverse_diffusion_mean,
)

F64 = torch.float64
LEVELS = 1000
BETAS = torch.linspace(0.1 / LEVELS, 20 / LEVELS, LEVELS, dtype=F64)
SIGMAS = torch.linspace(math.log(0.01), math.log(50), LEVELS, dtype=F64).exp()
NETS = {"vp": ("vp_subvp", VP()), "ve": ("ve", VE(sigma_max=50.0, head="score"))}


@pytest.fixture
def steps(load):
    """The stored arrays in float64."""
    return {k: v.double() for k, v in load("sde/steps.npz").items()}


@pytest.fixture
def score(load):
    """The score of a stored network, by our process."""

    def read(name):
        key, process = NETS[name]
        stored = load("sde/nets8.pt")[key]
        net = NCSNpp((3, 8, 8), **published_options(stored["config"]))
        net.load_published(stored["state_dict"])
        return process.field(net.float().eval()).score

    return read


def column(value):
    return value.reshape(-1, 1, 1, 1)


def level(t):
    return (t * (LEVELS - 1)).long()


def chain(name, t):
    """r, V and the posterior's b_s/b_t of the published forward chain at t, each (B, 1, 1, 1)."""
    k = level(t)
    if name == "vp":
        return column((1 - BETAS[k]).sqrt()), column(BETAS[k]), 1.0
    before = torch.where(k > 0, SIGMAS[k - 1], 0.0)  # below the smallest level there is no noise
    return torch.ones(len(k), 1, 1, 1, dtype=F64), column(SIGMAS[k] ** 2 - before**2), column(before / SIGMAS[k])


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize(
    ("rule", "key"), [(reverse_diffusion_mean, "reverse_diffusion"), (ancestral_mean, "ancestral_sampling")]
)
def test_reverse_step(steps, error, name, rule, key):
    """Mean and draw; VE's ancestral noise is that of the posterior, all others have the whole of V."""
    r, variance, share = chain(name, steps["t"])
    mean = rule(steps[f"x_{name}"], steps[f"{name}_score"], r, variance)
    scale = variance.sqrt() * (share if key == "ancestral_sampling" else 1.0)
    assert error(mean, steps[f"{name}_{key}_pf0_mean"]) < 1e-6
    assert error(mean + scale * steps["noise"], steps[f"{name}_{key}_pf0_x"]) < 1e-6


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_probability_flow_step_has_half_the_score_and_no_noise(steps, error, name):
    r, variance, _ = chain(name, steps["t"])
    mean = reverse_diffusion_mean(steps[f"x_{name}"], steps[f"{name}_score"], r, variance / 2)
    for key in ("mean", "x"):
        assert error(mean, steps[f"{name}_reverse_diffusion_pf1_{key}"]) < 1e-6


@pytest.mark.parametrize("flow", [0, 1])
def test_subvp_takes_euler_steps(steps, error, flow):
    """The published sub-VP has no chain of its own: its reverse diffusion is an Euler–Maruyama step of 1/1000."""
    process, t = SubVP(), steps["t"]
    x, score = steps["x_vp"], steps["subvp_score"]
    epsilon = column(process.natural_diffusion(t))
    velocity = process.velocity(-score * process.at(t, x).b, x, t)
    mean = x - (velocity - (0 if flow else 1) * epsilon * score) / LEVELS
    draw = mean + (1 - flow) * (2 * epsilon / LEVELS).sqrt() * steps["noise"]
    tolerance = 1e-5  # at t = 1e-3 the published float32 1 − e^(−2B) keeps four digits
    assert error(mean, steps[f"subvp_reverse_diffusion_pf{flow}_mean"]) < tolerance
    assert error(draw, steps[f"subvp_reverse_diffusion_pf{flow}_x"]) < tolerance


@pytest.mark.quick_one_in(3)
@torch.no_grad()
@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize("corrector", ["langevin", "ald"])
def test_two_corrections(steps, score, error, name, corrector):
    """With norms averaged over the batch; the network gives the score at the once corrected x.

    At t = 1e-3 the published float32 b of VP keeps four digits; what that does to a score is read from the first one.
    """
    process, t = NETS[name][1], steps["t"]
    first = steps[f"{name}_score"]
    rounding = column((first / score(name)(steps[f"x_{name}"].float(), t)).flatten(1).median(1).values)
    assert float((rounding - 1).abs().max()) < 2e-4
    alpha = 1 - BETAS[level(t)] if name == "vp" else torch.ones(4, dtype=F64)
    snr, x, mean = float(steps["snr"]), steps[f"x_{name}"], None
    for i, draw in enumerate((steps["noise"], steps["noise2"])):
        slope = first if i == 0 else rounding * score(name)(x.float(), t)
        if corrector == "langevin":
            size = langevin_size(slope, draw, snr, alpha, "batch")
        else:
            size = ald_size(process.schedule(t)[1], snr, alpha)
        x, mean = langevin_step(x, slope, draw, size)
    assert error(mean, steps[f"{name}_{corrector}_n2_mean"]) < 2e-6
    assert error(x, steps[f"{name}_{corrector}_n2_x"]) < 2e-6


class Fixed(Noise):
    """Noise that is given."""

    def __init__(self, draw):
        self.draw = draw

    def like(self, x):
        return self.draw.to(x)


@pytest.mark.parametrize("row", range(1, 4))
@pytest.mark.parametrize("name", ["vp", "ve"])
def test_solver_step_is_near_the_published_one(steps, name, row):
    """Our solvers take r and V from the continuous path, which for 1000 steps differs from the chain by O(1/1000)."""
    process, t = NETS[name][1], steps["t"][row]
    x, score, noise = (steps[k][row : row + 1] for k in (f"x_{name}", f"{name}_score", "noise"))
    c = process.at(t, x)
    field = process.field(lambda x, condition: process.prediction.encode((x + c.b**2 * score) / c.a, x, c))
    published = {"reverse_diffusion": ReverseDiffusion(), "ancestral_sampling": Ancestral("posterior")}
    for key, solver in published.items():
        want = steps[f"{name}_{key}_pf0_x"][row : row + 1]
        found = solver.step(field, x, t, t - 1 / LEVELS, Fixed(noise), 1)
        step = float((want - x).norm())
        assert float((found - want).norm()) < 0.02 * step, key


@pytest.mark.parametrize("row", range(1, 4))
def test_solver_s_alpha_is_the_published_one(steps, row):
    """(a_t/a_t')² of VP against 1 − β_k: the step sizes are as 1 to 1 + O(1/1000)."""
    process, t = VP(), steps["t"][row]
    draw, noise, x = (steps[k][row : row + 1] for k in ("noise2", "noise", "x_vp"))
    score = -draw / process.at(t, x).b  # of the size that a trained network's is; the stored one's is far below it
    field = process.field(lambda x, condition: draw)
    moved, mean = PredictorCorrector(norms="batch").correct(field, x, t, Fixed(noise))
    k = level(t)
    size = langevin_size(score, noise, 0.16, 1 - BETAS[k], "batch")
    found = ((moved - mean) / noise).square().mean() / 2
    torch.testing.assert_close(float(found), float(size), rtol=1e-3, atol=0)
