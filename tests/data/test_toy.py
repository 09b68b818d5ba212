"""Contract of every registered 2-D data set, and known answers of each one."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import chisquare

from genflow import get_dataset
from genflow.data.base import ToyDataset
from genflow.data.toy import Heart
from genflow.registry import registries

ENTRIES = {n: e for n, e in registries()["datasets"].entries().items() if e.tags.get("kind") == "toy"}
WITH_DENSITY = [n for n, e in ENTRIES.items() if "exact log_prob" in e.summary]
HALF, CELLS, BLOCKS = 4.0, 800, 20
"""Quadrature box [−HALF, HALF]², midpoints a side, and blocks a side that samples are counted in."""

every = pytest.mark.parametrize("name", ENTRIES)
every_density = pytest.mark.parametrize("name", WITH_DENSITY)


def cauchy_box_mass(half: float, scale: float) -> float:
    """P(|x|, |y| < half): the share of the half sphere that a square at height `scale` covers."""
    return 2 / math.pi * math.atan(half**2 / (scale * math.sqrt(scale**2 + 2 * half**2)))


@cache
def block_masses(name: str) -> np.ndarray:
    """Mass of exp(log_prob) in each block of the box by midpoints, (BLOCKS, BLOCKS), first index x."""
    width = 2 * HALF / CELLS
    ticks = torch.arange(CELLS, dtype=torch.float64) * width + width / 2 - HALF
    density = get_dataset(name).log_prob(torch.cartesian_prod(ticks, ticks)).double().exp().reshape(CELLS, CELLS)
    size = CELLS // BLOCKS
    return (density.reshape(BLOCKS, size, BLOCKS, size).sum((1, 3)) * width**2).numpy()


def draw(name: str, count: int, seed: int = 0) -> torch.Tensor:
    return get_dataset(name).sample(count, generator=torch.Generator().manual_seed(seed))


# ---- every toy -------------------------------------------------------------------------------------------


def test_the_catalogue_names_the_known_densities():
    assert set(ENTRIES) >= {"eight_gaussians", "checkerboard", "two_moons", "swiss_roll", "heart", "uniform_disk"}
    assert set(ENTRIES) - set(WITH_DENSITY) >= {"two_moons", "swiss_roll"}


@every
def test_splits_have_the_declared_shape_and_type(name):
    data = get_dataset(name, size=37)
    assert isinstance(data, ToyDataset)
    assert data.name == name
    for split in ("train", "test"):
        x = data.split(split)
        assert (x.shape, x.dtype) == ((37, *data.shape), torch.float32)
        assert x.isfinite().all()
    assert get_dataset(name).train.shape == (10_000, 2)
    with pytest.raises(ValueError, match="split = 'validation'"):
        data.split("validation")


@every
def test_splits_follow_from_the_seed(name):
    data, same, other = (get_dataset(name, size=50, seed=s) for s in (3, 3, 4))
    assert torch.equal(data.train, same.train)
    assert torch.equal(data.test, same.test)
    draws = [data.train, data.test, other.train, other.test]
    for i, one in enumerate(draws):
        assert all(not torch.equal(one, two) for two in draws[:i])


@every
def test_sample_reads_only_its_generator(name):
    one = draw(name, 20, seed=5)
    torch.manual_seed(99)
    assert torch.equal(one, draw(name, 20, seed=5))
    assert not torch.equal(one, draw(name, 20, seed=6))
    assert draw(name, 1).shape == (1, 2)


@every
@pytest.mark.parametrize("size", [0, -1, math.nan])
def test_a_bad_size_is_refused_by_name(name, size):
    with pytest.raises(ValueError, match=f"{name}'?: size = "):
        get_dataset(name, size=size)


@pytest.mark.parametrize("size", [math.inf, 2.5, "many", None])
def test_a_size_that_is_no_whole_number_is_refused_by_name(size):
    with pytest.raises(ValueError, match="size = "):
        get_dataset("checkerboard", size=size)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "wide"])
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("heart", "scale"),
        ("uniform_disk", "radius"),
        ("cauchy", "scale"),
        ("two_moons", "noise"),
        ("swiss_roll", "noise"),
    ],
)
def test_a_bad_option_is_refused_by_name(name, option, value):
    with pytest.raises(ValueError, match=f"{name}.*{option}"):
        get_dataset(name, **{option: value})


@pytest.mark.parametrize(("name", "option"), [("heart", "scale"), ("uniform_disk", "radius"), ("cauchy", "scale")])
def test_a_size_of_zero_is_refused(name, option):
    with pytest.raises(ValueError, match=f"{name}: {option} = 0"):
        get_dataset(name, **{option: 0})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("means", [[0.0, 0.0, 0.0]]),
        ("means", [[0.0, 0.0], [1.0]]),
        ("means", 3.0),
        ("means", []),
        ("scales", 0.0),
        ("scales", [0.4, 0.4]),
        ("scales", [0.4, -0.4, 0.4]),
        ("scales", math.nan),
        ("weights", [1.0, 1.0]),
        ("weights", [1.0, 0.0, 1.0]),
        ("weights", [1.0, math.nan, 1.0]),
        ("weights", 1.0),
    ],
)
def test_a_bad_mixture_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=option):
        get_dataset("gaussian_mixture", **{option: value})


# ---- densities -------------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(3)
@every_density
def test_density_integrates_to_one(name):
    expected = cauchy_box_mass(HALF, get_dataset(name).scale) if name == "cauchy" else 1.0
    assert block_masses(name).sum() == pytest.approx(expected, abs=1e-3)


@every_density
def test_density_has_one_float_per_point(name):
    log_prob = get_dataset(name).log_prob(torch.zeros(3, 2))
    assert log_prob.shape == (3,)
    assert log_prob.is_floating_point()


@every_density
def test_samples_follow_the_density(name):
    """Chi-square of 20,000 draws in the blocks; blocks that expect fewer than 10 count as one with the outside."""
    count, masses = 20_000, block_masses(name)
    x = draw(name, count).double().numpy()
    edges = np.linspace(-HALF, HALF, BLOCKS + 1)
    seen = np.histogram2d(x[:, 0], x[:, 1], bins=[edges, edges])[0]
    likely = count * masses >= 10
    expected, observed = count * masses[likely], seen[likely]
    rest, others = count - expected.sum(), count - observed.sum()
    assert abs(others - rest) <= 5 * math.sqrt(max(rest, 16)), "too many or too few samples where few are expected"
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


@every_density
def test_every_sample_has_a_density(name):
    assert get_dataset(name).log_prob(draw(name, 5_000)).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(ENTRIES) - set(WITH_DENSITY)))
def test_no_density_is_said_by_name(name):
    with pytest.raises(ValueError, match=name):
        get_dataset(name).log_prob(torch.zeros(1, 2))


# ---- one by one ------------------------------------------------------------------------------------------


def heart_radius(angle: float) -> float:
    """Distance of the unit heart's curve from the origin: (r² − 1)³ = r⁵ cos²φ sin³φ, solved as its cube root."""
    k = abs(math.cos(angle)) ** (2 / 3) * math.sin(angle)
    return brentq(lambda r: r * r - 1 - k * r ** (5 / 3), 0.1, 3, xtol=1e-14)


def test_heart_area_by_polar_quadrature():
    quarters = [
        quad(lambda f: heart_radius(f) ** 2 / 2, a, a + math.pi / 2, epsabs=1e-10)[0] for a in (-math.pi / 2, 0)
    ]
    assert pytest.approx(2 * sum(quarters), rel=1e-7) == Heart.AREA


def test_heart_lies_in_the_box_it_is_drawn_from():
    angles = np.linspace(0, 2 * math.pi, 4001)
    x, y = np.array([(heart_radius(f) * math.cos(f), heart_radius(f) * math.sin(f)) for f in angles]).T
    width, low, high = Heart.BOX
    assert x.max() < width
    assert low < y.min()
    assert y.max() < high


@pytest.mark.parametrize("radius", [0.1, 1.0, 30.0])
def test_cauchy_mass_within_a_radius(radius):
    """∫ p over |x| < R is 1 − s/√(s² + R²), by radial quadrature of log_prob and by counting samples."""
    data = get_dataset("cauchy", scale=0.7)
    exact = 1 - 0.7 / math.hypot(0.7, radius)
    ring = lambda r: 2 * math.pi * r * float(data.log_prob(torch.tensor([[r, 0.0]], dtype=torch.float64)).exp())  # noqa: E731
    assert quad(ring, 0, radius, limit=200)[0] == pytest.approx(exact, abs=1e-8)
    share = (data.sample(40_000, generator=torch.Generator().manual_seed(1)).norm(dim=1) < radius).double().mean()
    assert float(share) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000))


def test_cauchy_is_multivariate_not_a_product():
    """Equal far out in all directions: a product of two Cauchys would pile up on the axes."""
    log_prob = get_dataset("cauchy").log_prob(torch.tensor([[5.0, 0.0], [3.0, 4.0], [0.0, -5.0]]))
    torch.testing.assert_close(log_prob, log_prob[:1].expand(3))


def test_mixture_weights_are_normalised_and_used():
    data = get_dataset("gaussian_mixture", means=[[-9.0, 0.0], [9.0, 0.0]], scales=[0.5, 2.0], weights=[6, 2])
    x = data.sample(20_000, generator=torch.Generator().manual_seed(0))
    left = x[:, 0] < 0
    assert float(left.double().mean()) == pytest.approx(0.75, abs=0.015)
    torch.testing.assert_close(x[left].std(0), torch.full((2,), 0.5), rtol=0.03, atol=0)
    torch.testing.assert_close(x[~left].std(0), torch.full((2,), 2.0), rtol=0.03, atol=0)
    peak = math.log(0.75 / (2 * math.pi * 0.5**2))
    assert float(data.log_prob(torch.tensor([[-9.0, 0.0]]))) == pytest.approx(peak, abs=1e-12)


@pytest.mark.parametrize(("name", "option"), [("heart", "scale"), ("uniform_disk", "radius")])
def test_uniform_density_falls_with_the_area(name, option):
    levels = [float(get_dataset(name, **{option: s}).log_prob(torch.zeros(1, 2))) for s in (1.0, 2.0)]
    assert levels[0] - levels[1] == pytest.approx(math.log(4))


def test_checkerboard_squares():
    points = torch.tensor([[-1.5, -1.5], [-0.5, -1.5], [-0.5, -0.5], [1.5, 1.5], [2.5, -1.5], [-2.5, -2.5]])
    dark = get_dataset("checkerboard").log_prob(points).isfinite()
    assert dark.tolist() == [True, False, True, True, False, False]


def test_two_moons_without_noise_are_half_circles():
    x = get_dataset("two_moons", noise=0.0, size=400).train
    upper, lower = x - torch.tensor([-0.5, -0.25]), x - torch.tensor([0.5, 0.25])
    on_upper = ((upper.norm(dim=1) - 1).abs() < 1e-5) & (upper[:, 1] >= -1e-6)
    on_lower = ((lower.norm(dim=1) - 1).abs() < 1e-5) & (lower[:, 1] <= 1e-6)
    assert (on_upper | on_lower).all()
    assert 140 < int(on_upper.sum()) < 260


def test_swiss_roll_without_noise_is_one_and_a_half_turns_of_a_spiral():
    x = get_dataset("swiss_roll", noise=0.0, size=2000).train.double()
    radius = x.norm(dim=1)
    angle = radius * 2.25 * math.pi
    torch.testing.assert_close(torch.stack([angle.cos(), angle.sin()], 1), x / radius[:, None], rtol=0, atol=1e-5)
    assert (float(radius.min()), float(radius.max())) == pytest.approx((2 / 3, 2.0), abs=0.01)


@pytest.mark.parametrize("name", ["two_moons", "swiss_roll"])
def test_noise_has_its_standard_deviation(name):
    """Same seed, same curve: the difference to the noiseless draw is the noise."""
    noisy, clean = (get_dataset(name, noise=s, size=5000).train for s in (0.3, 0.0))
    torch.testing.assert_close((noisy - clean).std(0), torch.full((2,), 0.3), rtol=0.05, atol=0)
