"""Results on disk: whole or not there, damage named, one bench at a time, and keys that follow the settings."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from genflow.bench.cells import Cell, plan
from genflow.bench.store import BusyError, Store, missing
from genflow.checkpoint import MANIFEST, CheckpointError, SaveError, read_folder, write_file, write_folder
from genflow.config import BenchConfig, ConfigError, build, leaves
from genflow.registry import registries

OLD = {"a.json": b"old" * 50, "b.bin": bytes(range(256))}
NEW = {"a.json": b"new" * 70, "c.bin": b"\x00" * 300}


@pytest.fixture
def folder(tmp_path):
    """A written folder."""
    write_folder(tmp_path / "cell", OLD)
    return tmp_path / "cell"


# ---- atomic writing --------------------------------------------------------------------------------------


def test_what_was_written_is_read_and_a_second_write_replaces_it(folder):
    assert read_folder(folder) == OLD
    write_folder(folder, NEW)
    assert read_folder(folder) == NEW
    assert {p.name for p in folder.iterdir()} == {*NEW, MANIFEST}
    assert [p.name for p in folder.parent.iterdir()] == ["cell"]


class Crash(BaseException):
    """The process ends here: nothing after it runs, least of all the writer's own clean-up."""


OPERATIONS = ("rename", "mkdir", "open")
"""What the writer does to the disk through pathlib, with `shutil.rmtree` beside it."""


def crash_at(monkeypatch, count: int) -> None:
    """Lets `count` disk operations through; the next one, and every one after it, ends the process."""
    import shutil

    done = [0]

    def guard(function):
        def call(*args, **kwargs):
            done[0] += 1
            if done[0] > count:
                raise Crash
            return function(*args, **kwargs)

        return call

    for name in OPERATIONS:
        monkeypatch.setattr(Path, name, guard(getattr(Path, name)))
    monkeypatch.setattr(shutil, "rmtree", guard(shutil.rmtree))


def write_until(monkeypatch, folder: Path, count: int) -> bool:
    """Writes NEW, crashing after `count` disk operations; whether it came to its end."""
    with monkeypatch.context() as patch:
        crash_at(patch, count)
        try:
            write_folder(folder, NEW)
        except Crash:
            return False
    return True


def test_a_crash_at_any_point_leaves_the_old_folder_or_the_new_one(monkeypatch, tmp_path):
    seen = []
    for count in range(60):
        folder = tmp_path / f"{count}" / "cell"
        write_folder(folder, OLD)
        finished = write_until(monkeypatch, folder, count)
        seen.append(read_folder(folder))
        assert seen[-1] in (OLD, NEW), f"torn after {count} operations"
        write_folder(folder, NEW)
        assert read_folder(folder) == NEW
        assert [p.name for p in folder.parent.iterdir()] == ["cell"], "leftovers stay after the next write"
        if finished:
            break
    assert finished
    assert seen[0] == OLD
    assert seen[-1] == NEW
    assert len(seen) > 6


def test_two_crashes_one_after_the_other_leave_a_whole_folder(monkeypatch, tmp_path):
    """The first one hits between the two renames, when the old folder is the only whole one."""
    for first in range(60):
        for second in range(60):
            folder = tmp_path / f"{first}-{second}" / "cell"
            write_folder(folder, OLD)
            if write_until(monkeypatch, folder, first):
                return
            if folder.exists():
                break
            finished = write_until(monkeypatch, folder, second)
            assert read_folder(folder) in (OLD, NEW), f"nothing left after crashes at {first} and {second}"
            if finished:
                break
    raise AssertionError("the writer never came to its end")


def test_an_error_while_writing_leaves_the_old_folder_and_no_other(monkeypatch, folder):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(SaveError, match=rf"disk full: {folder} needs .*No space left"):
        write_folder(folder, NEW)
    assert read_folder(folder) == OLD
    assert [p.name for p in folder.parent.iterdir()] == ["cell"]


def test_write_file_replaces_in_one_step(monkeypatch, tmp_path):
    path = tmp_path / "tables.md"
    write_file(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            write_file(path, "new")
    assert path.read_text() == "old"
    write_file(path, "new ×")
    assert path.read_text(encoding="utf-8") == "new ×"
    assert [p.name for p in tmp_path.iterdir()] == ["tables.md"]


# ---- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_truncated_file_is_named(folder, name, length):
    (folder / name).write_bytes(OLD[name][:length])
    with pytest.raises(CheckpointError, match=rf"{name} does not match its hash \({len(OLD[name][:length])} bytes\)"):
        read_folder(folder)


@pytest.mark.parametrize("bit", [0, 1, 7, 255 * 8 + 7])
def test_a_flipped_bit_is_named(folder, bit):
    content = bytearray(OLD["b.bin"])
    content[bit // 8] ^= 1 << bit % 8
    (folder / "b.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"b\.bin does not match its hash"):
        read_folder(folder)


@pytest.mark.parametrize("name", OLD)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read: No such file"):
        read_folder(folder)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[]", "3", '"text"', "{}", '{"format": 1}', '{"files": {}}'),
        '{"format": 1, "files": []}',
        '{"format": 1, "files": null}',
        '{"format": "one", "files": {}}',
        '{"format": null, "files": {}}',
    ],
)
def test_a_broken_manifest_is_named(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=rf"{MANIFEST} is damaged"):
        read_folder(folder)


def test_a_manifest_cut_or_flipped_anywhere_is_noticed_or_harmless(folder):
    whole = (folder / MANIFEST).read_bytes()
    damaged = [whole[:n] for n in range(len(whole) - 1)]
    damaged += [whole[:n] + bytes([whole[n] ^ 1 << n % 8]) + whole[n + 1 :] for n in range(len(whole))]
    noticed = 0
    for content in damaged:
        (folder / MANIFEST).write_bytes(content)
        try:
            assert read_folder(folder) == OLD
        except CheckpointError as error:
            noticed += 1
            assert str(folder) in str(error)  # noqa: PT017
    assert noticed > 0.9 * len(damaged)


def test_a_manifest_of_a_future_format_says_update(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(CheckpointError, match=rf"{folder} has format 2; this genflow reads up to 1: update it"):
        read_folder(folder)


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_what_is_no_folder_of_ours_is_named(tmp_path, kind):
    path = tmp_path / kind
    if kind == "empty":
        path.mkdir()
    if kind == "file":
        path.touch()
    said = {
        "missing": "does not exist; give the folder",
        "empty": "is not a finished checkpoint",
        "file": "is a file, not a checkpoint folder",
    }[kind]
    with pytest.raises(CheckpointError, match=f"{path} {said}"):
        read_folder(path)


# ---- what is missing -------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path):
    """A store in which every cell of a small bench is done: (store, cells)."""
    store = Store(tmp_path / "run")
    cells = plan(build(BenchConfig, {"process": "pfgm,vp_ode", "solver": "heun,rk45", "nfe": "5,10"}))
    for cell in cells:
        write_folder(store.folder(cell.key), {"cell.json": b"{}", "rows.json": b'[{"value": 1}]'})
    return store, cells


def descendants(cells: list[Cell], root: Cell) -> set[str]:
    found = {root.key}
    for cell in cells:
        if found.intersection(cell.parents):
            found.add(cell.key)
    return found


def test_nothing_is_missing_of_a_finished_bench(bench):
    store, cells = bench
    assert missing(store, cells) == ([], [])
    assert {store.look(cell) for cell in cells} == {("cached", "")}
    assert store.rows(cells[0].key) == [{"value": 1}]


def test_parents_come_before_children_and_keys_differ():
    cells = plan(BenchConfig())
    known: set[str] = set()
    for cell in cells:
        assert known.issuperset(cell.parents)
        assert cell.key not in known
        known.add(cell.key)


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("kind", ["train", "sample", "metric"])
@pytest.mark.parametrize("damage", ["flipped", "manifest", "gone", "file"])
def test_a_damaged_cell_is_computed_again_with_all_that_builds_on_it(bench, kind, damage):
    store, cells = bench
    target = next(c for c in cells if c.kind == kind and (c.parents or kind == "train"))
    folder = store.folder(target.key)
    if damage == "flipped":
        (folder / "rows.json").write_bytes(b'[{"value": 2}]')
    elif damage == "manifest":
        (folder / MANIFEST).write_bytes(b"{")
    else:
        import shutil

        shutil.rmtree(folder)
        if damage == "file":
            folder.touch()
    todo, notes = missing(store, cells)
    assert {cell.key for cell in todo} == descendants(cells, target)
    assert [cell for cell in cells if cell in todo] == todo
    if damage == "gone":
        assert notes == []
    else:
        assert len(notes) == 1
        assert notes[0].startswith(f"{target.name} is computed again: ")
        assert target.key in notes[0]


def test_children_of_one_model_only(bench):
    """Damage to one process's training does not touch the other's cells."""
    store, cells = bench
    train = next(c for c in cells if c.kind == "train" and c.labels["process"] == "vp")
    (store.folder(train.key) / MANIFEST).unlink()
    todo, _ = missing(store, cells)
    assert {cell.labels["process"] for cell in todo} == {"vp", "vp_ode"}
    assert len(todo) == len([c for c in cells if c.labels["process"] in ("vp", "vp_ode")])


def test_a_cell_moved_aside_by_a_crash_counts_as_done(bench):
    store, cells = bench
    store.folder(cells[-1].key).rename(store.folder(f"{cells[-1].key}.old"))
    assert missing(store, cells) == ([], [])


def test_prepare_makes_the_folder_and_refuses_files(tmp_path):
    Store(tmp_path / "a" / "b").prepare()
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["cells"]
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=f"out = '{out}': {tmp_path / 'file'} is a file"):
            Store(out).prepare()


# ---- one bench at a time ---------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from genflow.bench.store import Store
with Store(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    Store(tmp_path).prepare()
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_held_folder_names_its_holder_and_is_free_after_a_kill(tmp_path, holder):
    store = Store(tmp_path)
    for _ in range(2):
        with pytest.raises(BusyError, match=f"{tmp_path} is in use by process {holder.pid} on "), store.lock():
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with store.lock():
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert (tmp_path / ".lock").read_text() == ""


def test_the_folder_is_free_after_an_error_inside(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="inside"), store.lock():
        raise RuntimeError("inside")
    with store.lock(), pytest.raises(BusyError), store.lock():
        pass


# ---- keys ------------------------------------------------------------------------------------------------

BASE = {"process": "pfgm,vp_ode,vp_sde", "samples": 100, "nfe": "5,10", "solver": "heun,rk45,euler_maruyama"}
OTHER = {
    "process": "vp_ode",
    "backbone": "mlp",
    "dataset": "checkerboard",
    "solver": "euler,euler_maruyama",
    "metric": "fd",
    "process_options": "pfgm.gamma=0.25",
    "backbone_options": "ncsnv2.size=8",
    "solver_options": "heun.x=1",
    "dataset_options": "digits.x=1",
    "train.schedule": "constant",
    "train.more_ema": "0.9",
    "train.posthoc": "0.1",
    "train.precision": "bfloat16",
    "train.on_nan": "skip:1",
    "metric_options": "fd.features=tiny",
    "inception": "weights.pth",
    "terms": "published",
    "terms_file": "tuned.yaml",
    "scheduler": "tcp://host:8786",
    "cluster": "slurm:queue=gpu",
    "slurm": "partition=gpu",
    "norm.solver": "euler",
    "head": "noise",
    "target": "own",
    "times": "log_uniform",
    "weight": "likelihood",
    "grid": "snr",
    "end": "mean",
    "guidance_interval": "0.1,1",
    "reference": __file__,
    "samples_from": f"theirs={__file__}",
    "precision": "bf16",
    "device": "cuda",
    "out": "elsewhere",
}
"""Another value for every setting that is no number."""

ALL = {"train", "sample", "fd", "norm_z", "bpd"}
TRAINED = ALL - {"train"}
MODEL = {"norm_z", "bpd"}
CHANGES = {
    "backbone": ALL,
    "dataset": ALL,
    "process_options": ALL,
    "backbone_options": ALL,
    "dataset_options": ALL,
    "device": ALL,
    "precision": TRAINED,
    "channels_last": TRAINED,
    "compile": TRAINED,
    "tf32": TRAINED,
    "cuda_graphs": TRAINED,
    "seed": ALL,
    **dict.fromkeys(("head", "target", "times", "weight"), ALL),
    **{key: {"sample", "fd"} for key in ("grid", "end", "guidance", "guidance_interval")},
    "reference": {"fd", "norm_z"},
    "samples_from": {"fd"},
    "solver": {"sample", "fd"},
    "nfe": {"sample", "fd"},
    "samples": {"sample", "fd", "norm_z"},
    "solver_options": {"sample", "fd", "norm_z"},
    "bpd": {"bpd"},
    "norm": {"norm_z"},
    "train": ALL,
    "train.save_seconds": set(),
    "train.log_every": set(),
    "metric_options": {"fd"},
    "inception": set(),
    "allow_mixed": set(),
    "terms": ALL,
    "terms_file": set(),
    "sample_batch": set(),
    "shard": set(),
    "jobs": set(),
    "scheduler": set(),
    "cluster": set(),
    "slurm": set(),
    "out": set(),
    "process": set(),
    "metric": set(),
}
"""Which cells get new keys by a setting; those with none only add or leave out cells."""


def keys(config: BenchConfig) -> dict[str, set[str]]:
    """Keys by kind of cell or metric, without the floor, which measures real data."""
    found: dict[str, set[str]] = {}
    for cell in plan(config):
        if cell.parents or cell.kind == "train":
            found.setdefault(cell.spec.get("metric", cell.kind), set()).add(cell.key)
    return found


def another(leaf) -> object:
    """A value of the option's type and range that is not its default."""
    if leaf.path in OTHER:
        return OTHER[leaf.path]
    old = build(BenchConfig, BASE)
    for name in leaf.path.split("."):
        old = getattr(old, name)
    if isinstance(old, bool):
        return not old
    old = old[-1] if isinstance(old, tuple) else old
    return old * 0.5 if isinstance(old, float) else old + 1


LEAVES = [leaf for leaf in leaves(BenchConfig) if leaf.path not in ("checkpoint", "guide")]
"""Checkpoints have to be there; test_checkpoints.py and test_guidance_kinds.py look at their keys."""

BESIDE = {"guidance_interval": {"guidance": "2"}}
"""What an option cannot be given without."""


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.path)
def test_keys_change_with_what_the_numbers_depend_on_and_with_nothing_else(leaf):
    base = {**BASE, **BESIDE.get(leaf.path, {})}
    before, after = keys(build(BenchConfig, base)), keys(build(BenchConfig, {**base, leaf.path: another(leaf)}))
    expected = CHANGES.get(leaf.path, CHANGES.get(leaf.path.split(".")[0]))
    changed = {kind for kind in after if after[kind] - before[kind]}
    assert changed == expected


def test_the_floor_depends_on_the_data_and_of_samples_on_their_number():
    def floor(**given):
        cells = plan(build(BenchConfig, {**BASE, **given}))
        return {c.spec["metric"]: c.key for c in cells if c.kind == "metric" and not c.parents}

    assert floor() == floor(seed=3, process="pfgm", backbone="mlp", nfe=7)
    assert not set(floor().values()) & set(floor(dataset="checkerboard").values())
    fewer = floor(samples=50)
    assert {metric for metric, key in floor().items() if fewer[metric] != key} == {"fd"}


@pytest.mark.parametrize(
    ("solver", "options", "depends"),
    [
        ("rk45", {}, False),
        ("rk45", {"control": "sample"}, False),
        ("rk45", {"control": "batch"}, True),
        ("rk23", {"control": "batch"}, True),
        ("pc", {"norms": "batch"}, True),
        ("pc", {"norms": "sample"}, False),
    ],
)
def test_samples_that_depend_on_their_batch_have_keys_that_do(solver, options, depends):
    process = "vp_sde" if solver == "pc" else "vp_ode"
    base = {"process": process, "solver": solver, "metric": "fd", "solver_options": {solver: options}}
    found = [keys(build(BenchConfig, {**base, "sample_batch": size})) for size in (10, 50)]
    assert (found[0]["sample"] != found[1]["sample"]) == depends
    assert (found[0]["fd"] != found[1]["fd"]) == depends
    assert found[0]["train"] == found[1]["train"]


def test_ode_and_sde_of_a_process_share_their_training():
    cells = plan(build(BenchConfig, BASE))
    assert [c.labels["process"] for c in cells if c.kind == "train"] == ["pfgm", "vp"]
    assert len({c.key for c in cells}) == len(cells)


def test_numbers_written_in_another_way_give_the_same_keys():
    one, two = (
        {"train.lr": "1e-3", "norm.level": 2, "nfe": "5,10"},
        {"train.lr": 0.001, "norm.level": 2.0, "nfe": [5, 10]},
    )
    assert keys(build(BenchConfig, one)) == keys(build(BenchConfig, two))


def test_keys_change_with_the_code(monkeypatch):
    config = build(BenchConfig, BASE)
    before = keys(config)
    monkeypatch.setattr("genflow.bench.cells.code_digest", lambda kind: "other" if kind == "metric" else "same")
    after = keys(config)
    assert all(not before[kind] & after[kind] for kind in before)
    monkeypatch.setattr("genflow.bench.cells.code_digest", lambda kind: "new" if kind == "metric" else "same")
    newer = keys(config)
    assert (newer["train"], newer["sample"]) == (after["train"], after["sample"])
    assert not newer["fd"] & after["fd"]


def test_keys_change_with_a_plugin_version(monkeypatch):
    registry = registries()["processes"]
    entry = dataclasses.replace(registry.entry("pfgm"), name="fast", family="fast", origin="a-plugin")
    monkeypatch.setitem(registry._found, "fast", entry)
    found = []
    for version in ("1.0", "1.1"):
        monkeypatch.setattr("genflow.bench.cells.metadata.version", lambda name, version=version: version)
        found.append(keys(build(BenchConfig, {"process": "fast", "solver": "heun"})))
    assert all(not found[0][kind] & found[1][kind] for kind in found[0])
