"""How paths end: what is left of the noise, at what cost, for every registered process and solver."""

import copy
import itertools
import math

import pytest
import torch

import genflow
from genflow.inpainting import Replacement, inpaint
from genflow.latent import decode, encode
from genflow.likelihood import log_likelihood
from genflow.process.bases import Gaussian
from genflow.process.poisson import PFGM, PFGMPP
from genflow.process.score_sde import VE, VP
from genflow.registry import registries
from genflow.sampling import check_pair, draw_prior, sample
from genflow.solver import ENDS
from genflow.solver.adaptive import RK45
from genflow.solver.base import Solver
from genflow.solver.ending import Ending
from genflow.solver.fields import CallableField, Solution
from genflow.solver.noise import Noise
from genflow.solver.ode import Heun

DIM, POINTS = 8, 4.0 * torch.eye(8, dtype=torch.float64)[:3] - 1.0
"""Three points in eight dimensions, far apart for the noise that is left."""

PROCESSES = list(registries()["processes"].entries())
SOLVERS = list(registries()["solvers"].entries())
OTHERS = ["torchdiffeq/dopri5", "scipy/RK45", "torchsde/euler", "torchsde/srk"]
"""One of each kind of the solvers of other libraries."""
OWN = [name for name in SOLVERS if "/" not in name]


def fitted(name, **options):
    return genflow.get_process(name, **options).for_data(POINTS)


def fits(process, solver):
    try:
        check_pair(process, solver)
    except ValueError:
        return False
    return True


def draw(process, solver, n, nfe=None, **how):
    return sample(process, process.oracle(POINTS), solver, n, nfe=nfe, dtype=torch.float64, shape=(DIM,), **how)


def distances(x, scale=1.0):
    return torch.cdist(x, scale * POINTS).amin(1)


def left(process, solution):
    """Noise left in samples, data units: the σ of which the median distance to the data would be that found."""
    return float(distances(solution.x).median()) / process.base.median_radius(DIM)


@pytest.mark.quick_one_in(31)
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_every_process_can_end_at_the_same_noise(name, noise):
    """By its ODE, or by its SDE where that alone makes samples.

    The standard error of the median's noise is 3 % for 100 samples of a Gaussian base, and less for 300 of a wide one.
    """
    process = fitted(name)
    flow = not process.why_not("ode")
    solver = RK45(end_noise=noise) if flow else genflow.get_solver("euler_maruyama", end_noise=noise)
    count = 100 if isinstance(process.base, Gaussian) else 300
    found = left(process, draw(process, solver, count, None if flow else 400))
    assert found == pytest.approx(noise, rel=0.15)
    assert float(process.noise_left(torch.tensor(process.end_time(noise), dtype=torch.float64))) == pytest.approx(
        noise, rel=1e-6
    )


@pytest.mark.quick_one_in(31)
@pytest.mark.parametrize("end", ["mean", "zero"])
@pytest.mark.parametrize("name", PROCESSES)
def test_the_mean_leaves_nothing_on_any_path(name, end):
    """With the exact field samples are convex combinations of the data, and near the data they are data points.

    Each path meets every solver, half of them with one end and half with the other, in turn from path to path; the
    solvers of other libraries, and those of a path with few, meet both.
    """
    process = fitted(name)
    fitting = [other for other in OWN if fits(process, genflow.get_solver(other, end=end))]
    assert len(fitting) >= 2  # the mirror has no flow and no affine path
    chosen = fitting if len(fitting) < 4 else fitting[(PROCESSES.index(name) + (end == "zero")) % 2 :: 2]
    others = OTHERS if name in ("vp_sde", "vp_ode", "si_linear") else []
    for other in [*chosen, *others]:
        solver = genflow.get_solver(other, end=end)
        if not fits(process, solver):
            continue
        nfe = 25 if hasattr(solver, "plan") else None
        solution = draw(process, solver, 3, nfe)
        assert float(distances(solution.x).max()) < 1e-6, other
        assert nfe in (None, solution.nfe), other


@pytest.mark.parametrize("name", ["pfgm", "vp_ode", "ve_ode", "si_linear"])
def test_by_default_the_noise_of_the_last_time_is_left(name):
    process = fitted(name)
    t = torch.tensor(process.safe_interval[0], dtype=torch.float64)
    a = float(process.coefficients(t).a)
    found = float(distances(draw(process, RK45(), 300).x / a).median()) / process.base.median_radius(DIM)
    assert found == pytest.approx(float(process.noise_left(t)), rel=0.15)


@pytest.mark.quick_one_in(19)
@pytest.mark.parametrize("end", [{"end": "mean"}, {"end": "zero"}, {"end": "published"}, {"end_noise": 0.05}])
@pytest.mark.parametrize("name", [n for n in [*OWN, *OTHERS] if registries()["solvers"].entry(n).tags["budget"]])
def test_a_budget_is_spent_exactly(name, end):
    solver = genflow.get_solver(name, **end)
    process = fitted("vp_sde" if solver.mode == "sde" else "vp_ode")
    for nfe in (1, 2, 3, 8, 11):
        solution = draw(process, solver, 1, nfe)
        assert solution.nfe == nfe, (name, nfe)
    finish = solver.ending.on(process, solver.mode, name)
    for nfe in range(1, 41):
        assert sum(solver.planned(nfe, finish)) + finish.mean == nfe


@pytest.mark.quick_one_in(19)
@pytest.mark.parametrize("name", [n for n in OWN if "affine" in registries()["solvers"].entry(n).tags.get("needs", ())])
@pytest.mark.parametrize("path", ["ve_sde", "subvp_sde", "si_linear_sde"])
def test_one_noise_is_left_by_every_exponential_and_discrete_solver(path, name):
    """As on VP by the general ones: in 400 calls each path ends at a twentieth of a data unit."""
    process, solver = fitted(path), genflow.get_solver(name, end_noise=0.05)
    if not fits(process, solver):
        process = fitted(path.replace("_sde", "_ode") if path != "si_linear_sde" else "si_linear")
    assert left(process, draw(process, solver, 100, 400)) == pytest.approx(0.05, rel=0.15)


@pytest.mark.parametrize("name", ["heun", "heun_sde", "edm_churn", "dpmpp_2m", "pc"])
def test_guidance_counts_both_calls_of_the_mean(name):
    solver, process = genflow.get_solver(name, end="mean"), VP(head="data")
    for nfe in (2, 4, 10):
        solution = sample(process, told, solver, 2, nfe=nfe, labels=[0, 1], guidance=2.0, shape=(DIM,))
        assert solution.nfe == nfe
    with pytest.raises(ValueError, match="odd"):
        sample(process, told, solver, 2, nfe=5, labels=[0, 1], guidance=2.0, shape=(DIM,))


def told(x, condition, labels):
    """A network that answers with its class's own point, and without a class with the middle of the first two."""
    rows = POINTS.to(x)[labels.clamp_min(0)]
    return torch.where(labels[:, None] < 0, POINTS[:2].mean(0).to(x), rows)


told.classes = 3


@pytest.mark.parametrize("name", ["rk45", "rk23", "torchdiffeq/dopri5", "heun"])
def test_each_row_ends_on_the_mean_of_its_own_label(name):
    """An adaptive solver drops rows as they arrive, and their labels; the mean needs all of them again."""
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    solver = genflow.get_solver(name, end="mean")
    how = {"nfe": 20 if name == "heun" else None, "labels": labels, "dtype": torch.float64, "shape": (DIM,)}
    assert torch.equal(sample(VE(head="data"), told, solver, 6, **how).x, POINTS[labels])


def test_an_adaptive_solver_counts_the_mean_of_each_sample():
    process = fitted("vp_ode")
    start, _ = draw_prior(process, (DIM,), 0, range(5), torch.float64)
    plain, ended = (s.solve(process.field(process.oracle(POINTS)), start) for s in (RK45(), RK45(end="mean")))
    assert torch.equal(ended.nfe_per_sample, plain.nfe_per_sample + 1)
    assert ended.nfe == pytest.approx(plain.nfe + 1)


def test_samples_left_short_stay_where_they_are():
    """They are at times of their own, where no mean is asked for and no call is spent."""
    process = fitted("vp_ode")
    start, _ = draw_prior(process, (DIM,), 0, range(12), torch.float64)
    own = RK45(1e-5, 1e-5).solve(process.field(process.oracle(POINTS)), start).nfe_per_sample
    limit = {"rtol": 1e-5, "atol": 1e-5, "max_nfe": int(own.median()), "on_stiff": "return_last"}
    plain = RK45(**limit).solve(process.field(process.oracle(POINTS)), start)
    field = process.field(process.oracle(POINTS))
    ended = RK45(**limit, end="mean").solve(field, start)
    short = plain.stopped
    assert 0 < int(short.sum()) < 12
    assert torch.equal(ended.stopped, short)
    assert torch.equal(ended.x[short], plain.x[short])
    assert float(distances(ended.x[~short]).max()) < 1e-9
    assert torch.equal(ended.nfe_per_sample, plain.nfe_per_sample + (~short).long())
    assert field.evaluations == int(ended.nfe_per_sample.sum())


def edm(x, denoise, sigmas):
    """Heun's method in σ down to σ = 0, as in Algorithm 1 of Karras et al. 2022, written out."""
    for now, then in itertools.pairwise(sigmas):
        first = (x - denoise(x, now)) / now
        moved = x + (then - now) * first
        if then > 0:
            moved = x + (then - now) / 2 * (first + (moved - denoise(moved, then)) / then)
        x = moved
    return x


def test_the_grid_of_edm_ends_at_zero_as_published():
    """18 steps of ρ = 7 from 80 over 0.002 to 0 are 35 calls."""
    process = PFGMPP(D=1e9).for_data(POINTS)
    oracle = process.oracle(POINTS)
    field = process.field(oracle)
    steps, low, high = torch.arange(18, dtype=torch.float64), 0.002, 80.0
    sigmas = (high ** (1 / 7) + steps / 17 * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    start = 80.0 * torch.randn(6, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = edm(start, field.data, [*sigmas, torch.tensor(0.0, dtype=torch.float64)])
    for end in ("published", "zero"):
        found = Heun(grid="edm(7)", end=end).solve(process.field(oracle), start, nfe=35)
        torch.testing.assert_close(found.x, want, rtol=1e-9, atol=1e-9)
        assert found.nfe == 35
    same = Heun(end="zero").solve(process.field(oracle), start, grid=sigmas.clone())
    torch.testing.assert_close(same.x, want, rtol=1e-9, atol=1e-9)
    assert same.nfe == 35


def test_published_ends_are_those_of_the_papers():
    said = {name: (fitted(name).published_end("ode"), fitted(name).published_end("sde")) for name in PROCESSES}
    assert said["pfgm"] == ("none", "none")
    assert said["pfgmpp"] == ("zero", "zero")
    assert {said[n] for n in PROCESSES if n.startswith(("vp", "subvp", "ve"))} == {("mean", "mean")}
    assert {said[n] for n in PROCESSES if n.startswith("si_")} == {("none", "mean")}
    process = fitted("pfgm")
    assert torch.equal(draw(process, RK45(end="published"), 4).x, draw(process, RK45(), 4).x)
    process = fitted("ve_ode")
    assert torch.equal(draw(process, RK45(end="published"), 4).x, draw(process, RK45(end="mean"), 4).x)


def test_for_ve_the_mean_is_the_last_step_of_reverse_diffusion():
    """x + σ² s at the last level, which the authors' predictor takes with σ = 0 as the next."""
    process = VE(head="score").for_data(POINTS)
    field, sigma = process.field(process.oracle(POINTS)), process.sigma_min
    t = torch.tensor(0.0, dtype=torch.float64)
    x = POINTS + 3 * sigma
    torch.testing.assert_close(field.data(x, t), x + sigma**2 * field.score(x, t), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["euler_maruyama", "heun_sde", "reverse_diffusion", "ancestral", "torchsde/euler"])
def test_the_last_step_adds_its_noise_where_the_mean_follows(name):
    """E[X | x_t] is of a state that has the noise of its time; without a mean the last step is quiet."""
    process = fitted("vp_sde")
    loud, quiet = Counting(5), Counting(5)
    field = process.field(process.oracle(POINTS))
    start = torch.zeros(5, DIM, dtype=torch.float64)
    genflow.get_solver(name, end="mean").solve(field, start, grid=process.grid(6), noise=loud)
    genflow.get_solver(name).solve(field, start, grid=process.grid(6), noise=quiet)
    assert (loud.draws, quiet.draws) == (6, 5)


class Counting(Noise):
    """Counts its draws."""

    def __init__(self, count):
        super().__init__(0, range(count))
        self.draws = 0

    def like(self, x):
        self.draws += 1
        return super().like(x)


def test_an_observer_sees_the_mean_last():
    process = fitted("si_linear")
    seen = []
    start = torch.randn(3, DIM, dtype=torch.float64)
    found = Heun(end="mean").solve(
        process.field(process.oracle(POINTS)), start, nfe=9, observer=lambda x, t: seen.append((x, t))
    )
    assert len(seen) == len(Heun().plan(8)) + 2
    assert torch.equal(seen[-1][0], found.x)
    assert seen[-1][1] == seen[-2][1] == found.t == process.safe_interval[0]


def test_the_samples_are_data_plus_noise_whatever_the_path_does_to_the_data():
    """At t = 1/2 of the linear path x_t = X/2 + N/2; what comes out is X + N."""
    process = fitted("si_linear")
    assert process.end_time(1.0) == pytest.approx(0.5)
    at = torch.tensor(0.5, dtype=torch.float64)
    torch.testing.assert_close(process.in_data_units(POINTS / 2, at), POINTS)
    start = torch.randn(4, DIM, dtype=torch.float64)
    ended = RK45(1e-9, 1e-9, end_noise=1.0).solve(process.field(process.oracle(POINTS)), start)
    grid = torch.tensor([process.safe_interval[1], 0.5], dtype=torch.float64)
    plain = RK45(1e-9, 1e-9).solve(process.field(process.oracle(POINTS)), start, grid=grid)
    torch.testing.assert_close(ended.x, 2 * plain.x, rtol=1e-7, atol=1e-7)


@pytest.mark.slow
def test_latents_are_decoded_to_the_end_that_is_asked_for():
    """An encoding has no such end, so one solver serves both directions."""
    process = fitted("vp_ode")
    oracle, solver = process.oracle(POINTS), RK45(1e-6, 1e-6, end="mean")
    near = 0.01 * torch.randn(POINTS.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + POINTS
    latent = encode(process, oracle, near, solver)
    assert torch.equal(latent.x, encode(process, oracle, near, RK45(1e-6, 1e-6)).x)
    back = decode(process, oracle, latent.x, solver)
    assert float((back.x - POINTS).abs().max()) < 1e-9
    assert back.nfe == decode(process, oracle, latent.x, RK45(1e-6, 1e-6)).nfe + 1


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("options", [{"end": "mean"}, {"end": "zero"}, {"end": "published"}, {"end_noise": 0.05}])
@pytest.mark.parametrize("name", ["euler_maruyama", "heun_sde", "ancestral", "edm_churn"])
def test_samples_under_a_constraint_end_so_too(name, options):
    process = fitted("vp_sde")
    known = torch.zeros(DIM)
    known[0] = 1
    solver = genflow.get_solver(name, **options)
    moves = name == "euler_maruyama" and options.get("end") == "mean"
    how = Replacement(nfe=37 if moves else 36, correctors=int(moves), solver=solver)
    found = inpaint(process, process.oracle(POINTS), POINTS, known, 2, how)
    assert found.nfe == how.nfe
    assert torch.equal(found.x[..., 0], POINTS[:, None, 0].expand(-1, 2))
    gap = distances(found.x.flatten(0, 1))
    assert float(gap.median()) < (1e-6 if "end" in options else 1.0)


def test_what_cannot_be_done_is_said_in_a_sentence():
    plain = CallableField(lambda x, t: -x, 1.0, 0.0)
    x = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"Heun cannot end with mean: this field gives neither E\[X given x_t\]"):
        Heun(end="mean").solve(plain, x, nfe=4)
    with pytest.raises(ValueError, match=r"end = 'nought' is not allowed; give one of none, mean, zero, published"):
        Heun(end="nought")
    with pytest.raises(ValueError, match="end_noise = 0 is not allowed"):
        Heun(end_noise=0)
    with pytest.raises(ValueError, match=r"VE cannot end at noise 0.001: its path ends with 0.01 .* end = 'mean'"):
        VE().end_time(1e-3)
    with pytest.raises(ValueError, match="VE cannot end at noise 100: it begins with less; give less than 50"):
        VE().end_time(100.0)
    two_sided = genflow.get_process("si_linear", source="mixture", source_options={"means": [[1.0], [-1.0]], "std": 1})
    with pytest.raises(ValueError, match="from this base it has no noise level"):
        check_pair(two_sided, RK45(end_noise=0.01))
    with pytest.raises(ValueError, match="RK45: end = 'mean' is not possible: SILinear: with this base"):
        check_pair(two_sided, RK45(end="mean"))
    with pytest.raises(ValueError, match="a likelihood follows the path from the data to the prior"):
        log_likelihood(VP(), VP().oracle(POINTS), POINTS, solver=RK45(end="mean"))
    field = fitted("vp_ode").field(fitted("vp_ode").oracle(POINTS))
    with pytest.raises(ValueError, match="the grid leads away from the data"):
        Heun(end="mean").solve(field, POINTS, grid=field.grid(4).flip(0))
    with pytest.raises(ValueError, match="the grid that was given has its own end"):
        Heun(end_noise=0.05).solve(field, POINTS, grid=field.grid(4))


class Own(Solver):
    """A plugin's solver with a constructor that knows nothing of ends."""

    def __init__(self, twice=False):
        self.twice = twice

    def travel(self, field, x, *, nfe=None, grid=None, noise=None, observer=None, finish=None):
        times = field.grid(200 * (1 + self.twice))
        for t, s in itertools.pairwise(times):
            x = x + float(s - t) * field.velocity(x, t)
        return Solution(x, float(len(times) - 1))


class Loop(Solver):
    """A plugin's solver from before there were ends: all of `solve` is its own."""

    def solve(self, field, x, *, nfe=None, grid=None, noise=None, observer=None):
        return Solution(x, 0.0)


def test_a_plugins_solver_takes_the_options_without_knowing_them():
    solvers = registries()["solvers"]
    solvers.add("own", Own)
    solvers.add("loop", Loop)
    try:
        process = fitted("ve_ode")
        solver = genflow.get_solver("own", twice=True, end="mean")
        solution = draw(process, solver, 3)
        assert solver.twice
        assert float(distances(solution.x).max()) < 1e-6
        assert solution.nfe == 401
        with pytest.raises(ValueError, match="Loop has a loop of its own"):
            genflow.get_solver("loop", end="mean")
        assert genflow.get_solver("loop").solve(None, torch.ones(1, 1)).nfe == 0
        with pytest.raises(ValueError, match="did you mean 'end_noise'"):
            genflow.get_solver("own", endnoise=0.1)
    finally:
        solvers.remove("own")
        solvers.remove("loop")


def test_an_ending_belongs_to_one_solver():
    ended, plain = Heun(end="mean", end_noise=0.1), Heun()
    assert (plain.ending, ended.ending) == (Ending(), Ending("mean", 0.1))
    assert copy.copy(ended).ending == ended.ending
    assert ended.ends().ending == plain.ending
    assert ended.ending.words == "end: mean at noise 0.1"
    assert plain.ending.words == ""
    assert set(ENDS) == {"none", "mean", "zero", "published"}


@pytest.mark.slow
def test_rows_say_how_their_paths_end():
    """And rows of the plain end say nothing more than before."""
    from genflow.bench.single import SingleWorker
    from genflow.config import BenchConfig, build
    from genflow.data.digits import Digits

    digits = Digits()
    process = genflow.get_process("ve_ode").for_data(digits.fitting_points())
    base = {"process": "ve_ode", "backbone": "mlp", "dataset": "digits", "solver": "heun", "nfe": "3", "samples": "20"}
    base |= {"metric": "fd", "seed": "0"}
    said = {}
    for end in ("none", "mean"):
        config = build(BenchConfig, base | {"solver_options": f"heun.end={end}"})
        backbone = genflow.get_backbone("mlp", shape=(1, 8, 8), extra_channels=0)
        rows = SingleWorker(config, process, backbone, digits).rows(lambda share, note: None)
        said[end] = {row["process"]: row for row in rows}
    plain, mean = (said[end]["ve_ode"]["protocol"].split("; ") for end in ("none", "mean"))
    changed = [part for part in mean if part not in plain]
    assert [part.startswith("end: mean") for part in changed] == [True]
    assert all(part.startswith("end: ") for part in plain if part not in mean)
    assert said["mean"]["data"]["protocol"] == said["none"]["data"]["protocol"]
    assert said["mean"]["ve_ode"]["nfe"] == said["none"]["ve_ode"]["nfe"] == 3


def test_paths_of_the_catalogue_end_at_different_noise_by_default():
    """Grey levels of 256 for data on [-1, 1], as in the table of docs/math.md."""
    grey = {"vp_ode": 1.345, "subvp_ode": 0.014, "ve_ode": 1.28, "pfgm": 0.128, "pfgmpp": 0.256, "si_linear": 0.128}
    for name, levels in grey.items():
        process = genflow.get_process(name)
        t = torch.tensor(process.safe_interval[0], dtype=torch.float64)
        assert 128 * float(process.noise_left(t)) == pytest.approx(levels, rel=0.01), name
    assert 128 * float(PFGM().noise_left(torch.tensor(1e-3))) == pytest.approx(0.128, rel=1e-6)
    assert math.isinf(float(genflow.get_process("si_encdec").noise_left(torch.tensor(0.3))))
