"""Whole studies on two-dimensional data: what they write, what they reuse, and that their parts add up."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from inline_workers import TINY

from genflow.bench.cells import plan
from genflow.bench.worker import Worker
from genflow.claims.papers import get_recipe
from genflow.claims.run import run_study
from genflow.claims.studies import STUDIES, entry, subjects
from genflow.claims.studies.config import UNREAD, StudyConfig, bench_of, settled
from genflow.claims.studies.experiment import Experiment
from genflow.claims.studies.measure import Blocks
from genflow.claims.studies.quantise import early
from genflow.claims.studies.split import parts
from genflow.claims.studies.step_size import check_budget
from genflow.commands.options import resolve
from genflow.config import ConfigError, TrainConfig, build
from genflow.registry import UnknownNameError

TOY = {
    "process": "vp_ode,si_linear",
    "dataset": "checkerboard",
    "dataset_options": "checkerboard.size=60",
    "samples": "120",
    "oracle": "true",
}


def config(name, tmp_path, **given):
    values = {**TOY, "out": str(tmp_path / name), "models": str(tmp_path / "bench"), **given}
    values = {k: v for k, v in values.items() if v is not None}
    return settled(name, build(StudyConfig, values), dict.fromkeys(values, "test"))


def rows(folder):
    with (Path(folder) / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    ("name", "given", "pictures", "count"),
    [
        ("step_size", {"nfe": "2,4", "solver": "euler,heun"}, ["step_size.png"], 8),
        ("noise", {"nfe": "4", "drift_noise": "0.5"}, ["noise.png"], 16),
        ("norm_z", {"nfe": "6"}, ["norms.png", "fates.png", "pushes.png"], None),
        ("dimension", {"process": "pfgmpp", "dims": "1,16,1000", "nfe": "4"}, ["dimension.png"], 3),
    ],
)
def test_a_study_writes_its_folder_and_measures_nothing_twice(tmp_path, name, given, pictures, count):
    asked = config(name, tmp_path, **given)
    found = run_study(name, asked, f"genflow study {name}")
    folder = Path(asked.out)
    written = rows(folder)
    assert all(row["protocol"] and row["study"] == name for row in written)
    assert written[0]["process"] == "data"
    assert {row["backbone"] for row in written[1:]} == {"exact field"}
    assert count is None or len(written) == 1 + count
    for picture in pictures:
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    text = (folder / "README.md").read_text()
    assert f"`genflow study {name}`" in text
    assert entry(name).claimed in text
    assert all(remark in text for remark in found.remarks)
    if entry(name).recipe:  # the recipe judges; the study's own sentence is about the correlation
        assert found.remarks
        assert all("correlation" in one.claim for one in found.verdicts)
    assert all(one.claim.replace("|", "\\|") in text for one in found.verdicts)
    assert "| real test split |" in (folder / "table.md").read_text()
    before = (folder / "results.csv").read_text()
    points = {file: file.stat().st_mtime_ns for file in folder.glob("points/*")}
    run_study(name, asked, f"genflow study {name}")
    assert (folder / "results.csv").read_text() == before
    assert points == {file: file.stat().st_mtime_ns for file in folder.glob("points/*")}


@pytest.mark.slow
def test_bands_are_written_for_both_coordinates_where_they_differ(tmp_path):
    asked = config("norm_z", tmp_path, process="vp_ode,ve_ode", nfe="6")
    run_study("norm_z", asked, "")
    with (Path(asked.out) / "bands.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    kinds = {(row["process"], row["coordinate"], row["of"]) for row in found}
    assert kinds == {
        (p, c, of) for p, c in (("vp_ode", "|x|"), ("vp_ode", "|x|/a"), ("ve_ode", "|x|")) for of in ("train", "path")
    }
    assert all(float(row["q0.1"]) <= float(row["q0.5"]) <= float(row["q0.9"]) for row in found)
    first = next(row for row in found if row["process"] == "ve_ode" and row["of"] == "train")
    assert float(first["sigma"]) == pytest.approx(50, rel=0.01)  # where sampling begins
    assert float(first["q0.5"]) == pytest.approx(50 * 1.1774, rel=0.25)  # the median of a two-dimensional normal's norm


@pytest.mark.slow
def test_budgets_are_spent_exactly(tmp_path):
    asked = config("step_size", tmp_path, nfe="3,4", solver="euler,heun")
    run_study("step_size", asked, "")
    assert [(row["nfe"], row["level"]) for row in rows(asked.out)[1:5]] == [
        ("3.0", "3"), ("4.0", "4"), ("3.0", "3"), ("4.0", "4")
    ]  # fmt: skip
    with pytest.raises(ValueError, match="a budget of 5 was asked for and 6 calls were spent"):
        check_budget(5, 6.0)


@pytest.mark.slow
def test_noise_of_no_size_is_the_plain_sample_and_more_noise_is_worse(tmp_path):
    run_study("noise", config("noise", tmp_path, process="vp_ode", nfe="20", drift_noise="1,3", samples="600"), "")
    found = {(row["setting"], float(row["level"])): float(row["value"]) for row in rows(tmp_path / "noise")[1:]}
    assert found["fresh noise in the drift", 0.0] == found["held noise in the mean", 0.0]
    for way in ("held noise in the drift", "held noise in the mean"):
        assert found[way, 3.0] > found[way, 1.0] > found[way, 0.0]


# ---- trained models ------------------------------------------------------------------------------------------

SMALL = {key: TINY[key] for key in ("backbone", "backbone_options", "train.batch_size", "train.warmup")}
SMALL |= {"oracle": None, "process": "vp_ode,si_linear", "train.steps": "16"}


@pytest.fixture
def trains_in_place(monkeypatch):
    """Benches work in this process; what they did is listed."""
    done = []

    class InPlace:
        def __init__(self, bench, store, report):
            self.worker = Worker(bench, lambda: False)

        def run(self, cells, todo):
            for cell in todo:
                done.append(cell.name)
                self.worker.run(cell.to_json(), lambda share, note: None)

    monkeypatch.setattr(subjects, "Runner", InPlace)
    return done


@pytest.mark.slow
def test_models_of_a_bench_are_used_and_not_trained_again(tmp_path, trains_in_place):
    asked = config("noise", tmp_path, **SMALL, nfe="4", drift_noise="0.5")
    run_study("noise", asked, "")
    assert sorted(trains_in_place) == ["train si_linear seed 0", "train vp seed 0"]
    trains_in_place.clear()
    again = config("quantise", tmp_path, **SMALL, nfe="4", bits="8,3", stages="0")
    run_study("quantise", again, "")
    assert trains_in_place == []
    keys = {cell.key for cell in plan(bench_of(asked)) if cell.kind == "train"}
    assert keys == {path.name for path in (tmp_path / "bench" / "cells").iterdir()}
    run_study("split", config("split", tmp_path, **SMALL, nfe="2,4"), "")
    run_study("step_size", config("step_size", tmp_path, **SMALL, nfe="2,4"), "")
    assert {name.split()[0] for name in trains_in_place} == {"sample"}
    trains_in_place.clear()
    run_study("step_size", config("step_size", tmp_path, **SMALL, nfe="2,4"), "")
    assert trains_in_place == []


@pytest.mark.slow
def test_a_checkpoint_is_studied_as_its_cell_is(tmp_path, trains_in_place):
    one = {**SMALL, "process": "vp_ode", "nfe": "4", "bits": "4", "stages": "0"}
    run_study("quantise", config("quantise", tmp_path, **one), "")
    (folder,) = (tmp_path / "bench" / "cells").iterdir()
    given = {k: v for k, v in one.items() if not k.startswith(("train", "backbone"))}
    other = config("quantise", tmp_path, **given, checkpoint=str(folder), out=str(tmp_path / "other"))
    assert other.backbone == "mlp"
    run_study("quantise", other, "")
    values = [[row["value"] for row in rows(tmp_path / name)] for name in ("quantise", "other")]
    assert values[0] == values[1]


def test_an_early_model_is_the_run_at_that_step(tmp_path, trains_in_place):
    asked = config("quantise", tmp_path, **{**SMALL, "process": "vp_ode"})
    experiment = Experiment("quantise", asked)
    (subject,) = experiment.subjects()
    found = early(experiment, subject, [0.25, 0.5])
    assert sorted(found) == [0.25, 0.5]
    process, backbone = experiment.loader.fresh("vp_ode")
    from genflow.training.loop import Trainer

    trainer = Trainer(process, backbone, experiment.dataset, asked.train, 0, "cpu")
    for step in range(1, 9):
        trainer.advance()
        if step in (4, 8):
            for name, weight in found[step / 16].named_parameters():
                assert torch.equal(weight, trainer.ema[name]), (step, name)
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path / "bench" / "early").rglob("*.safetensors")}
    early(experiment, subject, [0.25, 0.5])
    assert stamps == {f: f.stat().st_mtime_ns for f in (tmp_path / "bench" / "early").rglob("*.safetensors")}


@pytest.mark.slow
def test_networks_are_compared_under_equal_terms(tmp_path, trains_in_place):
    given = {k: v for k, v in SMALL.items() if not k.startswith("backbone")} | {"process": "vp_ode", "nfe": "3"}
    digits = {"dataset": "digits", "dataset_options": None, "samples": "500", "train.steps": "2"}
    asked = config("backbone", tmp_path, **{**given, **digits, "backbones": "mlp,ncsnv2"})
    run_study("backbone", asked, "")
    found = rows(asked.out)[1:]
    assert [(row["backbone"], row["level"]) for row in found] == [("mlp", "mlp"), ("ncsnv2", "ncsnv2")]
    assert "parameters" in found[0]["protocol"]
    with pytest.raises(ConfigError, match="give two"):
        run_study("backbone", config("backbone", tmp_path, **given, backbones="mlp"), "")
    with pytest.raises(UnknownNameError, match="mlp"):
        run_study("backbone", config("backbone", tmp_path, **given, backbones="mpl,mlp"), "")


def pictures(path, seed):
    """Sixty random images under the options that name them."""
    np.save(path, np.random.default_rng(seed).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8))
    return {"dataset": "images", "dataset_options": f"images.path={path}", "process": "vp_ode", "nfe": "2"}


def points(experiment, subject):
    """The distance of a subject's plain samples, and the names of what is kept."""
    (value,) = {experiment.changed(subject, "euler", 2, {}, lambda rows: subject.process, subject.backbone).values}
    return value, {file.name for file in Path(experiment.config.out).glob("points/*")}


def test_other_images_under_the_same_path_are_measured_anew(tmp_path):
    """An exact field is of the images, not of their name."""
    found = []
    for seed in (0, 1, 0):
        experiment = Experiment("noise", config("noise", tmp_path, **pictures(tmp_path / "images.npy", seed)))
        found.append(points(experiment, *experiment.subjects()))
    assert found[0][0] != found[1][0]
    assert found[2] == (found[0][0], found[1][1])
    assert len(found[1][1]) == 2


def test_a_checkpoint_is_measured_anew_against_other_images(tmp_path, trains_in_place):
    given = {**SMALL, **pictures(tmp_path / "images.npy", 0)}
    Experiment("noise", config("noise", tmp_path, **given)).subjects()
    (folder,) = (tmp_path / "bench" / "cells").iterdir()
    found = []
    for seed in (0, 1):
        own = {**pictures(tmp_path / "images.npy", seed), "oracle": None, "checkpoint": str(folder)}
        experiment = Experiment("noise", config("noise", tmp_path, **own))
        found.append(points(experiment, *experiment.subjects()))
    assert found[0][0] != found[1][0]
    assert len(found[1][1]) == 2


def test_damaged_samples_of_a_bench_are_drawn_again(tmp_path, trains_in_place):
    """Studies that draw nothing in the bench's folder read what is there, if it is whole."""
    experiment = Experiment("noise", config("noise", tmp_path, **{**SMALL, "process": "vp_ode", "nfe": "4"}))
    (subject,) = experiment.subjects(draw=True)
    whole = experiment.plain(subject, "heun", 4)
    assert not list(Path(experiment.config.out).glob("points/*"))
    (store,) = {tmp_path / "bench" / "cells" / key for key in subject.sampled.values()}
    (store / "samples.npz").write_bytes((store / "samples.npz").read_bytes()[:-7])
    again = experiment.plain(subject, "heun", 4)
    assert again.values == pytest.approx(whole.values, rel=1e-6)
    assert again.nfe == whole.nfe
    assert len(list(Path(experiment.config.out).glob("points/*"))) == 1


# ---- the parts -----------------------------------------------------------------------------------------------


def test_the_parts_of_an_error_add_up():
    oracle = {5: Blocks((3.0, 5.0)), None: Blocks((1.0, 2.0))}
    network = {5: Blocks((9.0, 12.0)), None: Blocks((4.0, 6.0))}
    found = {name: one.value for name, one in parts({"exact field": oracle, "network": network}, 5).items()}
    assert found["solver"] == 2.5
    assert found["network"] == 3.5
    assert found["together"] == 9.0
    assert found["solver"] + found["network"] + found["beyond their sum"] == found["together"]


@pytest.mark.parametrize("name", [name for name, one in STUDIES.items() if one.recipe])
def test_what_a_recipe_claims_is_judged_by_the_recipe_alone(name):
    """The study says where; what it claims itself no recipe does."""
    recipe = get_recipe(entry(name).recipe)
    assert f"`genflow reproduce {recipe.name}` alone" in entry(name).claimed
    assert recipe.claim.rstrip(".") in entry(name).claimed


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'quantise'"):
        entry("quantize")


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("noise", {"checkpoint": "somewhere"}, "choose one"),
        ("noise", {"noise_kind": "frozen"}, "noise_kind"),
        ("quantise", {"per": "row"}, "unknown per 'row'"),
        ("noise", {"solver": "euler_maruyama"}, "sampled as an ODE"),
        ("quantise", {}, "no weights"),
        ("split", {}, "leave oracle out"),
        ("dimension", {}, "one process"),
        ("noise", {"solver": "rk45"}, "needs a fixed-step solver"),
        ("split", {"reference": "rk4_5"}, "unknown solver 'rk4_5'"),
        ("split", {"reference": "heun"}, "takes fixed steps"),
        ("quantise", {"bits": "99"}, "at most 24"),
        ("norm_z", {"seed": "0,0"}, "seed lists a value twice"),
    ],
)
def test_what_does_not_fit_a_study_is_refused_with_the_reason(tmp_path, name, given, words):
    if name == "dimension":
        given = {"process": "pfgm,pfgmpp"}
    with pytest.raises(ValueError, match=words):
        run_study(name, config(name, tmp_path, **given), "")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("key", UNREAD)
def test_a_key_that_no_study_reads_is_refused_in_a_file_too(tmp_path, key):
    """With the file, its line and the key, as the command line knows no such option."""
    values = {"metric": "[fd]", "metric_options": "{fd: {}}", "allow_mixed": "true", "slurm": "gpu"}
    section, _, name = key.partition(".")
    value = values.get(key, "1.0e-3" if "tol" in key else "7")
    file = tmp_path / "study.yaml"
    file.write_text("samples: 100\n" + (f"{section}:\n  {name}: {value}\n" if name else f"{key}: {value}\n"))
    with pytest.raises(ConfigError, match=rf"study\.yaml:{3 if name else 2}: no study reads the key '{key}'"):
        settled("noise", *resolve(StudyConfig, file, {}))


def test_a_study_starts_from_its_own_defaults_and_heeds_what_is_given():
    plain = settled("step_size", build(StudyConfig, {}), {})
    assert plain.solver == ("euler",)
    assert plain.out == "runs/studies/step_size"
    assert plain.train == TrainConfig()
    given = settled("step_size", build(StudyConfig, {"solver": "heun"}), {"solver": "command line"})
    assert given.solver == ("heun",)
    assert given.nfe == plain.nfe


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "configs" / "study").glob("*.yaml")), ids=str)
def test_the_configs_that_ship_are_studies(file):
    name = next(line.split()[3] for line in file.read_text().splitlines() if "genflow study" in line)
    assert name in STUDIES
    found = settled(name, *resolve(StudyConfig, file, {}))
    assert set(yaml.safe_load(file.read_text())) <= set(StudyConfig.__dataclass_fields__)
    assert found.process
