"""Injected noise: its relative size, whose it is, and who cannot carry it."""

import pytest
import torch

import genflow
from genflow.claims.studies.noise import noisy
from genflow.sampling import sample


def pieces(name="vp_ode", points=30):
    process = genflow.get_process(name)
    data = torch.randn(points, 40, generator=torch.Generator().manual_seed(0))
    process = process.for_data(data)
    return process, process.oracle(data)


def states(process, n):
    return process.sample_prior((n, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["vp_ode", "pfgm", "si_linear"])
@pytest.mark.parametrize("size", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("held", [False, True])
def test_the_error_has_the_stated_size_relative_to_the_drift(name, size, held):
    process, oracle = pieces(name)
    x, t = states(process, 400), process.grid(4)[1]
    clean = process.field(oracle).velocity(x, t)
    error = noisy(process, size, "drift", held, 0)(range(400)).field(oracle).velocity(x, t) - clean
    relative = error.square().sum(1) / clean.square().sum(1)
    assert float(relative.mean().sqrt()) == pytest.approx(size, rel=0.02)  # 16,000 draws: 1 % would be two errors
    along = torch.nn.functional.cosine_similarity(error, clean)
    assert float(along.mean()) == pytest.approx(0, abs=0.03)  # it has no direction; a mean of 400 errs by 0.008


@pytest.mark.parametrize("name", ["vp_ode", "pfgm", "si_linear"])
def test_an_error_of_the_mean_moves_the_drift_as_the_formula_says(name):
    """The error in x's drift, brought back to the posterior mean by differences of a and b."""
    process, oracle = pieces(name)
    x, t = states(process, 400), process.grid(4)[1]
    field = process.field(oracle)
    mean = field.data(x, t)
    error = noisy(process, 0.5, "mean", False, 0)(range(400)).field(oracle).velocity(x, t) - field.velocity(x, t)
    h = 1e-6 * float(t)
    (a, b), (above, b_above), (below, b_below) = (process.schedule(t + step) for step in (0.0, h, -h))
    factor = float((above - below - (b_above - b_below) * a / b) / (2 * h))
    relative = (error / factor).square().sum(1) / mean.square().sum(1)
    assert float(relative.mean().sqrt()) == pytest.approx(0.5, rel=0.02)


def test_fresh_noise_changes_from_call_to_call_and_held_noise_does_not():
    process, oracle = pieces()
    x, t = states(process, 5), process.grid(4)[1]
    fresh = noisy(process, 0.5, "drift", False, 0)(range(5)).field(oracle)
    held = noisy(process, 0.5, "drift", True, 0)(range(5)).field(oracle)
    assert not torch.equal(fresh.velocity(x, t), fresh.velocity(x, t))
    assert torch.equal(held.velocity(x, t), held.velocity(x, t))


def test_a_samples_noise_is_its_own_whatever_the_batch():
    process, oracle = pieces()
    altered = noisy(process, 0.5, "drift", False, 3)
    whole = sample(altered(range(6)), oracle, "euler", 6, nfe=4, shape=(40,), seed=3).x
    halves = [range(3), range(3, 6)]
    parts = [
        sample(altered(rows), oracle, "euler", 3, nfe=4, shape=(40,), seed=3, first_index=rows.start).x
        for rows in halves
    ]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-3)
    other = sample(noisy(process, 0.5, "drift", False, 4)(range(6)), oracle, "euler", 6, nfe=4, shape=(40,), seed=3).x
    assert (whole - other).abs().max() > 0.1


def test_no_noise_is_the_process_itself():
    process, _ = pieces()
    assert noisy(process, 0.0, "drift", False, 0)(range(5)) is process


def test_the_process_itself_stays_clean():
    process, oracle = pieces()
    noisy(process, 1.0, "drift", False, 0)(range(5))
    x, t = states(process, 5), process.grid(4)[1]
    assert torch.equal(process.field(oracle).velocity(x, t), process.field(oracle).velocity(x, t))


@pytest.mark.parametrize("solver", ["ddim", "unipc"])
def test_a_solver_that_does_not_read_the_drift_is_refused(solver):
    process, oracle = pieces()
    with pytest.raises(ValueError, match="choose euler, heun or rk4"):
        sample(noisy(process, 0.5, "drift", False, 0)(range(2)), oracle, solver, 2, nfe=4, shape=(40,))


def test_calls_are_counted_as_without_noise():
    process, oracle = pieces()
    assert sample(noisy(process, 0.5, "drift", True, 0)(range(2)), oracle, "heun", 2, nfe=7, shape=(40,)).nfe == 7
