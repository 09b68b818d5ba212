"""`genflow average`: a checkpoint with another average of a run's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genflow.commands.options import config_command
from genflow.commands.paths import check_folder
from genflow.config import ConfigError, option

if TYPE_CHECKING:
    from genflow.training.averages import Snapshot, Weights


@dataclass(frozen=True)
class AverageConfig:
    """Another average of the weights of one run."""

    run: str = option("runs/model", "folder of a run that genflow train wrote", place=True)
    decay: float = option(0.0, "decay of an average kept by train.more_ema; 0: none", least=0, below=1)
    width: float = option(
        0.0, "relative width of a post-hoc average, from train.posthoc; 0: none", least=0, below=0.288
    )
    step: int = option(0, "step at which a post-hoc average ends; 0: the last snapshot", least=0)
    out: str = option("runs/average", "checkpoint folder to write", place=True)


def run_average(config: AverageConfig) -> str:
    """Writes the checkpoint; returns a line that says what it holds."""
    from genflow.checkpoint import STATE, check_tensors, open_checkpoint, save

    if bool(config.decay) == bool(config.width):
        raise ConfigError("give either decay, for an average that was kept, or width, for a post-hoc one")
    root = Path(config.run)
    check_folder(Path(config.out))
    opened = open_checkpoint(root)
    state, backbone = opened.tensors(STATE), opened.backbone
    weights, what = _kept(state, config.decay) if config.decay else _posthoc(root, config)
    check_tensors(f"the average of {root} does not fit its network", weights, dict(backbone.named_parameters()))
    save(config.out, {**opened.about, "average": what}, {**backbone.state_dict(), **weights})
    return f"checkpoint: {config.out} ({what})"


def _kept(state: Weights, decay: float) -> tuple[Weights, str]:
    kinds = sorted({name.partition("/")[0] for name in state if name.startswith("ema-")})
    kind = f"ema-{decay:g}"
    if kind not in kinds:
        known = ", ".join(k.removeprefix("ema-") for k in kinds) or "none; train with train.more_ema"
        raise ConfigError(f"decay = {decay:g} was not kept in this run; kept beside the main one: {known}")
    found = {name.removeprefix(f"{kind}/"): value for name, value in state.items() if name.startswith(f"{kind}/")}
    return found, f"EMA of decay {decay:g}"


def _posthoc(root: Path, config: AverageConfig) -> tuple[Weights, str]:
    from genflow.training.averages import posthoc

    found = snapshots(root)
    step = config.step or max((s.step for s in found), default=0)
    what = f"post-hoc EMA of relative width {config.width:g} at step {step}, from {len(found)} snapshots"
    return posthoc(found, config.width, step), what


def snapshots(root: Path) -> list[Snapshot]:
    """All snapshots of a run's folder.

    Raises:
        CheckpointError: One is damaged; the file is named.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    from genflow.checkpoint import CheckpointError, read_folder
    from genflow.training.averages import Snapshot
    from genflow.training.run import SNAPSHOTS

    found = []
    for folder in sorted((root / SNAPSHOTS).glob("step-*")):
        if folder.name.removeprefix("step-").isdecimal():
            for name, content in read_folder(folder).items():
                try:
                    width = float(name.removeprefix("power-").removesuffix(".safetensors"))
                    found.append(Snapshot(width, int(folder.name.removeprefix("step-")), from_bytes(content)))
                except (ValueError, SafetensorError) as error:
                    raise CheckpointError(f"{folder / name} is not a snapshot: {error}") from None
    return found


average_command = config_command(
    "average",
    AverageConfig,
    run_average,
    "Write a checkpoint with another average of a run's weights.",
    "genflow train --process pfgm --train-more-ema 0.9,0.999 --train-posthoc 0.05,0.1 --out runs/pfgm",
    "genflow average --run runs/pfgm --decay 0.999 --out runs/pfgm_0.999",
    "genflow average --run runs/pfgm --width 0.15 --out runs/pfgm_w0.15",
    after="Post-hoc EMA: any relative width, after training, from snapshots of two (Karras et al. 2024, "
    "arXiv:2312.02696).",
)
