"""The Fréchet distance against closed forms and scipy's matrix square root."""

import numpy as np
import pytest
import scipy.linalg
import torch

from genflow.data.digits import Digits
from genflow.evaluate.features import WEIGHTS, load_digits_classifier
from genflow.evaluate.frechet import (
    RunningStatistics,
    Statistics,
    frechet_distance,
    frechet_from_statistics,
    statistics,
)

F64 = torch.float64


def sqrtm_distance(a, b):
    """The definition, by scipy's matrix square root."""
    s1, s2 = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    cross = np.trace(scipy.linalg.sqrtm(s1 @ s2)).real
    gap = a.numpy().mean(0) - b.numpy().mean(0)
    return float(gap @ gap + np.trace(s1) + np.trace(s2) - 2 * cross)


def draws(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=F64)
    return torch.randn(n, d, generator=generator, dtype=F64) @ mix + seed


def test_two_gaussians_in_closed_form():
    """Commuting covariances: |μ1 − μ2|² + Σ (σ1 − σ2)²."""
    s1, s2 = torch.tensor([1.0, 4.0, 9.0], dtype=F64), torch.tensor([4.0, 1.0, 0.25], dtype=F64)
    one = Statistics(torch.zeros(3, dtype=F64), torch.diag(s1), 100)
    two = Statistics(torch.tensor([1.0, 0.0, 2.0], dtype=F64), torch.diag(s2), 100)
    want = 5 + float((s1.sqrt() - s2.sqrt()).square().sum())
    assert frechet_from_statistics(one, two) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 10), (8, 300, 20), (8, 9, 20), (21, 400, 20), (2, 3, 5)])
def test_equals_the_matrix_square_root_also_with_fewer_samples_than_features(n, m, d):
    a, b = draws(n, d, 1), draws(m, d, 2)
    assert frechet_distance(a, b) == pytest.approx(sqrtm_distance(a, b), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_statistics_route_handles_singular_covariances():
    a, b = draws(8, 20, 1), draws(9, 20, 2)
    found = frechet_from_statistics(statistics(a), statistics(b))
    assert found == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_a_set_against_itself_is_zero():
    for n in (8, 300):
        assert frechet_distance(draws(n, 20, 1), draws(n, 20, 1)) < 1e-6


def test_running_statistics_merge_to_the_whole():
    x = draws(101, 6, 3) + 1e4
    whole, left, right = statistics(x), RunningStatistics(6), RunningStatistics(6)
    for part in x[:40].split(7):
        left.update(part)
    right.update(x[40:])
    left.merge(right)
    torch.testing.assert_close(left.result().mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(left.result().cov, torch.cov(x.T), rtol=1e-8, atol=1e-8)
    assert left.result().n == 101


@pytest.mark.parametrize("bad", ["nan", "shape", "one row", "width"])
def test_bad_features_are_refused(bad):
    a, b = draws(10, 4, 1), draws(10, 4, 2)
    a = {"nan": a * torch.nan, "shape": a[0], "one row": a[:1], "width": a[:, :3]}[bad]
    with pytest.raises(ValueError, match="features"):
        frechet_distance(a, b)


def test_the_digits_classifier_reaches_97_percent_on_held_out_digits():
    model, data = load_digits_classifier(), Digits()
    hits = (model(data.test).argmax(1) == data.labels("test")).float().mean()
    assert float(hits) >= 0.97
    assert (WEIGHTS / "digits.safetensors").stat().st_size < 500_000


def test_clean_fid_is_never_asked_for_its_matrix_square_root():
    """clean-fid's Fréchet distance fails on scipy 1.18; no source line may call it."""
    import re
    from pathlib import Path

    import genflow

    calls = re.compile(r"cleanfid.*(frechet_distance|compute_fid|fid_from_feats)|linalg\.sqrtm")
    for file in Path(genflow.__file__).parent.rglob("*.py"):
        assert not calls.search(file.read_text()), file
