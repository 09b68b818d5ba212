"""A saved state is refused by a run of other training data, or of the same in another order, and says so."""

import json

import pytest
import torch

import genflow
from genflow.checkpoint import FACTS, MANIFEST, read_folder, write_folder
from genflow.config import TrainConfig
from genflow.data.base import Dataset, Scaling
from genflow.data.digits import Digits
from genflow.data.paired import PairedDataset
from genflow.training import Keeping, train
from genflow.training.identity import RefusedError, alike, marks

CONFIG = TrainConfig(steps=4, batch_size=16, warmup=2, log_every=1)


class Own(Dataset):
    """Images and labels that are given."""

    name, shape, scaling = "own", (1, 8, 8), Scaling(scale=1.0)

    def __init__(self, rows, labels=None, **changes):
        self.train, self.test, self.given = rows, rows[:5], labels
        self.classes = 0 if labels is None else 3
        vars(self).update(changes)

    def labels(self, split):
        return self.given


ROWS = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(60) % 3


def run(data, root, steps=4, allow=(), classes=0, process="vp_ode", **options):
    """Trains; the first call begins a run, the next resumes it."""
    backbone = genflow.get_backbone("mlp", shape=data.shape, width=8, depth=1, classes=classes)
    config = TrainConfig(**{**vars(CONFIG), "steps": steps})
    keeping = Keeping(root, last=True, allow=("train.steps", *allow))
    return train(genflow.get_process(process, **options), backbone, data, config, state=keeping)


OTHER = {
    "rows in another order": (lambda: Own(ROWS.flip(0)), "dataset.examples"),
    "one column moved": (lambda: Own(ROWS.roll(1, -1)), "dataset.examples"),
    "more rows": (lambda: Own(torch.cat([ROWS, ROWS[:1]])), "dataset.count was 60 and is 61"),
    "other grey levels": (lambda: Own(ROWS / 2), "dataset.examples"),
    "another scaling": (lambda: Own(ROWS, scaling=Scaling(scale=2.0)), "dataset.scaling was"),
    "flipped": (lambda: Own(ROWS, flip=True), "dataset.flip was False and is True"),
}


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("name", OTHER)
def test_other_training_data_are_refused_by_name_and_taken_where_they_are_allowed(name, tmp_path):
    make, says = OTHER[name]
    run(Own(ROWS), tmp_path / "run")
    with pytest.raises(RefusedError, match=says) as caught:
        run(make(), tmp_path / "run", steps=5)
    assert "--allow-config-change dataset." in str(caught.value)
    assert run(Own(ROWS), tmp_path / "run", steps=5).steps == 5
    assert run(make(), tmp_path / "run", steps=6, allow=("dataset",)).steps == 6


def test_other_labels_count_where_the_backbone_has_classes(tmp_path):
    for classes, refused in ((3, True), (0, False)):
        root = tmp_path / str(classes)
        run(Own(ROWS, LABELS), root, classes=classes)
        other = Own(ROWS, LABELS.flip(0))
        if refused:
            with pytest.raises(RefusedError, match=r"dataset\.labels: the training data are others than before"):
                run(other, root, steps=5, classes=classes)
        else:
            assert run(other, root, steps=5, classes=classes).steps == 5


def test_other_partners_are_refused(tmp_path):
    words = {"process": "si_linear", "coupling": "paired"}
    run(PairedDataset("pairs", ROWS, ROWS * 2, ROWS[:5]), tmp_path / "run", **words)
    with pytest.raises(RefusedError, match=r"dataset\.partners"):
        run(PairedDataset("pairs", ROWS, ROWS * 3, ROWS[:5]), tmp_path / "run", steps=5, **words)


@pytest.fixture
def old(tmp_path):
    """A run whose state says nothing of its data, as older versions of genflow saved it."""
    run(Digits(), tmp_path / "run")
    (folder,) = (tmp_path / "run").glob("step-*")
    files = {name: content for name, content in read_folder(folder).items() if name != MANIFEST}
    facts = json.loads(files[FACTS])
    facts["config"] = {k: v for k, v in facts["config"].items() if not k.startswith("dataset.")}
    write_folder(folder, {**files, FACTS: json.dumps(facts).encode()})
    return tmp_path / "run"


def test_a_state_of_another_numbering_of_rows_says_so(old):
    with pytest.raises(RefusedError, match="may number the training rows in another order") as caught:
        run(Digits(), old, steps=5)
    assert str(caught.value).endswith("--allow-config-change dataset.examples")
    assert "dataset.count" not in str(caught.value)
    assert run(Digits(), old, steps=5, allow=("dataset.examples",)).steps == 5
    assert run(Digits(), old, steps=6).steps == 6  # what was saved since records its data


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("name", sorted(genflow.registry.registries()["datasets"].entries()))
def test_every_data_set_that_is_here_gives_the_same_facts_twice(name):
    try:
        first, second = (genflow.get_dataset(name) for _ in range(2))
        facts = [marks(data.examples("train", torch.arange(8))) for data in (first, second)]
    except (ValueError, RuntimeError, OSError, ImportError):
        pytest.skip("its files are not here")
    assert facts[0] == facts[1]
    assert len(set(facts[0])) > 1


def test_marks_show_the_order_of_entries_and_forgive_rounding_only():
    row = torch.tensor([[1.0, 2.0, 3.0]])
    assert marks(row) == [pytest.approx((1 / 3 + 4 / 3 + 3) / 3)]
    assert alike(marks(row), marks(row * (1 + 1e-7)))
    assert not alike(marks(row), marks(row.flip(1)))
    assert not alike(marks(row), marks(row + 1e-3))
    assert not alike([1.0], [1.0, 1.0])
    assert alike([float("nan")], [float("nan")])
    assert not alike([1.0], None)
