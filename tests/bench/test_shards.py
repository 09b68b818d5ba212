"""Samples in parts: the same as in one go, kept as they finish, and put together again after anything."""

import dataclasses
import itertools
import json
import os
import random
import signal
import time

import inline_workers as inline
import numpy as np
import pytest
import torch

import genflow
from genflow.bench import shards
from genflow.bench.choose import prepare
from genflow.bench.rows import collect
from genflow.bench.tasks import Tasks
from genflow.bench.worker import Worker
from genflow.solver.base import NonFiniteError, Solver
from genflow.solver.fields import Solution


def quiet(share, note):
    pass


# ---- numbers of samples ----------------------------------------------------------------------------------

POINTS = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("name", ["heun", "euler_maruyama", "rk45"])
@pytest.mark.parametrize("cut", [[0, 8, 24, 30], [0, 16, 30]])
def test_parts_of_a_run_are_bitwise_the_whole(name, cut):
    process = genflow.get_process("vp_sde" if name == "euler_maruyama" else "vp_ode")
    solver = genflow.get_solver(name, **({"rtol": 0.05, "atol": 0.05} if name == "rk45" else {}))
    numbers = {"nfe": None if name == "rk45" else 6, "seed": 3, "batch_size": 8}
    backbone = process.oracle(POINTS)
    whole = genflow.sample(process, backbone, solver, 30, **numbers)
    found = [
        genflow.sample(process, backbone, solver, stop - first, first_index=first, **numbers)
        for first, stop in itertools.pairwise(cut)
    ]
    assert torch.equal(torch.cat([part.x for part in found]), whole.x)
    calls = sum(part.nfe * len(part.x) for part in found)
    assert calls == pytest.approx(whole.nfe * 30, rel=1e-12)


def test_labels_of_each_class_in_turn_go_on_with_the_numbers():
    from genflow.sampling import class_labels

    assert class_labels("all", 5, 3, first_index=4).tolist() == [1, 2, 0, 1, 2]
    assert class_labels([2, 1], 2, 3, first_index=4).tolist() == [2, 1]
    with pytest.raises(ValueError, match="first_index = -1 is not allowed"):
        genflow.sample(genflow.get_process("vp_ode"), lambda x, c: x, "euler", 2, nfe=1, shape=(2,), first_index=-1)


# ---- a cell in shards ------------------------------------------------------------------------------------


def bench(config):
    plan = prepare(config)
    plan.store.prepare()
    return plan


def numbers(plan):
    return {(r["process"], r["solver"], r["nfe"]): r["value"] for r in collect(plan.store, plan.cells)}


def samples(plan, cell):
    import io

    return np.load(io.BytesIO(plan.store.files(cell.key)["samples.npz"]))["raw"]


def test_shards_are_whole_batches_and_small_cells_have_none(tiny):
    assert shards.cut(50, tiny()) == [(0, 16), (16, 32), (32, 48), (48, 50)]
    assert shards.cut(48, tiny()) == [(0, 16), (16, 32), (32, 48)]
    assert shards.cut(16, tiny()) == []
    assert {len(shards.parts(cell, tiny())) for cell in prepare(tiny()).cells if cell.kind != "sample"} == {0}


def test_shards_are_counted_without_being_listed(tiny):
    for samples in (1, 16, 17, 48, 50):
        cells = [cell for cell in prepare(tiny(samples=max(samples, 2))).cells if cell.kind == "sample"]
        assert {shards.number(c, tiny()) for c in cells} == {len(shards.parts(c, tiny())) for c in cells}
    huge = tiny(samples=10**8, sample_batch=1)
    cell = next(cell for cell in prepare(huge).cells if cell.kind == "sample")
    assert shards.number(cell, huge) == 10**8 // huge.shard


@pytest.fixture
def whole(tiny, tmp_path):
    """The bench done without shards, in a folder of its own."""
    config = tiny(shard=100, out=str(tmp_path / "whole"))
    plan = bench(config)
    inline.run(config, plan)
    return plan


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_sharded_cell_is_bitwise_the_unsharded_one(tiny, whole, workers):
    config = tiny()
    plan = bench(config)
    _, log = inline.run(config, plan, workers=workers)
    drawn = [task.part for task in inline.tasks(log) if task.cell.kind == "sample"]
    assert sum(part is not None for part in drawn) == 4 * 4
    for cell in plan.cells:
        if cell.kind == "sample":
            assert np.array_equal(samples(plan, cell), samples(whole, cell))
    assert numbers(plan) == numbers(whole)
    assert not list(plan.store.cells.glob("*.shards"))


def drawn_partly(tiny, count):
    """(plan, the first sample cell) after its first `count` shards."""
    config = tiny()
    plan = bench(config)
    worker = Worker(config, lambda: False)
    train, cell = (next(c for c in plan.cells if c.kind == kind) for kind in ("train", "sample"))
    worker.run(train.to_json(), quiet)
    for part in shards.parts(cell, config)[:count]:
        worker.run(cell.to_json(), quiet, part)
    return plan, cell


def test_what_is_saved_is_not_drawn_again(tiny, whole):
    plan, cell = drawn_partly(tiny, 2)
    config = tiny()
    plan = prepare(config)
    _, log = inline.run(config, plan)
    assert [t.part for t in inline.tasks(log) if t.cell.key == cell.key] == [(32, 48), (48, 50), None]
    assert np.array_equal(samples(plan, cell), samples(whole, cell))


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("damage", ["cut", "gone", "other_cut"])
def test_a_damaged_shard_is_drawn_again(tiny, whole, damage):
    plan, cell = drawn_partly(tiny, 2)
    path = shards.shard_path(plan.store, cell.key, (0, 16))
    if damage == "other_cut":  # shards of another size are no parts of this cut
        path.rename(path.with_name("00000000-00000008"))
    elif damage == "gone":
        (path / "samples.npz").unlink()
    else:
        (path / "samples.npz").write_bytes((path / "samples.npz").read_bytes()[:-9])
    plan = prepare(tiny())
    assert shards.saved(plan.store, cell, tiny()) == [(16, 32)]
    inline.run(tiny(), plan)
    assert np.array_equal(samples(plan, cell), samples(whole, cell))


def test_a_worker_alone_puts_together_what_is_there_and_draws_the_rest(tiny, whole):
    plan, cell = drawn_partly(tiny, 2)
    Worker(tiny(), lambda: False).run(cell.to_json(), quiet)
    assert np.array_equal(samples(plan, cell), samples(whole, cell))
    assert not plan.store.shard_folder(cell.key).exists()


def test_an_unfinished_cell_is_marked_with_what_is_there(tiny):
    plan, cell = drawn_partly(tiny, 3)
    mark = plan.store.shard_folder(cell.key) / shards.MARK
    assert not mark.exists()
    Tasks(plan.store, tiny(), plan.cells, prepare(tiny()).todo)
    facts = json.loads(mark.read_text())
    assert facts == {"cell": cell.name, "shards": 3, "of": 4, "samples": 50}
    assert plan.store.look(cell) == ("missing", "")


def test_shards_of_other_settings_are_never_mixed_in(tiny):
    plan, cell = drawn_partly(tiny, 3)
    other = prepare(tiny(seed=1))
    fresh = next(c for c in other.cells if c.kind == "sample")
    assert fresh.key != cell.key
    assert shards.saved(other.store, fresh, tiny(seed=1)) == []
    assert len(shards.saved(plan.store, cell, tiny())) == 3


# ---- killed at any moment --------------------------------------------------------------------------------


def work_in_a_child(config):
    """A process that does what is missing of a bench, shard by shard."""
    pid = os.fork()
    if pid:
        return pid
    try:
        plan = prepare(config)
        inline.run(config, plan)
        os._exit(0)
    except BaseException:
        os._exit(1)


def ended_after(pid, seconds):
    """The exit code of a child, or None where it was still at work after so long and was killed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_numbers_of_an_undisturbed_run(tiny, whole, tmp_path):
    config = dataclasses.replace(tiny(), train=dataclasses.replace(tiny().train, save_seconds=1e-3))
    spare = dataclasses.replace(config, out=str(tmp_path / "spare"))
    bench(spare)
    start = time.monotonic()
    assert ended_after(work_in_a_child(spare), 120) == 0
    length = time.monotonic() - start
    store = bench(config).store
    moments, kills, code = random.Random(5), 0, None
    while code is None:  # at most an eighth of the work is done between two kills, so five kills come on any machine
        moment = moments.uniform(0.0, length / 8) if kills < 12 else moments.uniform(1, 2) * length * (kills - 11)
        code = ended_after(work_in_a_child(config), moment)
        kills += code is None
        assert kills < 40
    assert code == 0
    assert kills >= 5
    plan = prepare(config)
    assert plan.todo == []
    assert plan.notes == []
    assert numbers(plan) == numbers(whole)
    for cell in plan.cells:
        if cell.kind == "sample":
            assert np.array_equal(samples(plan, cell), samples(whole, cell))
    store.sweep()
    assert {p.name for p in store.cells.iterdir()} == {cell.key for cell in plan.cells}


# ---- not finite ------------------------------------------------------------------------------------------


class Careless(Solver):
    """Leaves NaN in two samples and looks at nothing."""

    def solve(self, field, x, *, nfe=None, grid=None, noise=None, observer=None):
        bad = x.clone()
        bad[[1, 4]] = float("nan")
        return Solution(bad, 1.0)


def test_samples_that_are_not_finite_are_named_by_their_numbers():
    process = genflow.get_process("vp_ode")
    with pytest.raises(NonFiniteError, match=r"samples \[101, 104\] came out .* not finite \(2 of 8\)"):
        genflow.sample(process, process.oracle(POINTS), Careless(), 8, first_index=100)

    def network(x, condition):
        return torch.where(condition[:, None] < 0.5, torch.full_like(x, float("nan")), x)

    wanted = r"samples \[0, 1\] are not finite after step \d at t = 0\.\d+.*\(row 0 of this batch is sample 7\)"
    with pytest.raises(NonFiniteError, match=wanted):
        genflow.sample(process, network, "euler", 2, nfe=5, shape=(2,), first_index=7)


def test_a_cell_with_nan_fails_before_anything_is_measured(tiny, monkeypatch):
    from genflow.bench.runner import CellError
    from genflow.registry import registries

    registries()["solvers"].add("careless", Careless, tags={"mode": "ode", "budget": True})
    try:
        config = tiny(solver="careless,euler", nfe="2")
        plan = bench(config)
        with pytest.raises(CellError, match=r"careless 2 seed 0, samples 0 to 15: NonFiniteError: samples \[1, 4\]"):
            inline.run(config, plan, keep_going=True)
        assert {row["solver"] for row in collect(plan.store, plan.store.finished(plan.cells))} == {"", "euler"}
        assert not any(c.kind == "sample" and c.labels["solver"] == "careless" for c in plan.store.finished(plan.cells))
    finally:
        registries()["solvers"].remove("careless")
