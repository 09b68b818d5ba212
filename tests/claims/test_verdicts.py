"""Every claim of every recipe on made-up rows of its plan, and verdicts that turn with their errors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from genflow.bench.cells import plan
from genflow.claims.claim import Claim, family
from genflow.claims.judge import less, quality
from genflow.claims.papers import pfgm, pfgm_figures, pfgm_larger, pfgm_latents, pfgm_plane, pfgmpp, recipes
from genflow.claims.parts import Settings, open_parts
from genflow.claims.recipe import SCALES
from genflow.claims.results import EXACT, Results, number, row
from genflow.claims.write import NOT_RUN, floors, measured
from genflow.estimates import NOT_MEASURED, ONE_SEED, UNDECIDED
from genflow.evaluate.features import own_space

FACTORS = ("0.5", "1", "2")
OPEN = {
    ("pfgm_cifar10", "small"): {"It takes about a tenth"},
    ("pfgm_cifar10", "full"): {"PFGM's ODE makes better samples than VE's"},
    ("pfgm_norm_z", "full"): {
        "A norm pushed by 0.5 harms PFGM less than VP",
        "A norm pushed by 2 harms PFGM less than VP",
    },
    ("pfgm_celeba64", "full"): {"At a larger size PFGM's samples"},
    ("pfgmpp_d", "full"): {"The best D between 1 and infinity beats D = 1", "A finite D loses less"},
    ("sde_likelihood", "full"): {"Likelihood and sample quality"},
    ("sde_inpainting", "full"): {"VP: ", "sub-VP: ", "VE: completed images", "Correctors"},
    ("sde_colourisation", "full"): {"VP: ", "VE: "},
    # exact fields, whose rows `tests/claims/test_exact_recipes.py` makes
    **{("si_epsilon", scale): {"The KL divergence"} for scale in ("small", "full")},
    **{("si_gamma", scale): {"With the exact"} for scale in ("small", "full")},
    ("si_tabular", "full"): {"The trigonometric interpolant has fewer nats than VP"},
}
"""Beginnings of claims that a scale does not measure: models, metrics or budgets that are the other's alone."""


def names(metric, config):
    """What rows of a metric are called."""
    own = f"FD[{own_space(config.dataset)}]"
    known = {
        "fd": [own],
        "fid": ["FID"],
        "is": ["CS[digits]" if "features" in config.metric_options.get("is", {}) else "IS"],
        "kl": ["KL[nats]"],
        "two_sample": ["sliced_W2"],
        "bpd": ["nll[nats]" if config.backbone == "mlp" else "bits/dim"],
        "norm_z": [f"norm_{what}[{of}]" for what in ("tied", "spread") for of in ("train", "path")]
        + [f"{own}@norm*{factor}" for factor in FACTORS],
    }
    return known[metric]


def planned(part, value=2.0):
    """Rows that a part's cells would leave, one for each metric's name, as published files make them."""
    config = part.config
    if part.weights:
        config = replace(config, process=tuple(dict.fromkeys(name for one, _ in part.weights for name in one.process)))
    rows = []
    for cell in plan(config):
        if cell.kind == "metric":
            for name in names(cell.spec["metric"], config):
                told = {"process": cell.labels["process"], "solver": cell.labels.get("solver", "")}
                told |= {"budget": cell.labels.get("nfe"), "nfe": cell.labels.get("nfe") or 60, "stderr": 0.1}
                told |= {"seed": cell.labels["seed"], "dataset": config.dataset, "part": part.name}
                rows.append(row(name, value, protocol="made up", n=10, **told))
    return rows


def results_of(recipe, scale, tmp_path):
    """Made-up rows of all parts, and of the study where no part has what the table asks for."""
    settings = Settings(scale, tmp_path, tmp_path, tmp_path)
    results = Results(scale, [one for part in open_parts(recipe, settings) for one in planned(part)])
    asked = [line.find[scale] for line in recipe.comparisons if scale in line.find]
    if recipe.study is pfgm_latents.calls_against_size:
        asked += [{"metric": "NFE", "process": f"pfgm, {side}x{side}"} for side in pfgm_latents.SIDES]
    for wanted in asked:
        if recipe.study and not results.select(**wanted):
            told = {k: v for k, v in wanted.items() if k != "metric"}
            made = row(wanted["metric"], 2.0, protocol="made up", n=10_000, **told) | {"stderr": 0.1}
            results.rows.append({"part": "study"} | made)
    return results


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", recipes().values(), ids=list(recipes()))
def test_every_claim_is_judged_on_what_its_scale_measures(recipe, scale, tmp_path, monkeypatch):
    """Whatever was measured, a claim asks for one number at a time; nearly all are judged at both scales."""
    monkeypatch.setenv("GENFLOW_DATA_DIR", str(tmp_path / "data"))
    results = results_of(recipe, scale, tmp_path)
    words = {claim.text: claim.judge(results).word for claim in recipe.claims}
    for line in recipe.comparisons:
        assert measured(line, results) == NOT_RUN if scale not in line.find else measured(line, results).value, (
            line.what
        )
    beginnings = OPEN.get((recipe.name, scale), set())
    left = {text for text, word in words.items() if word == NOT_MEASURED}
    assert left == {text for text in words if text.startswith(tuple(beginnings))}


# ---- what is written -------------------------------------------------------------------------------------------------


def test_a_question_that_means_several_numbers_is_not_judged():
    """A finished run is never lost to a claim that cannot be put: its reason stands in the findings."""
    rows = [row("FD[digits]", 1.0, protocol="", n=5, process="pfgm", budget=b) | {"part": "one"} for b in (1, 2)]
    claim = Claim("one", less(quality("pfgm"), quality("vp_ode"), ("PFGM", "VP")))
    verdict = claim.verdict(Results("small", rows))
    assert verdict.word == NOT_MEASURED
    assert "matches several numbers" in verdict.evidence


def test_real_data_have_one_row_for_each_data_set_and_metric_of_the_table():
    """Not one for each part, none for what the table has already, and none for other metrics."""

    def real(part, metric, value, dataset="digits"):
        return row(metric, value, protocol="test split", n=5, process="data", dataset=dataset) | {"part": part}

    rows = [real(part, "FD[digits]", 5.6) for part in ("one", "two")]
    rows += [real("one", "energy", 0.1), real("three", "FD[digits]", 3.8, "mnist5k"), real("study", "FD[digits]", 9.0)]
    shown = number([row("FD[digits]@norm*2", 7.0, protocol="", n=5, process="pfgm")])
    found = floors(Results("small", rows), [shown])
    assert [(line.what, one.value) for line, one in found] == [
        ("real test split, digits", 5.6), ("real test split, mnist5k", 3.8)
    ]  # fmt: skip
    assert [one.value for _, one in floors(Results("small", rows), [shown, number([rows[0]])])] == [3.8]


# ---- verdicts that turn ----------------------------------------------------------------------------------------------


def made(*told, scale="small"):
    """Rows of (metric, process, value, standard error, fields), as of exact fields: their errors are over examples."""
    told = [(m, p, v, {"stderr": e, "backbone": EXACT, **more}) for m, p, v, e, more in told]
    rows = [row(m, v, protocol="", n=10_000, process=p, **more) for m, p, v, more in told]
    return Results(scale, [{"part": "study"} | one for one in rows])


def over_seeds(*told, scale="small", count=3):
    """The same of trained models: values and calls differ by one part in a hundred from seed to seed."""
    rows = []
    for i, (m, p, v, _, more) in enumerate(told):
        for seed in range(count):
            by = 1 + 0.01 * (seed - 1) * (-1) ** (i // 2)
            own = more | ({"nfe": more["nfe"] * by} if "nfe" in more else {})
            rows.append({"part": "study"} | row(m, v * by, protocol="", n=500, process=p, seed=seed, **own))
    return Results(scale, rows)


def fd(process, value, error, **more):
    return ("FD[digits]", process, value, error, more)


@pytest.mark.parametrize(
    ("others", "word"), [((50, 80), "holds"), ((21, 80), "undecided"), ((10, 80), "does not hold")]
)
def test_a_breakdown_is_ten_times_beyond_the_errors(others, word):
    rows = [fd(name, value, 1.0) for name, value in zip(pfgm.SCORES, others, strict=False)]
    assert pfgm._breakdown(made(fd("pfgm", 2.0, 0.1), *rows)).word == word
    assert pfgm._breakdown(made(fd("pfgm", 2.0, 0.1), rows[0])).word == NOT_MEASURED


@pytest.mark.parametrize(
    ("calls", "distance", "word"),
    [(100, 2.4, "holds"), (100, 2.8, "undecided"), (110, 2.4, "undecided"), (500, 2.4, "does not hold")],
)
def test_fewer_calls_at_equal_quality_need_both(calls, distance, word):
    rows = (
        ("FID", "pfgm", distance, 0.05, {"solver": "rk45", "nfe": calls, "part": "pfgm_cifar10_full"}),
        ("FID", "pfgm", 9.9, 0.05, {"solver": "rk45", "nfe": 999, "part": "pfgm_cifar10_deep_full"}),
        ("FID", "vp_sde", 2.55, 0.05, {"solver": "euler_maruyama", "nfe": 1000, "part": "pfgm_cifar10_sde_full"}),
    )
    results = over_seeds(*rows, scale="full")
    assert pfgm._fewer_calls(results).word == word
    assert pfgm._fewer_calls(over_seeds(*rows, scale="full", count=1)).word == ONE_SEED


@pytest.mark.parametrize(("last", "word"), [(60, "holds"), (74, "undecided"), (90, "does not hold")])
def test_calls_at_the_largest_side(last, word):
    rows = [("NFE", f"pfgm, {side}x{side}", calls, 1.0, {}) for side, calls in ((8, 50), (32, 90), (256, last))]
    assert pfgm_larger.calls_do_not_grow(made(*rows)).word == word


@pytest.mark.parametrize(("calls", "word"), [(60, "holds"), (76, "undecided"), (200, "does not hold")])
def test_calls_of_a_network(calls, word):
    results = over_seeds(fd("pfgm", 1.0, 0.1, nfe=calls, solver="rk45"))
    results.rows += made(("NFE", "pfgm, 32x32", 50, 0.5, {})).rows
    assert pfgm_larger.network_as_exact(results).word == word


@pytest.mark.parametrize(
    ("chi2", "word"), [(1.0, "holds"), (1.15, "undecided"), (1.25, "undecided"), (1.5, "does not hold")]
)
def test_equal_shares_are_within_a_tenth(chi2, word):
    """10,000 draws over 500 charges: shares that differ by a tenth make 1 + 20/100."""
    row_ = (pfgm_plane.evenness(None), "pfgm", chi2, math.sqrt(2 / 499), {})
    verdict = pfgm_figures._even(None)(made(row_))
    assert verdict.word == word
    assert "1.2 for a tenth" in verdict.evidence


def test_shares_that_differ_by_a_tenth_raise_the_statistic_to_its_bound():
    """By brute force: counts of 500 charges whose shares have a relative standard deviation of a tenth."""
    rng = np.random.default_rng(0)
    shares = 1 + 0.1 * rng.choice([-1, 1], 500)
    counts = rng.multinomial(10_000, shares / shares.sum(), size=2000)
    statistic = ((counts - 20.0) ** 2 / 20).sum(1) / 499
    assert float(statistic.mean()) == pytest.approx(1.2, abs=0.01)


@pytest.mark.parametrize(
    ("spreads", "word"),
    [((0.1, 0.9), "holds"), ((0.51, 0.9), "undecided"), ((0.8, 0.9), "does not hold"), ((0.1, 0.2), "does not hold")],
)
def test_a_collapse_is_a_loss_of_half(spreads, word):
    case = pfgm_plane.CASES[0]
    rows = [
        (pfgm_plane.end_name(metric, *case), flow, value, 0.01 * value, {})
        for metric, values in ((pfgm_plane.SPREAD, spreads), (pfgm_plane.REACHED, (90.0, 90.0)))
        for flow, value in zip(pfgm_plane.FLOWS, values, strict=True)
    ]
    assert pfgm_figures._collapsed(case)(made(*rows)).word == word


@pytest.mark.parametrize(("pushed", "word"), [(20.0, "holds"), (12.5, "undecided"), (10.0, "does not hold")])
def test_a_push_harms_less_beyond_its_errors(pushed, word):
    """PFGM's ratio is 1.25 ± 0.1 or so, VE's the pushed distance over 10."""
    rows = [("FD[digits]@norm*2", "pfgm", 12.5, 0.2, {}), ("FD[digits]@norm*1", "pfgm", 10.0, 0.2, {})]
    rows += [("FD[digits]@norm*2", "ve_ode", pushed, 0.2, {}), ("FD[digits]@norm*1", "ve_ode", 10.0, 0.2, {})]
    assert pfgm_figures._robust("ve_ode", "2")(made(*rows)).word == word


@pytest.mark.parametrize(("lost", "word"), [(0.05, "holds"), (0.115, "undecided"), (0.3, "does not hold")])
def test_a_round_trip_is_within_a_grey_level(lost, word):
    """2/17 = 0.118 data units."""
    assert pfgm_figures._returns(made((pfgm_latents.ROUND_TRIP, "pfgm", lost, 0.01, {}))).word == word


@pytest.mark.parametrize(("few", "word"), [(22.0, "holds"), (29.0, "undecided"), (40.0, "does not hold")])
def test_what_a_dimension_loses(few, word):
    """D = 128 loses few/20, D → ∞ 1.5, each ± 0.04."""
    rows = []
    for name, at_nine in (("128", few), ("∞", 30.0)):
        for budget, value in ((9, at_nine), (35, 20.0)):
            told = {"solver": "heun", "budget": budget, "process": "pfgmpp", "stderr": 0.4, "backbone": EXACT}
            rows.append(row("FD[digits]", value, protocol="", n=500, **told) | {"part": pfgmpp.part("small", name)})
    assert pfgmpp._few_calls(Results("small", rows)).word == word


@pytest.mark.parametrize(("other", "word"), [(21.0, "holds"), (300.0, "undecided")])
def test_a_dimension_that_is_behind_anyway_does_not_count_as_bearing_few_calls(other, word):
    """D = 1 loses nothing, from 21 or from 300; D = 128 as much as D → ∞, from 20."""
    rows = []
    for name, nine, many in (("1", other, other), ("128", 30.0, 20.0), ("∞", 30.0, 20.0)):
        for budget, value in ((9, nine), (35, many)):
            told = {"solver": "heun", "budget": budget, "process": "pfgmpp", "stderr": 0.4, "backbone": EXACT}
            rows.append(row("FD[digits]", value, protocol="", n=500, **told) | {"part": pfgmpp.part("small", name)})
    found = pfgmpp._few_calls(Results("small", rows))
    assert found.word == word
    assert ("D = 1 left out" in found.evidence) == (word == "undecided")


# ---- a recipe's claims are one family --------------------------------------------------------------------------------


def test_the_claims_of_a_recipe_are_corrected_together():
    """Alone each has p = 0.03; of two, Holm makes it 0.06."""
    rows = [fd(name, value, 1.0, seed=0) for name, value in (("a", 10.0), ("b", 10.0 + 2.17 * math.sqrt(2)))]
    claim = Claim("one", less(quality("a"), quality("b"), ("A", "B")))
    assert [one.word for one in family([claim.verdict(made(*rows))])] == ["holds"]
    both = family([claim.verdict(made(*rows))] * 2)
    assert [one.word for one in both] == [UNDECIDED] * 2
    assert all("; p = 0.06, 3.17 apart would be seen" in one.evidence for one in both)  # at 2.5 %: 2.2414 √2


def test_a_claim_of_one_training_seed_stays_unjudged():
    rows = [fd(name, value, 0.01, backbone="mlp") for name, value in (("a", 1.0), ("b", 9.0))]
    claim = Claim("one", less(quality("a"), quality("b"), ("A", "B")))
    assert [one.word for one in family([claim.verdict(made(*rows))])] == [ONE_SEED]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"1": (5, 6), "8": (2, 3), "∞": (4, 5.2)}, ("holds", "holds")),
        ({"1": (5, 6), "8": (4, 5), "∞": (2, 3.1)}, ("does not hold", "holds")),
        ({"1": (5, 6), "8": (4, 5.2), "∞": (4, 5.4)}, (UNDECIDED, UNDECIDED)),
        ({"1": (5, 6), "8": (3, 9), "∞": (2, 3)}, (UNDECIDED, UNDECIDED)),
    ],
)
def test_the_best_dimension_is_compared_seed_by_seed(values, expected):
    """The spread that seeds share does not count, the spread of differences does."""
    rows = [
        row("FD[digits]", float(value), protocol="", n=500, process="pfgmpp", backbone="mlp", seed=seed)
        | {"part": pfgmpp.part("small", name), "solver": "heun", "budget": 35}
        for name, own in values.items()
        for seed, value in enumerate(own)
    ]
    results = Results("small", rows)
    assert tuple(pfgmpp._inner_best(end)(results).word for end in ("∞", "1")) == expected
