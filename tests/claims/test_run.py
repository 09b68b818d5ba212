"""A toy recipe from configuration to table: outputs, what is kept, failures, and the full scale in miniature."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

import genflow
from genflow.claims import parts
from genflow.claims.parts import open_parts
from genflow.claims.recipe import Comparison, Published, Recipe, Variant, Weights
from genflow.claims.run import run_recipe
from genflow.config import ConfigError


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_and_findings(toy, settings, inline, calls):
    """Published and measured number side by side with both protocols; the verdict is what the numbers say."""
    done = run_recipe(toy, settings(), start=inline, command="genflow reproduce toy")
    out = settings().out
    rows = {one["what"]: one for one in read_csv(out / "table.csv")}
    distances = [r for r in done.results.rows if r["metric"] == "FD[identity]" and r.get("budget") == 2]
    by_hand = [r["value"] for r in distances if r["process"] == "vp_ode"]
    assert len(by_hand) == 2
    assert float(rows["VP"]["measured"]) == pytest.approx(np.mean(by_hand))
    assert float(rows["VP"]["error"]) == pytest.approx(np.std(by_hand, ddof=1) / np.sqrt(2))
    assert (rows["VP"]["published"], rows["VP"]["source"], rows["VP"]["seeds"]) == ("1.5", "a README", "2")
    assert "checkerboard" in rows["VP"]["protocol"]
    assert (rows["elsewhere"]["measured"], rows["elsewhere"]["protocol"]) == ("", "not run at this scale")
    text = (out / "table.md").read_text()
    for words in (
        "FID 1.5",
        "CIFAR-10, p. Source: a README",
        "not run at this scale",
        "`genflow reproduce toy`",
        "![A drawing of calls](drawn.png)",
    ):
        assert words in text
    floor = next(r for r in done.results.rows if r["process"] == "data" and r["metric"] == "FD[identity]")
    real = rows["real test split, checkerboard"]
    assert float(real["measured"]) == floor["value"]
    assert (real["published"], real["n"], "the test split" in real["protocol"]) == ("", str(floor["n"]), True)
    assert text.count("| real test split, checkerboard | – |  | FD[identity] ") == 1
    assert "measured here, not published" in text
    others = [r["value"] for r in distances if r["process"] == "si_linear"]
    test = stats.ttest_rel(others, by_hand)  # the same seeds in the same order
    word = "undecided" if test.pvalue >= 0.05 else "holds" if test.statistic > 0 else "does not hold"
    assert f"| VP is better. | **{word}** |" in (out / "findings.md").read_text()
    assert calls == [["vp_ode", "si_linear", "vp_ode", "si_linear"]]


def test_a_second_run_only_reads(toy, settings, inline, calls):
    run_recipe(toy, settings(), start=inline)
    cells = {path: path.stat().st_mtime_ns for path in (settings().shared / "cells").iterdir()}
    run_recipe(toy, settings(), start=inline)
    assert {path: path.stat().st_mtime_ns for path in (settings().shared / "cells").iterdir()} == cells
    assert len(calls) == 1
    (settings().out / "drawn.png").unlink()
    run_recipe(toy, settings(), start=inline)
    assert len(calls) == 2


@pytest.mark.slow
def test_a_changed_study_setting_is_not_mixed_up_with_the_kept_one(toy, settings, inline, calls):
    run_recipe(toy, settings(), start=inline)
    run_recipe(toy, settings(changes=("train.steps=5",)), start=inline)
    assert len(calls) == 2
    assert "`train.steps=5`" in (settings().out / "table.md").read_text()
    told = yaml.safe_load((settings().out / "configs" / "toy_small.yaml").read_text())
    assert told["train"]["steps"] == 5


@pytest.mark.slow
def test_recipes_share_models(toy, settings, inline):
    """A second recipe with other budgets trains nothing."""
    run_recipe(toy, settings(changes=("nfe=2",)), start=inline)
    trained = set((settings().shared / "cells").iterdir())
    more = run_recipe(toy, settings(changes=("nfe=4",)), start=inline)
    fresh = set((settings().shared / "cells").iterdir()) - trained
    kinds = {json.loads((path / "cell.json").read_text())["kind"] for path in fresh if (path / "cell.json").exists()}
    assert kinds == {"sample", "metric"}
    assert more.results.values("budget", process="vp_ode", metric="FD[identity]") == [4]


def test_variants_have_rows_of_their_own(toy, settings, inline):
    few, many = (Variant(name, "toy_small", (f"nfe={nfe}", "seed=0")) for name, nfe in (("few", 2), ("many", 4)))
    recipe = Recipe("toy", "t", "p", "c", (), toy.claims, parts={"small": (few, many)})
    done = run_recipe(recipe, settings(), start=inline)
    wanted = {"process": "vp_ode", "metric": "FD[identity]"}
    one, two = (done.results.find(part=name, **wanted).value for name in ("few", "many"))
    assert one != two


@pytest.mark.parametrize(
    ("change", "words"),
    [("train.steps", "KEY=VALUE"), ("trian.steps=3", "train.steps"), ("train.steps=0", "at least 1")],
)
def test_bad_changes_are_refused(toy, settings, change, words):
    with pytest.raises(ValueError, match=words):
        open_parts(toy, settings(changes=(change,)))


def test_a_failed_cell_is_told_and_the_rest_is_done(toy, settings, inline):
    def failing(config, store, jobs):
        pool = inline(config, store, jobs)
        answer = pool.answer

        def refuse(task):
            bad = task.cell.kind == "sample" and task.cell.labels["nfe"] == 4
            return ("failed", "it broke") if bad else answer(task)

        pool.answer = refuse
        return pool

    done = run_recipe(toy, settings(), start=failing)
    assert len(done.failures) == 4
    assert done.results.values("budget", process="vp_ode", metric="FD[identity]") == [2]
    assert "it broke" in (settings().out / "findings.md").read_text()


@pytest.mark.slow
def test_a_finished_run_is_written_whatever_is_asked_of_it(toy, settings, inline):
    """With two solvers a row of the table and the claim mean several numbers, and the picture cannot be drawn."""

    def draw(results, folder):
        raise LookupError("no such curve")

    done = run_recipe(replace(toy, draw=draw), settings(changes=("solver=[euler,heun]",)), start=inline)
    out = settings().out
    assert "| VP | FID 1.5 | p1 | several numbers: see results.csv |" in (out / "table.md").read_text()
    told = (out / "findings.md").read_text()
    assert "**not measured**" in told
    assert "matches several numbers" in told
    assert "the picture failed: no such curve" in told
    assert done.failures == {"the picture": "no such curve"}
    assert {row["solver"] for row in read_csv(out / "results.csv")} >= {"euler", "heun"}


# ---- the full scale in miniature -------------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path, toy, settings):
    """A recipe that measures a published file of 8 features on 32x32 noise, and its settings."""
    pictures = tmp_path / "pictures.npy"
    np.save(pictures, np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    options = {"images": {"path": str(pictures)}}
    bench = {"process": ["pfgm"], "backbone": "ddpmpp", "backbone_options": {"ddpmpp": {"nf": 8}}, "solver": ["euler"]}
    bench |= {"dataset": "images", "dataset_options": options, "nfe": [2], "samples": 4, "metric": ["fd"]}
    (parts.CONFIGS / "toy_full.yaml").write_text(yaml.safe_dump({**bench, "train": {"steps": 1, "batch_size": 2}}))
    told = Published(2.48, "FID", "as the README has it", "a README")
    find = {"full": {"process": "pfgm", "metric": "FD[identity]", "budget": 2}}
    weights = Weights("tiny.pth", "poisson/cifar10_ddpmpp", ("pfgm",), "the README's link", as_published=True)
    recipe = Recipe(
        "toy", "t", "p", "c", (Comparison("PFGM", told, find),), toy.claims, weights={"toy_full": (weights,)}
    )
    return recipe, settings(scale="full")


def stored_poisson():
    """What a published file of a narrow DDPM++ holds: weights and their average."""
    options = {"nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [16], "normalise": False}
    net = genflow.get_backbone("ddpmpp", shape=(3, 32, 32), extra_channels=1, **options)
    net.initialise(3)
    weights = {name: value.detach() for name, value in net.state_dict().items()}
    sigmas = torch.logspace(np.log10(50), -2, 1000, dtype=torch.float64)
    model = {"module.sigmas": sigmas, **{f"module.{name}": value for name, value in weights.items()}}
    average = {"decay": 0.9999, "num_updates": 5, "shadow_params": list(weights.values())}
    return {"optimizer": {"state": {}, "param_groups": []}, "model": model, "ema": average, "step": 5}


def test_a_missing_file_is_named(full, inline):
    recipe, settings = full
    with pytest.raises(ConfigError, match=r"tiny\.pth: the README's link"):
        run_recipe(recipe, settings, start=inline)


def test_a_published_file_is_imported_and_measured(full, inline):
    """Import, bench of the checkpoint, table: nothing is trained."""
    recipe, settings = full
    settings.published.mkdir()
    torch.save(stored_poisson(), settings.published / "tiny.pth")
    done = run_recipe(recipe, settings, start=inline)
    assert {cell.kind for cell in done.benches["toy_full"].cells} == {"sample", "metric"}
    line, real = read_csv(settings.out / "table.csv")
    assert (real["what"], real["published"]) == ("real test split, images", "")
    assert (line["published"], line["nfe"]) == ("2.48", "2.0")
    assert float(line["measured"]) > 0
    imported = json.loads((settings.shared / "checkpoints" / "tiny" / "config.json").read_text())
    assert imported["process"]["options"]["prior"] == "published"


@pytest.mark.slow
def test_full_scale_trains_where_it_is_told_to(full, inline):
    recipe, settings = full
    done = run_recipe(recipe, replace(settings, train=True), start=inline)
    assert "train" in {cell.kind for cell in done.benches["toy_full"].cells}
    assert done.results.find(process="pfgm", budget=2, metric="FD[identity]").value > 0
