"""What a bench will cost, and that durations are told by a clock that only goes forward."""

import ast
import itertools
import math
from pathlib import Path

import inline_workers as inline
import pytest

import genflow
from genflow.bench.calibrate import measure_costs
from genflow.bench.choose import prepare
from genflow.bench.cost import STARTING, estimate_cost, si, spent
from genflow.bench.worker import Worker

COSTS = {"flops": 1000, "call": 2e-3, "step": 5e-3, "batch": 8, "parameters": 10, "numbers": 2}


def test_costs_add_up(tiny):
    config = tiny(metric="fd")
    plan = prepare(config)
    found = estimate_cost(config, plan.store, plan.cells, plan.todo, 1, COSTS)
    training, samples, metrics = 4 * 8, 50 * (2 + 3) * 2, 1 + 4
    assert found.seconds == pytest.approx(training * 5e-3 + samples * 2e-3 + metrics * 2e-3 + STARTING)
    assert found.flops == (3 * training + samples) * 1000
    assert found.megabytes == pytest.approx(4 * (4 * 10 + 4 * 50 * 2) / 1e6)
    assert "2.96e+05" not in found.line(1)
    assert found.line(2).startswith(
        "estimated time: 0.1 min with 2 jobs (from a timed call); 596 kFLOP, 1 kFLOP a network"
    )


def test_two_workers_halve_it_but_a_cell_is_not_split_among_them_twice(tiny):
    plan = prepare(tiny())
    one, two, many = (estimate_cost(tiny(), plan.store, plan.cells, plan.todo, n, COSTS).seconds for n in (1, 2, 999))
    assert two - STARTING == pytest.approx((one - STARTING) / 2)
    assert many - STARTING == pytest.approx(max(150 * 2e-3, 32 * 5e-3))


def test_without_a_measurement_the_finished_cells_say(tiny):
    config = tiny()
    plan = prepare(config)
    plan.store.prepare()
    assert "no cell is finished yet" in estimate_cost(config, plan.store, plan.cells, plan.todo, 1).line(1)
    inline.run(config, plan)
    assert estimate_cost(config, plan.store, plan.cells, [], 1).seconds == 0.0
    todo = [c for c in plan.cells if c.labels.get("nfe") == 3 and c.kind == "sample"]
    found = estimate_cost(config, plan.store, plan.cells, todo, 1)
    known = [c for c in plan.cells if c.kind != "metric" and c not in todo]
    rate = sum(spent(plan.store, c) for c in known) / sum(c.cost for c in known)
    assert found.seconds == pytest.approx(rate * sum(c.cost for c in todo))
    assert found.basis == "the finished cells"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 "), (999, "999 "), (1234, "1.23 k"), (5e9, "5 G"), (2.5e16, "25 P")]
)
def test_prefixes(number, text):
    assert si(number) == text


def test_a_network_is_counted_and_timed(tiny):
    """The counter's FLOPs against the layers' own sizes: two for each weight of a product."""
    worker = Worker(tiny(), lambda: False)
    costs = measure_costs(worker, math.inf)
    _, backbone = worker.fresh("vp_ode")
    products = sum(m.weight.numel() for m in backbone.modules() if isinstance(m, __import__("torch").nn.Linear))
    assert costs["flops"] == 2 * products
    assert costs["parameters"] == sum(p.numel() for p in backbone.parameters())
    assert (costs["numbers"], costs["batch"]) == (2, 8)
    assert 0 < costs["call"] < 1
    assert 0 < costs["step"] < 1
    short = measure_costs(worker, 1.0)
    assert short["flops"] is None, "torch's compiler is imported to count, which a short bench is spared"
    line = estimate_cost(tiny(), prepare(tiny()).store, [], prepare(tiny()).todo, 1, short).line(1)
    assert "FLOP" not in line
    assert "at most" in line


# ---- clocks ----------------------------------------------------------------------------------------------


def test_durations_survive_a_clock_that_jumps(tiny, monkeypatch):
    """The wall clock goes back an hour at every look, as at the end of summer time."""
    import time

    jumps = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600.0 * next(jumps))
    plan, reports = prepare(tiny()), []
    plan.store.prepare()
    inline.run(tiny(), plan, report=reports.append)
    for cell in plan.cells:
        assert 0 <= spent(plan.store, cell) < 60
    assert all(not report.left < 0 for report in reports)


@pytest.mark.slow
def test_no_duration_is_taken_from_the_wall_clock():
    """`time.time` appears nowhere in the package."""
    found = []
    for file in sorted(Path(genflow.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.time", "time.time_ns", "datetime.now"):
                found.append(f"{file.name}:{node.lineno}")
    assert found == []
