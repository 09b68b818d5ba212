"""Recipes of score SDEs: the coloured digits against their rule, completions by an exact field, verdicts that turn."""

import math

import pytest
import torch

import genflow
from genflow.claims.papers import score_sde, score_sde_control, score_sde_samplers
from genflow.claims.papers import score_sde_images as studies
from genflow.claims.recipe import Work
from genflow.claims.results import EXACT, Results, row
from genflow.estimates import NOT_MEASURED, ONE_SEED

README = {
    *(2.45, 9.73, 2.38, 9.83, 2.20, 9.89, 3.24, 3.37, 3.28, 3.69, 3.21, 2.78, 9.64, 2.55, 9.58, 3.93, 3.16),
    *(2.41, 9.68, 3.08, 3.13, 3.56, 3.05, 2.61, 9.56, 3.02, 9.57, 2.92, 2.99),
}
"""Every number of the table of checkpoints in the README of score_sde_pytorch."""


def results(*rows, scale="small"):
    return Results(scale, [{"part": "study", **one} for one in rows])


def measured(metric, value, process="", error=None, **more):
    """A row whose error is over samples: nothing was trained, unless `backbone` says so."""
    return row(metric, value, protocol="", n=500, process=process, stderr=error, **{"backbone": EXACT, **more})


def test_published_numbers_are_those_of_the_readme():
    told = [line.published for recipe in score_sde.RECIPES for line in recipe.comparisons if line.published]
    assert len(told) == 16 + 2 + 6
    assert {one.value for one in told} <= README


@pytest.mark.parametrize("scale", ["small", "full"])
def test_rows_name_parts_that_are_run(scale):
    for recipe in score_sde.RECIPES:
        parts = {part.name for part in recipe.parts_of(scale)}
        named = {line.find[scale]["part"] for line in recipe.comparisons if "part" in line.find.get(scale, {})}
        assert named <= parts, recipe.name
        assert set(recipe.weights) <= {part.name for part in recipe.parts_of("full")}


def test_samplers_are_compared_at_equal_calls():
    for family in ("vp", "ve"):
        one = score_sde_samplers.pc_query(family, "reverse_diffusion")
        other = score_sde_samplers.pc_query(family, "pc", "_ancestral")
        assert (
            [one[s]["budget"] for s in ("small", "full")]
            == [other[s]["budget"] for s in ("small", "full")]
            == [200, 2000]
        )


# ---- coloured digits -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    path = studies.coloured_digits(tmp_path_factory.mktemp("data") / "coloured.npz")
    return genflow.get_dataset("images", path=str(path), classes=True, test_share=0.2)


def test_the_grey_image_does_not_tell_the_hue(coloured):
    """The mean of the channels is half of the grey digit, to the rounding of three levels."""
    digits = genflow.get_dataset("digits")
    grey = torch.cat([digits.train, digits.test])[:, 0] / 16 * 255 / 2
    mean = torch.cat([coloured.train, coloured.test]).mean(1)
    gaps = torch.cdist(mean.flatten(1), grey.flatten(1), p=math.inf).min(1).values
    assert float(gaps.max()) < 0.6


def test_hues_are_read_from_the_images_and_follow_the_rule(coloured):
    labels = coloured.labels("train")
    hue = studies.hue_of(coloured.train)
    assert studies.from_rule(hue).all()
    assert studies.from_rule(hue, labels).all()
    assert not studies.from_rule(hue, labels + 1).any()
    turned = (hue * 10 - labels % 5).round() % 10
    assert set(turned.tolist()) == {0.0, 5.0}
    assert float((turned == 0).double().mean()) == pytest.approx(0.5, abs=0.04)


def test_chance_is_what_the_protocol_says():
    hue = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(studies.from_rule(hue).double().mean()) == pytest.approx(0.5, abs=0.02)
    assert 100 * float(studies.from_rule(hue, torch.tensor(3)).double().mean()) == pytest.approx(
        studies.CHANCE, abs=1.5
    )


def test_hue_of_a_known_colour():
    red, green = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    red[0], green[1] = 200, 10
    assert float(studies.hue_of(red)) == pytest.approx(0, abs=1e-9)
    assert float(studies.hue_of(green)) == pytest.approx(1 / 3)


# ---- completions -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_completions_by_the_exact_field_are_the_hidden_halves(tmp_path):
    """With the field of 20 known images, a known half has one completion: the image itself."""
    digits = genflow.get_dataset("digits")
    x = digits.scaling.encode(digits.train[:20])
    process = genflow.get_process("vp_sde").for_data(x)

    class Exact(torch.nn.Module):
        shape = (1, 8, 8)

        def __init__(self):
            super().__init__()
            self.anchor, self.exact = torch.nn.Parameter(torch.zeros(1)), process.oracle(x)

        def forward(self, x_t, condition):
            return self.exact(x_t, condition)

    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1

    class Unheld:
        """Its distances are not asked for."""

        name, held, scaling = "digits", False, digits.scaling

    work = Work("small", tmp_path, {}, Results("small"))
    rows = studies._completed(work, ("vp_sde", 0), process, Exact(), Unheld(), x, mask)
    found = {one["metric"]: one["value"] for one in rows}
    other = studies._other_images(Unheld(), x, mask)[0]["value"]
    assert found[f"{studies.HIDDEN}, {studies.HOWS[0]}"] < 0.5 * other
    assert found[f"{studies.HIDDEN}, {studies.HOWS[1]}"] < 0.5 * other
    assert all(one["nfe"] == studies.NFE["small"] for one in rows)
    assert (tmp_path / "inpainting_vp_sde.png").stat().st_size > 1000


# ---- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "word"), [(60, "holds"), (20.5, "undecided"), (10, "does not hold")])
def test_colours_beyond_chance(share, word):
    found = score_sde_control.beyond_chance("vp_sde")(results(measured(studies.FITTING, share, "vp_sde", 1.0)))
    assert found.word == word
    assert (
        score_sde_control.beyond_chance("ve_sde")(results(measured(studies.FITTING, share, "vp_sde", 1.0))).word
        == NOT_MEASURED
    )


@pytest.mark.parametrize(("share", "word"), [(90, "holds"), (51, "undecided"), (10, "does not hold")])
def test_both_hues(share, word):
    assert score_sde_control.both_occur("vp_sde")(results(measured(studies.EITHER, share, "vp_sde", 1.0))).word == word


@pytest.mark.parametrize(("lost", "word"), [(1e-4, "holds"), (0.0102, "does not hold"), (0.5, "does not hold")])
def test_the_worst_model_decides_on_grey(lost, word):
    rows = measured(studies.GREY, 1e-5, "vp_sde"), measured(studies.GREY, lost, "ve_sde")
    assert score_sde_control.grey_is_kept(results(*rows)).word == word
    assert score_sde_control.grey_is_kept(results()).word == NOT_MEASURED


@pytest.mark.parametrize(
    ("vp_distance", "vp_bits", "word"), [(5.0, 2.0, "holds"), (20.0, 2.0, "does not hold"), (5.0, 1.01, "undecided")]
)
def test_likelihoods_and_samples_may_rank_alike(vp_distance, vp_bits, word):
    bits = (("ve_ode", 3.0), ("vp_ode", vp_bits), ("subvp_ode", 1.0))
    rows = [measured("bits/dim", value, name, 0.01) for name, value in bits]
    distances = (("ve_ode", 30.0), ("vp_ode", vp_distance), ("subvp_ode", 10.0))
    rows += [measured("FD[digits]", value, name, 0.5) for name, value in distances]
    assert score_sde._ranks_differ(results(*rows)).word == word


def test_correctors_claim_asks_the_right_way_round():
    claim = score_sde_control.inpainting.claims[-1]
    with_them, without = (f"{studies.DISTANCE}, {how}" for how in reversed(studies.HOWS))
    rows = measured(with_them, 5.0, "vp_sde", 0.1), measured(without, 9.0, "vp_sde", 0.1)
    assert claim.judge(results(*rows)).word == "holds"
    trained = results(*({**one, "backbone": "ncsnpp", "training": 0} for one in rows))
    assert claim.judge(trained).word == ONE_SEED


def test_the_picture_of_samplers_is_drawn(tmp_path):
    rows = [
        measured("FD[digits]", 10.0 / n, "vp_sde", solver="pc", budget=n, nfe=n, seed=seed)
        | {"part": "sde_pc_vp_small"}
        for n in (100, 200)
        for seed in (0, 1)
    ]
    found = Results("small", rows)
    curve = score_sde_samplers._by_budget(found, "vp", "pc", "")
    assert {budget: (one.value, one.error) for budget, one in curve.items()} == {100.0: (0.1, 0.0), 200.0: (0.05, 0.0)}
    assert list(score_sde_samplers._draw_pc(found, tmp_path)) == ["samplers.png"]
    assert (tmp_path / "samplers.png").stat().st_size > 1000
    assert score_sde_samplers._draw_pc(Results("small"), tmp_path) == {}
