"""What metrics need is asked before any work: tiny, constant and odd data give a number, or a sentence that helps."""

import json
import math

import pytest
import torch

import genflow
from genflow.bench.execute import Assignment, execute
from genflow.bench.single import SingleWorker
from genflow.bench.worker import Worker
from genflow.config import BenchConfig, ConfigError, flatten
from genflow.data.base import Dataset, Scaling
from genflow.evaluate.checks import check_metrics, more_examples
from genflow.registry import registries

SCALINGS = {4: None, 1: Scaling.grey(17), 3: Scaling.grey(256)}


class Odd(Dataset):
    """Examples of any shape and number, or one example again and again.

    Arguments:
        shape: Of an example.
        train, test: How many.
        constant: Whether all are alike.
    """

    name = "odd"

    def __init__(self, shape, train=20, test=12, constant=False, labelled=True):
        self.shape, self.counts, self.constant = tuple(shape), {"train": train, "test": test}, constant
        self.scaling = Scaling.grey(17 if self.shape == (1, 8, 8) else 256) if len(shape) == 3 else Scaling()
        self.classes = int(labelled)

    def _draw(self, split):
        draws = torch.Generator().manual_seed(int(split == "test"))
        count = self.counts[split]
        if self.scaling.levels:
            raw = torch.randint(0, self.scaling.levels, (count, *self.shape), generator=draws).float()
        else:
            raw = torch.randn(count, *self.shape, generator=draws)
        return raw[:1].expand_as(raw).clone() if self.constant else raw

    train = property(lambda self: self._draw("train"))
    test = property(lambda self: self._draw("test"))

    def labels(self, split):
        return torch.zeros(self.counts[split], dtype=torch.int64) if self.classes else None


KINDS = {
    "none held out": {"shape": (2,), "test": 0},
    "one held out": {"shape": (2,), "test": 1},
    "two held out": {"shape": (2,), "test": 2},
    "three held out": {"shape": (2,), "test": 3},
    "one image held out": {"shape": (1, 8, 8), "test": 1},
    "three images held out": {"shape": (3, 8, 8), "test": 3},
    "one to train on": {"shape": (2,), "train": 1},
    "three to train on": {"shape": (2,), "train": 3},
    "constant vectors": {"shape": (2,), "constant": True},
    "constant images": {"shape": (3, 8, 8), "constant": True},
    "one number": {"shape": (1,)},
    "vectors": {"shape": (5,)},
    "sequences": {"shape": (4, 5)},
    "grey images": {"shape": (1, 8, 8)},
    "two channels": {"shape": (2, 8, 8)},
    "colour images": {"shape": (3, 8, 8)},
    "no labels": {"shape": (2,), "labelled": False},
    "large images": {"shape": (3, 24, 24)},
}
METRICS = list(registries()["metrics"].entries())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GENFLOW_WEIGHTS_DIR", str(tmp_path))


def bench(metric, samples=8):
    more = {"backbone": "mlp", "dataset": "odd", "solver": ("euler",), "nfe": (2,)}
    return BenchConfig(process=("vp_ode",), samples=samples, metric=(metric,), **more)


def passes(config, data, metric):
    """Whether the check lets it; where not, in a sentence of the metric."""
    refusal = None
    try:
        check_metrics(config, data)
    except ConfigError as error:
        refusal = str(error)
    assert refusal is None or (metric in refusal and len(refusal) > 40)
    return refusal is None


@pytest.mark.quick_one_in(37)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_gives_a_number_or_a_sentence_before_any_work(metric, kind):
    """What passes the check is measured: numbers, or rows that name the weights that are not here."""
    data, config = Odd(**KINDS[kind]), bench(metric)
    if not passes(config, data, metric):
        return
    process = genflow.get_process("vp_ode").for_data(data.fitting_points())
    backbone = genflow.get_backbone("mlp", shape=data.shape, extra_channels=0, width=4, depth=1).eval()
    rows = SingleWorker(config, process, backbone, data).rows(lambda share, note: None)
    assert rows
    for row in rows:
        assert row["value"] is not None or "inception" in row["protocol"].lower(), json.dumps(row)
        assert row["value"] is None or math.isfinite(row["value"])


@pytest.mark.parametrize("metric", METRICS)
def test_a_worker_refuses_every_metric_before_it_trains(metric):
    """One example is held out: the check that comes before a bench's first task names the metric."""
    worker = Worker(bench(metric), lambda: False)
    worker.dataset = Odd((2,), test=1)
    with pytest.raises(ConfigError, match=metric):
        worker.check()
    seen = []
    given = Assignment(flatten(bench(metric)), {}, None, 1, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "dataset", worker.dataset)
        patch.setattr(Worker, "run", lambda *task: seen.append(task))
        word, why = execute(given, lambda share, note: None, lambda: False)
    assert (word, seen) == ("refused", [])
    assert metric in why


@pytest.mark.parametrize("kind", ["one held out", "one image held out", "one to train on"])
def test_a_covariance_of_one_is_refused_with_the_split(kind):
    for metric in ("fd", "norm_z", "two_sample"):
        split = "train" if "train" in kind else "test"
        with pytest.raises(ConfigError, match=rf"{metric} needs at least .*{split} split of 'odd', which has 1"):
            check_metrics(bench(metric), Odd(**KINDS[kind]))


@pytest.mark.parametrize("metric", ["fid", "kid", "is", "inception"])
def test_data_without_a_meaning_are_refused_as_such_however_few(metric):
    """No option that gives more examples would help; beside another metric it is left out."""
    few = Odd((2,), train=3, test=3)
    with pytest.raises(ConfigError, match=rf"nothing to measure: {metric}: Inception takes images"):
        check_metrics(bench(metric), few)
    check_metrics(BenchConfig(metric=("fd", metric), samples=8, process=("vp_ode",)), few)


@pytest.mark.parametrize(("metric", "least"), [("two_sample", 5), ("prdc", 6), ("fd", 2)])
def test_the_least_is_enough_and_one_less_is_not(metric, least):
    shape = (2,)
    check_metrics(bench(metric, least), Odd(shape, least, least))
    for data, samples in ((Odd(shape, least - 1, least), least), (Odd(shape, least, least - 1), least)):
        with pytest.raises(ConfigError, match=f"{metric} needs at least {least} examples"):
            check_metrics(bench(metric, samples), data)
    if least > 2:
        with pytest.raises(ConfigError, match=f"samples = {least - 1} is too few: {metric} needs at least {least}"):
            check_metrics(bench(metric, least - 1), Odd(shape, least, least))


def test_points_that_coincide_name_the_bandwidth():
    with pytest.raises(ConfigError, match=r"two_sample.*coincide.*two_sample\.bandwidth"):
        check_metrics(bench("two_sample"), Odd((2,), constant=True))


def test_a_metric_that_means_nothing_beside_others_is_named_and_left(caplog):
    config = BenchConfig(metric=("fd", "fid"), samples=8, process=("vp_ode",))
    check_metrics(config, Odd((2,)))
    assert "fid: Inception takes images" in caplog.text
    with pytest.raises(ConfigError, match=r"nothing to measure: fid: .*images"):
        check_metrics(bench("fid"), Odd((2,)))


def test_the_options_that_give_more_examples_are_those_of_the_data_set():
    assert "images.test_share" in more_examples("images", "test")
    assert "more of it" in more_examples("images", "test")
    assert "less of it" in more_examples("images", "train")
    assert "images.test_path" in more_examples("images", "test")
    assert "size" not in more_examples("images", "test")  # that is the size of each image
    assert more_examples("digits", "test") == ""
    assert "checkerboard.size" in more_examples("checkerboard", "test")


@pytest.mark.slow
def test_eight_own_images(tmp_path, monkeypatch, capsys):
    """The test split holds one: no metric is begun, and the message names the share that is held out."""
    import sys

    import numpy as np
    from PIL import Image

    from genflow import cli

    (tmp_path / "own").mkdir()
    for i in range(8):
        Image.fromarray(np.full((8, 8, 3), 30 * i, dtype=np.uint8)).save(tmp_path / "own" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    line = "train --backbone mlp --backbone-options mlp.width=4 --train-steps 1 --train-batch-size 4 --dataset images"
    monkeypatch.setattr(sys, "argv", ["genflow", *line.split(), "--dataset-options", "images.path=own", "--out", "m"])
    assert cli.run() == 0
    for metric in ("two_sample", "fd"):
        words = f"evaluate --checkpoint m --metric {metric} --samples 10 --nfe 2"
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["genflow", *words.split()])
        assert cli.run() == 2
        text = capsys.readouterr().err
        assert f"{metric} needs at least" in text
        assert "in the test split of 'images', which has 1" in text
        assert "--dataset-options images.test_share" in text
    monkeypatch.setattr(sys, "argv", ["genflow", *words.split(), "--dataset-options", "images.test_share=0.5"])
    assert cli.run() == 0
