"""Random numbers by counters: the published bits, their laws, and that nothing but the arguments matters."""

import math

import numpy as np
import pytest
import torch
from pretended import pretend
from scipy import stats

import genflow
from genflow.philox import MASK, device_normal, device_uniform, host_bits, host_normal, host_uniform, philox, signed
from genflow.process.base import Process
from genflow.process.bases import Gaussian, StudentT
from genflow.random import Counters, Stream, by_row, categorical, chi_square, integers, normal, strata, uniform
from genflow.sampling import draw_path, draw_prior
from genflow.solver.noise import Noise
from genflow.training.batches import STREAMS, stream

CPU = torch.device("cpu")
F64 = torch.float64
ONES = 2**64 - 1
PI = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89)
KNOWN = {
    "zeros": ((0,) * 4, (0,) * 2, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    "ones": ((ONES,) * 4, (ONES,) * 2, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
    "pi": (
        PI,
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
}
"""Counter, key and output of philox4x64-10 in the known-answer file of the authors' library Random123."""


def by_hand(counter, key):
    """The published rounds, in Python's whole numbers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & MASK, (p0 >> 64) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return [c0, c1, c2, c3]


def on_torch(counters, key):
    bits = philox(torch.tensor([[signed(word) for word in counter] for counter in counters]), key)
    return bits.numpy().view(np.uint64).ravel().tolist()


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers_of_the_published_algorithm(name):
    counter, key, words = KNOWN[name]
    want = [int(word, 16) for word in words.split()]
    assert by_hand(counter, key) == want
    assert on_torch([counter], key) == want
    assert host_bits(counter, key).random_raw(4).tolist() == want


def test_torch_numpy_and_the_published_rounds_agree_where_a_counter_runs_over():
    for first in ((0, 0, 0, 0), (MASK - 1, 0, 7, 1), (MASK - 1, MASK, MASK, 3), (5, 2**63, 1, 2**40)):
        number = sum(word << 64 * i for i, word in enumerate(first))
        counters = [[(number + i) >> 64 * j & MASK for j in range(4)] for i in range(5)]
        want = [word for counter in counters for word in by_hand(counter, (3, ONES))]
        assert on_torch(counters, (3, ONES)) == want
        assert host_bits(first, (3, -1)).random_raw(20).tolist() == want


# ---- equal on every device -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("shape", [(1, 5), (7, 3, 4), (3, 8), (2, 5000)])
def test_the_kernel_of_a_device_gives_the_hosts_numbers_bit_for_bit(kind, dtype, shape, monkeypatch):
    """A device runs `philox` and what follows it; the host runs numpy. Here both run on the CPU."""
    want = Counters(3, "both", 2, rows=range(4, 4 + shape[0]), ahead=4)
    found = Counters(3, "both", 2, rows=range(4, 4 + shape[0]), ahead=4)
    monkeypatch.setattr(found, "_on_host", lambda kind, place, dtype: found._on_device(kind, place, dtype, CPU))
    for drawn in range(6):
        want.draws = found.draws = drawn
        assert torch.equal(*(part.block(kind, shape, dtype, CPU)[0] for part in (want, found)))


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_noise_made_on_a_pretended_device_is_the_hosts(kind, monkeypatch):
    monkeypatch.setattr("genflow.random.ON_HOST", 0)
    noise, x = Noise(3, range(50)), torch.empty(50, 13)
    want = [noise.like(x) for _ in range(20)]
    with pretend(kind) as card:
        noise, x = Noise(3, range(50)), torch.empty(50, 13, device=card.name)
        found = [noise.like(x) for _ in range(20)]
        assert all(draw.device.type == kind for draw in found)
        assert all(torch.equal(draw.cpu(), other) for draw, other in zip(found, want, strict=True))


def test_extreme_words_are_the_same_numbers_on_a_device():
    words = np.array([0, 1, -1, 2, 2**31 - 1, -(2**31), 2**24 + 1, -(2**24) - 1], np.int32)
    for dtype, law in ((torch.float32, np.float32), (F64, np.float64)):
        want = np.empty(8, law)
        host_normal(words.view(np.uint32), want)
        bits = torch.from_numpy(words.view(np.int64))
        assert np.isfinite(want).all()
        assert np.abs(want).max() > 6.2
        assert np.array_equal(device_normal(bits, dtype).numpy(), want)
        uniforms = np.empty(8 if law == np.float32 else 4, law)
        host_uniform(words.view(np.uint32), uniforms)
        assert np.array_equal(device_uniform(bits, dtype).numpy(), uniforms)
        assert uniforms.min() >= 0
        assert uniforms.max() < 1


def test_normal_numbers_are_the_normals_quantiles():
    """Within 5e-8 in float64, where the table's pieces are straight, and 5e-7 after float32's rounding."""
    words = torch.randint(-(2**31), 2**31, (16_000,), generator=torch.Generator().manual_seed(0)).int()
    words[:400] = torch.cat([torch.arange(1, 201), -torch.arange(1, 201)])
    want = words.sign() * torch.special.ndtri(words.double().abs() / 2**32)
    for law, bound in ((np.float64, 6e-8), (np.float32, 5e-7)):
        found = np.empty(16_000, law)
        host_normal(words.numpy().view(np.uint32), found)
        assert np.abs(found[400:] - want.numpy()[400:]).max() < bound
        assert np.abs(found[:400] - want.numpy()[:400]).max() < 1e-6


def test_float32_and_float64_draw_the_same_normal_numbers():
    single, double = (normal((40, 7), generator=Stream(1, "a"), dtype=dtype) for dtype in (torch.float32, F64))
    torch.testing.assert_close(single.double(), double, rtol=0, atol=5e-7)
    half = normal((40, 7), generator=Stream(1, "a"), dtype=torch.bfloat16)
    assert torch.equal(half, single.bfloat16())


# ---- a function of seed, name, index, row, draw and entry alone --------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3,), (13,), (1500,)])
def test_noise_is_the_same_in_every_batch_and_order(shape):
    whole, rows = Noise(5, range(20, 40)), [21, 22, 39, 25]
    parts = [Noise(5, range(20, 31)), Noise(5, range(31, 40))]
    some, alone = Noise(5, rows), Noise(5, [39])
    for _ in range(18):
        draw = whole.like(torch.empty(20, *shape))
        assert torch.equal(
            draw, torch.cat([p.like(torch.empty(n, *shape)) for p, n in zip(parts, (11, 9), strict=True)])
        )
        assert torch.equal(draw[[1, 2, 19, 5]], some.like(torch.empty(4, *shape)))
        assert torch.equal(draw[19:], alone.like(torch.empty(1, *shape)))


def test_noise_of_a_draw_does_not_depend_on_the_shapes_before_it():
    one, two = Noise(0, range(3)), Noise(0, range(3))
    for k in range(5):
        one.like(torch.empty(3, 4))
        two.like(torch.empty(3, 9 if k % 2 else 4, dtype=F64 if k == 3 else torch.float32))
    assert torch.equal(one.like(torch.empty(3, 4)), two.like(torch.empty(3, 4)))


@pytest.mark.parametrize("name", sorted(genflow.registry.registries()["processes"].entries()))
def test_priors_and_paths_are_the_same_in_every_batch(name):
    process = genflow.get_process(name)
    data = torch.linspace(-1, 1, 24).reshape(12, 2)
    process = process.for_data(data)
    whole, noise = draw_prior(process, (2,), 7, range(12), torch.float32)
    parts = [draw_prior(process, (2,), 7, rows, torch.float32)[0] for rows in (range(5), range(5, 12))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(draw_prior(process, (2,), 7, [9, 3], torch.float32)[0], whole[[9, 3]])
    assert torch.equal(noise.like(whole)[4:6], Noise(7, [4, 5]).like(whole[4:6]))
    if process.why_not("norm") is None:
        t = sum(process.training_interval) / 2
        found = draw_path(process, data, t, 7, range(12))
        torch.testing.assert_close(draw_path(process, data[4:], t, 7, range(4, 12)), found[4:])


@pytest.mark.parametrize("name", ["vp", "pfgmpp", "si_linear"])
def test_a_rank_can_draw_the_pairs_of_its_own_rows(name):
    x = torch.linspace(-1, 1, 60).reshape(12, 5)
    process = genflow.get_process(name).for_data(x)
    whole = process.perturb(x, generator=stream(3, "noise", 8))
    own = process.perturb(x[5:9], generator=Stream(3, "training noise", 8, rows=range(5, 9), whole=12))
    for all_rows, rows in zip(whole, own, strict=True):
        torch.testing.assert_close(rows, all_rows[5:9])


def test_every_argument_moves_every_number():
    draws = [
        normal((4, 6), generator=made)
        for made in (
            Stream(0, "a"),
            Stream(1, "a"),
            Stream(0, "b"),
            Stream(0, "a", 1),
            Stream(0, "a", rows=range(4, 8)),
        )
    ]
    again = Stream(0, "a")
    draws += [normal((4, 6), generator=again), normal((4, 6), generator=again)]
    assert torch.equal(draws[0], draws[5])
    for i, one in enumerate(draws[:5]):
        assert not any((one == other).any() for other in (*draws[:i], draws[6]))


def test_negative_and_long_seeds_and_indices_are_taken():
    for seed, row in ((-1, 0), (2**63, 5), (2**64 + 1, 2**40)):
        found = normal((1, 9), generator=Stream(seed, "a", rows=[row]))
        device = Counters(seed, "a", rows=[row], ahead=1)
        device._on_host = lambda kind, place, dtype, c=device: c._on_device(kind, place, dtype, CPU)
        assert torch.equal(device.block("normal", (1, 9), torch.float32, CPU)[0], found)


def test_rows_of_another_number_are_refused():
    with pytest.raises(ValueError, match="has 3 rows; 4 cannot be drawn"):
        normal((4, 2), generator=Stream(0, "a", rows=range(3)))


def test_training_streams_are_independent_and_a_function_of_the_step():
    found = [uniform((50,), generator=stream(0, name, step)) for name in STREAMS for step in (0, 1)]
    assert len(torch.cat(found).unique()) > 0.99 * 50 * len(found)
    assert torch.equal(uniform((50,), generator=stream(0, STREAMS[0], 1)), found[1])


# ---- laws --------------------------------------------------------------------------------------------------------


def many(**how):
    return normal((2000, 250), generator=Stream(11, "law"), **how).double().flatten()


def test_moments_of_the_normal_up_to_the_eighth():
    x = many()
    for k, (mean, second) in {1: (0, 1), 2: (1, 3), 3: (0, 15), 4: (3, 105), 6: (15, 10395)}.items():
        assert abs(float((x**k).mean()) - mean) < 4.5 * math.sqrt((second - mean**2) / len(x))


def test_laws_pass_kolmogorov_and_smirnov():
    assert stats.kstest(many().numpy(), "norm").pvalue > 1e-3
    for dtype in (torch.float32, F64):
        u = uniform((500, 300), generator=Stream(2, "law"), dtype=dtype).flatten()
        assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    tail = many()[many().abs() > 3].abs()
    assert abs(len(tail) / 500_000 / (2 * stats.norm.sf(3)) - 1) < 4 / math.sqrt(len(tail))


@pytest.mark.parametrize("df", [0.2, 0.9, 1.0, 2.0, 3.5, 128.0, 5000.0])
def test_chi_square_of_any_degree(df):
    found = chi_square(100_000, df, generator=Stream(5, "chi")).numpy()
    assert stats.kstest(found, stats.chi2(df).cdf).pvalue > 1e-3
    assert (found > 0).all()


@pytest.mark.parametrize("base", [Gaussian(), StudentT(1.0), StudentT(4.0)])
def test_bases_have_their_law(base):
    x = base.sample((100_000, 3), generator=Stream(6, "base"), dtype=torch.float32)[:, 1].numpy()
    law = stats.norm if isinstance(base, Gaussian) else stats.t(base.df)
    assert stats.kstest(x, law.cdf).pvalue > 1e-3


def test_neighbours_are_uncorrelated():
    """Samples, draws, entries and seeds that follow one another, their squares too."""
    noise = [Noise(seed, range(400)) for seed in (0, 1)]
    x = torch.stack([torch.stack([n.like(torch.empty(400, 60)) for _ in range(20)]) for n in noise]).double()
    for power in (1, 2):
        y = x**power - (power - 1)
        for axis in range(4):
            a, b = y.narrow(axis, 0, y.shape[axis] - 1), y.narrow(axis, 1, y.shape[axis] - 1)
            bound = 4.5 * (1 if power == 1 else 2) / math.sqrt(a.numel())
            assert abs(float((a * b).mean())) < bound, (power, axis)


def test_categories_and_whole_numbers_have_their_probabilities():
    weights = torch.tensor([1.0, 0.0, 3.0, 4.0])
    found = categorical(weights, 40_000, generator=Stream(1, "c")).bincount(minlength=4)
    assert found[1] == 0
    assert stats.chisquare(found[[0, 2, 3]].numpy(), 40_000 * np.array([1, 3, 4]) / 8).pvalue > 1e-3
    rows = categorical(torch.eye(5)[[3, 0, 4]], 3, generator=Stream(1, "c"))
    assert rows.tolist() == [3, 0, 4]
    counts = integers(7, 70_000, generator=Stream(1, "d")).bincount()
    assert len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_strata_have_a_number_each():
    u = strata(50, generator=Stream(0, "t"))
    assert (u * 50).long().tolist() == list(range(50))
    assert torch.equal(strata(20, generator=Stream(0, "t", rows=range(30, 50), whole=50)), u[30:])


# ---- code that knows no streams ----------------------------------------------------------------------------------


def test_a_stream_is_a_generator_of_torch():
    one, two = (torch.randn(6, generator=Stream(0, "a", 3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, torch.randn(6, generator=Stream(0, "a", 4)))
    assert sorted(torch.randperm(9, generator=Stream(0, "order")).tolist()) == list(range(9))


class Foreign(type(genflow.get_process("vp"))):
    """Draws its prior partly by torch, as a plugin may."""

    def sample_prior(self, shape, *, generator, dtype=torch.float32):
        mine = torch.rand(shape, generator=generator, dtype=dtype)
        return mine + super().sample_prior(shape, generator=generator, dtype=dtype)


def test_draws_that_torch_makes_stay_independent_of_the_batch():
    process = Foreign()
    assert isinstance(process, Process)
    whole, _ = draw_prior(process, (3,), 2, range(9), torch.float32)
    parts = [draw_prior(process, (3,), 2, rows, torch.float32)[0] for rows in (range(4), range(4, 9))]
    assert torch.equal(torch.cat(parts), whole)
    assert len(whole.unique()) == 27


def test_rows_are_drawn_together_where_torch_draws_nothing():
    calls = []

    def draw(made, rows):
        calls.append(rows)
        return normal((5, 2), generator=made)

    by_row(draw, 0, "a", range(5))
    assert len(calls) == 1


def test_a_plain_generator_draws_as_torch_does():
    def made():
        return torch.Generator().manual_seed(4)

    assert torch.equal(normal((3, 2), generator=made()), torch.randn(3, 2, generator=made()))
    assert torch.equal(uniform((3,), generator=made(), dtype=F64), torch.rand(3, generator=made(), dtype=F64))
    assert torch.equal(integers(9, 5, generator=made()), torch.randint(9, (5,), generator=made()))
