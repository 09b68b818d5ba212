"""Guidance by a classifier's gradient against the conditional field, which is known for Gaussian mixtures."""

from __future__ import annotations

import pytest
import torch

import genflow
from genflow.process.classifier_guidance import ClassifierField
from genflow.process.distributions import GaussianMixture

MEANS, WEIGHTS = [[-1.0, 0.5], [1.5, -0.5]], (1, 3)
TIMES = {"vp_ode": 0.4, "subvp_ode": 0.4, "ve_ode": 0.5, "si_linear": 0.6, "si_trig": 0.3}


def exact(name):
    """Unconditional process and oracle, the oracle of each class, and the exact classifier."""
    process = genflow.get_process(name, head="data")
    every = process.oracle(GaussianMixture(MEANS, 0.4, weights=WEIGHTS))
    own = [process.oracle(GaussianMixture([mean], 0.4)) for mean in MEANS]

    def classifier(x, t):
        return torch.stack([one.log_prob(x, t) for one in own], 1) + torch.tensor(WEIGHTS).double().log()

    return process, every, own, classifier


@pytest.mark.parametrize("name", TIMES)
def test_at_weight_one_it_is_the_conditional_field(name):
    process, every, own, classifier = exact(name)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, towards = torch.tensor(TIMES[name], dtype=torch.float64), torch.arange(20) % 2
    field = ClassifierField(process, every, classifier, towards)
    fields = [process.field(one) for one in own]
    for what in ("velocity", "score", "data"):
        want = torch.where(towards[:, None] == 0, *(getattr(one, what)(x, t) for one in fields))
        assert getattr(field, what)(x, t).numpy() == pytest.approx(want.numpy(), rel=1e-8, abs=1e-8)
    s = process.grid(4)[3]
    want = torch.where(towards[:, None] == 0, *(one.ddim_step(x, t, s) for one in fields))
    assert field.ddim_step(x, t, s).numpy() == pytest.approx(want.numpy(), rel=1e-8, abs=1e-8)


def test_weight_zero_is_the_field_itself_and_rows_go_along():
    process, every, _, classifier = exact("vp_ode")
    x, t = torch.randn(4, 2, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    field = ClassifierField(process, every, classifier, torch.arange(4) % 2, 0.0)
    assert torch.equal(field.velocity(x, t), process.field(every).velocity(x, t))
    field.keep(torch.tensor([True, False, False, True]))
    assert field.towards.tolist() == [0, 1]


@pytest.mark.parametrize("solver", ["heun", "rk45", "euler_maruyama", "dpmpp_2m"])
def test_samples_are_of_the_class(solver):
    process, every, _, classifier = exact("vp_ode")
    field = ClassifierField(process, every, classifier, torch.ones(40, dtype=torch.int64))
    start = process.sample_prior((40, 2), generator=torch.Generator().manual_seed(0)).double()
    from genflow.solver.noise import Noise

    found = genflow.get_solver(solver)
    x = found.solve(field, start, nfe=None if solver == "rk45" else 40, noise=Noise(0, range(40))).x
    assert float(x[:, 0].mean()) == pytest.approx(1.5, abs=0.4)


def test_a_process_without_a_score_is_refused():
    with pytest.raises(ValueError, match="does not determine the score"):
        ClassifierField(genflow.get_process("pfgm"), lambda x, c: x, lambda x, t: x, torch.zeros(1))
