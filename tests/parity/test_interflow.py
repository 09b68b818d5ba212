"""Interpolants against the authors' code, malbergo/stochastic-interpolants: paths, latents, fields, losses.

Its t is 0 at the base and 1 at the data, as ours; its a multiplies the base and its b the data. Its "sigmoid" latent is
not offered here, so what is stored with it has no counterpart.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.func import functional_call

from genflow.likelihood import log_likelihood
from genflow.process.distributions import GaussianMixture
from genflow.process.interpolant import Interpolant, latent
from genflow.process.paths import SIEncDec, SILinear, SIMirror, SITrig
from genflow.solver.adaptive import RK45

F64 = torch.float64
TINY = 1e-9
"""A margin so small that all stored times lie inside."""


@dataclass(kw_only=True)
class ScaledTrig(SITrig):
    """Its trigonometric path: sqrt(1 − γ²) (sin(πt/2), cos(πt/2)), so that the squares of all three sum to one."""

    def path(self, t):
        a, b, da, db = super().path(t)
        g, product = self.latent(t)
        rest = (1 - g * g).sqrt()
        rate = -product / rest
        return rest * a, rest * b, rest * da + rate * a, rest * db + rate * b


LATENTS = {
    "brownian": "brownian",
    "bsquared": "quadratic",
    "sinesquared": "sin_squared",
    "zero": "none",
    "none": "none",
}
"""Its names of the latents and ours; with "none" its path is one-sided."""

PATHS = {
    "linear": SILinear,
    "trig": ScaledTrig,
    "encoding-decoding": SIEncDec,
    "one-sided-linear": SILinear,
    "one-sided-trig": SITrig,
}
COMBINATIONS = [
    (path, gamma)
    for path in PATHS
    for gamma in LATENTS
    if path.startswith("one-sided") == (gamma == "none") and not (path == "encoding-decoding" and gamma == "zero")
]


def free(path: str, gamma: str, **options) -> Interpolant:
    """The free interpolant that is its combination."""
    kind = LATENTS[gamma]
    head = "velocity" if kind == "none" else "velocity_denoiser"
    return PATHS[path](gamma=kind, head=head, margin=TINY, **options)


def coupled(path: str, gamma: str, **options) -> Interpolant:
    """The same with a base that is no standard normal by assumption, so that a, b and γ stay apart."""
    return free(path, gamma, source="uniform", **options)


@pytest.fixture
def coefficients(load):
    return load("interpolants/interflow_coeffs.npz")


@pytest.mark.parametrize("name", ["brownian", "bsquared", "sinesquared", "zero"])
def test_latents(coefficients, name):
    for suffix in ("", "_end"):
        g, product = latent(LATENTS[name], coefficients["t" + suffix])
        for found, key in ((g, "gamma"), (product, "gg_dot")):
            torch.testing.assert_close(found, coefficients[f"gamma/{name}/{key}{suffix}"], rtol=1e-9, atol=1e-12)


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize(("path", "gamma"), COMBINATIONS)
def test_paths_and_their_pairs(coefficients, error, path, gamma):
    """a, b, their derivatives, and x_t and dx_t from the stored draws; nothing is left of either where γ = 1."""
    process, t = coupled(path, gamma), coefficients["t"]
    stored = {
        k.removeprefix(f"path/{path}/{gamma}/"): v
        for k, v in coefficients.items()
        if k.startswith(f"path/{path}/{gamma}/")
    }
    a, b, da, db = process.path(t)
    for found, key in ((b, "a"), (a, "b"), (db, "adot"), (da, "bdot")):
        torch.testing.assert_close(found, stored[key], rtol=1e-9, atol=1e-12)
    base, data, z = (coefficients[k] for k in ("x0", "x1", "z"))
    for i, time in enumerate(t):
        pairs = process.free_pairs(data, base, z, time.expand(len(data)))
        velocity = pairs.target[:, :3]
        c = process.at(time, data)
        torch.testing.assert_close(c.a * data + c.b * base, stored["It"][i], rtol=1e-9, atol=1e-12)
        if (path, gamma, float(time)) == ("trig", "sinesquared", 0.5):
            continue  # sqrt(1 − γ²) has a corner where γ = 1, and its derivative is stored as infinite
        if "xt" in stored:
            assert error(pairs.x_t, stored["xt"][i]) < 1e-9
            assert error(velocity, stored["dxt"][i]) < 1e-9
        torch.testing.assert_close(c.da * data + c.db * base, stored["dtIt"][i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gamma", ["brownian", "bsquared", "sinesquared"])
def test_mirrors(coefficients, error, gamma):
    """Its mirror holds γ as the base's coefficient, and so does the affine form of ours."""
    process, t = SIMirror(gamma=LATENTS[gamma], gamma_scale=1.0, margin=TINY), coefficients["t"]
    c = process.coefficients(t)
    for found, key in ((c.b, "a"), (c.a, "b"), (c.db, "adot"), (c.da, "bdot")):
        torch.testing.assert_close(found, coefficients[f"path/mirror/{gamma}/{key}"], rtol=1e-9, atol=1e-12)
    for i, time in enumerate(t):  # it takes the noise from where a base draw would be
        found = process.interpolate(coefficients["x1"], coefficients["x0"], time)
        assert error(found, coefficients[f"path/mirror/{gamma}/It"][i]) < 1e-9


# ---- normal to normal ------------------------------------------------------------------------------------


GAUSSIAN_CASES = [
    ("linear", "zero"),
    ("linear", "brownian"),
    ("linear", "bsquared"),
    ("trig", "bsquared"),
    ("encoding-decoding", "sinesquared"),
    ("one-sided-linear", "none"),
]


@pytest.fixture
def normals(load):
    return load("interpolants/interflow_gaussian.npz")


def between_normals(path, gamma, stored):
    """Process and oracle from N(m0, s0²) to N(m1, s1²), diagonal; the one-sided case has that base, too."""
    data = GaussianMixture(stored["m1"][None], std=stored["s1"][None])
    base = GaussianMixture(stored["m0"][None], std=stored["s0"][None])
    process = free(path, gamma, source=base)
    return process, process.oracle(data)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("path", "gamma"), GAUSSIAN_CASES)
def test_velocity_score_and_divergence_between_normals(normals, error, path, gamma):
    process, oracle = between_normals(path, gamma, normals)
    field, x = process.field(oracle), normals["x1"]
    for i, t in enumerate(normals["t"]):
        stored = {k: normals[f"{path}/{gamma}/{k}"][i] for k in ("b", "s", "div_b", "mean", "var")}
        inner = x.clone().requires_grad_()
        velocity = field.velocity(inner, t)
        assert error(velocity.detach(), stored["b"]) < 1e-9
        rows = [torch.autograd.grad(velocity[:, k].sum(), inner, retain_graph=True)[0][:, k] for k in range(2)]
        torch.testing.assert_close(sum(rows), stored["div_b"].expand(len(x)), rtol=1e-8, atol=1e-10)
        assert error(oracle.score(x, t), stored["s"]) < 1e-9
        if not process.why_not("score"):
            assert error(field.score(x, t), stored["s"]) < 1e-8
        law = torch.distributions.Normal(stored["mean"], stored["var"].sqrt())
        torch.testing.assert_close(oracle.log_prob(x, t), law.log_prob(x).sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize(("path", "gamma"), GAUSSIAN_CASES)
def test_likelihood_between_normals(normals, path, gamma):
    """log p of the data against the exact one, to 1e-6, and against what its solver found, to that solver's error.

    Its estimate by an SDE (`sde_like`, 500 paths of 400 steps) is one of Monte Carlo, and is not compared.
    """
    process, oracle = between_normals(path, gamma, normals)
    x = normals["x1"]
    found = log_likelihood(process, oracle, x, solver=RK45(1e-9, 1e-9), trace="exact")
    exact, theirs = normals["logp1_exact"], normals[f"{path}/{gamma}/logp1"]
    torch.testing.assert_close(found.log_prob, exact, rtol=0, atol=1e-6)
    slack = float((theirs - exact).abs().max()) + 1e-6
    torch.testing.assert_close(found.log_prob, theirs, rtol=0, atol=slack)
    torch.testing.assert_close(found.latent, normals[f"{path}/{gamma}/x0_from_x1"], rtol=0, atol=2e-4)


# ---- losses ----------------------------------------------------------------------------------------------


@pytest.fixture
def losses(load):
    return load("interpolants/interflow_losses.npz")


@pytest.fixture
def network(load):
    """Its two fixed networks of (t, x): functions of parameters, x and t, and the parameters in order."""
    stored = load("interpolants/interflow_mlp.npz")
    layers = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)
    ).double()

    def parameters(which):
        names = [f"{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")]
        return {n: stored[f"{which}/v.{n}"].clone().requires_grad_() for n in names}

    def call(values, x, t):
        return functional_call(layers, values, (torch.cat([t.reshape(-1, 1).expand(len(x), 1), x], dim=1),))

    for which in ("b", "s"):
        values = parameters(which)
        rows = torch.stack([call(values, stored["check/x"], t) for t in stored["check/t"]])
        torch.testing.assert_close(rows.detach(), stored[f"check/{which}"], rtol=1e-12, atol=1e-12)
    return parameters, call


def gradient(loss, values):
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(values.values()), allow_unused=True)])


def regression(process, call, values, stored, part, sign):
    """The network f, our target and |f − target|² of each sample, at the state of the given sign of z."""
    pairs = process.free_pairs(stored["x1s"], stored["x0s"], sign * stored["z"], stored["ts"])
    f = call(values, pairs.x_t, stored["ts"])
    target = pairs.target[:, :3] if part == "velocity" else pairs.target[:, 3:]
    return f, target, (f - target).square().sum(1)


TWO_SIDED = [
    (path, gamma)
    for path, gamma in (
        ("linear", "brownian"),
        ("linear", "sinesquared"),
        ("trig", "brownian"),
        ("trig", "bsquared"),
        ("encoding-decoding", "sinesquared"),
    )
]


@pytest.mark.parametrize(("path", "gamma"), TWO_SIDED)
def test_losses_of_velocity_and_score(losses, network, error, path, gamma):
    """Its ½|f|² − target · f, summed over +z and −z, is ½|f − target|² less ½|target|² of ours, both signs."""
    parameters, call = network
    for kind, head, part in (("b", "velocity_denoiser", "velocity"), ("s", "velocity_score", "second")):
        process = PATHS[path](gamma=LATENTS[gamma], head=head, margin=TINY, source="uniform", channels=3)
        values = parameters(kind)
        ours = [regression(process, call, values, losses, part, sign) for sign in (1, -1)]
        per_sample = sum((square - target.square().sum(1)) / 2 for _, target, square in ours)
        prefix = f"{path}/{gamma}/{kind}"
        assert error(per_sample.detach(), losses[f"{prefix}/per_sample"]) < 1e-9
        assert float(per_sample.detach().mean()) == pytest.approx(float(losses[f"{prefix}/loss"]), rel=1e-9)
        total = sum(square for *_, square in ours).mean() / 2
        assert error(gradient(total, values), losses[f"{prefix}/grad"]) < 1e-9


@pytest.mark.parametrize(("path", "gamma"), TWO_SIDED)
def test_losses_of_the_latent_and_of_the_path_s_velocity(losses, network, error, path, gamma):
    """Its denoiser is −Z in our words and has no antithetic pair; its v is regression on a' X + b' N alone."""
    parameters, call = network
    process = coupled(path, gamma, channels=3)
    values = parameters("s")
    f, target, _ = regression(process, call, values, losses, "second", 1)
    per_sample = f.square().sum(1) / 2 + (f * target).sum(1)
    prefix = f"{path}/{gamma}/eta"
    assert error(per_sample.detach(), losses[f"{prefix}/per_sample"]) < 1e-9
    assert error(gradient((f + target).square().sum(1).mean() / 2, values), losses[f"{prefix}/grad"]) < 1e-9
    values = parameters("b")
    pairs = process.free_pairs(losses["x1s"], losses["x0s"], losses["z"], losses["ts"])
    c = process.at(losses["ts"], losses["x1s"])
    target = pairs.target[:, :3] - c.gdg / c.g * losses["z"]
    f = call(values, pairs.x_t, losses["ts"])
    per_sample = f.square().sum(1) / 2 - (f * target).sum(1)
    assert error(per_sample.detach(), losses[f"{path}/{gamma}/v/per_sample"]) < 1e-9


@pytest.mark.parametrize("path", ["one-sided-linear", "one-sided-trig"])
def test_one_sided_losses(losses, network, error, path):
    """Affine heads of ours: velocity, score weighted by 1 and not by b², noise; x0 is the noise.

    Its score loss is a sum over +x0 and −x0, the others take one sign; its denoiser is −N in our words.
    """
    parameters, call = network
    for kind, head in (("b", "velocity"), ("v", "velocity"), ("s", "score"), ("eta", "noise")):
        process = PATHS[path](head=head, margin=TINY)
        values = parameters("s" if kind in ("s", "eta") else "b")
        per_sample, loss = 0, 0
        for sign in (1, -1) if kind == "s" else (1,):
            pairs = process.pairs(losses["x1s"], sign * losses["x0s"], losses["ts"])
            target = -pairs.target if kind == "eta" else pairs.target
            square = (call(values, pairs.x_t, losses["ts"]) - target).square().sum(1)
            per_sample = per_sample + (square - pairs.target.square().sum(1)) / 2
            loss = loss + square.mean() / 2
        prefix = f"{path}/none/one-sided-{kind}"
        assert error(per_sample.detach(), losses[f"{prefix}/per_sample"]) < 1e-9, kind
        assert error(gradient(loss, values), losses[f"{prefix}/grad"]) < 1e-9


@pytest.mark.parametrize("gamma", ["brownian", "bsquared"])
def test_mirror_loss(losses, network, error, gamma):
    """Regression of the score, −Z/γ, at x_t = X + γ Z; one sign alone, and Z is what would be the base's draw."""
    parameters, call = network
    process, values = SIMirror(gamma=LATENTS[gamma], gamma_scale=1.0, head="score", margin=TINY), parameters("s")
    pairs = process.pairs(losses["x1s"], losses["x0s"], losses["ts"])
    f = call(values, pairs.x_t, losses["ts"])
    per_sample = ((f - pairs.target).square().sum(1) - pairs.target.square().sum(1)) / 2
    prefix = f"mirror/{gamma}/mirror"
    assert error(per_sample.detach(), losses[f"{prefix}/per_sample"]) < 1e-9
