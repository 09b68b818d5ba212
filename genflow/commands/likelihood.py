"""`genflow likelihood`: log densities of held-out data under a checkpoint's ODE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genflow.commands.given import beginning
from genflow.commands.loaded import (
    DATASET_OPTIONS_HELP,
    ConditionedOptions,
    label_numbers,
    open_model,
    open_solver,
    say_labels,
    write_arrays,
)
from genflow.commands.options import config_command
from genflow.commands.paths import check_out, make_folder
from genflow.config import ConfigError, Options, option

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.checkpoint import Opened
    from genflow.likelihood import Likelihood
    from genflow.process.base import Process
    from genflow.solver.base import Solver


@dataclass(frozen=True)
class DensityConfig(ConditionedOptions):
    """The likelihood of held-out data."""

    examples: int = option(500, "test examples (all where there are fewer)", least=2)
    t: str = option(
        "data",
        "native time of the density: data (the data's end), or a number; then x_t is drawn once of each example and "
        "log p_t(x_t) is given, in nats",
    )
    trace: str = option("hutchinson", "divergence: hutchinson or exact", among=("hutchinson", "exact"))
    probe: str = option("rademacher", "Hutchinson's probe: rademacher or gaussian", among=("rademacher", "gaussian"))
    probes: int = option(1, "probes per example", least=1)
    seed: int = option(0, "seed of dequantisation, probes and x_t", least=0)
    dataset_options: Options = option({}, DATASET_OPTIONS_HELP, registry="datasets")
    out: str = option("", "file to write: .csv or .npz for every example, .png for a picture", place=True)


@dataclass(frozen=True)
class _Measured:
    """What there is to print and to write: raw examples (n, *), and the states (n, *) whose density was taken at t.

    `perturbed` says that the states are x_t of the examples, not the examples.
    """

    raw: Tensor
    x: Tensor
    t: float
    perturbed: bool
    parts: list[Likelihood]

    def joined(self, name: str) -> Tensor:
        """An entry of all batches, (n,), on the host."""
        import torch

        return torch.cat([getattr(part, name).cpu() for part in self.parts])


def run_likelihood(config: DensityConfig) -> str:
    """Measures, writes the file where one is asked for, and returns what to print."""
    from genflow.likelihood import check_likelihood

    out = check_out(config.out, (".csv", ".npz", ".png")) if config.out else None
    solver, budget = open_solver(config.solver, config.solver_options, config.nfe)
    model = open_model(config)
    check_likelihood(model.process)
    found = _measure(config, model, solver, budget)
    if out:
        _write(model, out, found)
    return _text(config, model, found, out)


def _measure(config: DensityConfig, model: Opened, solver: Solver, budget: int | None) -> _Measured:
    from genflow.likelihood import log_likelihood
    from genflow.sampling import draw_path

    t = _time(config.t, model.process)
    begin = beginning(model, "", config.dataset_options, config.examples, config.seed)
    raw, x = begin.raw, begin.x
    labels = label_numbers(config.label, model, len(x), begin.labels, begin.missing)
    if t is not None:
        x = draw_path(model.process, x, t, config.seed, range(len(x)))
    parts = [
        log_likelihood(
            model.process,
            model.backbone,
            x[rows.start : rows.stop],
            t=t,
            solver=solver,
            nfe=budget,
            trace=config.trace,
            probe=config.probe,
            probes=config.probes,
            seed=config.seed,
            first_index=rows.start,
            labels=None if labels is None else labels[rows.start : rows.stop],
            guidance=config.guidance,
        )
        for rows in _batches(len(x), config.sample_batch)
    ]
    return _Measured(raw, x, parts[0].t, t is not None, parts)


def _batches(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _time(word: str, process: Process) -> float | None:
    """The native time that --t stands for; None for the data's end, at which examples are taken as they are."""
    if word == "data":
        return None
    try:
        t = float(word)
    except ValueError:
        raise ConfigError(f"t = '{word}' is not a time; give a number, or data") from None
    return None if t == process.training_interval[0] else t


def _text(config: DensityConfig, model: Opened, found: _Measured, out: Path | None) -> str:
    from genflow.likelihood import BPD_FORMULA, bits_per_dim

    scaling, log_prob = model.known_scaling(), found.joined("log_prob")
    count, dim = len(log_prob), math.prod(model.shape)
    nfe = sum(p.nfe * len(p.log_prob) for p in found.parts) / count
    error = float(log_prob.std()) / math.sqrt(count)
    what = "mean −log p(x) in data units"
    if found.perturbed:
        what = f"mean −log p_t(x_t) at t = {found.t:g}, x_t = a X + b N drawn once of each example; no bits/dim of data"
    lines, formula = [f"nats: {-float(log_prob.mean()):.4f} ± {error:.4f} ({what})"], ""
    if scaling.levels is not None and not found.perturbed:
        bits, bits_error = bits_per_dim(log_prob, dim, scaling)
        lines.insert(0, f"bits/dim: {bits:.4f} ± {bits_error:.4f}")
        formula = f"\n{BPD_FORMULA}, s = 2/{scaling.levels}, N = {dim}"
    probes = f"{config.probes} {config.probe} probe{'s' * (config.probes > 1)} per example, drawn once"
    assert model.data is not None  # or its test split could not be opened
    kind = say_labels(config.label, config.guidance, model)
    lines.append(
        f"{model.name} on the test split of {model.data['name']}, n = {count}{kind}: ODE from t = {found.t:g} by "
        f"{config.solver}, NFE {nfe:.1f}; "
        f"{'exact trace' if config.trace == 'exact' else probes}; seed {config.seed}; "
        f"± is one standard error over examples{formula}"
    )
    return "\n".join([*lines, *([str(out)] if out else [])])


def _write(model: Opened, out: Path, found: _Measured) -> None:
    scaling, nats = model.known_scaling(), -found.joined("log_prob")
    dim = math.prod(model.shape)
    values = {"nats": nats, "stderr_of_probes": found.joined("stderr")}
    if scaling.levels is not None and not found.perturbed:
        values = {"bits_per_dim": (nats - scaling.log_det(dim)) / (dim * math.log(2)), **values}
    if out.suffix == ".npz":
        write_arrays(out, {**values, "raw": found.raw, **({"x_t": found.x} if found.perturbed else {})})
        return
    make_folder(out.parent)
    if out.suffix == ".csv":
        from genflow.checkpoint import write_file

        rows = [",".join(["example", *values])]
        rows += [",".join([str(i), *(repr(float(v[i])) for v in values.values())]) for i in range(len(nats))]
        write_file(out, "\n".join(rows) + "\n")
        return
    from genflow.report.pictures import likelihood_plot

    unit, worth = next(iter(values.items()))
    label = unit.replace("bits_per_dim", "bits/dim")
    likelihood_plot(out, worth.numpy(), label, found.raw.numpy(), scaling.levels)


likelihood_command = config_command(
    "likelihood",
    DensityConfig,
    run_likelihood,
    "Bits per dimension and nats of the test split, by the ODE.",
    "genflow likelihood --checkpoint runs/pfgm",
    "genflow likelihood --checkpoint runs/pfgm --probes 4 --out likelihood.csv",
    "genflow likelihood --checkpoint runs/classes --label data",
    "genflow likelihood --checkpoint runs/pfgm --trace exact --examples 20 --out likelihood.png",
)
