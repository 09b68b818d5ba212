"""`genflow evaluate`: the bench's metrics on one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from genflow.commands.loaded import DATASET_OPTIONS_HELP, ModelOptions, open_data, open_model, open_solver
from genflow.commands.options import config_command
from genflow.commands.paths import check_out, make_folder
from genflow.config import BenchConfig, ConfigError, LikelihoodConfig, NormConfig, Options, build, check_owners, option
from genflow.places import expand
from genflow.registry import registries
from genflow.shared_options import interval_option, reference_option

if TYPE_CHECKING:
    from genflow.checkpoint import Opened


@dataclass(frozen=True)
class EvaluateConfig(ModelOptions):
    """Metrics of one checkpoint."""

    metric: tuple[str, ...] = option(("fd", "norm_z", "bpd"), "what to measure", registry="metrics")
    samples: str = option(
        "1000",
        "how many to draw (distances are means over blocks of the test split's size), or a PLACE that holds samples: a "
        "folder, zip, .npy, .npz, CSV or parquet file, measured in place of a checkpoint's",
    )
    dataset: str = option("", "what samples of a PLACE are compared with", registry="datasets")
    reference: str = reference_option()
    solver: str = option("heun", "solver of the samples", registry="solvers")
    nfe: int = option(20, "backbone calls per sample (fixed-step solvers)", least=1)
    metric_options: Options = option({}, "NAME.OPTION=VALUE of a metric", registry="metrics")
    dataset_options: Options = option({}, DATASET_OPTIONS_HELP, registry="datasets")
    inception: str = option(
        "", "file of Inception's weights; else $GENFLOW_WEIGHTS_DIR and the cache are searched", place=True
    )
    norm: NormConfig = field(default_factory=NormConfig)
    bpd: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    sample_batch: int = option(
        250, "samples at a time; changes them only under options like rk45.control=batch and pc.norms=batch", least=1
    )
    guidance: float = option(1.0, "guidance of the samples; other than 1 takes two calls where it acts", least=0)
    guidance_interval: tuple[float, ...] = interval_option()
    guide: tuple[str, ...] = option((), "folder of a weaker checkpoint to guide away from", place=True)
    out: str = option("evaluation.csv", "file to write, .csv, one row per number with its protocol", place=True)


def _bench(config: EvaluateConfig, opened: Opened, samples: int, out: Path) -> BenchConfig:
    """The bench of one model that measures it."""
    assert opened.data is not None  # or it could not be opened
    name = opened.data["name"]
    return BenchConfig(
        terms="published",
        process=(opened.name,),
        backbone=opened.about["backbone"]["name"],
        dataset=name,
        dataset_options={name: {**opened.data["options"], **config.dataset_options.get(name, {})}},
        solver=(config.solver,),
        nfe=(config.nfe,),
        seed=(config.seed,),
        samples=samples,
        reference=config.reference,
        metric=config.metric,
        solver_options=config.solver_options,
        metric_options=config.metric_options,
        inception=config.inception,
        norm=config.norm,
        bpd=config.bpd,
        sample_batch=config.sample_batch,
        guidance=config.guidance,
        guidance_interval=config.guidance_interval,
        guide=config.guide,
        device=config.device,
        **config.network,
        out=str(out.parent),
    )


@dataclass(frozen=True)
class _Count:
    """--samples as a number."""

    samples: int = option(1000, "", least=2)


def run_evaluate(config: EvaluateConfig) -> str:
    """Measures, writes the table, and returns what to print, "" on ranks that do not."""
    from tqdm import tqdm

    from genflow.bench.rows import to_csv
    from genflow.bench.single import SingleWorker
    from genflow.bench.tables import tables
    from genflow.checkpoint import write_file
    from genflow.distributed import open_team
    from genflow.evaluate.checks import check_metrics

    if not config.samples.isdecimal():
        return _measure_place(config)
    if config.dataset:
        raise ConfigError("dataset goes with --samples PLACE; a checkpoint names its own data set")
    samples = build(_Count, {"samples": int(config.samples)}).samples
    out = check_out(config.out, (".csv",))
    if len(set(config.metric)) != len(config.metric):
        raise ConfigError(f"metric lists a name twice: {', '.join(config.metric)}")
    for name in config.metric:
        registries()["metrics"].entry(name)
    check_owners("solver_options", config.solver_options, [config.solver, config.norm.solver])
    check_owners("metric_options", config.metric_options, config.metric)
    own = {k: v for k, v in config.solver_options.items() if k == config.solver}
    open_solver(config.solver, own, config.nfe)
    opened = open_model(config)
    data = open_data(opened, config.dataset_options)
    bench = _bench(config, opened, samples, out)
    check_metrics(bench, data)
    opened.warn_of_other(data)
    process = opened.sampler(data)
    bar = tqdm(bar_format="measuring: {desc}", disable=None, leave=False)
    with open_team(config.device) as team, bar:

        def tick(share: float, note: str) -> None:
            bar.set_description(f"{share:.0%}", refresh=True)

        rows = SingleWorker(bench, process, opened.backbone, data, team).rows(tick)
        if not team.leads:
            return ""
    make_folder(out.parent)
    write_file(out, to_csv(rows))
    return "\n".join([*(table.markdown() for table in tables(rows)), str(out)])


def _measure_place(config: EvaluateConfig) -> str:
    """The same for samples that are at a place already."""
    import genflow
    from genflow.bench.external import External
    from genflow.bench.rows import to_csv
    from genflow.bench.single import measure_external
    from genflow.bench.tables import tables
    from genflow.checkpoint import write_file
    from genflow.evaluate.checks import check_metrics
    from genflow.evaluate.facts import needs

    out, place = check_out(config.out, (".csv",)), config.samples
    if not expand(place).exists():
        raise ConfigError(f"samples = '{place}' is neither a number nor a place that exists")
    if not config.dataset:
        raise ConfigError(f"samples = '{place}' are compared with a data set; give --dataset NAME")
    if config.guidance != 1:
        raise ConfigError("guidance is for samples that genflow draws; leave it out")
    check_owners("dataset_options", config.dataset_options, [config.dataset])
    entries = [registries()["metrics"].entry(name) for name in config.metric]
    check_owners("metric_options", config.metric_options, config.metric)
    of_models = [entry.name for entry in entries if needs(entry) == "model"]
    metrics = tuple(entry.name for entry in entries if entry.name not in of_models)
    if not metrics:
        raise ConfigError(f"nothing to measure: {', '.join(of_models)} need a model; give --metric fd, for example")
    data = genflow.get_dataset(config.dataset, **config.dataset_options.get(config.dataset, {}))
    given = External(expand(place).stem, place)
    bench = BenchConfig(
        terms="published",
        dataset=config.dataset,
        dataset_options=config.dataset_options,
        seed=(config.seed,),
        metric=metrics,
        metric_options={name: own for name, own in config.metric_options.items() if name in metrics},
        reference=config.reference,
        inception=config.inception,
        device=config.device,
        **config.network,
        out=str(out.parent),
    )
    rows = measure_external(bench, given, data, lambda checked: check_metrics(checked, data))
    make_folder(out.parent)
    write_file(out, to_csv(rows))
    left = [f"{', '.join(of_models)}: not measured, since there is no model"] if of_models else []
    return "\n".join([*(table.markdown() for table in tables(rows)), *left, str(out)])


evaluate_command = config_command(
    "evaluate",
    EvaluateConfig,
    run_evaluate,
    "Measure one checkpoint with the bench's metrics, print tables and write a .csv file.",
    "genflow evaluate --checkpoint runs/pfgm",
    "genflow evaluate --samples folder_of_images --dataset cifar10 --metric fid,prdc",
    "genflow evaluate --checkpoint runs/pfgm --metric fd --solver rk45 --samples 500 --out fd.csv",
)
