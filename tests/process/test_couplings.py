"""Couplings: least cost by brute force, plans with the right sums, and nothing about the data or the base changed."""

import itertools
import math

import pytest
import torch
from scipy.stats import kstest, norm

from genflow.process.couplings import COUPLINGS, assignment, couple, sinkhorn_plan, squared_distances
from genflow.process.paths import SIEncDec, SILinear, SITrig
from genflow.process.poisson import PFGM
from genflow.process.score_sde import VP

F64 = torch.float64


def normal(seed, *shape):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(5))
def test_optimal_transport_is_the_best_of_all_permutations(seed):
    x, noise = normal(seed, 6, 2), normal(seed + 100, 6, 2)
    costs = {p: float((x - noise[list(p)]).square().sum()) for p in itertools.permutations(range(6))}
    best = min(costs, key=costs.get)
    paired = couple(x, noise, "ot", generator=generator())
    assert torch.equal(paired, noise[list(best)])
    assert sorted(assignment(squared_distances(x, noise)).tolist()) == list(range(6))


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_squared_distances_over_all_entries(shape):
    x, y = normal(0, 30, *shape), normal(1, 20, *shape)
    want = torch.stack([(row - y).flatten(1).square().sum(1) for row in x])
    torch.testing.assert_close(squared_distances(x, y), want)


def test_optimal_transport_on_the_line_sorts():
    """In one dimension the optimal pairs keep the order, so data and partner correlate almost fully."""
    x, noise = normal(2, 200, 1), normal(3, 200, 1)
    paired = couple(x, noise, "ot", generator=generator())
    assert torch.equal(paired[x[:, 0].argsort(), 0], noise[:, 0].sort().values)


def sinkhorn_by_hand(cost, regularisation, rounds=1000):
    """u K v with uniform sums, by alternate scaling in logs: the textbook iteration."""
    log_k, n, m = -cost / regularisation, *cost.shape
    f, g = torch.zeros(n, 1, dtype=F64), torch.zeros(1, m, dtype=F64)
    for _ in range(rounds):
        f = -math.log(n) - (log_k + g).logsumexp(1, keepdim=True)
        g = -math.log(m) - (log_k + f).logsumexp(0, keepdim=True)
    return (log_k + f + g).exp()


@pytest.mark.slow
def test_sinkhorn_plans_and_pairs():
    """The plan against alternate scaling; the pairs drawn from it have its frequencies; little blur gives transport."""
    pytest.importorskip("ot")
    x, noise = normal(4, 5, 2), normal(5, 5, 2)
    cost = squared_distances(x, noise)
    for regularisation in (0.3, 2.0):
        plan = sinkhorn_plan(cost, regularisation)
        torch.testing.assert_close(plan, sinkhorn_by_hand(cost, regularisation), rtol=0, atol=1e-7)
    source, counts = generator(), torch.zeros(5, 5, dtype=F64)
    plan = sinkhorn_plan(cost, 0.5 * float(cost.mean()))
    for _ in range(400):
        paired = couple(x, noise, "sinkhorn", generator=source, blur=0.5)
        counts[torch.arange(5), torch.cdist(paired, noise).argmin(1)] += 1
    shares, want = counts / 400, 5 * plan
    assert float((shares - want).abs().max()) < 5 * math.sqrt(0.25 / 400)
    near = (x + 0.02 * noise).flip(0)  # so near its own row that even a blurred plan cannot be wrong
    sharp = couple(x, near, "sinkhorn", generator=source, blur=0.02)
    assert torch.equal(sharp, couple(x, near, "ot", generator=source))
    assert torch.equal(sharp, near.flip(0))
    whole = couple(normal(6, 64, 2), normal(7, 64, 2), "sinkhorn", generator=generator(1))
    assert torch.equal(whole, couple(normal(6, 64, 2), normal(7, 64, 2), "sinkhorn", generator=generator(1)))


def spy(monkeypatch, process):
    """Data, base draws and latents of every batch that `perturb` makes pairs of."""
    seen, pairs = [], type(process).free_pairs

    def record(self, x, noise, z, t):
        seen.append((x, noise, z))
        return pairs(self, x, noise, z, t)

    monkeypatch.setattr(type(process), "free_pairs", record)
    return seen


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("coupling", ["ot", "sinkhorn"])
@pytest.mark.parametrize("path", [SILinear, SITrig, SIEncDec])
def test_rows_of_the_data_stay_and_the_base_keeps_its_law(monkeypatch, path, coupling):
    """x goes through in its own order, so labels go with it; the base's draws are standard normal all the same."""
    pytest.importorskip("ot")
    process = path(coupling=coupling, head="velocity")
    seen = spy(monkeypatch, process)
    x, source = 2 + 0.3 * normal(8, 50, 2), generator(1)
    for _ in range(20):
        process.perturb(x, generator=source)
    assert all(torch.equal(data, x) for data, *_ in seen)
    draws = torch.cat([noise for _, noise, _ in seen])
    bound = 1e-3 if coupling == "ot" else 1e-6  # a Sinkhorn plan draws with replacement: some rows come twice
    assert kstest(draws.flatten().numpy(), norm.cdf).pvalue > bound
    together = torch.stack([((data - noise).square().sum(1)).mean() for data, noise, _ in seen]).mean()
    apart = torch.stack([((data - noise.flip(0)).square().sum(1)).mean() for data, noise, _ in seen]).mean()
    assert float(together) < float(apart)


@pytest.mark.parametrize("path", [SILinear, SITrig])
def test_pairs_are_on_the_path_of_their_row(path):
    """Without a latent the velocity is b' N + a' X and x_t = a X + b N: both give the same N for the same row of x."""
    process, x = path(coupling="ot"), normal(9, 12, 3)
    pairs = process.perturb(x, generator=generator(2))
    c = process.at(pairs.t, x)
    from_state = (pairs.x_t - c.a * x) / c.b
    from_target = (pairs.target - c.da * x) / c.db
    inner = (pairs.t > 0.2) & (pairs.t < 0.8)
    torch.testing.assert_close(from_state[inner], from_target[inner], rtol=1e-9, atol=1e-9)
    plain = path().perturb(x, generator=generator(2))
    assert torch.equal(pairs.t, plain.t)


def test_partners_are_the_base_draws_of_their_rows(monkeypatch):
    process, x, partner = SILinear(coupling="paired"), normal(10, 7, 2), normal(11, 7, 2)
    seen = spy(monkeypatch, process)
    pairs = process.perturb(x.float(), generator=generator(), partner=partner)
    assert torch.equal(seen[0][1], partner.float())
    t = pairs.t[:, None].float()
    torch.testing.assert_close(pairs.x_t, t * x.float() + (1 - t) * partner.float())
    torch.testing.assert_close(pairs.target, x.float() - partner.float())


@pytest.mark.parametrize(
    ("process", "partner", "words"),
    [
        (SILinear(coupling="paired"), None, "needs a data set that gives partners"),
        (SILinear(coupling="ot"), torch.zeros(4, 2), "does not take partners"),
        (SILinear(), torch.zeros(4, 2), "does not take partners"),
        (VP(), torch.zeros(4, 2), "coupling='paired'"),
        (PFGM(), torch.zeros(4, 2), "coupling='paired'"),
        (PFGM(perturbation="published", prior="published"), torch.zeros(4, 2), "coupling='paired'"),
        (SILinear(coupling="paired"), torch.zeros(1, 2), r"\(1, 2\).*\(4, 2\)"),
        (SILinear(coupling="paired"), torch.zeros(4, 1), r"\(4, 1\).*\(4, 2\)"),
    ],
)
def test_partners_that_do_not_fit_are_refused(process, partner, words):
    with pytest.raises(ValueError, match=words):
        process.perturb(torch.zeros(4, 2), generator=generator(), partner=partner)


def test_couplings_are_checked():
    assert COUPLINGS == ("independent", "ot", "sinkhorn", "paired")
    with pytest.raises(ValueError, match="coupling"):
        SILinear(coupling="optimal")
    process = SILinear(coupling="ot")
    assert "exact field is not known" in process.why_not("oracle")
    assert process.why_not("likelihood") is None
    assert "not an affine path" in process.why_not("affine")


@pytest.mark.parametrize("coupling", ["ot", "sinkhorn"])
@pytest.mark.parametrize("rows", [1, 2])
def test_small_and_equal_batches(coupling, rows):
    """One row is its own pair, and equal data rows are no trouble."""
    pytest.importorskip("ot")
    x, noise = torch.zeros(rows, 2, dtype=F64), normal(12, rows, 2)
    paired = couple(x, noise, coupling, generator=generator())
    assert all(bool((row == noise).all(1).any()) for row in paired)
    same = couple(x, x, coupling, generator=generator())  # every cost is zero
    assert torch.equal(same, x)


@pytest.mark.parametrize("head", ["velocity", "velocity_denoiser"])
def test_prior_of_a_coupled_path_is_that_of_its_base(head):
    """b N + γ Z with N and Z normal: variance b² + γ², in draws and in log_prior."""
    process = SILinear(coupling="ot", gamma="brownian", gamma_scale=3.0, margin=0.1, head=head)
    scale = math.sqrt(0.9**2 + 9 * 0.1 * 0.9)
    x = process.sample_prior((4000, 2), generator=generator(), dtype=F64)
    assert kstest(x.flatten().numpy(), norm(scale=scale).cdf).pvalue > 1e-3
    want = torch.from_numpy(norm(scale=scale).logpdf(x.numpy())).sum(1)
    torch.testing.assert_close(process.log_prior(x), want)
