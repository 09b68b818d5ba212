"""Pure solver error on digits: the exact field of the training images in place of a network.

    python benchmarks/solver_error.py                 # tables and plots into docs/studies, about 20 min on two cores
    python benchmarks/solver_error.py --quick         # fewer samples, solvers and grids: two minutes
    python benchmarks/solver_error.py --search pfgm   # the best ten steps for one process: three minutes

For every process, ODE solver and time grid: 128 prior draws in float64 are solved at 5 to 100 calls and compared
with the same draws solved by rk45 at a tolerance of 1e-8. "missed" is the share of samples whose nearest training image
is another one than the reference's; "error" is the median over samples of the root mean square distance to the
reference, data units ([−1, 1]).
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genflow
from genflow.evaluate import fd
from genflow.process.base import Process
from genflow.registry import registries
from genflow.sampling import draw_prior
from genflow.solver.fields import Solution

BUDGETS = (5, 10, 20, 35, 50, 100)
GRIDS = ("process", "uniform", "log", "edm(7)", "snr", "cosine", "adapted")
SOLVERS = ("euler", "heun", "midpoint", "rk4", "ab2", "ab3", "ddim", "dpmpp_2m", "dpmpp_3m", "unipc")
SAMPLES = 128
OUT = Path(__file__).parents[1] / "docs" / "studies"


class Case:
    """One process on digits: its exact field, the prior draws, and where they end exactly."""

    def __init__(self, name: str, options: dict[str, Any], samples: int, first: int = 0) -> None:
        data = genflow.get_dataset("digits")
        self.points = data.scaling.encode(data.train).double()
        self.process: Process = genflow.get_process(name, **options).for_data(self.points)
        self.oracle = self.process.oracle(self.points)  # type: ignore[attr-defined]
        self.start, _ = draw_prior(self.process, data.shape, 0, range(first, first + samples), torch.float64)
        self.exact = self.solve(genflow.get_solver("rk45", rtol=1e-8, atol=1e-8)).x

    def solve(self, solver: Any, nfe: int | None = None, grid: Tensor | None = None) -> Solution:
        with torch.no_grad():
            return solver.solve(self.process.field(self.oracle), self.start, nfe=nfe, grid=grid)

    def nearest(self, x: Tensor) -> Tensor:
        return torch.cdist(x.flatten(1), self.points.flatten(1)).argmin(1)

    def measure(self, x: Tensor) -> dict[str, float]:
        gap = (x - self.exact).flatten(1).square().mean(1).sqrt()
        missed = (self.nearest(x) != self.nearest(self.exact)).double().mean()
        return {"error": float(gap.median()), "mean_error": float(gap.mean()), "missed": float(missed)}

    @cached_property
    def travelled(self) -> tuple[Tensor, Tensor]:
        """Times of a fine grid, and the share of the way at each: ∫ sqrt(E|dX̂/ds|) ds along the exact paths.

        A tenth of it is the process's clock itself, so that no stretch is left without steps.
        """
        times = self.process.grid(200)
        field = self.process.field(self.oracle)
        states = [self.start]
        solver = genflow.get_solver("heun")
        with torch.no_grad():
            for i in range(200):
                states.append(solver.solve(field, states[-1], grid=times[i : i + 2]).x)
            means = [field.data(x, t) for x, t in zip(states, times, strict=True)]
        moves = torch.stack([(a - b).flatten(1).norm(dim=1).mean() for a, b in zip(means[1:], means, strict=False)])
        density = moves.sqrt() / moves.sqrt().sum() * 0.9 + 0.1 / len(moves)
        return times, torch.cat([torch.zeros(1), density.cumsum(0)]).double()

    def adapted(self, steps: int) -> list[float]:
        """Times between which the posterior mean moves alike."""
        times, travelled = self.travelled
        goal = torch.linspace(0, float(travelled[-1]), steps + 1, dtype=torch.float64)
        place = torch.searchsorted(travelled, goal[1:-1]).clamp(1, 200)
        share = (goal[1:-1] - travelled[place - 1]) / (travelled[place] - travelled[place - 1])
        clock = self.process.to_clock(times)
        inner = self.process.from_clock(clock[place - 1] + share * (clock[place] - clock[place - 1]))
        return [float(times[0]), *inner.tolist(), float(times[-1])]


def study(job: tuple[str, str, dict[str, Any], int, tuple[str, ...], tuple[str, ...]]) -> list[dict[str, Any]]:
    """All rows of one process; a pair that is impossible gives one row with the reason."""
    label, name, options, samples, solvers, grids = job
    torch.set_num_threads(1)
    case, rows, began = Case(name, options, samples), [], time.monotonic()
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        found = case.solve(genflow.get_solver("rk45", rtol=tolerance, atol=tolerance))
        rows.append({"process": label, "solver": "rk45", "grid": f"tolerance {tolerance:g}", "nfe": found.nfe})
        rows[-1] |= case.measure(found.x)
    for solver in solvers:
        for grid in grids:
            rows += sweep(case, label, solver, grid)
    print(f"{label}: {len(rows)} rows in {time.monotonic() - began:.0f} s", flush=True)
    return rows


def sweep(case: Case, label: str, solver: str, grid: str) -> list[dict[str, Any]]:
    rows = []
    for nfe in BUDGETS:
        row = {"process": label, "solver": solver, "grid": grid, "nfe": float(nfe)}
        try:
            made = genflow.get_solver(solver)
            if any(case.process.why_not(need) for need in made.needs):
                return []
            spacing: Any = case.adapted(len(made.plan(nfe))) if grid == "adapted" else grid
            found = case.solve(genflow.get_solver(solver, grid=spacing), nfe=nfe)
            assert found.nfe == nfe
            rows.append(row | case.measure(found.x))
        except (ValueError, RuntimeError) as error:
            rows.append(row | {"error": math.nan, "mean_error": math.nan, "missed": math.nan, "note": str(error)})
            if isinstance(error, ValueError):
                break
    return rows


def search(name: str, nfe: int = 10) -> None:
    """Fits the times of a budget to one set of prior draws, by coordinate descent, and measures them on another.

    The descent starts from the adapted grid and moves one inner time at a time (in log σ); what falls is the mean over
    samples of log(error + 1e-6), in which a sample that misses its image counts, but not as if nothing else did.
    """
    torch.set_num_threads(1)
    fit, held_out = Case(name, {}, 256, first=10_000), Case(name, {}, 500)
    report("exact", held_out, held_out.exact)
    for tolerance in (1e-3, 1e-4):
        found = held_out.solve(genflow.get_solver("rk45", rtol=tolerance, atol=tolerance))
        report(f"rk45 at {tolerance:g}, NFE {found.nfe:.0f}", held_out, found.x)
    for solver in ("euler", "heun", "ddim", "dpmpp_2m", "unipc"):
        report(solver, held_out, held_out.solve(genflow.get_solver(solver), nfe=nfe).x)
    for solver in ("dpmpp_2m", "unipc"):
        times = fitted_times(fit, solver, nfe)
        for words, grid in (("adapted", fit.adapted(nfe)), ("fitted", times)):
            x = held_out.solve(genflow.get_solver(solver, grid=grid), nfe=nfe).x
            report(f"{solver}, {words} times", held_out, x)
        print("  " + ", ".join(f"{t:.4g}" for t in times), flush=True)


def report(words: str, case: Case, x: Tensor) -> None:
    """One line: errors against the exact ends, and FD[digits] of these samples from the training split."""
    name, distance = fd(x.float(), genflow.get_dataset("digits"))
    found = case.measure(x)
    print(
        f"{words}: median error {found['error']:.2g}, mean {found['mean_error']:.2g}, missed {found['missed']:.1%}, "
        f"{name} {distance:.2f}",
        flush=True,
    )


def fitted_times(case: Case, solver: str, nfe: int) -> list[float]:
    def loss(times: list[float]) -> float:
        x = case.solve(genflow.get_solver(solver, grid=times), nfe=nfe).x
        return float(((x - case.exact).flatten(1).square().mean(1).sqrt() + 1e-6).log().mean())

    times = case.adapted(nfe)
    least, width = loss(times), 0.3
    for _ in range(12):
        before = least
        for i in range(1, nfe):
            for sign in (1, -1):
                moved = [*times[:i], times[i] * math.exp(sign * width), *times[i + 1 :]]
                if moved[i - 1] > moved[i] > moved[i + 1] and (value := loss(moved)) < least:
                    times, least = moved, value
        width *= 1.0 if least < before - 0.02 else 0.5
    return times


def jobs(quick: bool) -> list[tuple[str, str, dict[str, Any], int, tuple[str, ...], tuple[str, ...]]]:
    samples = 32 if quick else SAMPLES
    solvers = ("euler", "heun", "ddim", "dpmpp_2m") if quick else SOLVERS
    grids = ("process", "snr", "adapted") if quick else GRIDS
    names = [n for n, e in registries()["processes"].entries().items() if e.tags.get("mode") == "ode"]
    found = [(name, name, {}, samples, solvers, grids) for name in names if name != "si_fourier"]
    return [*found, ("pfgmpp, D = 2048", "pfgmpp", {"D": 2048}, samples, solvers, grids)]


def best(rows: list[dict[str, Any]], nfe: float) -> dict[str, dict[str, Any]]:
    """Of every process the row with the least error at a budget."""
    at = [r for r in rows if r["nfe"] == nfe and r["solver"] != "rk45" and not math.isnan(r["error"])]
    return {p: min((r for r in at if r["process"] == p), key=lambda r: r["error"]) for p in {r["process"] for r in at}}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: per process the best solver and grid of each budget, and rk45."""
    winners = {nfe: best(rows, float(nfe)) for nfe in BUDGETS}
    order = sorted(winners[10], key=lambda p: winners[10][p]["error"])
    lines = ["| process | " + " | ".join(f"NFE {n}" for n in BUDGETS) + " | rk45 at 1e-4 |"]
    lines.append("|---" * (len(BUDGETS) + 2) + "|")
    for process in order:
        cells = []
        for nfe in BUDGETS:
            row = winners[nfe][process]
            cells.append(f"{row['error']:.2g} ({row['missed']:.0%})<br>{row['solver']}, {row['grid']}")
        (rk,) = [r for r in rows if r["process"] == process and r["grid"] == "tolerance 0.0001"]
        cells.append(f"{rk['error']:.2g} ({rk['missed']:.0%})<br>NFE {rk['nfe']:.0f}")
        lines.append(f"| {process} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def solver_table(rows: list[dict[str, Any]], nfe: int) -> str:
    """Markdown: error of every solver at one budget, on its best grid, by process."""
    solvers = [s for s in SOLVERS if any(r["solver"] == s for r in rows)]
    lines = ["| process | " + " | ".join(solvers) + " |", "|---" * (len(solvers) + 1) + "|"]
    for process in dict.fromkeys(r["process"] for r in rows):
        cells = []
        for solver in solvers:
            at = [r for r in rows if (r["process"], r["solver"], r["nfe"]) == (process, solver, nfe)]
            at = [r for r in at if not math.isnan(r["error"])]
            row = min(at, key=lambda r: r["error"]) if at else None
            cells.append(f"{row['error']:.2g}<br>{row['grid']}" if row else "–")
        lines.append(f"| {process} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def grid_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: geometric mean over processes of error on a grid over error on the process's own grid, same solver."""
    lines = ["| grid | NFE 5 | NFE 10 | NFE 20 | NFE 50 |", "|---|---|---|---|---|"]
    known = {(r["process"], r["solver"], r["grid"], r["nfe"]): r["error"] for r in rows}
    for grid in [g for g in GRIDS if any(r["grid"] == g for r in rows)]:
        cells = []
        for nfe in (5, 10, 20, 50):
            logs = [
                math.log(error / known[(p, s, "process", n)])
                for (p, s, g, n), error in known.items()
                if (g, n) == (grid, nfe) and error > 0 and known.get((p, s, "process", n), 0) > 0
            ]
            cells.append(f"{math.exp(statistics.fmean(logs)):.2f}" if logs else "–")
        lines.append(f"| {grid} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Error against NFE: one panel per process, a line per solver on its best grid, rk45 by its tolerance."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    processes = list(dict.fromkeys(r["process"] for r in rows))
    columns = 3
    lines = math.ceil(len(processes) / columns)
    figure, axes = plt.subplots(lines, columns, figsize=(11, 2.9 * lines), sharex=True, sharey=True, squeeze=False)
    solvers = [s for s in SOLVERS if any(r["solver"] == s for r in rows)]
    colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    for axis, process in zip(axes.flat, processes, strict=False):
        for colour, solver in zip(colours, solvers, strict=False):
            mine = [r for r in rows if (r["process"], r["solver"]) == (process, solver) and r["error"] > 0]
            curve = [(n, min(r["error"] for r in mine if r["nfe"] == n)) for n in sorted({r["nfe"] for r in mine})]
            if curve:
                axis.plot(*zip(*curve, strict=True), marker="o", ms=3, lw=1.2, color=colour, label=solver)
        rk = sorted((r["nfe"], r["error"]) for r in rows if (r["process"], r["solver"]) == (process, "rk45"))
        axis.plot(*zip(*rk, strict=True), color="black", ls="--", marker="s", ms=3, lw=1.2, label="rk45")
        axis.set_title(process, fontsize=10)
        axis.set(xscale="log", yscale="log")
        axis.grid(alpha=0.25, which="both", lw=0.4)
        axis.set_xticks([5, 10, 20, 50, 100, 200], labels=["5", "10", "20", "50", "100", "200"])
        axis.minorticks_off()
    for axis in list(axes.flat)[len(processes) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("median error, data units", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("NFE", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncol=6, loc="upper center", fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / (2.9 * lines)))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small part of it")
    parser.add_argument("--search", metavar="PROCESS", help="fit ten steps to one process instead")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the tables and plots")
    parser.add_argument("--jobs", type=int, default=2, help="processes of the operating system")
    arguments = parser.parse_args()
    if arguments.search:
        search(arguments.search)
        return
    with ProcessPoolExecutor(arguments.jobs) as pool:
        rows = [row for part in pool.map(study, jobs(arguments.quick)) for row in part]
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = ["process", "solver", "grid", "nfe", "error", "mean_error", "missed", "note"]
    with (arguments.out / "solver_error.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, arguments.out / "images" / "solver_error.png")
    print("\n".join([table(rows), "", solver_table(rows, 10), "", grid_table(rows)]))


if __name__ == "__main__":
    main()
