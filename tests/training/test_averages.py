"""Moving averages: formulas, several at once, and post-hoc EMA against the average it stands for."""

import math

import pytest
import torch

import genflow
from genflow.training import Keeping, train
from genflow.training.averages import (
    Averages,
    Snapshot,
    combination,
    posthoc,
    power_decay,
    profile_product,
    rate,
    warm_decay,
)


def walk(steps, seed=0):
    """A weight that drifts and jitters, (steps, 3)."""
    noise = torch.randn(steps, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise.cumsum(0) / 10 + torch.linspace(0, 3, steps, dtype=torch.float64)[:, None]


def averaged(path, **how):
    weight = path[0].clone()
    averages = Averages({"w": weight}, how.pop("decay", 0.9), **how)
    for step, value in enumerate(path, 1):
        weight.copy_(value)
        averages.update(step)
        yield step, averages


@pytest.mark.slow
def test_every_average_is_the_weighted_sum_that_its_decays_say():
    path = walk(60)
    *_, (_, found) = averaged(path, decay=0.95, more=(0.5, 0.999), widths=(0.1,))
    sums = {"main": lambda n: warm_decay(0.95, n), "ema-0.5": lambda n: warm_decay(0.5, n)}
    sums |= {"ema-0.999": lambda n: warm_decay(0.999, n), "power-0.1": lambda n: power_decay(0.1, n)}
    for name, decay in sums.items():
        weights = [math.prod(decay(m) for m in range(n + 1, 61)) * (1 - decay(n)) for n in range(1, 61)]
        begin = math.prod(decay(n) for n in range(1, 61))  # what is left of the initial weights
        expected = begin * path[0] + sum(w * v for w, v in zip(weights, path, strict=True))
        average = found.main if name == "main" else found.extra()[name]
        torch.testing.assert_close(average["w"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.25])
def test_the_rate_of_a_width_gives_a_profile_of_that_standard_deviation(width):
    gamma = rate(width)
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = (gamma + 1) * t**gamma / 200_000
    mean = float((density * t).sum())
    assert float(density.sum()) == pytest.approx(1, rel=1e-3)
    assert float((density * (t - mean) ** 2).sum()) ** 0.5 == pytest.approx(width, rel=1e-3)
    # and the decays (1 − 1/n)^(γ + 1) do average with it
    steps = 2000
    weights = [1 - power_decay(width, n) for n in range(1, steps + 1)]
    left = 1.0
    for n in range(steps, 0, -1):
        weights[n - 1] *= left
        left *= power_decay(width, n)
    place = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    found = torch.tensor(weights, dtype=torch.float64)
    middle = float((found * place).sum())
    assert float((found * (place - middle) ** 2).sum()) ** 0.5 == pytest.approx(width, rel=0.02)


@pytest.mark.parametrize("width", [0, 0.3, -0.1, math.nan])
def test_a_width_that_no_profile_has(width):
    with pytest.raises(ValueError, match="width"):
        rate(width)


def test_profile_products_agree_with_quadrature():
    t = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000 * 50

    def profile(gamma, end):
        return torch.where(t <= end, (gamma + 1) * t**gamma / end ** (gamma + 1), 0)

    for first, second in (((2.0, 50), (7.5, 50)), ((2.0, 20), (7.5, 50)), ((9.0, 50), (1.5, 20))):
        expected = float((profile(*first) * profile(*second)).sum()) * 50 / 400_000
        assert profile_product(first, second) == pytest.approx(expected, rel=1e-3)


def test_a_snapshot_that_is_wanted_gets_all_the_weight():
    stored = [(0.05, 100), (0.1, 100), (0.05, 200), (0.1, 200)]
    assert combination(stored, (0.1, 200)) == pytest.approx([0, 0, 0, 1], abs=1e-6)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("width", [0.07, 0.15, 0.2])
def test_posthoc_equals_the_average_that_was_kept_all_along(width):
    """Against a run that did keep it, relative to how far apart the two stored widths are."""
    path, snapshots = walk(800), []
    for step, averages in averaged(path, widths=(0.05, 0.1, width)):
        if step % 50 == 0:
            for w in (0.05, 0.1):
                snapshots.append(Snapshot(w, step, {"w": averages.powers[f"power-{w:g}"]["w"].clone()}))
    kept = averages.powers
    apart = float((kept["power-0.05"]["w"] - kept["power-0.1"]["w"]).norm())
    error = float((posthoc(snapshots, width)["w"] - kept[f"power-{width:g}"]["w"]).norm())
    assert error < 0.05 * apart
    few = [s for s in snapshots if s.step == 800]
    assert float((posthoc(few, width)["w"] - kept[f"power-{width:g}"]["w"]).norm()) > 3 * error


def test_posthoc_without_snapshots_says_what_to_do():
    with pytest.raises(ValueError, match=r"train\.posthoc"):
        posthoc([], 0.1)


@pytest.mark.slow
def test_genflow_average_writes_checkpoints_of_other_averages(called, tmp_path):
    words = ("--train-steps", 40, "--train-schedule", "constant", "--train-more-ema", "0,0.4")
    code, _, errors = called.train(*words, "--train-posthoc", "0.05,0.1", "--train-posthoc-every", 5)
    assert code == 0, errors
    for given in (("--decay", 0.4), ("--width", 0.15)):
        code, out, errors = called("average", "--run", "model", *given, "--out", "other")
        assert code == 0, errors
        assert str(given[1]) in out
        _, other = genflow.load("other")
        x, t = torch.ones(1, 1, 8, 8), torch.tensor([0.5])
        assert not torch.equal(other(x, t), genflow.load("model")[1](x, t))
    code, _, errors = called("average", "--run", "model", "--decay", 0.5, "--out", "x")
    assert code == 2
    assert "kept beside the main one: 0, 0.4" in errors
    assert called("average", "--run", "model", "--out", "x")[0] == 2
    assert called("average", "--run", "nothing", "--decay", 0.5, "--out", "x")[0] == 2


def test_the_zero_decay_average_is_the_weights_themselves(tmp_path):
    process = genflow.get_process("vp_ode")
    backbone = genflow.get_backbone("mlp", shape=(2,), width=8)
    data = genflow.get_dataset("two_moons", size=200)
    root = tmp_path / "run"
    train(process, backbone, data, steps=3, batch_size=20, more_ema=(0.0,), state=Keeping(root, last=True))
    from safetensors.torch import load_file

    state = load_file(root / "step-00000003" / "state.safetensors")
    names = [n.removeprefix("model.") for n in state if n.startswith("model.")]
    assert len(names) > 5
    assert all(torch.equal(state[f"model.{n}"], state[f"ema-0/{n}"]) for n in names)
