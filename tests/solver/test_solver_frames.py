"""Steps in σ of x/a: the same numbers on every path with one base, orders and budgets kept, all else native."""

import math

import pytest
import torch

import genflow
from genflow.bench.cells import lacking
from genflow.claims.studies.noise import NoisyField
from genflow.inpainting import Replacement, inpaint
from genflow.latent import decode, encode
from genflow.likelihood import log_likelihood
from genflow.process.score_sde import VE, VP
from genflow.registry import registries
from genflow.sampling import draw_prior, sample
from genflow.solver.base import NonFiniteError
from genflow.solver.ending import words_of
from genflow.solver.fields import CallableField
from genflow.solver.frames import SigmaField, time_of_sigma
from genflow.solver.noise import Noise
from genflow.solver.ode import RK4, Euler
from genflow.testing import GaussianField

F64 = torch.float64
POINTS = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
RANGE = {"sigma_min": 0.003, "sigma_max": 40.0}
GAUSSIAN = ("ve", "vp", "subvp", "si_linear", "si_trig")
STEPPING = {n: e for n, e in registries()["solvers"].entries().items() if e.tags["budget"]}
ODE = [n for n, e in STEPPING.items() if e.tags["mode"] == "ode"]
SDE = [n for n, e in STEPPING.items() if e.tags["mode"] == "sde"]


def made(family, mode="ode", **options):
    return genflow.get_process(family, mode=mode, **RANGE, **options)


def ends(solver, processes, backbones, nfe=13, **options):
    """Where paths from the same draws end, one for each process."""
    found = []
    for process, backbone in zip(processes, backbones, strict=True):
        x, noise = draw_prior(process, (3,), 0, range(5), F64)
        stepper = genflow.get_solver(solver, **{"frame": "sigma", "grid": "edm", "end_noise": "own", **options})
        solution = stepper.solve(process.field(backbone), x, nfe=nfe, noise=noise)
        assert solution.nfe == nfe
        found.append(solution.x)
    return found


def assert_same(found, tolerance=1e-10):
    size = float(found[0].abs().max())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=tolerance * size)


@pytest.mark.quick_one_in(11)
@pytest.mark.parametrize("grid", ["edm", "snr"])
@pytest.mark.parametrize("end", ["none", "mean", "zero"])
@pytest.mark.parametrize("solver", [*ODE, *SDE])
def test_every_path_in_sigma_takes_the_same_steps(solver, end, grid):
    processes = [made(name, STEPPING[solver].tags["mode"]) for name in GAUSSIAN]
    assert_same(ends(solver, processes, [p.oracle(POINTS) for p in processes], end=end, grid=grid))


@pytest.mark.parametrize("solver", ["heun", "ab3", "rk4"])
def test_in_native_time_they_do_not(solver):
    processes = [made(name) for name in ("ve", "vp")]
    one, other = ends(solver, processes, [p.oracle(POINTS) for p in processes], frame="native")
    assert float((one - other).norm()) > 1e-4


@pytest.mark.parametrize("solver", ODE)
def test_poisson_flow_is_its_own_case_of_pfgmpp(solver):
    options = {"head": "data", "sigma_min": 0.01, "sigma_max": 60.0}
    processes = [genflow.get_process("pfgm", **options), genflow.get_process("pfgmpp", D=1, **options)]
    assert_same(ends(solver, processes, [p.oracle(POINTS) for p in processes]), 1e-9)


@pytest.mark.parametrize("head", ["edm_rms", "edm", "data"])
@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "ab3", "deis"])
def test_one_network_in_one_frame_makes_the_same_samples(solver, head):
    """The network sees x/a and ln(σ)/4, the solver steps in σ: nothing is left of a path but its base."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()

    def network(x, condition):
        return layers(torch.cat([x / (1 + x.square()).sqrt(), condition[:, None]], dim=1)).detach()

    processes = [made(name, head=head, frame="sigma", sigma_data=0.7) for name in GAUSSIAN]
    assert_same(ends(solver, processes, [network] * len(processes)))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "dpmpp_3m", "unipc"])
@pytest.mark.parametrize("name", ["vp_ode", "si_trig", "pfgm"])
def test_solvers_that_follow_the_path_take_the_same_steps_in_either_frame(name, solver):
    process = genflow.get_process(name).for_data(POINTS)
    field, (x, _) = process.field(process.oracle(POINTS)), draw_prior(process, (3,), 0, range(4), F64)
    native, sigma = (genflow.get_solver(solver, frame=f).solve(field, x, nfe=11) for f in ("native", "sigma"))
    torch.testing.assert_close(sigma.x, native.x, rtol=1e-8, atol=1e-8)
    assert (sigma.t, sigma.nfe) == (native.t, native.nfe)


def slope(solver, counts=(160, 320, 640, 1280)):
    """Least-squares slope of log error against log step on `GaussianField`, whose start and end are native."""
    field = GaussianField()
    (start, end), x = field.grid(1), torch.ones(1, 2, dtype=F64)
    want = field.scale(end) / field.scale(start)
    errors = [float((solver.solve(field, x, grid=field.grid(n)).x - want).norm()) for n in counts]
    steps, logs = -torch.tensor(counts, dtype=F64).log(), torch.tensor(errors, dtype=F64).log()
    steps = steps - steps.mean()
    return float((steps * logs).sum() / steps.square().sum())


@pytest.mark.quick_one_in(4)
@pytest.mark.parametrize("solver", ODE)
def test_the_order_is_kept(solver):
    """At least: the midpoint rule is of order 3 for normal data in σ."""
    stepper = genflow.get_solver(solver, frame="sigma")
    assert slope(stepper, (40, 80, 160, 320) if solver == "rk4" else (160, 320, 640, 1280)) > stepper.order - 0.15


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("solver", [*ODE, *SDE])
def test_every_budget_is_exact_and_finite(solver):
    stepper = genflow.get_solver(solver, frame="sigma")
    for nfe in (*range(1, 14), 29, 50):
        field = GaussianField()
        found = stepper.solve(field, torch.ones(2, 2, dtype=F64), nfe=nfe, noise=Noise(0, range(2)))
        assert found.nfe == field.evaluations / 2 == nfe
        assert bool(found.x.isfinite().all())


@pytest.mark.quick_one_in(17)
@pytest.mark.parametrize("spacing", ["process", "uniform", "log", "edm", "snr", "cosine"])
@pytest.mark.parametrize("name", ["vp_ode", "ve_ode", "pfgm", "pfgmpp", "si_linear", "si_fourier"])
def test_finite_on_every_grid(name, spacing):
    process = genflow.get_process(name).for_data(POINTS)
    field, (x, _) = process.field(process.oracle(POINTS[:2])), draw_prior(process, (3,), 0, range(2), F64)
    try:
        process.grid(3, spacing=spacing)
    except ValueError:
        return  # the process says why it has no such grid; that is tested with the grids
    for solver in ODE:
        if lacking(registries()["processes"].entry(name), STEPPING[solver]):
            continue
        for nfe in (1, 4, 9):
            found = genflow.get_solver(solver, grid=spacing, frame="sigma").solve(field, x, nfe=nfe)
            assert bool(found.x.isfinite().all()), (solver, nfe)


# ---- what goes in and out is native ------------------------------------------------------------------------


def test_states_times_and_the_observer_are_native():
    process = VP()
    field, (x, _) = process.field(process.oracle(POINTS)), draw_prior(process, (3,), 0, range(4), F64)
    seen = {frame: [] for frame in ("native", "sigma")}
    for frame, path in seen.items():
        Euler(frame=frame).solve(field, x, nfe=100, observer=lambda x, t, path=path: path.append((t, x)))
    native, sigma = seen.values()
    assert [t for t, _ in native] == [t for t, _ in sigma] == process.grid(100).tolist()
    gaps = [float((one - other).norm() / one.norm()) for (_, one), (_, other) in zip(native, sigma, strict=True)]
    assert gaps[0] < 1e-14
    assert max(gaps) < 0.1


def test_the_plain_end_is_x_t_and_its_own_noise_is_x_over_a():
    process = genflow.get_process("si_linear")
    field, (x, _) = process.field(process.oracle(POINTS)), draw_prior(process, (3,), 0, range(4), F64)
    for frame in ("native", "sigma"):
        plain, own = (RK4(frame=frame, end_noise=n).solve(field, x, nfe=40).x for n in (None, "own"))
        torch.testing.assert_close(own * 0.999, plain, rtol=1e-12, atol=1e-12)


def test_latents_go_there_and_back():
    process = genflow.get_process("si_trig")
    backbone, how = process.oracle(POINTS), {"nfe": 200, "solver": RK4(grid="snr", frame="sigma")}
    x = decode(process, backbone, draw_prior(process, (3,), 0, range(4), F64)[0], **how).x
    torch.testing.assert_close(
        decode(process, backbone, encode(process, backbone, x, **how).x, **how).x, x, atol=1e-4, rtol=0
    )


def test_a_constraint_is_met_and_every_path_gives_the_same_samples():
    mask, found = torch.tensor([True, False, False]), []
    for name in GAUSSIAN:
        process = made(name, "sde")
        solver = genflow.get_solver("ancestral", frame="sigma", grid="edm", end="mean")
        how = Replacement(nfe=61, correctors=1, solver=solver)
        found.append(inpaint(process, process.oracle(POINTS), POINTS[:2], mask, 3, how).x)
        assert bool((found[-1][..., 0] == POINTS[:2, None, 0]).all())
    assert_same(found, 1e-9)


@pytest.mark.parametrize("carrier", ["drift", "mean"])
def test_noise_in_the_drift_is_that_of_the_frame(carrier):
    """Heun's steps are the same on every path; solvers that read means are still refused."""
    found = []
    for name in ("ve", "vp", "si_linear"):
        process = made(name)
        x, _ = draw_prior(process, (3,), 0, range(5), F64)
        field = NoisyField(process, process.oracle(POINTS), 0.2, carrier, Noise(1, range(5)), held=False)
        found.append(genflow.get_solver("heun", frame="sigma", grid="edm", end_noise="own").solve(field, x, nfe=9).x)
        with pytest.raises(ValueError, match="noise is in the drift"):
            genflow.get_solver("dpmpp_2m", frame="sigma").solve(field, x, nfe=9)
    assert_same(found)
    process = made("ve")
    plain = genflow.get_solver("heun", frame="sigma", grid="edm").solve(process.field(process.oracle(POINTS)), x, nfe=9)
    assert float((plain.x - found[0]).norm()) > 0.01


def test_guidance_is_counted_in_the_frame():
    class Labelled:
        classes = 2

        def __call__(self, x, condition, labels):
            return x * (0.5 + 0.1 * labels.to(x)[:, None])

    process, x = VP(), torch.ones(2, 3, dtype=F64)
    field = process.field(Labelled(), labels=torch.tensor([0, 1]), guidance=2.0)
    assert Euler(frame="sigma").solve(field, x, nfe=8).nfe == 8
    assert field.evaluations == 16


# ---- the map -----------------------------------------------------------------------------------------------


def test_velocity_and_score_are_those_of_x_over_a():
    """By the chain rule from the native ones: dy/dσ = (v/a − a'x/a²)/σ', and the score of y is a times that of x."""
    process = VP()
    native = process.field(process.oracle(POINTS))
    field = SigmaField(native, Euler())
    x, t = torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(2)), torch.tensor(0.4, dtype=F64)
    c = process.at(t, x)
    sigma = field.sigmas(t[None])[0]
    rate = (c.db * c.a - c.da * c.b) / c.a**2
    velocity, score = field.velocity_and_score(x / c.a, sigma)
    torch.testing.assert_close(velocity, (native.velocity(x, t) / c.a - c.da * x / c.a**2) / rate)
    torch.testing.assert_close(score, c.a * native.score(x, t))
    torch.testing.assert_close(field.data(x / c.a, sigma), native.data(x, t))


def test_the_score_of_a_base_that_has_none_is_refused():
    process = genflow.get_process("pfgm").for_data(POINTS)
    field = process.field(process.oracle(POINTS))
    with pytest.raises(ValueError, match="StudentT base"):
        genflow.get_solver("euler_maruyama", frame="sigma").solve(field, POINTS, nfe=3, noise=Noise(0, range(6)))


@pytest.mark.parametrize("name", ["vp_ode", "ve_ode", "subvp_ode", "si_trig", "pfgm"])
def test_sigma_leads_back_to_its_time(name):
    process = genflow.get_process(name).for_data(POINTS)
    times = process.grid(23)
    found = time_of_sigma(process.field(process.oracle(POINTS)), process.noise_ratio(times))
    torch.testing.assert_close(found, times, rtol=1e-9, atol=1e-12)


# ---- what cannot be ----------------------------------------------------------------------------------------


def test_what_cannot_step_in_sigma_says_so():
    for name in ("rk45", "scipy/RK45", "torchdiffeq/dopri5"):
        with pytest.raises(ValueError, match="frame"):
            genflow.get_solver(name, frame="sigma")
        assert "frame" not in registries()["solvers"].kinds(name)
    with pytest.raises(ValueError, match="frame = 'log' is not allowed; give native or sigma"):
        Euler(frame="log")
    free = genflow.get_process("si_encdec").for_data(POINTS)
    with pytest.raises(ValueError, match="Euler cannot sample SIEncDec"):
        sample(free, free.oracle(POINTS), Euler(frame="sigma"), 2, nfe=3)
    with pytest.raises(ValueError, match=r"Euler needs the a\(t\) and b\(t\)"):
        Euler(frame="sigma").solve(CallableField(lambda x, t: -x, 1.0, 0.0), torch.ones(1, 1), nfe=3)
    empty = GaussianField(0.0, 1.4)
    with pytest.raises(ValueError, match=r"there is no data in x_t at t = 0.*leave frame = 'sigma' out"):
        Euler(frame="sigma").solve(empty, torch.ones(1, 2, dtype=F64), nfe=3)
    process = VP()
    with pytest.raises(ValueError, match="likelihood counts the volume along the path in native time"):
        log_likelihood(process, process.oracle(POINTS), POINTS, solver=Euler(frame="sigma"), nfe=3)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_broken_step_is_named_by_its_native_time(solver):
    process = VE()
    field = process.field(lambda x, condition: x * torch.nan)
    with pytest.raises(NonFiniteError, match=f"after step 1 at t = {float(process.grid(4)[1]):g}"):
        genflow.get_solver(solver, frame="sigma").solve(field, torch.ones(2, 3), grid=process.grid(4))


# ---- options -----------------------------------------------------------------------------------------------


def test_the_frame_is_an_option_of_every_solver_on_a_grid_and_is_written_into_protocols():
    for name in STEPPING:
        assert str(registries()["solvers"].kinds(name)["frame"]) == "a word"
        assert genflow.get_solver(name).frame == "native"
        assert genflow.get_solver(name, frame="sigma").ends().frame == "sigma"
    assert words_of({}) == words_of({"frame": "native"}) == ""
    assert words_of({"frame": "sigma"}) == "frame: sigma"
    assert words_of({"frame": "sigma", "end": "mean"}) == "end: mean; frame: sigma"
    assert words_of({"frame": "sigma", "end": "mean"}, plain_end=True) == "frame: sigma"
    assert words_of({"end_noise": "own"}) == "end: none at its own noise"


def test_epsilon_is_per_unit_of_sigma():
    """ε = σ for a unit of σ, and the variance that steps of it add to x/a is σ_t² − σ_s² as they become short."""
    process = made("vp", "sde")
    field = SigmaField(process.field(process.oracle(POINTS)), Euler())
    sigma = field.grid(20_000, spacing="edm")
    added = sum(2 * field.natural_diffusion(s) * abs(h) for s, h in zip(sigma[:-1], sigma.diff().tolist(), strict=True))
    assert float(added) == pytest.approx(40.0**2 - 0.003**2, rel=1e-3)
    assert math.isclose(float(field.natural_diffusion(sigma[3])), float(sigma[3]))
