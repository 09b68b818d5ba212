"""Under one head, target, density and frame of σ, paths that are one path in σ = b/a train to the same network."""

import warnings
from functools import cache

import pytest
import torch

import genflow
from genflow.process.heads import HEADS
from genflow.process.weighting import DATA_WEIGHTS, TIMES, WEIGHTINGS

F64 = torch.float64
CONTROLLED = {
    "head": "edm_rms",
    "objective": "stable",
    "times": "log_normal",
    "frame": "sigma",
    "sigma_min": 0.004,
    "sigma_max": 100.0,
    "relative": True,
}
GAUSSIAN = {"vp_ode": {}, "subvp_ode": {}, "ve_ode": {}, "si_linear": {}, "si_trig": {}, "si_fourier": {}}
GAUSSIAN |= {"si_trig+": {"gamma": "brownian"}}
CAUCHY = {"pfgm": {}, "pfgmpp": {"D": 1}}


def make(name, **options):
    own = {**GAUSSIAN, **CAUCHY}.get(name, {})
    return genflow.get_process(name.rstrip("+"), **{**CONTROLLED, **own, **options})


def points(shape, count=96):
    torch.manual_seed(5)
    return 0.6 * torch.randn(count, *shape, dtype=F64) + 0.2


@cache
def outputs(name, backbone, shape, steps=50, **options):
    """What the network answers at fixed (x/a, σ) after training, float64; the process is fitted to the data."""
    data = points(shape)
    process = make(name, **options).for_data(data)
    network = genflow.get_backbone(backbone, shape=shape, extra_channels=process.extra_channels, **SIZES[backbone])
    network.initialise(3)
    network.double().train()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randperm(len(data), generator=generator)
        refs = data[rows[16:64]] if process.reference_batch else None
        optimiser.zero_grad()
        process.loss(network, data[rows[:16]], generator=generator, refs=refs).backward()
        optimiser.step()
    sigma = torch.logspace(-2, 1.5, 12, dtype=F64)
    t = process.time_at(sigma)
    torch.manual_seed(9)
    states = points(shape, 12) + sigma.reshape(-1, *(1,) * len(shape)) * torch.randn(12, *shape, dtype=F64)
    with torch.no_grad():
        field = process.field(network.eval())
        x = states * process.at(t, states).a
        return field.output(x, t), field.data(x, t)


MLP, TINY = ("mlp", (6,)), ("ncsnv2", (1, 8, 8))
SIZES = {"mlp": {"width": 24, "depth": 2}, "ncsnv2": {"features": 4, "size": "tiny"}}


@pytest.mark.parametrize("name", [name for name in GAUSSIAN if name != "ve_ode"])
def test_gaussian_paths_train_to_the_same_network(name):
    for found, wanted in zip(outputs(name, *MLP), outputs("ve_ode", *MLP), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        assert float(wanted.abs().max()) > 1e-2


def test_pfgm_is_pfgmpp_of_one_dimension():
    for found, wanted in zip(outputs("pfgm", *MLP), outputs("pfgmpp", *MLP), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("names", [("vp_ode", "si_linear"), ("pfgm", "pfgmpp")])
def test_images_train_to_the_same_network(names):
    first, second = (outputs(name, *TINY)[0] for name in names)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("times", [name for name in TIMES if name != "clock"])
@pytest.mark.parametrize("head", ["data", "noise", "edm", "edm_rms"])
def test_every_weight_and_density_of_sigma_is_equal(head, times, weighting):
    """Heads that are functions of x/a and σ: the loss of the same draws agrees."""
    data, losses = points((6,)), []
    for name in ("vp_ode", "ve_ode", "si_linear"):
        process = make(name, head=head, times=times, weighting=weighting).for_data(data)
        pairs = process.training_pairs(data, generator=torch.Generator().manual_seed(1), refs=data)
        zero = process.losses(lambda x, condition: torch.zeros_like(x) + condition[:, None] / 10, pairs)
        losses.append(zero)
        torch.testing.assert_close(process.noise_ratio(pairs.t).log().mean() / 4, process.condition(pairs.t).mean())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-7, atol=0)
    torch.testing.assert_close(losses[2], losses[1], rtol=1e-7, atol=0)


def test_what_the_paths_clock_decides_is_not_equal():
    """The control of the tests above: with the clock's own times the networks differ."""
    found, wanted = (outputs(name, *MLP, steps=5, times="clock")[0] for name in ("vp_ode", "ve_ode"))
    assert float((found - wanted).abs().max()) > 1e-3


# ---- weights and densities -------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", [*DATA_WEIGHTS, "likelihood"])
@pytest.mark.parametrize("head", [*HEADS, "score"])
@pytest.mark.parametrize("name", ["vp_ode", "si_linear"])
def test_a_weight_is_of_the_means_error_whatever_the_head(name, head, weighting):
    """weight × |residual|² = λ(σ) |X̂ error|² for every head."""
    process = genflow.get_process(name, head=head, weighting=weighting, sigma_data=0.7, times="log_uniform")
    t = process.time_at(torch.tensor([0.01, 0.3, 2.0, 30.0], dtype=F64))
    x, sigma = torch.randn(4, 5, dtype=F64, generator=torch.Generator().manual_seed(2)), process.noise_ratio(t)
    output = torch.randn(4, 5, dtype=F64, generator=torch.Generator().manual_seed(3))
    wrong = output + 0.1
    field = [process.data_mean(value, x, t) for value in (output, wrong)]
    error = (field[1] - field[0]).square().mean(1)
    residual = process.prediction.residual(wrong, output, process.at(t, x)).square().mean(1)
    rule = DATA_WEIGHTS.get(weighting, lambda s, _: 2 / s.square())
    torch.testing.assert_close(process.weight(t, x) * residual, rule(sigma, 0.7) * error)


@pytest.mark.parametrize("name", ["vp_ode", "ve_ode", "subvp_ode"])
def test_the_likelihood_weight_is_of_the_score_times_g_squared(name):
    process = genflow.get_process(name, head="score", weighting="likelihood")
    t = torch.tensor([0.05, 0.5, 0.95], dtype=F64)
    b = process.schedule(t)[1]
    torch.testing.assert_close(process.weight(t) * b.square(), 2 * process.natural_diffusion(t))


@pytest.mark.parametrize("times", ["log_uniform", "log_normal", "logit_normal"])
def test_densities_are_what_they_say(times):
    from scipy.stats import kstest, norm, uniform

    process = genflow.get_process("si_linear", times=times, sigma_min=1e-3, sigma_max=1e3)
    t = process.sample_time(4000, generator=torch.Generator().manual_seed(0))
    law = {
        "log_uniform": uniform(torch.tensor(1e-3).log(), 2 * torch.tensor(1e3).log()),
        "log_normal": norm(-1.2, 1.2),
        "logit_normal": norm(0, 1),
    }[times]
    assert kstest(process.noise_ratio(t).log().numpy(), law.cdf).pvalue > 1e-3
    if times == "logit_normal":  # of the linear path's own time
        assert kstest(torch.logit(1 - t).numpy(), norm(0, 1).cdf).pvalue > 1e-3


def test_the_head_is_edm_for_gaussian_noise_in_many_dimensions():
    found = {"edm": {}, "edm_rms": {"largest_rms": 0.51}}
    process = {h: genflow.get_process("ve_ode", head=h, sigma_data=0.5, **more) for h, more in found.items()}
    generator = torch.Generator().manual_seed(0)
    data = 0.5 * torch.randn(6, 50_000, dtype=F64, generator=generator)
    t = torch.linspace(0.1, 0.9, 6, dtype=F64)
    x = process["edm"].interpolate(data, torch.randn(6, 50_000, dtype=F64, generator=generator), t)
    output = torch.randn(6, 50_000, dtype=F64, generator=generator)
    found, wanted = (process[h].data_mean(output, x, t) for h in ("edm_rms", "edm"))
    assert float((found - wanted).norm() / wanted.norm()) < 5 * 50_000**-0.5


@pytest.mark.parametrize("D", [1, 2, 8])
def test_targets_of_heavy_tails_are_bounded(D):
    """By (|X|/√N + σ_d² √(S² + M²)/S²) S/(σ_d σ), S² = σ_d² + σ²; EDM's has no variance, and breaks the bound."""
    data = points((6,), 4000)
    breaks = {}
    for head in ("edm", "edm_rms"):
        process = genflow.get_process("pfgmpp", D=D, head=head, objective="own").for_data(data)
        pairs = process.training_pairs(data, generator=torch.Generator().manual_seed(0))
        s, size = process.data_scale, torch.hypot(pairs.t, torch.tensor(process.data_scale, dtype=F64))
        largest = data.square().mean(1).sqrt().max()
        skipped = s * s * torch.hypot(size, largest) / size.square()
        bound = (data.square().mean(1).sqrt() + skipped) * size / (s * pairs.t)
        breaks[head] = int((pairs.target.square().mean(1).sqrt() > bound * (1 + 1e-9)).sum())
    assert breaks["edm_rms"] == 0 < breaks["edm"]


@pytest.mark.parametrize("name", [*GAUSSIAN, *CAUCHY])
def test_errors_of_the_output_vanish_with_the_noise_for_points_of_any_size(name):
    """|δX̂| <= 5σ |δF| near the data, also for points much larger than sigma_data: else N̂ and likelihoods break."""
    data = points((6,), 500) * torch.linspace(0.2, 4, 500, dtype=F64)[:, None]
    process = make(name).for_data(data)
    for sigma in (0.02, 0.05, 0.2):  # σ_d is 1.4
        t = process.time_at(torch.tensor(sigma, dtype=F64)).expand(len(data))
        x = process.at(t, data).a * data
        means = [process.data_mean(output, x, t) for output in (torch.zeros_like(x), torch.ones_like(x))]
        assert float((means[1] - means[0]).abs().max()) <= 5 * sigma * (1 + 1e-6)


# ---- ranges and frames -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*GAUSSIAN, *CAUCHY])
def test_a_range_of_sigma_holds_in_training_sampling_and_the_file(name):
    process = make(name, relative=False, sigma_min=0.02, sigma_max=20.0)
    for interval in (process.safe_interval, process.training_interval):
        torch.testing.assert_close(process.noise_ratio(torch.tensor(interval, dtype=F64)).tolist(), [0.02, 20.0])
    again = type(process)(**process.config())
    assert (again.safe_interval, again.frame, again.times) == (process.safe_interval, "sigma", "log_normal")
    sigma = torch.tensor([0.02, 0.5, 20.0], dtype=F64)
    torch.testing.assert_close(process.noise_ratio(process.time_at(sigma)), sigma)
    prior = process.sample_prior((64, 6), generator=torch.Generator().manual_seed(0), dtype=F64)
    end = process.at(torch.tensor(process.safe_interval[1], dtype=F64), prior)
    base = type(process.base).sample(process.base, (64, 6), generator=torch.Generator().manual_seed(0), dtype=F64)
    torch.testing.assert_close(prior / end.a, 20.0 * base)


@pytest.mark.parametrize("name", [*GAUSSIAN, *CAUCHY])
def test_an_oracle_sees_through_the_frame(name):
    """The exact velocity is the same whichever frame the backbone is called in."""
    data = points((3,), 7)
    fields = []
    for frame in ("path", "sigma"):
        process = make(name, frame=frame).for_data(data)
        fields.append(process.field(process.oracle(data)))
    t = process.time_at(torch.tensor(0.8, dtype=F64))
    x = points((3,), 5) * process.at(t, data).a
    torch.testing.assert_close(fields[0].velocity(x, t), fields[1].velocity(x, t))
    torch.testing.assert_close(fields[0].velocity(x, t.expand(5)), fields[1].velocity(x, t))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vp_ode", {"sigma_max": 500.0}, "sigma_max = 500 .*152"),
        ("si_encdec", {"sigma_max": 80.0}, "sigma_max"),
        ("si_mirror", {"frame": "sigma"}, "frame"),
        ("si_linear", {"source": "uniform", "times": "log_normal"}, "times"),
        ("si_linear", {"coupling": "ot", "frame": "sigma"}, "frame"),
        ("pfgm", {"weighting": "edm"}, "head 'field'"),
        ("pfgmpp", {"weighting": "likelihood"}, "score"),
        ("vp_ode", {"levels": 1000, "times": "log_normal"}, "levels"),
        ("pfgm", {"perturbation": "published", "times": "log_normal"}, "times"),
        ("ve_ode", {"sigma_min": None}, "sigma_min"),
        ("vp_ode", {"times": "clok"}, "times"),
        ("vp_ode", {"sigma_min": 3.0, "sigma_max": 2.0}, "sigma_max"),
    ],
)
def test_what_a_path_cannot_meet_is_named(name, options, words):
    with pytest.raises(ValueError, match=words):
        genflow.get_process(name, **options)


def test_a_relative_range_follows_the_data_and_is_checked_when_they_are_known():
    process = genflow.get_process("vp_ode", relative=True, sigma_max=160.0)
    fitted = process.for_data(points((6,)))
    assert fitted.noise_ratio(torch.tensor(fitted.safe_interval[1], dtype=F64)) == pytest.approx(
        160 * fitted.sigma_data
    )
    with pytest.raises(ValueError, match="sigma_max = 160 times sigma_data"):
        process.for_data(10 * points((6,)))


def test_the_former_name_of_times_still_works():
    with pytest.warns(FutureWarning, match="times"):
        process = genflow.get_process("pfgmpp", training="log_uniform")
    assert process.times == "log_uniform"
    assert process.config() == {"times": "log_uniform"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        type(process)(**process.config())


class Shifted(genflow.process.AffineProcess):
    """A plugin's path that has an interval of its own making: a range of σ cannot move it."""

    t_data, t_prior = -3.0, 3.0
    safe_interval = (-2.0, 2.0)

    def coefficients(self, t):
        return genflow.process.Coefficients(a=1.0, b=t.exp(), da=0.0, db=t.exp())


def test_a_plugin_meets_them_by_its_coefficients_or_says_why_not():
    class Plain(Shifted):
        safe_interval = genflow.process.AffineProcess.safe_interval

    process = Plain(frame="sigma", times="log_normal", sigma_min=0.1, sigma_max=5.0)
    torch.testing.assert_close(process.noise_ratio(torch.tensor(process.safe_interval, dtype=F64)).tolist(), [0.1, 5.0])
    with pytest.raises(ValueError, match="sigma_min"):
        Shifted(sigma_min=0.1, sigma_max=5.0)
