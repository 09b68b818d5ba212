"""Everything that computes, on a pretended accelerator: it runs where the network is, no float64 reaches MPS, and the
numbers are those of the CPU."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from pretended import pretend

import genflow
from genflow import inpainting, latent
from genflow.bench.cells import lacking, plan
from genflow.bench.worker import Worker
from genflow.config import BenchConfig, build
from genflow.evaluate import frechet, kernels, manifold, two_sample
from genflow.process.couplings import COUPLINGS
from genflow.process.distributions import GaussianMixture
from genflow.process.oracles import Cauchy
from genflow.registry import registries
from genflow.sampling import draw_path
from genflow.solver.adaptive import RK45

KINDS = ["cuda", "mps"]
DATA = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
MEANS = [[0.0] * 16, [1.0] * 16]
LOOSE = RK45(1e-2, 1e-2)
PROCESSES, SOLVERS = (registries()[plural].entries() for plural in ("processes", "solvers"))
ONE_OF_KIND = ("torchdiffeq/dopri5", "scipy/RK45", "torchsde/heun")


def fits(p, s):
    process, solver = PROCESSES[p], SOLVERS[s]
    alike = solver.tags["mode"] == process.tags["mode"] and not lacking(process, solver)
    return alike and ("/" not in s or (s in ONE_OF_KIND and p in ("vp_ode", "vp_sde")))


def pairs():
    """Pairs that fit, of every process and every solver, each at least twice where it can be, with unlike partners.

    Of another library's solvers one is met, with one process.
    """
    product = [(7 * i + j, p, s) for i, p in enumerate(PROCESSES) for j, s in enumerate(SOLVERS) if fits(p, s)]
    met = Counter()
    for _, *pair in sorted(product, key=lambda one: one[0] % 23):
        if any(met[name] < 2 for name in pair):
            met.update(pair)
            yield tuple(pair)


def test_every_process_and_solver_is_sampled():
    wanted = {(p, s) for p in PROCESSES for s in SOLVERS if fits(p, s)}
    for place in (0, 1):
        assert {pair[place] for pair in pairs()} == {pair[place] for pair in wanted}


def fitted(name, **options):
    return genflow.get_process(name, **options).for_data(DATA)


def network(process, classes=0, channels=1):
    extra = process.extra_channels
    net = genflow.get_backbone("mlp", shape=(channels, 4, 4), extra_channels=extra, classes=classes, width=8, depth=1)
    net.initialise(0)
    return net.eval().requires_grad_(False)


def both(kind, compute):
    """What `compute(place)` finds on the CPU and on the device, as host tensors; place moves a tensor or a network."""
    want = compute(lambda value: value).detach().cpu()
    with pretend(kind) as card:
        found = compute(lambda value: value.to(card.name)).detach().cpu()
    return found, want


def alike(kind, compute, tolerance=1e-4):
    found, want = both(kind, compute)
    assert float((found - want).abs().max()) <= tolerance * float(want.abs().max())


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("process", "solver"), list(pairs()))
def test_sampling(kind, process, solver):
    fixed = SOLVERS[solver].tags["budget"]
    made = genflow.get_solver(solver, **({} if fixed else {"rtol": 0.1, "atol": 0.1}))
    start = fitted(process)

    def draw(place):
        net = place(network(start))
        return genflow.sample(start, net, made, 2, nfe=6 if fixed else None, seed=0).x

    alike(kind, draw)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", [None, "own"])
def test_sampling_with_labels_guidance_and_temperature(kind, device):
    process = fitted("vp_ode")

    def draw(place):
        net = place(network(process, classes=3))
        where = device and str(next(net.parameters()).device)
        how = {"nfe": 4, "guidance": 2.0, "temperature": 0.9, "batch_size": 2, "device": where}
        return genflow.sample(process, net, "dpmpp_2m", 5, labels=place(torch.tensor([0, 1, 2, 0, 1])), **how).x

    alike(kind, draw)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_elsewhere_is_said_in_a_sentence(kind):
    process = fitted("vp_sde")
    net, mask = network(process), torch.ones(1, 4, 4)
    with pretend(kind) as card:
        for act in (
            lambda: genflow.sample(process, net, "euler_maruyama", 2, nfe=4, device=card.name),
            lambda: inpainting.inpaint(process, net, DATA[:1], mask, 1, inpainting.Replacement(device=card.name)),
        ):
            with pytest.raises(ValueError, match=f"the network is on cpu and device = '{kind}:0'; move it with"):
                act()
        net.to(card.name)
        with pytest.raises(ValueError, match=rf"the network is on {kind}:0 and device = 'cpu'; move it with"):
            genflow.sample(process, net, "euler_maruyama", 2, nfe=4, device="cpu")


HEUN = {"solver": genflow.get_solver("heun"), "nfe": 4}
LIKELIHOODS = [(name, HEUN) for name, entry in PROCESSES.items() if entry.tags["mode"] == "ode"] + [
    ("pfgm", {"solver": LOOSE}),
    ("vp_ode", {**HEUN, "probes": 3, "probe": "gaussian"}),
    ("vp_ode", {**HEUN, "trace": "exact"}),
    ("si_linear", {"solver": genflow.get_solver("torchdiffeq/dopri5", rtol=0.1, atol=0.1)}),
]


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("process", "how"), LIKELIHOODS)
def test_likelihood(kind, process, how):
    start = fitted(process)

    def log_prob(place):  # data on the host follow the network
        found = genflow.log_likelihood(start, place(network(start)), DATA[:2], **how)
        assert (found.log_prob.dtype, found.log_prob.device.type) == (torch.float64, "cpu")
        assert found.stderr.device.type == "cpu"
        return found.log_prob

    alike(kind, log_prob, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("source", "options"), [("mixture", {"means": MEANS, "std": 0.7}), ("uniform", {}), ("gaussian", None)]
)
def test_free_interpolants(kind, source, options):
    free = {"source": source, "source_options": options, "gamma": "brownian", "head": "velocity_denoiser"}
    start, noisy = fitted("si_linear", **free), fitted("si_linear_sde", **free)
    alike(
        kind, lambda place: genflow.log_likelihood(start, place(network(start)), place(DATA[:2]), solver=LOOSE).log_prob
    )
    alike(kind, lambda place: genflow.sample(noisy, place(network(noisy)), "heun_sde", 2, nfe=5).x)


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("process", "solver"), [("pfgm", "heun"), ("vp_ode", "heun"), ("si_linear", LOOSE)])
def test_latents(kind, process, solver):
    start, nfe = fitted(process), 6 if solver == "heun" else None

    def there_and_back(place):
        net = place(network(start, classes=3))
        how = {"nfe": nfe, "labels": [0, 1, 2], "guidance": 1.5, "batch_size": 2}
        found = latent.round_trip(start, net, DATA[:3], solver, **how)
        assert found.x.device == found.latent.device == next(net.parameters()).device
        assert found.rms.device.type == found.largest.device.type == "cpu"
        return found.latent

    alike(kind, there_and_back)
    for path in latent.KINDS:
        alike(
            kind,
            lambda place, path=path: (
                latent.interpolate(
                    start, place(network(start)), place(DATA[:2]), place(DATA[2:4]), 3, path, solver, nfe=nfe
                ).x
            ),
        )


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data_moves", [False, True])
@pytest.mark.parametrize("solver", ["euler_maruyama", "heun_sde", "reverse_diffusion", "ancestral", "edm_churn"])
def test_control(kind, data_moves, solver):
    start, mask = fitted("vp_sde"), torch.zeros(1, 4, 4)
    mask[:, :2] = 1
    a = torch.linalg.qr(torch.randn(16, 3, generator=torch.Generator().manual_seed(1)))[0].T.contiguous()
    how = inpainting.Replacement(nfe=11, correctors=1, solver=genflow.get_solver(solver), batch_size=3)
    if solver not in ("heun_sde", "edm_churn"):
        how = inpainting.Replacement(nfe=12, correctors=1, solver=genflow.get_solver(solver), batch_size=3)

    def moved(place):
        return place if data_moves else lambda value: value

    def inpainted(place):
        own = moved(place)
        return inpainting.inpaint(start, place(network(start)), own(DATA[:2]), own(mask), 2, how).x

    def constrained(place):
        own, net = moved(place), place(network(start))
        return inpainting.constrain(start, net, own(a), own(torch.zeros(2, 3)), (1, 4, 4), 2, how).x

    def coloured(place):
        net = place(network(start, channels=3))
        return inpainting.colourise(start, net, moved(place)(DATA[:2]), 2, how).x

    for compute in (inpainted, constrained, coloured):
        alike(kind, compute)


ORACLES = [
    ("pfgm", DATA),
    ("pfgmpp", DATA),
    ("vp_ode", DATA),
    ("si_linear", DATA),
    ("pfgm", Cauchy()),
    ("vp_ode", GaussianMixture(MEANS, 0.5)),
    ("si_encdec", GaussianMixture(MEANS, 0.5)),
]


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("process", "data"), ORACLES)
def test_oracles(kind, process, data):
    start = fitted(process)

    def draw(place):
        known = place(data) if isinstance(data, torch.Tensor) else data
        device = str(place(DATA[:1]).device)
        return genflow.sample(start, start.oracle(known), "heun", 2, nfe=4, shape=(1, 4, 4), device=device).x

    alike(kind, draw, 1e-3)
    alike(kind, lambda place: start.oracle(data).log_prob(place(DATA[:2]), torch.tensor(0.5, dtype=torch.float64)))
    alike(kind, lambda place: start.oracle(data).score(place(DATA[:2]), torch.tensor(0.5, dtype=torch.float64)), 1e-3)
    alike(kind, lambda place: latent.encode(start, start.oracle(data), place(DATA[:2]), "heun", nfe=4).x, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_oracle_of_a_box(kind):
    start = fitted("si_linear", source="uniform", gamma="brownian", head="velocity_denoiser")
    alike(
        kind,
        lambda place: (
            genflow.sample(
                start, start.oracle(place(DATA)), "heun", 2, nfe=4, shape=(1, 4, 4), device=place(DATA).device
            ).x
        ),
    )


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("process", [*PROCESSES, "pfgm published"])
def test_training_pairs_fits_and_paths(kind, process):
    name, _, published = process.partition(" ")
    options = {"perturbation": "published", "prior": "published"} if published else {}

    def pairs_of(place):
        start = genflow.get_process(name, **options).for_data(place(DATA))
        x, net = place(DATA[:4]), place(network(start))
        generator = torch.Generator().manual_seed(0)
        pairs = start.training_pairs(x, generator=generator, refs=place(DATA) if start.reference_batch else None)
        assert pairs.x_t.device == pairs.target.device == x.device
        return torch.cat([pairs.x_t.flatten(), pairs.target.flatten(), start.losses(net, pairs)])

    alike(kind, pairs_of)
    start = fitted(name, **options)
    if not start.why_not("norm"):
        alike(kind, lambda place: draw_path(start, place(DATA[:2]), sum(start.safe_interval) / 2, 0, range(2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coupling", [c for c in COUPLINGS if c != "paired"])
def test_couplings(kind, coupling):
    if coupling == "sinkhorn":
        pytest.importorskip("ot")
    start = fitted("si_linear", coupling=coupling)
    alike(kind, lambda place: start.training_pairs(place(DATA[:6]), generator=torch.Generator().manual_seed(0)).x_t)


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "measure",
    [
        lambda a, b: kernels.mmd(a, b, kernels.rbf_kernel(1.0)).value,
        lambda a, b: kernels.energy_distance(a, b).value,
        lambda a, b: kernels.kernel_distance(a, b, generator=seeded(), subsets=2, size=10).value,
        lambda a, b: kernels.median_distance(a, b),
        lambda a, b: frechet.frechet_distance(a, b),
        lambda a, b: manifold.manifold(a, b, 3).coverage,
        lambda a, b: two_sample.sliced_wasserstein(a, b, generator=seeded(), directions=5).value,
        lambda a, b: two_sample.classifier_test(a, b).value,
    ],
)
def test_distances_of_features_on_the_device(kind, measure):
    x, y = (torch.randn(40, 6, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    found, want = both(kind, lambda place: torch.tensor(float(measure(place(x), place(y)))))
    assert found == want


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_bench_worker(kind, tmp_path):
    given = {
        "process": "pfgm,vp_ode,vp_sde,si_linear",
        "backbone": "mlp",
        "backbone_options": "mlp.width=8",
        "solver": "heun,rk45,euler_maruyama,dpmpp_2m",
        "solver_options": "rk45.rtol=0.1",
        "nfe": "4",
        "metric": "fd,norm_z,bpd",
        "samples": 20,
        "sample_batch": 10,
        "bpd.examples": 4,
        "bpd.rtol": 0.1,
        "bpd.atol": 0.1,
        "norm.nfe": 4,
        "norm.factors": "1.0,2.0",
        "train.steps": 2,
        "train.batch_size": 8,
        "out": str(tmp_path),
    }
    with pretend(kind) as card:
        config = build(BenchConfig, given)
        assert config.device == kind  # the default, auto
        worker, cells = Worker(config, lambda: False), plan(config)
        worker.check()
        for cell in cells:
            worker.run(json.loads(json.dumps(cell.to_json())), lambda *_: None)
        assert card.kernels > 1000
    rows = [row for file in Path(tmp_path).rglob("rows.json") for row in json.loads(file.read_text())]
    measured = {row["metric"] for row in rows if row["process"] != "data"}
    assert {"FD[digits]", "bits/dim"} <= measured
    assert all(row["value"] is not None and row["value"] == row["value"] for row in rows)
