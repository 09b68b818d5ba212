"""`genflow statistics`: mean and covariance of a data set's features, for --reference."""

from __future__ import annotations

from dataclasses import dataclass

from genflow.commands.options import config_command
from genflow.commands.paths import check_out, make_folder
from genflow.config import ConfigError, Options, check_owners, option
from genflow.registry import registries
from genflow.shared_options import TrainedNetworkConfig


@dataclass(frozen=True)
class StatisticsConfig(TrainedNetworkConfig):
    """Reference statistics of a data set."""

    dataset: str = option("digits", "whose features", registry="datasets")
    dataset_options: Options = option({}, "NAME.OPTION=VALUE of the data set", registry="datasets")
    split: str = option("train", "train or test", among=("train", "test"))
    features: str = option("own", "own, digits, mnist, tiny, identity, inception, or a TorchScript file")
    mode: str = option("clean", "Inception's protocol: clean, legacy_tensorflow or legacy_pytorch")
    inception: str = option(
        "", "file of Inception's weights; else $GENFLOW_WEIGHTS_DIR and the cache are searched", place=True
    )
    out: str = option("statistics.npz", "file to write, .npz with mu, sigma and n", place=True)


def run_statistics(config: StatisticsConfig) -> str:
    """Computes the statistics, writes them, and returns a line that says of what."""
    import genflow
    from genflow.evaluate.checks import NotMeasurable
    from genflow.evaluate.reference import reference, save_published
    from genflow.evaluate.spaces import check_features, check_mode, space_for
    from genflow.evaluate.weight_files import sha256

    out = check_out(config.out, (".npz",))
    check_features(config.features)
    check_mode(config.mode)
    registries()["datasets"].entry(config.dataset)
    check_owners("dataset_options", config.dataset_options, [config.dataset])
    data = genflow.get_dataset(config.dataset, **config.dataset_options.get(config.dataset, {}))
    try:
        space = space_for(config.features, data, mode=config.mode, inception=config.inception, device=config.device)
    except NotMeasurable as reason:
        raise ConfigError(f"features = '{config.features}': {reason}") from None
    if data.count(config.split) < 2:
        raise ConfigError(f"the {config.split} split of '{config.dataset}' has {data.count(config.split)} example(s)")
    moments, _ = reference(data, config.split, space)
    make_folder(out.parent)
    save_published(out, moments, features=space.digest, of=f"{config.split} split of {config.dataset}")
    return (
        f"{out}: mean and covariance of the {config.split} split of {config.dataset} (n = {moments.n}), "
        f"d = {len(moments.mean)}, {space.about}, sha256 {sha256(out)[:12]}"
    )


statistics_command = config_command(
    "statistics",
    StatisticsConfig,
    run_statistics,
    "Write the mean and covariance of a data set's features, which evaluate and bench read by --reference.",
    "genflow statistics --dataset digits --out digits.npz",
    "genflow statistics --dataset images --dataset-options images.path=photos --features inception --out photos.npz",
    "genflow evaluate --checkpoint runs/pfgm --metric fd --reference digits.npz",
)
