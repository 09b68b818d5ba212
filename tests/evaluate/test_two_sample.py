"""Distances between sets of vectors against closed forms for Gaussians, scipy, POT, torch-fidelity and brute force."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from genflow.evaluate.kernels import (
    cubic_kernel,
    energy_distance,
    kernel_distance,
    median_distance,
    mmd,
    rbf_kernel,
)
from genflow.evaluate.manifold import manifold
from genflow.evaluate.two_sample import classifier_test, sliced_wasserstein, wasserstein_squares


def normal(n, d, seed, mean=0.0, scale=1.0):
    draws = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean + scale * draws


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_mmd_of_gaussians_in_closed_form():
    """E exp(−|X−Y|²/2h²) = (h²/(h²+v))^{d/2} exp(−|m|²/2(h²+v)), v the summed variances of X and Y."""
    d, h, shift, scale, n = 3, 1.5, 0.7, 1.3, 1200

    def mean_kernel(gap, v):
        return (h * h / (h * h + v)) ** (d / 2) * math.exp(-d * gap * gap / (2 * (h * h + v)))

    want = mean_kernel(0, 2) + mean_kernel(0, 2 * scale**2) - 2 * mean_kernel(shift, 1 + scale**2)
    found = mmd(normal(n, d, 0), normal(n, d, 1, shift, scale), rbf_kernel(h))
    assert abs(found.value - want) < 4 * found.error
    assert found.error < 0.1 * want


def test_errors_are_the_spread_over_repetitions():
    """Of MMD² and of the energy distance, 200 repetitions."""
    for distance in (lambda x, y: mmd(x, y, rbf_kernel(1.0)), energy_distance):
        found = [distance(normal(60, 2, 2 * k), normal(60, 2, 2 * k + 1, 0.8)) for k in range(200)]
        spread = np.std([e.value for e in found])
        assert np.mean([e.error for e in found]) == pytest.approx(spread, rel=0.2)


def test_unbiased_distances_are_zero_in_the_mean_where_distributions_agree():
    for distance in (lambda x, y: mmd(x, y, rbf_kernel(1.0)), energy_distance):
        values = [distance(normal(20, 2, 2 * k), normal(20, 2, 2 * k + 1)).value for k in range(300)]
        assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(300)
        assert min(values) < 0


@pytest.mark.parametrize(("n", "m"), [(50, 50), (30, 70)])
def test_energy_distance_equals_scipys_squared(n, m):
    x, y = normal(n, 1, 0), normal(m, 1, 1, 0.5, 2.0)
    want = scipy.stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert energy_distance(x, y, unbiased=False).value == pytest.approx(want, rel=1e-10)


def test_energy_distance_of_gaussians_in_closed_form():
    """One-dimensional: E|N(m, s²)| = s √(2/π) exp(−m²/2s²) + m erf(m/(s√2))."""

    def mean_abs(m, s):
        return s * math.sqrt(2 / math.pi) * math.exp(-m * m / (2 * s * s)) + m * math.erf(m / (s * math.sqrt(2)))

    want = 2 * mean_abs(1.0, math.sqrt(5)) - mean_abs(0, math.sqrt(2)) - mean_abs(0, 2 * math.sqrt(2))
    found = energy_distance(normal(1200, 1, 0), normal(1200, 1, 1, 1.0, 2.0))
    assert abs(found.value - want) < 4 * found.error


@pytest.mark.parametrize(("n", "m"), [(40, 40), (30, 45), (7, 200)])
def test_wasserstein_on_the_line_equals_the_optimal_plan(n, m):
    """Against the linear programme, by copies of points where the sizes differ."""
    x, y = normal(n, 2, 3), normal(m, 2, 4, 1.0)
    copies = math.lcm(n, m)
    xs, ys = (v.repeat_interleave(copies // len(v), 0).sort(0).values for v in (x, y))
    torch.testing.assert_close(wasserstein_squares(x, y), (xs - ys).square().mean(0))


def test_wasserstein_of_gaussians_in_closed_form():
    """W2² = (m1 − m2)² + (s1 − s2)² on the line; the same root in every direction when sliced."""
    x, y = normal(8_000, 3, 0), normal(8_000, 3, 1, 0.0, 2.0)
    assert wasserstein_squares(x[:, :1], y[:, :1] + 3)[0] == pytest.approx(9 + 1, rel=0.04)
    assert sliced_wasserstein(x, y, generator=seeded(), directions=50).value == pytest.approx(1.0, rel=0.04)


def test_sliced_wasserstein_equals_pots_on_the_same_directions():
    ot = pytest.importorskip("ot")
    x, y = normal(80, 4, 0), normal(80, 4, 1, 0.3)
    lines = torch.randn(4, 60, generator=seeded(), dtype=torch.float64)
    lines = lines / lines.norm(dim=0)
    want = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=lines.numpy(), p=2)
    assert sliced_wasserstein(x, y, generator=seeded(), directions=60).value == pytest.approx(want, rel=1e-10)


def test_a_classifier_can_not_tell_alike_and_tells_different():
    for name in ("logistic", "knn"):
        alike = classifier_test(normal(400, 3, 0), normal(400, 3, 1), name)
        assert abs(alike.value - 0.5) < 4 * alike.error
        apart = classifier_test(normal(400, 3, 0), normal(500, 3, 1, 4.0), name)
        assert apart.value > 0.99
    wide = normal(400, 3, 2, 0.0, 3.0)
    assert abs(classifier_test(normal(400, 3, 0), wide, "logistic").value - 0.5) < 0.1
    assert classifier_test(normal(400, 3, 0), wide, "knn").value > 0.75


def test_the_best_accuracy_on_two_gaussians():
    """Means 2δ apart in one dimension: Φ(δ) is the best there is, and the linear classifier reaches it."""
    found = classifier_test(normal(3000, 1, 0, -0.8), normal(3000, 1, 1, 0.8), "logistic")
    assert found.value == pytest.approx(scipy.stats.norm.cdf(0.8), abs=4 * found.error)


def test_kernel_distance_equals_torch_fidelitys_mmd_on_the_same_subsets():
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = normal(90, 16, 0), normal(70, 16, 1, 0.2)
    found = kernel_distance(x, y, generator=seeded(5), subsets=7, size=40)
    draws, values = seeded(5), []
    for _ in range(7):
        a = x[torch.randperm(90, generator=draws)[:40]].numpy()
        b = y[torch.randperm(70, generator=draws)[:40]].numpy()
        values.append(
            fidelity.kernel_mmd(a, b, kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None)
        )
    assert found.value == pytest.approx(np.mean(values), rel=1e-9)
    assert found.error == pytest.approx(np.std(values), rel=1e-9)


def test_kernel_distance_depends_on_its_generator_and_on_nothing_else():
    x, y = normal(90, 8, 0), normal(90, 8, 1)
    one = kernel_distance(x, y, generator=seeded(1), subsets=5, size=30)
    np.random.seed(3)
    torch.manual_seed(9)
    assert kernel_distance(x, y, generator=seeded(1), subsets=5, size=30) == one
    assert kernel_distance(x, y, generator=seeded(2), subsets=5, size=30) != one


def test_unbiased_mmd_is_the_sum_over_different_pairs():
    x, y = normal(6, 2, 0), normal(4, 2, 1)
    pairs = [float(cubic_kernel(x[i : i + 1], x[j : j + 1])) for i in range(6) for j in range(6) if i != j]
    own = [float(cubic_kernel(y[i : i + 1], y[j : j + 1])) for i in range(4) for j in range(4) if i != j]
    want = np.mean(pairs) + np.mean(own) - 2 * float(cubic_kernel(x, y).mean())
    found = mmd(x, y, cubic_kernel)
    assert found.value == pytest.approx(want, rel=1e-12)
    adds = [
        [np.mean([k(p, q) for q in own if q is not p]) - np.mean([k(p, q) for q in other]) for p in own]
        for own, other in ((list(x), list(y)), (list(y), list(x)))
    ]
    assert found.error == pytest.approx(2 * math.sqrt(np.var(adds[0], ddof=1) / 6 + np.var(adds[1], ddof=1) / 4))
    assert mmd(x, y, cubic_kernel, chunk=4) == found


def k(p, q):
    return float(cubic_kernel(p[None], q[None]))


def brute_manifold(real, generated, k):
    def reach(points):
        return torch.stack([(points - p).norm(dim=1).sort().values[k] for p in points])

    in_real = torch.tensor([[(y - x).norm() <= r for x, r in zip(real, reach(real))] for y in generated])
    in_generated = torch.tensor([[(x - y).norm() <= r for y, r in zip(generated, reach(generated))] for x in real])
    return (
        in_real.any(1).double().mean(),
        in_generated.any(1).double().mean(),
        in_real.double().sum() / (k * len(generated)),
        in_real.any(0).double().mean(),
    )


def test_manifold_equals_brute_force_and_torch_fidelity():
    real, generated = normal(40, 3, 0), normal(30, 3, 1, 0.7, 0.8)
    want = brute_manifold(real, generated, 4)
    assert manifold(real, generated, 4, chunk=7) == pytest.approx([float(v) for v in want], abs=1e-12)
    fidelity = pytest.importorskip("torch_fidelity.metric_prc")
    precision, recall = fidelity.calculate_precision_recall_full(generated, real, neighborhood=4)
    found = manifold(real, generated, 4)
    assert (found.precision, found.recall) == pytest.approx((precision, recall), abs=1e-6)


def test_manifold_of_collapsed_and_of_strayed_samples():
    real = normal(200, 2, 0)
    collapsed = manifold(real, real[:1] + 1e-3 * normal(200, 2, 1))
    assert collapsed.precision == 1
    assert collapsed.recall < 0.05
    assert collapsed.coverage < 0.1
    strayed = manifold(real, normal(200, 2, 1, 50.0))
    assert strayed == (0, 0, 0, 0)
    alike = manifold(real, normal(200, 2, 2))
    assert alike.density == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("bad", ["nan", "one", "shape", "width"])
def test_bad_sets_are_refused(bad):
    x, y = normal(10, 3, 0), normal(10, 3, 1)
    x = {"nan": x * torch.nan, "one": x[:1], "shape": x[0], "width": x[:, :2]}[bad]
    for distance in (energy_distance, manifold, classifier_test, lambda a, b: mmd(a, b, cubic_kernel)):
        with pytest.raises(ValueError, match=r"set|dimensions"):
            distance(x, y)


def test_refusals_say_what_to_give():
    x = normal(10, 2, 0)
    with pytest.raises(ValueError, match="5 neighbours"):
        manifold(x, x[:5])
    with pytest.raises(ValueError, match="5 folds"):
        classifier_test(x[:4], x)
    with pytest.raises(ValueError, match="'logistik' is not one of logistic, knn"):
        classifier_test(x, x, "logistik")
    with pytest.raises(ValueError, match="give a bandwidth"):
        median_distance(torch.zeros(9, 2), torch.zeros(3, 2))
