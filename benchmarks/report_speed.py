"""How long the report of a bench of 200 cells takes to draw and write, in a process of its own.

    python benchmarks/report_speed.py

The bench is made up: five processes, four solvers, four budgets, two seeds, with numbers, norm studies, paths and
samples of the right shapes, so that nothing is trained. The bar holds the time from the start of Python to the
written page, the import of matplotlib included; it is the median of five runs.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from genflow.bench.cells import REAL, Cell, plan
from genflow.bench.store import Store
from genflow.checkpoint import write_folder
from genflow.config import BenchConfig, build, to_dict

BIG: dict[str, Any] = {
    "process": ["pfgm", "pfgmpp", "vp_ode", "si_linear", "ve_sde"],
    "solver": ["euler", "heun", "rk4", "rk45", "euler_maruyama"],
    "nfe": [5, 10, 20, 35],
    "seed": [0, 1],
}
"""A bench of at least 200 cells."""


def made_up_bench(out: Path, images: bool = True, **settings: Any) -> BenchConfig:
    """Fills a folder with finished cells whose numbers are made up, and returns the bench's configuration.

    Arguments:
        out: The bench's folder.
        images: Samples and paths of 8x8 images, else of 2-D points.
        settings: Keys of the configuration.
    """
    import yaml

    config: BenchConfig = build(BenchConfig, {**settings, "out": str(out)})
    store = Store(out)
    for cell in plan(config):
        files = _files(config, cell, images, np.random.default_rng(zlib.crc32(cell.name.encode())))
        facts = {"kind": cell.kind, "labels": dict(cell.labels), "seconds": 1.5}
        write_folder(store.folder(cell.key), {"cell.json": json.dumps(facts).encode(), **files})
    (out / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    return config


def _files(config: BenchConfig, cell: Cell, images: bool, random: np.random.Generator) -> dict[str, bytes]:
    if cell.kind == "train":
        lines = [{"images": 640 * i, "smoothed_loss": float(2 / (1 + i) + 0.1 * random.random())} for i in range(60)]
        return {"stats.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode()}
    if cell.kind == "sample":
        shape = (config.samples, 1, 8, 8) if images else (config.samples, 2)
        raw = random.integers(0, 17, shape) if images else random.normal(size=shape)
        nfe = cell.labels["nfe"] or 60.0 + random.random()
        return {"samples.npz": _npz(raw=raw.astype(np.float32)), "facts.json": json.dumps({"nfe": nfe}).encode()}
    files = {"rows.json": json.dumps([_row(config, cell, *given) for given in _numbers(cell, random)]).encode()}
    if cell.spec["metric"] == "norm_z" and cell.labels["process"] != REAL:
        files["arrays.npz"] = _study(random, images)
    return files


def _numbers(cell: Cell, random: np.random.Generator) -> list[tuple[str, float, float | None, float | None, str]]:
    """(metric, value, standard error, NFE, solver) of each row of a metric cell."""
    metric, process, nfe = cell.spec["metric"], cell.labels["process"], cell.labels.get("nfe")
    luck, solver = float(random.normal()), cell.labels.get("solver", "")
    if metric == "fd":
        calls = nfe or 60 + luck
        value = 6.0 if process == REAL else 8 + len(process) + 200 / calls + luck
        return [("FD[digits]", value, 1.0, None if process == REAL else calls, solver)]
    if process == REAL:
        return []
    if metric == "bpd":
        return [("bits/dim", 2.5 + 0.05 * luck, 0.02, 70.0, "rk45(0.001)")]
    if metric == "norm_z":
        kinds = [(f"norm_{k}[{w}]", abs(0.5 + 0.1 * luck)) for k in ("spread", "tied") for w in ("train", "path")]
        pushes = [(f"FD[digits]@norm*{f:g}", 12 + 8 * abs(np.log(f)) + luck) for f in (0.5, 1, 2)]
        return [(m, v, None, None, "") for m, v in kinds] + [(m, float(v), None, 20.0, "heun") for m, v in pushes]
    return [(metric, abs(luck), 0.1, nfe, solver)]


def _row(
    config: BenchConfig, cell: Cell, metric: str, value: float, stderr: float | None, nfe: float | None, solver: str
) -> dict[str, Any]:
    process = cell.labels["process"]
    return {
        "process": process,
        "backbone": "" if process == REAL else config.backbone,
        "dataset": config.dataset,
        "solver": solver,
        "nfe": nfe,
        "budget": cell.labels.get("nfe"),
        "metric": metric,
        "value": value,
        "stderr": stderr,
        "n": 500,
        "seed": cell.labels["seed"],
        "protocol": "made up; features 'digits' (d = 64)",
        "seconds": 1.5,
    }


def _study(random: np.random.Generator, images: bool) -> bytes:
    times = np.geomspace(20, 1e-3, 12)
    middle = np.sqrt(36 + 60 * times**2)
    levels = np.array([0.7, 0.85, 1.0, 1.2, 1.6])
    shape = (12, 16, 1, 8, 8) if images else (12, 256, 2)
    states = random.normal(size=shape[1:]) * (0.5 + times.reshape(-1, *[1] * (len(shape) - 1)))
    quantiles = {"train": middle[:, None] * levels, "path": 1.1 * middle[:, None] * levels}
    return _npz(times=times, push_time=np.array(1.0), levels=levels, states=states.astype(np.float32), **quantiles)


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def main() -> int:
    from common import about, verdict

    about()
    with tempfile.TemporaryDirectory() as folder:
        config = made_up_bench(Path(folder), **BIG)
        command = [sys.executable, "-m", "genflow", "report", folder]
        times, count = [], len(plan(config))
        for _ in range(5):
            start = time.perf_counter()
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            times.append(time.perf_counter() - start)
            assert f"{count} of {count} cells" in said, said  # else the source was changed between the runs
        size = (Path(folder) / "report.html").stat().st_size / 2**20
    print(f"{count} cells, report.html of {size:.1f} MiB, seconds: {', '.join(f'{t:.2f}' for t in times)}")
    return 0 if verdict("genflow report, seconds", statistics.median(times), 5.0) else 1


if __name__ == "__main__":
    sys.exit(main())
