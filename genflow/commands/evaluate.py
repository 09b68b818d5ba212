"""`genflow evaluate`: the bench's metrics on one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from genflow.commands.loaded import DATASET_OPTIONS_HELP, ModelOptions, open_data, open_model, open_solver
from genflow.commands.options import config_command
from genflow.commands.paths import check_out, make_folder
from genflow.config import BenchConfig, ConfigError, LikelihoodConfig, NormConfig, Options, check_owners, option
from genflow.registry import registries
from genflow.shared_options import interval_option


@dataclass(frozen=True)
class EvaluateConfig(ModelOptions):
    """Metrics of one checkpoint."""

    metric: tuple[str, ...] = option(("fd", "norm_z", "bpd"), "what to measure", registry="metrics")
    samples: int = option(1000, "samples; distances are means over blocks of the test split's size", least=2)
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


def run_evaluate(config: EvaluateConfig) -> str:
    """Measures, writes the table, and returns what to print, "" on ranks that do not."""
    from tqdm import tqdm

    from genflow.bench.single import SingleWorker
    from genflow.bench.tables import tables, to_csv
    from genflow.checkpoint import write_file
    from genflow.distributed import open_team
    from genflow.evaluate.checks import check_metrics

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
    assert opened.data is not None  # or it could not be opened
    name = opened.data["name"]
    bench = BenchConfig(
        terms="published",
        process=(opened.name,),
        backbone=opened.about["backbone"]["name"],
        dataset=name,
        dataset_options={name: {**opened.data["options"], **config.dataset_options.get(name, {})}},
        solver=(config.solver,),
        nfe=(config.nfe,),
        seed=(config.seed,),
        samples=config.samples,
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


evaluate_command = config_command(
    "evaluate",
    EvaluateConfig,
    run_evaluate,
    "Measure one checkpoint with the bench's metrics, print tables and write a .csv file.",
    "genflow evaluate --checkpoint runs/pfgm",
    "genflow evaluate --checkpoint runs/pfgm --metric fd --solver rk45 --samples 500 --out fd.csv",
)
