"""Learnt paths: the functional against its closed form, and the length falling towards optimal transport."""

import math

import pytest
import torch

import genflow
from genflow.config import TrainConfig
from genflow.data.base import ToyDataset
from genflow.transport import learn_path, path_functional

F64 = torch.float64
MEAN = 2.0


class Shifted(ToyDataset):
    """N((2, 0), 1): from the standard normal the optimal map is a shift, of squared length 4."""

    name = "shifted"

    def sample(self, count, *, generator):
        return torch.randn(count, 2, generator=generator) + torch.tensor([MEAN, 0.0])


def exact_velocity(process):
    """v = a' m + (S'/S)(x − a m), S² = a² + b², as a backbone."""

    def backbone(x, condition):
        c = process.at(process.time(condition.double()), x)
        mean, square = torch.tensor([MEAN, 0.0]).to(x), c.a**2 + c.b**2
        return c.da * mean + (c.a * c.da + c.b * c.db) / square * (x - c.a * mean)

    return backbone


def exact_length(process):
    """∫ E|v|² dt = ∫ |a' m|² + N S'² dt, by quadrature."""
    t = torch.linspace(1e-3, 1 - 1e-3, 4001, dtype=F64)
    a, b, da, db = process.coefficients(t)[:4]
    rate = (a * da + b * db).square() / (a * a + b * b)
    return float(torch.trapezoid((da * MEAN).square() + 2 * rate, t))


@pytest.mark.parametrize(
    ("options", "length"), [({}, math.pi**2 / 8 * MEAN**2), ({"alpha": [0.3, -0.1], "beta": [-0.2, 0.4]}, None)]
)
def test_the_functional_s_minimum_is_minus_the_length(options, length):
    process = genflow.get_process("si_fourier", **options)
    x = Shifted(size=40_000).train.double()
    found = path_functional(process, exact_velocity(process), x, generator=torch.Generator().manual_seed(0))
    want = exact_length(process)
    assert float(-found) == pytest.approx(want, rel=0.02)
    if length is not None:
        assert want == pytest.approx(length, rel=0.003)
    worse = path_functional(
        process, lambda x, c: 1.1 * exact_velocity(process)(x, c), x, generator=torch.Generator().manual_seed(0)
    )
    assert float(worse) > float(found)


def test_the_gradient_to_the_path_is_that_of_the_length():
    """At the minimum over v the envelope theorem holds: dG/dα = −d length/dα, by finite differences of the length."""
    terms = {"alpha": torch.tensor([0.2, 0.1], dtype=F64), "beta": torch.tensor([-0.1, 0.3], dtype=F64)}
    start = genflow.get_process("si_fourier", alpha=[0.0, 0.0], beta=[0.0, 0.0])
    free = {name: value.clone().requires_grad_() for name, value in terms.items()}
    exact = exact_velocity(start.with_path(terms))
    x = Shifted(size=200_000).train.double()
    value = path_functional(start.with_path(free), exact, x, generator=torch.Generator().manual_seed(0))
    value.backward()
    for name in terms:
        for k in range(2):
            ends = []
            for sign in (1, -1):
                moved = {n: v.clone() for n, v in terms.items()}
                moved[name][k] += sign * 1e-4
                ends.append(exact_length(start.with_path(moved)))
            want = -(ends[0] - ends[1]) / 2e-4
            assert float(free[name].grad[k]) == pytest.approx(want, abs=0.12)


@pytest.mark.slow
def test_max_min_shortens_the_path():
    """The trigonometric path has π²/8 = 1.234 times the least length; four terms can reach 1.012 times it."""
    process, backbone = genflow.get_process("si_fourier"), genflow.get_backbone("mlp", shape=(2,), width=32, depth=1)
    config = TrainConfig(steps=1500, batch_size=256, lr=5e-3, schedule="constant")
    found = learn_path(process, backbone, Shifted(size=4000), config, path_lr=0.05, path_every=2)
    assert exact_length(process) / MEAN**2 == pytest.approx(math.pi**2 / 8, rel=0.003)
    assert exact_length(found.process) / MEAN**2 < 1.03
    again = type(found.process)(**found.process.config())
    assert torch.allclose(again.grid(3), found.process.grid(3))
    t = torch.linspace(0.1, 0.9, 5, dtype=F64)
    assert torch.equal(again.coefficients(t)[0], found.process.coefficients(t)[0])


def test_a_fixed_path_and_another_head_are_refused():
    backbone, config = genflow.get_backbone("mlp", shape=(2,)), TrainConfig(steps=1)
    with pytest.raises(ValueError, match="nothing to learn"):
        learn_path(genflow.get_process("si_linear"), backbone, Shifted(size=100), config)
    with pytest.raises(ValueError, match="head = 'velocity'"):
        learn_path(genflow.get_process("si_fourier", head="noise"), backbone, Shifted(size=100), config)
