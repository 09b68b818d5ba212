"""One process, reached through all its predictions: the same velocity, score and posterior means."""

import math

import pytest
import torch

import genflow
from genflow.process.distributions import Empirical
from genflow.process.heads import EDM, HEADS, INVERSES
from genflow.process.paths import SIEncDec, SILinear, SITrig
from genflow.process.poisson import PFGM, PFGMPP
from genflow.registry import registries

F64 = torch.float64
POINTS = torch.tensor([[-1.1, 0.4, 0.1], [0.2, -0.7, 0.6], [0.9, 0.5, -0.3]], dtype=F64)
FOURIER = {"alpha": (0.1, -0.05), "beta": (-0.1, 0.2)}


def normal(seed, *shape):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def drawn_states(process, t):
    """Four states on the path at one time, so that the posterior means are of ordinary size."""
    data = POINTS[[0, 1, 2, 1]]
    return process.interpolate(data, process.base_like(data, torch.Generator().manual_seed(2)), t)


def inner(process):
    """Times in which every head is well conditioned; none is the corner of an encoding-decoding path."""
    low, high = process.to_clock(torch.tensor(process.safe_interval, dtype=F64))
    return process.from_clock(low + (high - low) * torch.tensor([0.2, 0.4, 0.63, 0.85], dtype=F64))


def combinations():
    """Every registered process with every affine head it has, and every inverse of the Poisson head."""
    for name in registries()["processes"].entries():
        process = genflow.get_process(name)
        for head in getattr(process, "affine_heads", process.heads)():
            inverses = INVERSES if head == "field" else (None,)
            for inverse in inverses:
                if inverse != "published":  # an approximation below z_exp, and 1e-5 off above it
                    yield name, head, inverse


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize(("name", "head", "inverse"), list(combinations()))
def test_every_head_gives_the_same_velocity_score_and_data_mean(name, head, inverse):
    """Against the answer put together from the posterior mean by its definition, from the base's density."""
    options = {"head": head, **({"inverse": inverse} if inverse else {})}
    options = {**options, **(FOURIER if name == "si_fourier" else {})}
    process = genflow.get_process(name, **options).for_data(POINTS)
    for t in inner(process):
        x = drawn_states(process, t)
        c = process.at(t, x)
        rows = [process.base.log_prob((row - c.a * POINTS) / c.b).softmax(0) @ POINTS for row in x]
        mean = torch.stack(rows)
        base = (x - c.a * mean) / c.b
        field = process.field(process.oracle(POINTS))
        found = [field.velocity(x, t), field.data(x, t)]
        want = [c.da * mean + c.db * base, mean]
        if not process.why_not("score"):
            found.append(field.score(x, t))
            want.append(-base / c.b)
        for got, expected in zip(found, want, strict=True):
            scale = max(1.0, float(expected.abs().max()))
            assert float((got - expected).abs().max()) < 1e-10 * scale


@pytest.mark.parametrize("name", registries()["processes"].entries())
def test_training_targets_say_the_draws_they_are_made_of(name):
    """decode(target, x_t) is (X, N), and a target in float32 keeps its digits where the noise is 1e-4 of the data."""
    process = genflow.get_process(name)
    for head in getattr(process, "affine_heads", process.heads)():
        if head == "field":  # its target is an average, of no single pair
            continue
        mode = {"mode": "ode"} if head == "velocity" and process.mode == "sde" else {}
        largest = {"largest_rms": 4.0} if head == "edm_rms" else {}
        made = genflow.get_process(name, head=head, **mode, **largest)
        x, noise = normal(20, 4, 3), made.base_like(normal(21, 4, 3), torch.Generator().manual_seed(3))
        pairs = made.pairs(x, noise, inner(made))
        data, base = made.prediction.decode(pairs.target, pairs.x_t, made.at(pairs.t, x))
        c = made.at(pairs.t, x)
        torch.testing.assert_close(c.a * data, c.a * x, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(c.a * data + c.b * base, pairs.x_t, rtol=1e-8, atol=1e-8)
        near = torch.full((4,), made.safe_interval[0], dtype=F64)
        single, double = (made.pairs(x.to(d), noise.to(d), near).target.double() for d in (torch.float32, F64))
        assert float((single - double).abs().max()) < 1e-5 * float(double.abs().max())


@pytest.mark.parametrize("process", [PFGM(inverse="published", gamma=0.3), PFGM(inverse="published")])
def test_published_inverse_is_the_ratio_less_its_own_constant_above_z_exp(process):
    """Above z_exp the published rule divides by v_z + 1e-5: v = v_x/(v_z + 1e-5)."""
    x, z = 3 * normal(0, 5, 3), torch.tensor(7.0, dtype=F64)
    output = process.oracle(POINTS)(x, process.condition(z).expand(5))
    want = output[:, :3] / (output[:, 3:] + 1e-5)
    torch.testing.assert_close(process.velocity(output, x, z), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [n for n in registries()["processes"].entries() if not n.startswith("pfgm")])
def test_edm_head_has_unit_variance(name):
    """For normal data of scale σ_d the EDM target has variance one and is independent of x_t, whatever a and b."""
    options = FOURIER if name == "si_fourier" else {}
    process = genflow.get_process(name, head="edm", sigma_data=0.7, **options)
    x = 0.7 * normal(0, 20_000, 1)
    for t in inner(process):
        pairs = process.pairs(x, normal(1, 20_000, 1), t.expand(len(x)))
        if float(process.at(t, x).b) > 1e-3:
            assert float(pairs.target.std()) == pytest.approx(1, abs=0.02)
            together = torch.cat([pairs.x_t, pairs.target], dim=1).T
            assert abs(float(torch.corrcoef(together)[0, 1])) < 5 / math.sqrt(20_000)


def test_data_s_scale_is_found_once():
    x = 3 * normal(4, 500, 2)
    found = genflow.get_process("vp_ode", head="edm").for_data(x)
    assert found.sigma_data == pytest.approx(float(x.std(correction=0)))
    assert found.prediction == EDM(found.sigma_data)
    assert found.for_data(2 * x).sigma_data == found.sigma_data
    assert genflow.get_process("vp_ode", head="edm").prediction == EDM(0.5)


# ---- free heads ------------------------------------------------------------------------------------------


def free(path, head, source, gamma="brownian"):
    sources = {
        "mixture": {"source": "mixture", "source_options": {"means": [[-0.8, 0.3, 0], [0.5, -0.2, 0]], "std": 0.4}},
        "uniform": {"source": "uniform"},
        "points": {"source": Empirical(normal(3, 4, 3))},
        "gaussian": {},
    }
    return path(head=head, gamma=gamma, gamma_scale=0.8, channels=3, **sources[source])


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("path", [SILinear, SITrig, SIEncDec])
@pytest.mark.parametrize("source", ["mixture", "uniform", "points", "gaussian"])
def test_free_heads_give_the_same_velocity_score_and_means(path, source):
    """The three means from a quotient of sums over draws of N and Z would be noisy; here they are the oracle's, and
    what each head makes of them is put together by the definitions."""
    heads = {h: free(path, h, source) for h in ("velocity", "velocity_denoiser", "velocity_score")}
    x = 0.3 * normal(5, 4, 3)
    for t in inner(heads["velocity"]):
        c = heads["velocity_score"].at(t, x)
        data, base, latent = heads["velocity_score"].oracle(POINTS).means(x, t)
        velocity = c.da * data + c.db * base + c.gdg / c.g * latent
        for name, process in heads.items():
            field = process.field(process.oracle(POINTS))
            torch.testing.assert_close(field.velocity(x, t), velocity, rtol=1e-10, atol=1e-10)
            if process.is_affine:  # the velocity of a standard normal base determines the rest
                continue
            if name == "velocity":
                with pytest.raises(ValueError, match="velocity_denoiser"):
                    field.score(x, t)
                with pytest.raises(ValueError, match=r"velocity_denoiser|before t = 1/2"):
                    field.data(x, t)
                continue
            torch.testing.assert_close(field.score(x, t), -latent / c.g, rtol=1e-10, atol=1e-10)
            if path is SIEncDec:
                with pytest.raises(ValueError, match="before t = 1/2 there is no data"):
                    field.data(x, t)
                continue
            torch.testing.assert_close(field.data(x, t), data, rtol=1e-10, atol=1e-10)
            s = torch.tensor(0.5, dtype=F64)
            end = process.at(s, x)
            want = end.a * data + end.b * base + end.g * latent
            torch.testing.assert_close(field.ddim_step(x, t, s), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", [SILinear, SITrig])
@pytest.mark.parametrize("gamma", ["brownian", "quadratic", "sin_squared"])
def test_a_free_path_from_the_normal_is_the_plain_one_with_both_noises_in_one(path, gamma):
    """b N + γ Z is one normal of scale sqrt(b² + γ²): velocity, score and data mean of both descriptions agree."""
    plain = path(gamma=gamma, gamma_scale=0.8)
    bound = path(gamma=gamma, gamma_scale=0.8, head="velocity_denoiser", channels=3)
    assert plain.is_affine
    assert not bound.is_affine
    x = normal(6, 5, 3)
    one, two = (p.field(p.oracle(POINTS)) for p in (plain, bound))
    for t in inner(plain):
        for read in ("velocity", "score", "data"):
            torch.testing.assert_close(getattr(one, read)(x, t), getattr(two, read)(x, t), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("head", ["velocity_denoiser", "velocity_score"])
def test_errors_of_both_parts_count_alike(head):
    """|error of v|² + |error of Ẑ|², averaged over 2 N entries, whichever way the second is said."""
    process = free(SILinear, head, "gaussian")
    t = torch.tensor([0.1, 0.5, 0.8], dtype=F64)
    pairs = process.free_pairs(normal(7, 3, 3), normal(8, 3, 3), normal(9, 3, 3), t)
    output = pairs.target + normal(10, 3, 6)
    c = process.at(t, pairs.x_t)
    wrong_v = process.velocity(output, pairs.x_t, t) - process.velocity(pairs.target, pairs.x_t, t)
    wrong_z = c.g * (process.score(output, pairs.x_t, t) - process.score(pairs.target, pairs.x_t, t))
    want = torch.cat([wrong_v, wrong_z], dim=1).square().mean(1)
    torch.testing.assert_close(process.loss_terms(output, pairs), want)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
@pytest.mark.parametrize("head", ["velocity_denoiser", "velocity_score"])
def test_the_backbone_emits_twice_the_channels(head, shape):
    x = normal(11, 5, *shape)
    process = SILinear(head=head, gamma="brownian").for_data(x)
    assert process.extra_channels == shape[0]
    pairs = process.perturb(x, generator=torch.Generator().manual_seed(0))
    assert pairs.target.shape == (5, 2 * shape[0], *shape[1:])
    assert type(process)(**process.config()).extra_channels == shape[0]


# ---- what a head cannot do, it says ---------------------------------------------------------------------


@pytest.mark.parametrize("head", list(HEADS))
def test_linear_heads_are_affine_in_the_posterior_mean(head):
    """Then the mean of the targets at one x_t is the target of the mean, and single pairs are enough."""
    process, x, t = PFGMPP(head=head), normal(12, 4, 3), torch.tensor(0.7, dtype=F64)
    c, one, two = process.at(t, x), normal(13, 4, 3), normal(14, 4, 3)
    middle = process.prediction.encode(0.3 * one + 0.7 * two, x, c)
    parts = 0.3 * process.prediction.encode(one, x, c) + 0.7 * process.prediction.encode(two, x, c)
    torch.testing.assert_close(middle, parts)
    assert process.prediction.linear


def test_the_poisson_head_is_not():
    process, x, t = PFGM(), normal(12, 4, 3), torch.tensor(0.7, dtype=F64)
    c, one, two = process.at(t, x), normal(13, 4, 3), normal(14, 4, 3)
    middle = process.prediction.encode((one + two) / 2, x, c)
    parts = (process.prediction.encode(one, x, c) + process.prediction.encode(two, x, c)) / 2
    assert float((middle - parts).abs().max()) > 1e-3
    assert not process.prediction.linear


@pytest.mark.parametrize(
    ("options", "words"),
    [({"head": "velocity_denoiser"}, "head"), ({"head": "velocity_score", "source": "uniform"}, "head"),
     ({"head": "noise", "source": "uniform"}, "one of velocity;?$"), ({"head": "edm", "coupling": "ot"}, "velocity"),
     ({"head": "score", "source": "uniform", "gamma": "brownian"}, "velocity_denoiser, velocity_score")],
)  # fmt: skip
def test_heads_that_do_not_fit_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        SILinear(**options)


@pytest.mark.slow
def test_old_names_of_the_ddim_step_and_of_the_conditioning_still_work():
    """A backbone from before says `told` where today's say `conditioning`."""
    process = genflow.get_process("vp_ode")
    x, t, s = torch.randn(3, 2), torch.tensor(0.5), torch.tensor(0.3)
    seen = []

    def old(x, level):
        seen.append(float(level[0]))
        return 0 * x

    field = process.field(old)
    with pytest.warns(FutureWarning, match="frozen_step is now ddim_step"):
        assert torch.equal(field.frozen_step(x, t, s), field.ddim_step(x, t, s))
    with pytest.warns(FutureWarning, match="frozen_step is now ddim_step"):
        assert torch.equal(process.frozen_step(0 * x, x, t, s), process.ddim_step(0 * x, x, t, s))
    old.told = "noise_level"
    process.field(old).velocity(x, t)
    assert seen[0] == pytest.approx(0.5)
    assert seen[-1] == pytest.approx(float(process.noise_level(t)))
    net = genflow.get_backbone("mlp", shape=(2,), extra_channels=0)
    net.told = "noise_level"
    assert net.conditioning == net.told == "noise_level"


@pytest.mark.parametrize("name", ["vp_ode", "pfgm", "si_linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quick_readings_of_edm_rms_are_those_of_its_formula(name, dtype):
    process = genflow.get_process(name, head="edm_rms", frame="sigma").for_data(torch.randn(50, 3, 4))
    low, high = process.to_clock(torch.tensor(process.safe_interval, dtype=torch.float64)).tolist()
    x, output = torch.randn(5, 3, 4, dtype=dtype), torch.randn(5, 3, 4, dtype=dtype)
    for share in (0.05, 0.5, 0.95):
        t = process.from_clock(torch.tensor(low + share * (high - low), dtype=torch.float64))
        rows = t.expand(5).clone()
        c = process.at(rows, x.double())
        data, base = process.prediction.decode(output.double(), x.double(), c)
        want = {"velocity": c.da * data + c.db * base, "data_mean": data}
        for reading, value in want.items():
            size = float(value.abs().max())
            for state, time in ((x, t), (x, rows), (x.clone().requires_grad_(), t)):
                found = getattr(process, reading)(output, state, time).detach().double()
                assert float((found - value).abs().max()) <= (1e-4 if dtype == torch.float32 else 1e-12) * size
