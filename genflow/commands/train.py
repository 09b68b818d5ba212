"""`genflow train`: one model, alone or on several ranks, kept in a run's folder."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genflow.accelerators import chosen
from genflow.cli import say, say_device
from genflow.commands.options import command_line, config_options, examples, resolve
from genflow.commands.paths import check_folder, check_writable, make_folder
from genflow.config import ConfigError, Options, TrainConfig, check_owners, option, to_dict
from genflow.shared_options import device_option

LOG = logging.getLogger("genflow")

if TYPE_CHECKING:
    from genflow.data.base import Dataset
    from genflow.distributed import Team
    from genflow.process.base import Process
    from genflow.training import Run, TrainResult


@dataclass(frozen=True)
class ModelConfig:
    """One training run."""

    process: str = option("pfgm", "process to train", registry="processes")
    backbone: str = option("ncsnv2", "network", registry="backbones")
    dataset: str = option("digits", "data to train on", registry="datasets")
    seed: int = option(0, "seed of weights, data order and draws", least=0)
    process_options: Options = option({}, "NAME.OPTION=VALUE of the process", registry="processes")
    backbone_options: Options = option({}, "NAME.OPTION=VALUE of the backbone", registry="backbones")
    dataset_options: Options = option({}, "NAME.OPTION=VALUE of the data set", registry="datasets")
    train: TrainConfig = field(default_factory=TrainConfig)
    device: str = device_option()
    out: str = option("runs/model", "the run's folder", place=True)
    keep: int = option(2, "how many of the newest checkpoints stay", least=1)
    snapshot_every: int = option(
        0, "steps between sample grids in out/samples, always of the same seeds; 0: none", least=0
    )
    snapshot_n: int = option(64, "samples of a grid", least=1)
    snapshot_nfe: int = option(20, "backbone calls per sample of a grid", least=2)
    tensorboard: bool = option(False, "write TensorBoard files to out/tensorboard too")
    allow_config_change: tuple[str, ...] = option((), "keys that may differ from those the run was begun with")
    on_bad_image: str = option(
        "default", "images that cannot be read: stop, or skip and count them", among=("default", "stop", "skip")
    )
    on_save_error: str = option("stop", "a checkpoint that cannot be written: stop or warn", among=("stop", "warn"))
    verify: bool = option(True, "take up only checkpoints whose files match their hashes")
    timeout: float = option(600.0, "seconds that ranks wait for one another", above=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", chosen(self.device))


@click.command(
    name="train",
    help="Train one process and keep it in a run's folder.\n\n"
    + examples(
        "genflow train --process pfgm --out runs/pfgm",
        "genflow train --process vp_ode --backbone mlp --dataset checkerboard --train-steps 2000 --out runs/board",
        "genflow train --process pfgm --backbone-options ncsnv2.classes=10 --out runs/classes",
        "torchrun --nproc-per-node 2 -m -- genflow train --process pfgm --out runs/pfgm",
    )
    + "\nThe same command goes on where an interrupted one stopped. Ctrl-C or SIGTERM finishes the step, saves and "
    "says how to go on; a second one stops at once.",
)
@config_options(ModelConfig)
def train_command(config_file: Path | None, **given: Any) -> int:
    config, _ = resolve(ModelConfig, config_file, given)
    outcome = run_training(config)
    if outcome.signal:
        if outcome.leads:
            line = command_line(outcome.ranks)
            click.echo(f"\ngenflow: stopped at step {outcome.result.steps}. Go on with:\n  {line}", err=True)
        return 128 + outcome.signal
    if outcome.leads:
        losses = outcome.result.losses
        loss = f"loss {losses[-1]['smoothed_loss']:.4f}, " if losses else ""
        say(f"checkpoint: {config.out} ({loss}step {outcome.result.steps})")
    return 0


@dataclass(frozen=True)
class Outcome:
    """What came of a run: its result, the signal that ended it (0: none), whether this rank prints, of how many."""

    result: TrainResult
    signal: int
    leads: bool
    ranks: int


def run_training(config: ModelConfig) -> Outcome:
    """Trains, with a progress bar on the first rank, and keeps the run in its folder."""
    from genflow.devices import check_device, launched
    from genflow.distributed import open_team
    from genflow.signals import StopFlag

    out = Path(config.out)
    for key in ("process", "backbone", "dataset"):
        check_owners(f"{key}_options", getattr(config, f"{key}_options"), [getattr(config, key)])
    check_device(config.device)
    check_run_folder(out)
    parts = build_parts(config)
    if config.tensorboard:
        check_tensorboard()
    fresh = not out.exists()
    make_folder(out)
    check_writable(out)
    patience = 2.0 if launched() else 0.0
    with StopFlag(patience) as stop, open_team(config.device, config.timeout) as team, ExitStack() as held:
        if team.leads:
            held.enter_context(locked(out, fresh))
            say_device()
            say_classes(config, parts)
        result = _train(config, parts, team, stop)
        return Outcome(result, 0 if result.finished else stop.number, team.leads, team.size)


def build_parts(config: ModelConfig) -> tuple[Process, Any, Dataset]:
    """Process, fitted to the data, network and data set; what does not fit is refused before anything is written."""
    import genflow
    from genflow.memory import check_room
    from genflow.training import check_data, check_pairs, in_range

    dataset = genflow.get_dataset(config.dataset, **data_options(config))
    process = genflow.get_process(config.process, **config.process_options.get(config.process, {}))
    with in_range(process, dataset):
        process = process.for_data(dataset.fitting_points())
    options = config.backbone_options.get(config.backbone, {})
    backbone = genflow.get_backbone(
        config.backbone, shape=dataset.shape, extra_channels=process.extra_channels, **options
    )
    check_data(dataset, getattr(backbone, "classes", 0))
    check_pairs(process, dataset)
    example = 4 * math.prod(dataset.shape)
    check_room("train.batch_size", config.train.batch_size, 4 * example)  # x, x_t, target and output
    if config.snapshot_every:
        check_room("snapshot_n", config.snapshot_n, 2 * example)
    return process, backbone, dataset


def say_classes(config: ModelConfig, parts: tuple[Process, Any, Dataset]) -> None:
    """Prints the classes that the network is conditioned on, and warns where they do not help or go unused."""
    _, backbone, dataset = parts
    known, names = getattr(backbone, "classes", 0), dataset.class_names
    shown = ", ".join(f"{i} = {name}" for i, name in enumerate(names[:20])) + (", ..." if len(names) > 20 else "")
    if known:
        say(f"classes: {shown}")
    if known and len(names) == 1:
        one = f"there is only one class, '{names[0]}', which holds no information"
        LOG.warning("%s; leave %s.classes out", one, config.backbone)
    elif known > len(names):
        both = f"the backbone takes {known} classes, and the data set has {len(names)}"
        LOG.warning("%s: the others are not trained", both)


def data_options(config: ModelConfig) -> dict[str, Any]:
    """Options of the data set, what to do with bad images among them."""
    given = config.dataset_options.get(config.dataset, {})
    return given if config.on_bad_image == "default" else {**given, "on_bad_image": config.on_bad_image}


def check_run_folder(out: Path) -> None:
    """Raises ConfigError where a run cannot be kept, before hours are spent."""
    from genflow.bench.store import Store
    from genflow.checkpoint import MANIFEST

    check_folder(out)
    if (out / MANIFEST).exists():
        raise ConfigError(f"out = '{out}' is a checkpoint, not the folder of a run; choose another folder")
    if Store(out).cells.exists():
        raise ConfigError(f"out = '{out}' holds a bench, not a run; choose another folder")


@contextmanager
def locked(out: Path, fresh: bool) -> Iterator[None]:
    """Holds a run's folder, so that no second training writes to it.

    Arguments:
        out: The folder.
        fresh: Whether it was made for this run; then it goes again where an error leaves nothing in it.
    """
    from genflow.bench.store import Store

    with Store(out).lock():
        try:
            yield
        except BaseException:
            if fresh and [path.name for path in out.glob("*")] == [".lock"]:
                shutil.rmtree(out, ignore_errors=True)
            raise


def _train(config: ModelConfig, parts: tuple[Process, Any, Dataset], team: Team, stop: Any) -> TrainResult:
    """The run itself."""
    import yaml
    from tqdm import tqdm

    from genflow.checkpoint import describe, with_places
    from genflow.training import Keeping, train

    out, (process, backbone, dataset) = Path(config.out), parts
    about = describe(config.process, process, config.backbone, backbone, dataset)
    about |= {"dataset": {"name": config.dataset, "options": with_places(data_options(config))}}
    keeping = Keeping(
        root=out,
        about=about,
        keep=config.keep,
        on_save_error=config.on_save_error,
        allow=config.allow_config_change,
        verify=config.verify,
        last=True,
        notes={"config.yaml": yaml.safe_dump(to_dict(config), sort_keys=False)},
    )
    shown = None if team.leads else True
    bar = tqdm(total=config.train.steps, unit="step", disable=shown, dynamic_ncols=True)
    with bar, Watcher(config, dataset) as watcher:

        def watch(run: Run) -> None:
            bar.update(run.trainer.step - bar.n)
            watcher(run)

        return train(
            process,
            backbone,
            dataset,
            config.train,
            seed=config.seed,
            device=config.device,
            state=keeping,
            should_stop=stop.is_set,
            watch=watch,
            team=team,
            fit=False,
        )


class Watcher:
    """Writes sample grids, in the data set's levels, and TensorBoard files while a run goes on."""

    def __init__(self, config: ModelConfig, dataset: Dataset) -> None:
        self.config, self.dataset, self.out = config, dataset, Path(config.out)
        self.lines = 0
        self.board = check_tensorboard()(str(self.out / "tensorboard")) if config.tensorboard else None

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def __call__(self, run: Run) -> None:
        """After a step: what is due."""
        step, every = run.trainer.step, self.config.snapshot_every
        if self.board is not None and len(run.losses) > self.lines:
            line = run.losses[-1]
            for name in ("loss", "smoothed_loss", "lr", "gradient_norm", "seconds_per_kimg", "peak_memory_mib"):
                self.board.add_scalar(name, line[name], step)
            self.lines = len(run.losses)
        if every and (step % every == 0 or step == self.config.train.steps):
            self.draw(run)

    def draw(self, run: Run) -> None:
        """A grid of samples of the averaged weights."""
        import genflow
        from genflow.report.pictures import save_samples

        config, trainer = self.config, run.trainer
        solver = {"ode": "heun", "sde": "euler_maruyama"}[trainer.process.mode]
        with trainer.averaged() as network:
            solution = genflow.sample(
                trainer.process,
                network,
                solver,
                config.snapshot_n,
                nfe=config.snapshot_nfe,
                seed=config.seed,
                device=config.device,
            )
        make_folder(self.out / "samples")
        raw = self.dataset.scaling.decode(solution.x).numpy()
        save_samples(self.out / "samples" / f"step-{trainer.step:08d}.png", raw, self.dataset.scaling.levels)


def check_tensorboard() -> Any:
    """TensorBoard's writer; raises ConfigError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "tensorboard is not installed: pip install 'genflow[tensorboard]', or leave --tensorboard out; "
            "stats.jsonl has the same numbers"
        ) from None
    return SummaryWriter
