"""Guidance on an interval of noise, and away from a weaker model: fields against closed forms, and exact calls."""

import pytest
import torch
from test_guidance import ExactMixture, log_densities

import genflow
from genflow import cli
from genflow.bench.cells import plan
from genflow.bench.worker import Worker
from genflow.checkpoint import describe, save
from genflow.config import BenchConfig, build
from genflow.process.guidance import Guidance, Guide
from genflow.registry import registries

BUDGETED = [n for n, e in registries()["solvers"].entries().items() if e.tags.get("budget", True)]
ADAPTIVE = ["rk45", "rk23", "scipy/RK23", "torchdiffeq/bosh3"]


@pytest.fixture
def vp():
    return genflow.get_process("vp_ode")


def at_ratio(process, sigma):
    """The native time of a noise level by bisection of b/a, which needs no formula of the process."""
    low, high = (float(t) for t in process.safe_interval)
    for _ in range(80):
        middle = (low + high) / 2
        if float(process.noise_ratio(torch.tensor(middle, dtype=torch.float64))) < sigma:
            low = middle
        else:
            high = middle
    return torch.tensor(low, dtype=torch.float64)


@pytest.mark.parametrize(("sigma", "acts"), [(0.3, False), (0.7, True), (1.9, True), (2.5, False)])
def test_guidance_acts_inside_its_interval_only(vp, sigma, acts):
    x, labels = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    t = at_ratio(vp, sigma)
    a, b = vp.schedule(t)
    y = x.clone().requires_grad_()
    each, whole = log_densities(y, a, b)
    (own,) = torch.autograd.grad(each.gather(1, labels[:, None]).sum(), y, retain_graph=True)
    (plain,) = torch.autograd.grad(whole.sum(), y)
    want = plain + 2.5 * (own - plain) if acts else own
    backbone = ExactMixture(vp)
    field = vp.field(backbone, labels=labels, guidance=Guidance(2.5, (0.5, 2.0)))
    torch.testing.assert_close(field.score(x, t), want, rtol=1e-6, atol=1e-6)
    assert field.evaluations == backbone.rows == 4 * (1 + acts)
    assert int(field.calls_at(t)) == 1 + acts


def test_rows_at_different_times_are_guided_each_by_its_own_noise(vp):
    sigmas, labels = (0.3, 0.7, 2.5, 1.0), torch.tensor([0, 1, 1, 0])
    t = torch.stack([at_ratio(vp, s) for s in sigmas])
    x = torch.randn(4, 2, dtype=torch.float64)
    how, backbone = Guidance(2.5, (0.5, 2.0)), ExactMixture(vp)
    field = vp.field(backbone, labels=labels, guidance=how)
    found = field.velocity(x, t)
    assert field.evaluations == backbone.rows == 6
    assert field.calls_at(t).tolist() == [1, 2, 1, 2]
    for k in range(4):
        alone = vp.field(ExactMixture(vp), labels=labels[k : k + 1], guidance=how).velocity(x[k : k + 1], t[k])
        torch.testing.assert_close(found[k : k + 1], alone)


class Broad(ExactMixture):
    """A weaker model: the exact one of the mixture, with its posterior means halfway to the origin."""

    def forward(self, x, condition, labels=None):
        strong = super().forward(x, condition, labels)
        t = self.process.time(condition.double())
        c = self.process.at(t, x.double())
        mean = 0.5 * self.process.data_mean(strong.double(), x.double(), t)
        return self.process.prediction.encode(mean, x.double(), c).to(x.dtype)


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 1, 0])])
def test_autoguidance_moves_the_mean_away_from_the_weaker_model_s(vp, labels):
    """The weaker mean is half of the stronger, so w (1 − 1/2) + 1/2 of it is left, whatever the density."""
    x, t = torch.randn(4, 2, dtype=torch.float64), at_ratio(vp, 0.8)
    strong, weak = ExactMixture(vp), Broad(vp)
    plain = vp.field(strong, labels=labels).data(x, t)
    strong.rows = 0
    for w in (0.0, 1.0, 2.0, 3.0):
        field = vp.field(strong, labels=labels, guidance=Guidance(w, guide=Guide(vp, weak)))
        torch.testing.assert_close(field.data(x, t), (0.5 + 0.5 * w) * plain, rtol=1e-6, atol=1e-6)
        assert field.evaluations == 4 * (1 if w in (0.0, 1.0) else 2)
    assert strong.rows == weak.rows == 4 * 3


def test_a_guide_may_have_another_head(vp):
    other = genflow.get_process("vp_ode", head=next(h for h in vp.heads() if h != vp.head))
    x, t, labels = torch.randn(4, 2, dtype=torch.float64), at_ratio(vp, 0.8), torch.tensor([0, 1, 1, 0])
    own = Guidance(2.0, guide=Guide(vp, Broad(vp)))
    across = Guidance(2.0, guide=Guide(other, Broad(other)))
    for name in ("velocity", "score", "data"):
        found = [getattr(vp.field(ExactMixture(vp), labels=labels, guidance=g), name)(x, t) for g in (own, across)]
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def draw(process, solver, nfe, labels, guidance, n=4):
    backbone = ExactMixture(process)
    found = genflow.sample(
        process, backbone, solver, n, nfe=nfe, labels=labels, guidance=guidance, dtype=torch.float64, batch_size=n
    )
    return found, backbone


@pytest.mark.parametrize("end", ["none", "mean", "zero"])
@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("name", BUDGETED)
def test_a_budget_on_an_interval_is_met_to_one_evaluation_and_counted_exactly(vp, name, end):
    solver = genflow.get_solver(name, end=end)
    labels = [0, 1, 1, 0]
    for nfe in (24, 25):
        found, backbone = draw(vp, solver, nfe, labels, Guidance(1.5, (0.5, 5.0)))
        assert backbone.rows == pytest.approx(4 * found.nfe)
        assert nfe - 3 <= found.nfe <= nfe  # a step of two evaluations may be the last that fits
    whole, _ = draw(vp, solver, 24, labels, Guidance(1.5, (0.0, 1e9)))
    plain, _ = draw(vp, solver, 24, labels, 1.5)
    assert torch.equal(whole.x, plain.x)
    assert whole.nfe == plain.nfe == 24
    outside, _ = draw(vp, solver, 24, labels, Guidance(1.5, (1e8, 1e9)))
    without, _ = draw(vp, solver, 24, labels, 1.0)
    assert torch.equal(outside.x, without.x)
    assert outside.nfe == without.nfe


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_solvers_count_each_row_s_own_calls(vp, name):
    solver = genflow.get_solver(name, rtol=1e-2, atol=1e-2)
    found, backbone = draw(vp, solver, None, [0, 1, 1, 0], Guidance(1.5, (0.5, 5.0)))
    assert backbone.rows == pytest.approx(4 * found.nfe)


@pytest.mark.parametrize("name", ["pfgm", "pfgmpp", "ve_ode", "si_linear"])
def test_every_path_with_noise_levels_takes_an_interval(name):
    process = genflow.get_process(name)
    points = torch.randn(9, 2, dtype=torch.float64)
    process = process.for_data(points)
    weak = process.oracle(points[:4])
    how = Guidance(2.0, (0.5, 2.0), Guide(process, weak))
    found = genflow.sample(process, process.oracle(points), "euler", 3, nfe=12, guidance=how, dtype=torch.float64)
    assert 11 <= found.nfe <= 12


def test_what_does_not_fit_is_refused(vp):
    strong, labels = ExactMixture(vp), torch.tensor([0])
    for given, match in (((2.0, 1.0), "two noise levels"), ((-1.0, 1.0), "two noise levels"), ((1.0,), "two noise")):
        with pytest.raises(ValueError, match=match):
            Guidance(2.0, given)
    with pytest.raises(ValueError, match="needs labels"):
        vp.field(strong, guidance=Guidance(2.0, (0.1, 1.0)))
    for other in (genflow.get_process("ve_ode"), genflow.get_process("vp_ode", beta_max=10.0)):
        with pytest.raises(ValueError, match="the guide's path is another one"):
            vp.field(strong, labels=labels, guidance=Guidance(2.0, guide=Guide(other, strong)))
    options = {"means": [[-1, 0], [1, 0]], "std": 0.3}
    mixture = genflow.get_process("si_linear", source="mixture", source_options=options)
    assert mixture.why_not("affine")
    with pytest.raises(ValueError, match="needs noise levels"):
        mixture.field(strong, labels=labels, guidance=Guidance(2.0, (0.1, 1.0)))


def test_words_of_a_protocol():
    assert Guidance().words == ""
    assert Guidance(2.0).words == "guidance 2"
    assert Guidance(2.0, (0.2, 5.0)).words == "guidance 2 for noise 0.2 < σ <= 5"
    assert Guidance(2.0, None, Guide(None, None)).words == "guidance 2 away from a weaker model"


# ---- command line and bench ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of three classes, and a weaker one."""
    root = tmp_path_factory.mktemp("models")
    data = genflow.get_dataset("gaussian_mixture", size=60)
    for name, width in (("strong", 8), ("weak", 4)):
        backbone = genflow.get_backbone("mlp", shape=(2,), classes=3, width=width)
        result = genflow.train(genflow.get_process("vp_ode"), backbone, data, steps=2, batch_size=8)
        about = describe("vp_ode", result.process, "mlp", result.backbone, data)
        about["dataset"] = {"name": "gaussian_mixture", "options": {"size": 60}}
        save(root / name, about, result.backbone.state_dict())
    return root


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--label all --guidance 2 --guidance-interval 0.2,2", "class all, guidance 2 for noise 0.2 < σ <= 2, heun"),
        ("--guidance 2 --guide weak", "guidance 2 away from a weaker model, heun, NFE 20"),
        ("--guidance 2 --guide weak --guidance-interval 0,1", "for noise 0 < σ <= 1 away from a weaker model"),
        ("--label all --guidance 2 --guidance-interval 2,1", "guidance_interval = 2,1 is not an interval"),
        ("--label all --guidance 2 --guidance-interval 2", "guidance_interval = 2 is not an interval"),
        ("--guide weak", "guide was given, but guidance = 1 is none"),
        ("--guidance-interval 0,1", "guidance_interval was given, but guidance = 1 is none"),
        ("--guide nowhere --guidance 2", "nowhere does not exist"),
        ("--guidance 2 --guidance-interval 0,1", "needs labels"),
    ],
)
def test_sample_command(models, monkeypatch, capsys, words, said):
    monkeypatch.chdir(models)
    monkeypatch.setattr(
        "sys.argv", ["genflow", *["sample", "--checkpoint", "strong", "--n", "4", "--out", "x.npz"], *words.split()]
    )
    cli.run()
    found = capsys.readouterr()
    assert said in found.out + found.err


def test_a_bench_of_guided_samples_says_how_and_keys_them_by_it(models, tmp_path):
    given = {
        "checkpoint": str(models / "strong"), "process": "vp_ode", "backbone": "mlp", "dataset": "gaussian_mixture",
        "dataset_options": ["gaussian_mixture.size=60"], "samples": 20, "nfe": 12, "solver": "heun",
        "metric": "two_sample", "guidance": 2, "guidance_interval": "0.2,2", "guide": str(models / "weak"),
        "out": str(tmp_path),
    }  # fmt: skip
    config = build(BenchConfig, given)
    worker = Worker(config, lambda: False)
    worker.check()
    cells = plan(config)
    for cell in cells:
        worker.run(cell.to_json(), lambda share, note: None)
    (sampled,) = (cell for cell in cells if cell.kind == "sample")
    content = sampled.spec["guidance"]["guide"]
    row = next(r for c in cells if c.kind == "metric" for r in worker.store.rows(c.key) if r["process"] == "vp_ode")
    assert f"guidance 2 for noise 0.2 < σ <= 2 away from a weaker model (checkpoint {content})" in row["protocol"]
    assert 11 <= row["nfe"] <= 12
    assert row["budget"] == 12
    plain = build(BenchConfig, {k: v for k, v in given.items() if "guid" not in k})
    assert all("guidance" not in cell.spec for cell in plan(plain))
    wrong = build(BenchConfig, {**given, "guide": str(models / "strong"), "guidance": 1.5})
    assert {c.key for c in plan(wrong) if c.kind == "sample"}.isdisjoint(c.key for c in cells)


def test_a_bench_without_classes_or_guide_is_refused_before_it_trains(tmp_path):
    given = {"process": "vp_ode", "backbone": "mlp", "backbone_options": ["mlp.width=4"], "guidance": 2}
    worker = Worker(build(BenchConfig, {**given, "solver": "heun", "out": str(tmp_path)}), lambda: False)
    with pytest.raises(ValueError, match="needs classes, and the network of 'vp_ode' has none"):
        worker.check()
