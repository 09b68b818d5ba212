"""Likelihoods, latents and control told of classes: closed forms of Gaussian classes, exact counts, command line."""

import math
import shutil
import sys

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import multivariate_normal

import genflow
from genflow import cli
from genflow.inpainting import Replacement, colourise, constrain, inpaint
from genflow.latent import decode, encode, interpolate, round_trip
from genflow.likelihood import log_likelihood
from genflow.process.guidance import NO_CLASS
from genflow.sampling import draw_path
from genflow.solver.adaptive import RK45

F64 = torch.float64
MEANS = torch.tensor([[0.3, 0.2, -0.4], [-1.0, 0.5, 0.8], [1.2, -0.7, 0.1]], dtype=F64)
SCALES = torch.tensor([1.0, 0.4, 1.6], dtype=F64)
"""Of no class, class 0 and class 1: each is one Gaussian, so that every flow is linear."""

CENTRED = torch.zeros(3, 3, dtype=F64)
SHARP = RK45(1e-8, 1e-8)
LABELS = [0, 1, NO_CLASS, 1, 0, 1, 0]
NAMES = ("vp_ode", "ve_ode", "si_trig")


class Gaussians:
    """The exact backbone: E[X | x_t, class] = m + a s² (x − a m)/(a² s² + b²). It counts the rows it sees."""

    classes = 2

    def __init__(self, process, means=MEANS):
        self.process, self.means, self.shape, self.rows = process, means, (means.shape[1],), 0

    def __call__(self, x, condition, labels=None):
        self.rows += len(x)
        which = torch.zeros(len(x), dtype=torch.int64) if labels is None else labels - NO_CLASS
        c = self.process.at(self.process.time(condition.double()), x)
        flat = x.flatten(1)
        a, b, m, s = c.a.reshape(-1, 1), c.b.reshape(-1, 1), self.means[which], SCALES[which][:, None]
        mean = m + a * s**2 / (a**2 * s**2 + b**2) * (flat - a * m)
        return self.process.prediction.encode(mean.reshape(x.shape), x, c)


def rows_of(labels):
    return torch.tensor(labels) - NO_CLASS


def marginal(process, t, labels, means=MEANS):
    """a m (B, N) and S = sqrt(a² s² + b²) (B, 1) of each row at t."""
    a, b = (float(v) for v in process.schedule(torch.tensor(t, dtype=F64)))
    which = rows_of(labels)
    return a * means[which], (a * a * SCALES[which] ** 2 + b * b).sqrt()[:, None]


def log_normal(x, centre, scale):
    rows = [
        multivariate_normal(m, float(s) ** 2 * np.eye(3)).logpdf(v)
        for v, m, s in zip(x.numpy(), centre.numpy(), scale, strict=True)
    ]
    return torch.tensor(rows, dtype=F64)


def draws(labels, means=MEANS, seed=0):
    normal = torch.randn(len(labels), 3, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return means[rows_of(labels)] + SCALES[rows_of(labels)][:, None] * normal


# ---- likelihood ------------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("name", NAMES)
def test_likelihood_of_each_row_is_that_of_its_class(name):
    """From the class's Gaussian at t to the same class's at the prior's end; no class has a Gaussian of its own."""
    process = genflow.get_process(name)
    start, end = process.training_interval
    x = draws(LABELS)
    found = log_likelihood(process, Gaussians(process), x, solver=SHARP, trace="exact", labels=LABELS)
    change = found.log_prob - process.log_prior(found.latent)
    want = log_normal(x, *marginal(process, start, LABELS)) - log_normal(found.latent, *marginal(process, end, LABELS))
    torch.testing.assert_close(change, want, rtol=0, atol=1e-4)
    none = log_likelihood(process, Gaussians(process), x, solver=SHARP, trace="exact").log_prob
    assert bool(((none - found.log_prob).abs() > 0.05)[rows_of(LABELS) > 0].all())
    torch.testing.assert_close(none[2], found.log_prob[2], rtol=0, atol=1e-6)


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("guidance", [0.0, 0.5, 2.5])
@pytest.mark.parametrize("name", NAMES)
def test_the_guided_flow_of_centred_classes_is_a_known_scaling(name, guidance):
    """v = (1 − w) v_0 + w v_c is x times d/dt log(S_0^(1−w) S_c^w): latent, divergence and count follow."""
    process = genflow.get_process(name)
    ends = process.training_interval
    x = draws(LABELS, CENTRED)
    (plain, own), (plain_end, own_end) = (
        (marginal(process, t, [NO_CLASS] * len(x))[1], marginal(process, t, LABELS)[1]) for t in ends
    )
    ratio = (plain_end / plain) ** (1 - guidance) * (own_end / own) ** guidance
    backbone = Gaussians(process, CENTRED)
    found = log_likelihood(process, backbone, x, solver=SHARP, trace="exact", labels=LABELS, guidance=guidance)
    torch.testing.assert_close(found.latent, x * ratio, rtol=1e-5, atol=1e-6)
    want = process.log_prior(x * ratio) + 3 * ratio.log()[:, 0]
    torch.testing.assert_close(found.log_prob, want, rtol=0, atol=1e-4)
    assert backbone.rows == pytest.approx(found.nfe * len(x))


def test_labels_and_probes_belong_to_their_rows():
    process = genflow.get_process("vp_ode")
    backbone, x = Gaussians(process), draws(LABELS)
    settings = {"solver": RK45(1e-6, 1e-6), "seed": 4, "probes": 2}
    whole = log_likelihood(process, backbone, x, labels=LABELS, **settings).log_prob
    apart = log_likelihood(process, backbone, x[4:], first_index=4, labels=LABELS[4:], **settings).log_prob
    torch.testing.assert_close(whole[4:], apart, rtol=0, atol=1e-9)
    each = log_likelihood(process, backbone, x, labels="all", **settings).log_prob
    turn = log_likelihood(process, backbone, x[3:], first_index=3, labels="all", **settings).log_prob
    torch.testing.assert_close(each[3:], turn, rtol=0, atol=1e-9)
    same = log_likelihood(process, backbone, x, labels=[0, 1, 0, 1, 0, 1, 0], **settings).log_prob
    assert torch.equal(each, same)


@pytest.mark.parametrize("name", ["vp_ode", "si_linear", "pfgm"])
def test_draws_of_x_t_have_the_path_s_distribution(name):
    """(x_t − a x)/b is a draw of the base, the same whatever the batch, and not that of another seed."""
    process, t = genflow.get_process(name), 0.4
    a, b = (float(v) for v in process.schedule(torch.tensor(t, dtype=F64)))
    x = draws([0] * 800)
    found = draw_path(process, x, t, 3, range(800))
    base = ((found - a * x) / b).numpy()
    scale = np.linalg.norm(base, axis=1)
    assert np.median(scale) == pytest.approx(process.base.median_radius(3), rel=0.1)
    shares = (base < 0).mean(0)
    assert shares == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(800))
    torch.testing.assert_close(draw_path(process, x[500:], t, 3, range(500, 800)), found[500:])
    assert not torch.allclose(draw_path(process, x, t, 4, range(800)), found)


@pytest.mark.slow
def test_the_mean_density_of_x_t_is_the_cross_entropy_of_the_path():
    """For one Gaussian −E log p_t(x_t) = N log S + N/2 log 2πe, within the error of 2000 draws; and p_t by scipy.

    The prior is the standard normal, not quite the class's own marginal there, so that is put in its place.
    """
    process, t, n = genflow.get_process("vp_ode"), 0.3, 2000
    x_t = draw_path(process, draws([0] * n), t, 0, range(n))
    found = log_likelihood(process, Gaussians(process), x_t, t=t, solver=RK45(1e-7, 1e-7), trace="exact", labels=0)
    end = marginal(process, process.training_interval[1], [0] * n)
    log_prob = found.log_prob - process.log_prior(found.latent) + log_normal(found.latent, *end)
    centre, scale = marginal(process, t, [0] * n)
    torch.testing.assert_close(log_prob, log_normal(x_t, centre, scale), rtol=0, atol=1e-4)
    want = 3 * float(scale[0].log()) + 1.5 * math.log(2 * math.pi * math.e)
    assert -float(log_prob.mean()) == pytest.approx(want, abs=4 * math.sqrt(1.5 / n))


# ---- latents ---------------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("batch_size", [500, 3])
@pytest.mark.parametrize("name", NAMES)
def test_latents_of_a_class_keep_their_place_in_its_marginal(name, batch_size):
    """(x − a m)/S is constant along the flow of one Gaussian."""
    process = genflow.get_process(name)
    (m, s), (m_end, s_end) = (marginal(process, t, LABELS) for t in process.safe_interval)
    x = m + s * torch.randn(len(LABELS), 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    backbone = Gaussians(process)
    latent = encode(process, backbone, x, SHARP, labels=LABELS, batch_size=batch_size)
    torch.testing.assert_close(latent.x, m_end + (x - m) / s * s_end, rtol=1e-5, atol=1e-5)
    back = decode(process, backbone, latent.x, SHARP, labels=torch.tensor(LABELS), batch_size=batch_size)
    torch.testing.assert_close(back.x, x, rtol=1e-5, atol=1e-5)
    assert backbone.rows == pytest.approx((latent.nfe + back.nfe) * len(x))


def test_guided_latents_and_their_count():
    process = genflow.get_process("vp_ode")
    (plain, own), (plain_end, own_end) = (
        (marginal(process, t, [NO_CLASS] * 7)[1], marginal(process, t, LABELS)[1]) for t in process.safe_interval
    )
    x, backbone = draws(LABELS, CENTRED), Gaussians(process, CENTRED)
    found = encode(process, backbone, x, SHARP, labels=LABELS, guidance=2.0)
    torch.testing.assert_close(found.x, x * (plain_end / plain) ** -1 * (own_end / own) ** 2, rtol=1e-5, atol=1e-6)
    backbone.rows = 0
    trip = round_trip(process, backbone, x, "heun", nfe=10, labels=LABELS, guidance=2.0, batch_size=4)
    assert (trip.nfe, backbone.rows) == (20, 20 * len(x))
    with pytest.raises(ValueError, match="nfe = 9 is odd"):
        encode(process, backbone, x, "heun", nfe=9, labels=LABELS, guidance=2.0)


@pytest.mark.slow
def test_a_path_between_examples_of_one_class_stays_in_its_flow():
    """Centred classes scale x alone, so interpolation commutes with encoding, whatever the class of the pair."""
    process, labels = genflow.get_process("vp_ode"), [1, 0, 1]
    first, second = draws(labels, CENTRED), draws(labels, CENTRED, seed=5)
    from genflow.latent import blend

    backbone = Gaussians(process, CENTRED)
    found = interpolate(process, backbone, first, second, 4, "linear", SHARP, labels=labels, batch_size=5)
    torch.testing.assert_close(found.x, blend(first, second, 4, "linear"), rtol=1e-5, atol=1e-5)
    assert found.nfe * 12 == pytest.approx(backbone.rows)
    told = [interpolate(process, Gaussians(process), first, second, 4, "prior", SHARP, labels=k).x for k in (0, 1)]
    mixed = interpolate(process, Gaussians(process), first, second, 4, "prior", SHARP, labels=labels).x
    for i, k in enumerate(labels):
        torch.testing.assert_close(mixed[i], told[k][i], rtol=1e-5, atol=1e-5)
        assert float((mixed[i] - told[1 - k][i]).abs().max()) > 1e-2


# ---- control ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_unknown_part_is_drawn_from_the_row_s_own_class():
    """Entries of one class are independent, so replacement is exact; batches that straddle rows keep them apart."""
    process, n = genflow.get_process("vp_sde"), 600
    x, labels = torch.full((2, 3), math.nan, dtype=F64), [1, 0]
    x[:, 0] = 0.7
    how = Replacement(nfe=200, batch_size=500)
    found = inpaint(process, Gaussians(process), x, torch.tensor([1, 0, 0]), n, how, labels=labels).x
    assert bool((found[:, :, 0] == 0.7).all())
    for row, k in zip(found[:, :, 1:], labels, strict=True):
        m, s = MEANS[k + 1, 1:], float(SCALES[k + 1])
        torch.testing.assert_close(row.mean(0), m, rtol=0, atol=4 * s / math.sqrt(n) + 0.01)
        torch.testing.assert_close(row.std(0), torch.full((2,), s, dtype=F64), rtol=4 / math.sqrt(2 * n) + 0.02, atol=0)
    a, y = torch.eye(3, dtype=F64)[:1], x[:, :1]
    again = constrain(process, Gaussians(process), a, y, (3,), n, how, labels=labels).x
    torch.testing.assert_close(again, found, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_guided_unknown_part_has_the_guided_spread():
    """Centred classes: every drift is x times a number, so the variance follows a linear equation, solved by scipy."""
    process, n, w = genflow.get_process("vp_sde"), 3000, 1.6
    start, end = process.safe_interval[::-1]
    toward = math.copysign(1.0, end - start)

    def rate(t, variance):
        c = process.coefficients(torch.tensor(t, dtype=F64))
        eps, pull = float(process.natural_diffusion(torch.tensor(t, dtype=F64))), 0.0
        for share, s in ((1 - w, float(SCALES[0])), (w, float(SCALES[1]))):
            spread = float(c.a) ** 2 * s * s + float(c.b) ** 2
            pull += share * (float(c.a * c.da) * s * s + float(c.b * c.db) - toward * eps) / spread
        return 2 * pull * variance + 2 * toward * eps

    first = float(process.schedule(torch.tensor(start, dtype=F64))[1]) ** 2
    want = float(solve_ivp(rate, (start, end), [first], rtol=1e-8, atol=1e-10, method="LSODA").y[0, -1])
    x, backbone = torch.tensor([[0.5, math.nan, math.nan]], dtype=F64), Gaussians(process, CENTRED)
    how = Replacement(nfe=600, batch_size=n)
    found = inpaint(process, backbone, x, torch.tensor([1, 0, 0]), n, how, labels=0, guidance=w)
    assert abs(want / float(SCALES[1]) ** 2 - 1) > 0.1  # guidance matters
    spread = found.x[0, :, 1:].square().mean(0)
    torch.testing.assert_close(spread, torch.full_like(spread, want), rtol=4 * math.sqrt(2 / n) + 0.03, atol=0)
    assert (found.nfe, backbone.rows) == (600, 600 * n)


def test_colours_of_a_class():
    process, grey = genflow.get_process("vp_sde"), torch.zeros(2, 1, 1, 1, dtype=F64)
    backbone = Gaussians(process, CENTRED)
    backbone.shape = (3, 1, 1)
    found = colourise(process, backbone, grey, 600, Replacement(nfe=100), labels=[1, 0]).x
    for row, k in zip(found, (2, 1), strict=True):
        assert float(row.square().sum((1, 2, 3)).mean() / 2) == pytest.approx(float(SCALES[k]) ** 2, rel=0.2)


def test_a_guided_budget_that_does_not_fit():
    process = genflow.get_process("vp_sde")
    x, mask, backbone = torch.zeros(1, 3, dtype=F64), torch.tensor([1, 0, 0]), Gaussians(process)
    for nfe, words in ((7, "give 6 or 8"), (10, "give 8 or 12")):
        how = Replacement(nfe=nfe, correctors=0 if nfe == 7 else 1)
        with pytest.raises(ValueError, match=f"nfe = {nfe} .* and guidance; {words}"):
            inpaint(process, backbone, x, mask, 1, how, labels=0, guidance=2.0)
    assert inpaint(process, backbone, x, mask, 1, Replacement(nfe=7), labels=0, guidance=0.0).nfe == 7


@pytest.mark.parametrize("verb", ["likelihood", "encode", "decode", "inpaint", "interpolate"])
def test_labels_that_do_not_fit(verb):
    process = genflow.get_process("vp_sde" if verb == "inpaint" else "vp_ode")
    x = draws([0, 1])

    def call(backbone, **how):
        if verb == "likelihood":
            return log_likelihood(process, backbone, x, **how)
        if verb == "inpaint":
            return inpaint(process, backbone, x, torch.tensor([1, 0, 0]), 1, Replacement(nfe=2), **how)
        if verb == "interpolate":
            return interpolate(process, backbone, x, x + 1, 3, **how)
        return (encode if verb == "encode" else decode)(process, backbone, x, **how)

    for how, sentence in (
        ({"labels": 2}, "2 is not a class of this backbone; give 0 to 1"),
        ({"labels": [0, 1, 0]}, "a class for each of the 2 samples"),
        ({"labels": 0.5}, "a class, a class for each"),
        ({"guidance": 2.0}, "guidance = 2 needs labels"),
        ({"labels": 0, "guidance": -1.0}, "guidance = -1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call(Gaussians(process), **how)
    with pytest.raises(ValueError, match="knows no classes; train one with classes=K"):
        call(process.oracle(draws([0, 1])), labels=0)


# ---- command line ----------------------------------------------------------------------------------------

TRAIN = "train --backbone mlp --train-steps 3 --train-batch-size 16 --train-warmup 0 --backbone-options mlp.width=16"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints with classes and without, of digits and of points."""
    folder = tmp_path_factory.mktemp("told")
    for name, more in {
        "told": "--process vp_ode --dataset digits --backbone-options mlp.classes=10 --train-lr 0.05",
        "plain": "--process vp_ode --dataset digits",
        "points": "--process vp_ode --dataset checkerboard --dataset-options checkerboard.size=40",
    }.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["genflow", *f"{TRAIN} {more} --out {folder / name}".split()])
            assert cli.run() == 0
    return folder


@pytest.fixture
def command(monkeypatch, capsys, tmp_path, models):
    """Runs a command beside copies of the checkpoints: what it printed, or its one line of refusal."""
    for name in ("told", "plain", "points"):
        shutil.copytree(models / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def run(line, code=0):
        monkeypatch.setattr(sys, "argv", ["genflow", *line.split()])
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert cli.run() == code
        said = capsys.readouterr()
        if code:
            assert sorted(tmp_path.rglob("*")) == before
            assert len(said.err.strip().splitlines()) == 1
        return said.err if code else said.out

    return run


@pytest.mark.slow
def test_likelihood_command_tells_each_example_its_class(command, tmp_path):
    line = "likelihood --checkpoint told --examples 9 --solver euler --nfe 8 --sample-batch 4 --out l.npz"
    out = command(f"{line} --label data --guidance 2")
    assert "n = 9, own classes, guidance 2: ODE" in out
    assert "NFE 8.0" in out
    process, backbone = genflow.load("told")
    data = genflow.get_dataset("digits")
    x = data.scaling.encode(data.test[:9], torch.Generator().manual_seed(0))
    euler = genflow.get_solver("euler")
    settings = {"solver": euler, "nfe": 8, "labels": data.labels("test")[:9], "guidance": 2.0}
    want = -log_likelihood(process, backbone, x, **settings).log_prob
    np.testing.assert_allclose(np.load(tmp_path / "l.npz")["nats"], want.numpy(), rtol=1e-5)
    assert "class 3, guidance 1" in command(f"{line} --label 3")
    third = np.load(tmp_path / "l.npz")["nats"]
    want = -log_likelihood(process, backbone, x, **{**settings, "labels": 3, "guidance": 1.0}).log_prob
    np.testing.assert_allclose(third, want.numpy(), rtol=1e-5)


def test_likelihood_command_at_another_time_is_of_x_t_and_in_nats(command, tmp_path):
    line = "likelihood --checkpoint plain --examples 9 --solver euler --nfe 8 --seed 5 --out l.npz"
    whole = command(f"{line} --t 0.5")
    arrays = dict(np.load(tmp_path / "l.npz"))
    assert "bits_per_dim" not in arrays
    assert "bits/dim:" not in whole
    assert "mean −log p_t(x_t) at t = 0.5, x_t = a X + b N drawn once of each example; no bits/dim of data" in whole
    process, backbone = genflow.load("plain")
    x_t = torch.from_numpy(arrays["x_t"])
    found = log_likelihood(process, backbone, x_t, t=0.5, solver=genflow.get_solver("euler"), nfe=8, seed=5)
    np.testing.assert_allclose(arrays["nats"], -found.log_prob.numpy(), rtol=1e-5)
    data = genflow.get_dataset("digits")
    x = data.scaling.encode(data.test[:9], torch.Generator().manual_seed(5))
    a, b = (float(v) for v in process.schedule(torch.tensor(0.5, dtype=F64)))
    noise = ((x_t - a * x) / b).flatten().numpy()
    assert abs(noise.mean()) < 4 / math.sqrt(noise.size)
    assert abs(noise.std() - 1) < 4 / math.sqrt(2 * noise.size)
    assert command(f"{line} --t 0.5 --sample-batch 4").splitlines()[0] == whole.splitlines()[0]
    command(f"{line.replace('.npz', '.csv')} --t 0.5")
    assert (tmp_path / "l.csv").read_text().startswith("example,nats,stderr_of_probes\n")
    assert "bits/dim" in command(f"{line} --t {process.training_interval[0]!r}").splitlines()[0]


@pytest.mark.slow
def test_encode_and_decode_commands_share_the_classes(command, tmp_path):
    line = "--checkpoint told --label data --solver midpoint --solver-options midpoint.grid=log --nfe 40"
    assert "own classes, guidance 1" in command(f"encode {line} --n 6 --out l.npz")
    arrays = dict(np.load(tmp_path / "l.npz"))
    labels = genflow.get_dataset("digits").labels("test")[:6]
    assert arrays["labels"].tolist() == labels.tolist()
    process, backbone = genflow.load("told")
    solver = genflow.get_solver("midpoint", grid="log")
    want = encode(process, backbone, torch.from_numpy(arrays["x"]), solver, nfe=40, labels=labels).x
    np.testing.assert_allclose(arrays["latent"], want.numpy(), rtol=1e-5, atol=1e-6)
    command(f"decode {line} --latents l.npz --out d.npz")
    np.testing.assert_allclose(np.load(tmp_path / "d.npz")["x"], arrays["back"], rtol=1e-5, atol=1e-6)
    command(f"decode {line.replace('data', '3')} --latents l.npz --out d.npz")
    assert np.abs(np.load(tmp_path / "d.npz")["x"] - arrays["back"]).max() > 1e-4


def test_interpolate_and_inpaint_commands_take_classes(command, tmp_path):
    line = "--checkpoint told --nfe 8 --guidance 2"
    out = command(f"interpolate {line} --solver euler --pairs 2 --count 3 --label 4 --out i.npz")
    assert "class 4, guidance 2" in out
    out = command(f"inpaint {line} --correctors 1 --images 3 --n 2 --label data --out p.npz")
    assert "own classes, guidance 2" in out
    assert "NFE 8" in out
    arrays = dict(np.load(tmp_path / "p.npz"))
    process, backbone = genflow.load("told")
    labels = genflow.get_dataset("digits").labels("test")[:3]
    how = Replacement(nfe=8, correctors=1)
    given, mask = torch.from_numpy(arrays["given"]), torch.from_numpy(arrays["mask"])
    want = inpaint(process, backbone, given, mask, 2, how, labels=labels, guidance=2.0).x
    np.testing.assert_allclose(arrays["x"], want.numpy(), rtol=1e-4, atol=1e-5)


VERBS = ("likelihood", "encode", "decode", "interpolate", "inpaint")


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("verb", VERBS)
def test_what_commands_refuse(command, tmp_path, verb):
    np.savez(tmp_path / "latents.npz", latent=np.zeros((1, 1, 8, 8), np.float32))
    line = f"{verb} --nfe 4 --out x.npz {'' if verb == 'inpaint' else '--solver euler'} --checkpoint"
    line = line.replace("--nfe 4", "--nfe 4 --correctors 0") if verb == "inpaint" else line
    words = ["3"] if verb == "interpolate" else ["3", "data"]
    for word in words:
        assert "knows no classes; train one with classes=K" in command(f"{line} plain --label {word}", 2)
    for more, sentence in (
        ("--label 10", "10 is not a class of this backbone; give 0 to 9"),
        ("--label three", "label = 'three' is not a class; give its number from 0, data, or none"),
        ("--label -1", "label = '-1' is not a class"),
        ("--guidance 2", "guidance = 2 needs labels"),
        ("--label 1 --guidance -1", "guidance = -1.0 is not allowed"),
        ("--label 1 --guidance 2 --nfe 5", "nfe = 5 is"),
    ):
        assert sentence in command(f"{line} told {more}", 2)
    if verb in ("interpolate", "decode"):
        why = "share one class" if verb == "interpolate" else "latents.npz has no array 'labels'"
        assert why in command(f"{line} told --label data", 2)


def test_times_and_labels_that_do_not_fit(command, tmp_path):
    line = "likelihood --checkpoint plain --solver euler --nfe 4"
    assert "t = 'noon' is not a time; give a number, or data" in command(f"{line} --t noon", 2)
    assert "t = 3 lies outside the interval of VP: [1e-05, 1]" in command(f"{line} --t 3", 2)
    assert "t = nan" in command(f"{line} --t nan", 2)
    np.savez(tmp_path / "l.npz", latent=np.zeros((2, 1, 8, 8), np.float32), labels=np.zeros(3, int))
    assert "want 2 whole numbers" in command("decode --checkpoint told --latents l.npz --label data --out x.npz", 2)


def test_a_path_without_draws_at_a_time_says_why():
    process = genflow.get_process("si_linear", source="uniform")
    with pytest.raises(ValueError, match=r"SILinear draws no x_t at a given time: .* not an affine path"):
        draw_path(process, torch.zeros(2, 3), 0.5, 0, range(2))
