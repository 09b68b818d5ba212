"""Latents against flows known in closed form, exact counts, and the geometry of paths between latents."""

import math

import pytest
import torch

import genflow
from genflow.latent import KINDS, blend, decode, encode, interpolate, round_trip
from genflow.process.bases import StudentT
from genflow.process.poisson import PFGM
from genflow.registry import registries
from genflow.solver.adaptive import RK45
from genflow.solver.ode import Euler, Heun

F64 = torch.float64
SCALE = 0.5


def gaussian(process, scale=SCALE):
    """The exact backbone for X ~ N(0, s²)."""

    def backbone(x, condition):
        c = process.at(process.time(condition.double()), x)
        return process.prediction.encode(c.a * scale**2 / (c.a**2 * scale**2 + c.b**2) * x, x, c)

    return backbone


def cauchy(process, s=SCALE):
    """The exact backbone for data of Cauchy(s) under Poisson flow with the velocity head: dx/dz = x/(s + z)."""
    return lambda x, condition: x / (s + process.time(condition.double()).reshape(-1, 1)).to(x)


def with_a_score():
    """One registered ODE process of each class whose x_t = a X + b N has a Gaussian base."""
    seen = set()
    for name in registries()["processes"].entries():
        process = genflow.get_process(name)
        able = process.mode == "ode" and not process.why_not("score") and not process.why_not("affine")
        if able and type(process) not in seen:
            seen.add(type(process))
            yield name


def draws(count, dim, seed=0):
    return torch.randn(count, dim, dtype=F64, generator=torch.Generator().manual_seed(seed))


# ---- both ways -------------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("name", list(with_a_score()))
def test_a_linear_flow_scales_by_the_ratio_of_the_marginals(name):
    """Of N(0, s²) data the flow is x sqrt((a² s² + b²) at one end over the same at the other)."""
    process = genflow.get_process(name)
    ends = [process.schedule(torch.tensor(t, dtype=F64)) for t in process.safe_interval]
    data, prior = (math.hypot(float(a) * SCALE, float(b)) for a, b in ends)
    x, solver = SCALE * draws(4, 3), RK45(1e-8, 1e-8)
    latent = encode(process, gaussian(process), x, solver)
    torch.testing.assert_close(latent.x, x * prior / data, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(decode(process, gaussian(process), latent.x, solver).x, x, rtol=1e-5, atol=1e-6)


def test_cauchy_data_keep_their_direction():
    """Under Poisson flow, Cauchy(s) data have dx/dz = x/(s + z): x is scaled by (s + z_max)/(s + z_min)."""
    process = PFGM(dim=3, norm=1.0, head="velocity")
    x = SCALE * StudentT(1.0).sample((6, 3), generator=torch.Generator().manual_seed(0), dtype=F64)
    latent = encode(process, cauchy(process), x, RK45(1e-8, 1e-8)).x
    want = x * (SCALE + process.t_prior) / (SCALE + process.t_data)
    torch.testing.assert_close(latent, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["euler", "heun", "midpoint", "rk4", "ab3"])
@pytest.mark.parametrize("nfe", [5, 8])
def test_a_budget_is_spent_exactly_each_way(name, nfe):
    process, calls = genflow.get_process("vp_ode"), []
    exact = gaussian(process)

    def backbone(x, condition):
        calls.append(len(x))
        return exact(x, condition)

    found = encode(process, backbone, draws(3, 2), name, nfe=nfe)
    assert (found.nfe, sum(calls)) == (nfe, 3 * nfe)
    calls.clear()
    found = decode(process, backbone, found.x, name, nfe=nfe)
    assert (found.nfe, sum(calls)) == (nfe, 3 * nfe)


def test_encoding_has_the_order_of_its_solver():
    """Slope of log error against log calls on the linear flow, whose latents are known."""
    process = genflow.get_process("si_trig")
    ends = [process.schedule(torch.tensor(t, dtype=F64)) for t in process.safe_interval]
    data, prior = (math.hypot(float(a) * SCALE, float(b)) for a, b in ends)
    x = torch.ones(1, 1, dtype=F64)
    for solver, order, calls in ((Euler(), 1, 1), (genflow.get_solver("midpoint"), 2, 2)):
        steps = torch.tensor([32, 64, 128, 256], dtype=F64)
        errors = [
            abs(float(encode(process, gaussian(process), x, solver, nfe=calls * int(n)).x) - prior / data)
            for n in steps
        ]
        logs, at = torch.tensor(errors, dtype=F64).log(), -steps.log()
        slope = float(((at - at.mean()) * logs).sum() / (at - at.mean()).square().sum())
        assert slope == pytest.approx(order, abs=0.15), solver


def test_a_sample_does_not_depend_on_its_batch():
    process, x = genflow.get_process("vp_ode"), SCALE * draws(7, 3)
    whole = encode(process, gaussian(process), x)
    parts = encode(process, gaussian(process), x, batch_size=2)
    torch.testing.assert_close(whole.x, parts.x, rtol=0, atol=1e-12)
    assert torch.equal(whole.nfe_per_sample, parts.nfe_per_sample)
    assert whole.nfe == float(whole.nfe_per_sample.mean())
    turned = encode(process, gaussian(process), x.flip(0)).x.flip(0)
    torch.testing.assert_close(turned, whole.x, rtol=0, atol=1e-12)


def test_the_error_of_a_round_trip():
    """rms and largest entry are those of what came back; small tolerances make them small."""
    process, x = genflow.get_process("vp_ode"), SCALE * draws(5, 4)
    rough = round_trip(process, gaussian(process), x, Heun(), nfe=9)
    assert rough.nfe == 18
    gap = (rough.x - x).numpy()
    assert rough.rms.numpy() == pytest.approx((gap**2).mean(1) ** 0.5)
    assert rough.largest.numpy() == pytest.approx(abs(gap).max(1))
    fine = round_trip(process, gaussian(process), x, RK45(1e-9, 1e-9))
    assert float(fine.largest.max()) < 1e-6 < float(rough.rms.min())


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"solver": "euler_maruyama", "nfe": 5}, "latents follow the ODE, and EulerMaruyama draws noise"),
        ({"batch_size": 0}, "batch_size = 0 is not allowed"),
        ({"solver": "heum"}, "did you mean 'heun'"),
    ],
)
def test_what_can_not_encode(given, what):
    process = genflow.get_process("vp_ode")
    with pytest.raises(ValueError, match=what):
        encode(process, gaussian(process), draws(2, 2), **given)
    with pytest.raises(ValueError, match=r"shape \(B, \*\)"):
        encode(process, gaussian(process), torch.zeros(3))


# ---- paths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_begins_and_ends_at_its_ends(kind):
    first, second = draws(4, 6).reshape(4, 1, 2, 3), draws(4, 6, seed=1).reshape(4, 1, 2, 3)
    path = blend(first, second, 5, kind)
    assert path.shape == (4, 5, 1, 2, 3)
    assert torch.equal(path[:, 0], first)
    assert torch.equal(path[:, -1], second)
    torch.testing.assert_close(blend(second, first, 5, kind).flip(1), path)


def test_a_quarter_circle():
    """Between (2, 0) and (0, 8), s = 1/3: 30 degrees on; radius 2 · 4^(1/3) for "prior"."""
    first, second = torch.tensor([[2.0, 0.0]], dtype=F64), torch.tensor([[0.0, 8.0]], dtype=F64)
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    radius = 2 * 4 ** (1 / 3)
    want = {"linear": (4 / 3, 8 / 3), "spherical": (2 * cos, 8 * sin), "prior": (radius * cos, radius * sin)}
    for kind, point in want.items():
        torch.testing.assert_close(blend(first, second, 4, kind)[0, 1], torch.tensor(point, dtype=F64))


def test_the_prior_s_path_stays_on_the_prior_s_spheres():
    """Log radii are even, and so are the angles between neighbours; a line half-way is shorter than both ends."""
    first, second = draws(3, 40), 100 * draws(3, 40, seed=1)
    path = blend(first, second, 9, "prior")
    steps = path.norm(dim=2).log().diff(dim=1)
    torch.testing.assert_close(steps, steps.mean(1, keepdim=True).expand_as(steps))
    unit = path / path.norm(dim=2, keepdim=True)
    angles = (unit[:, 1:] * unit[:, :-1]).sum(2).acos()
    torch.testing.assert_close(angles, angles.mean(1, keepdim=True).expand_as(angles))
    line = blend(first, first.roll(1, 0), 3, "linear")[:, 1].norm(dim=1)
    assert bool((line < first.norm(dim=1)).all())


def test_latents_in_one_direction_or_none():
    z = torch.tensor([[3.0, 4.0]], dtype=F64)
    for kind in ("prior", "spherical"):
        torch.testing.assert_close(blend(z, z, 4, kind), z[:, None].expand(1, 4, 2))
        for other in (-z, 0 * z):
            with pytest.raises(ValueError, match=r"latents \[0\] are opposite or zero.*kind='linear'"):
                blend(z, other, 3, kind)
    torch.testing.assert_close(blend(z, 4 * z, 3, "prior")[:, 1], 2 * z)
    torch.testing.assert_close(blend(z, -z, 3, "linear")[:, 1], 0 * z)


def test_interpolation_of_a_linear_flow_is_the_path_between_the_data():
    """Cauchy data under Poisson flow are only scaled, so every kind commutes with encoding; and every call counts."""
    process, calls = PFGM(dim=3, norm=1.0, head="velocity"), []
    exact = cauchy(process)

    def backbone(x, condition):
        calls.append(len(x))
        return exact(x, condition)

    first, second = draws(2, 3), draws(2, 3, seed=1)
    for kind in KINDS:
        calls.clear()
        found = interpolate(process, backbone, first, second, 5, kind, RK45(1e-8, 1e-8))
        torch.testing.assert_close(found.x, blend(first, second, 5, kind), rtol=1e-6, atol=1e-7)
        assert found.nfe * found.x[:, :, 0].numel() == pytest.approx(sum(calls))


@pytest.mark.parametrize(
    ("count", "kind", "what"),
    [(1, "prior", "count = 1 is not allowed"), (3, "round", "kind = 'round' is not allowed; give prior or")],
)
def test_paths_that_are_none(count, kind, what):
    process = genflow.get_process("vp_ode")
    with pytest.raises(ValueError, match=what):
        interpolate(process, None, draws(2, 2), draws(2, 2), count, kind)
    with pytest.raises(ValueError, match="are not pairs"):
        interpolate(process, None, draws(2, 2), draws(3, 2), 3)


# ---- temperature -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(with_a_score()))
def test_temperature_scales_the_samples_of_a_linear_flow(name):
    process = genflow.get_process(name)
    settings = {"nfe": 11, "shape": (2,), "dtype": F64, "seed": 3}
    warm, cold = (genflow.sample(process, gaussian(process), "heun", 5, **settings, temperature=t).x for t in (1, 0.5))
    torch.testing.assert_close(cold, warm / 2, rtol=1e-9, atol=1e-12)
    assert torch.equal(warm, genflow.sample(process, gaussian(process), "heun", 5, **settings).x)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_that_are_none(value):
    process = genflow.get_process("vp_ode")
    with pytest.raises(ValueError, match=r"temperature = .* is not allowed; give a number above 0"):
        genflow.sample(process, gaussian(process), "heun", 2, nfe=3, shape=(2,), temperature=value)
