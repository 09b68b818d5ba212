"""`genflow sample`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genflow.commands.loaded import (
    DATASET_OPTIONS_HELP,
    ConditionedOptions,
    class_number,
    guidance_of,
    open_data,
    open_model,
    say_labels,
    say_solver,
    write_samples,
)
from genflow.commands.options import config_command
from genflow.commands.paths import check_out
from genflow.config import ConfigError, Options, check_owners, option
from genflow.shared_options import check_interval, interval_option

LOG = logging.getLogger("genflow")

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.checkpoint import Opened
    from genflow.distributed import Team
    from genflow.process.base import Process
    from genflow.process.guidance import Guidance
    from genflow.solver.fields import Solution


@dataclass(frozen=True)
class SampleConfig(ConditionedOptions):
    """Samples of one checkpoint."""

    n: int = option(64, "samples", least=1)
    solver: str = option("heun", "solver", registry="solvers")
    nfe: int = option(20, "backbone calls per sample (fixed-step solvers)", least=1)
    label: str = option("none", "class to draw: its name or number, all (each class in turn), or none")
    guidance_interval: tuple[float, ...] = interval_option()
    guide: str = option("", "folder of a weaker checkpoint to guide away from, in place of no class", place=True)
    temperature: float = option(1.0, "factor on the prior's draw", above=0)
    dataset_options: Options = option({}, DATASET_OPTIONS_HELP, registry="datasets")
    out: str = option("samples.png", "file to write: .png for a picture, .npz for data units", place=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self.guidance, self.guidance_interval, self.guide)


def run_sampling(config: SampleConfig) -> str:
    """Draws samples and writes them; returns a line that says what was done, "" on ranks that do not print."""
    from genflow.distributed import open_team

    out = check_out(config.out, (".png", ".npz"))
    check_owners("solver_options", config.solver_options, [config.solver])
    opened = open_model(config)
    labels = labels_of(config, opened)
    if out.suffix == ".png":
        check_picture(opened)
    process = opened.sampler(open_data(opened, config.dataset_options) if config.dataset_options else None)
    how = guidance_of(config, opened)
    with open_team(config.device) as team:
        solution = draw(config, team, process, opened.backbone, labels, how)
        if not team.leads:
            return ""
    write_samples(out, opened, solution.x, {} if labels is None else {"labels": labels})
    kind = say_labels(config.label, how.words if how.interval or how.guide else config.guidance, opened)
    if config.label == "none" and how.words:
        kind = f", {how.words}"
    if config.temperature != 1:
        kind += f", temperature {config.temperature:g}"
    short = 0 if solution.stopped is None else int(solution.stopped.sum())
    if short:
        LOG.warning("%d samples were left short of the data's end: the field is stiff there", short)
    return f"{out}: {config.n} samples of {opened.name}{kind}, {say_solver(config)}, NFE {solution.nfe:g}"


def labels_of(config: SampleConfig, opened: Opened) -> Tensor | None:
    """The class of each sample, (n,); None for none.

    Raises:
        ConfigError: --label is neither a class, nor all, nor none.
        ValueError: The backbone does not know the class, or knows none.
    """
    from genflow.sampling import class_labels

    if config.label in ("none", "all"):
        return class_labels(None if config.label == "none" else "all", config.n, opened.classes)
    return class_labels(class_number(config.label, opened, "all"), config.n, opened.classes)


def check_picture(opened: Opened) -> None:
    """Raises ConfigError where nothing says how data units become a picture."""
    if not (opened.data or opened.scaling):
        raise ConfigError(f"{opened.path} does not say its data set, which a picture needs; write a .npz file")
    opened.known_scaling()


def draw(
    config: SampleConfig, team: Team, process: Process, backbone: Any, labels: Any, guidance: Guidance
) -> Solution:
    """The samples, drawn by all ranks."""
    import genflow
    from genflow.sampling import sample_together

    solver = genflow.get_solver(config.solver, **config.solver_options.get(config.solver, {}))
    return sample_together(
        team,
        process,
        backbone,
        solver,
        config.n,
        nfe=config.nfe if hasattr(solver, "plan") else None,
        seed=config.seed,
        batch_size=config.sample_batch,
        device=config.device,
        labels=labels,
        guidance=guidance,
        temperature=config.temperature,
    )


sample_command = config_command(
    "sample",
    SampleConfig,
    run_sampling,
    "Draw samples from a checkpoint.",
    "genflow sample --checkpoint runs/pfgm --n 64 --nfe 20 --out samples.png",
    "genflow sample --checkpoint runs/pfgm --solver rk45 --out samples.npz",
    "genflow sample --checkpoint runs/pets --label cats --guidance 2 --out cats.png",
    "genflow sample --checkpoint runs/pets --label cats --guidance 2 --guidance-interval 0.2,5",
    "genflow sample --checkpoint runs/pfgm --guidance 2 --guide runs/pfgm_short",
)
