"""Effects of a balanced design against least squares, closed forms and simulation."""

from itertools import product

import numpy as np
import pytest

from genflow import estimates as es
from genflow.bench.factorial import SIGNIFICANT, Design, designs, effects_tables

FACTORS = {"process": ["a", "b"], "head": ["x", "y", "z"], "NFE": [5, 10]}


def design(values, seeds=3, factors=FACTORS):
    """values: settings in the order of the product, by seed: shape (settings, seeds)."""
    keys = list(product(*factors.values()))
    cells = {key: es.mean(dict(enumerate(values[i])), "training seeds", seeds) for i, key in enumerate(keys)}
    return Design("FD[digits]", "", factors, cells)


def dummies(factors):
    """Treatment-coded columns of all main effects, two-way and three-way interactions; name -> column."""
    keys = list(product(*factors.values()))
    single = {
        (name, level): np.array([float(key[i] == level) for key in keys])
        for i, (name, levels) in enumerate(factors.items())
        for level in levels[1:]
    }
    return keys, single


def centred(factors):
    """The same columns less their means: coefficients are then averages over the other factors."""
    keys, single = dummies(factors)
    columns = {(k,): v - v.mean() for k, v in single.items()}
    for (a, va), (b, vb) in product(single.items(), single.items()):
        if list(factors).index(a[0]) < list(factors).index(b[0]):
            columns[a, b] = (va - va.mean()) * (vb - vb.mean())
    return keys, columns


@pytest.mark.parametrize("factors", [FACTORS, {"process": ["a", "b", "c", "d"], "grid": ["edm", "snr"]}])
def test_effects_are_the_coefficients_of_least_squares(factors):
    rng = np.random.default_rng(0)
    keys, columns = centred(factors)
    values = rng.normal(size=(len(keys), 4))
    matrix = np.column_stack([np.ones(len(keys)), *columns.values()])
    by_seed = np.linalg.lstsq(matrix, values, rcond=None)[0][1:]
    found = {tuple((f, high) for f, (high, _) in e.levels.items()): e for e in design(values, 4, factors).effects()}
    assert set(found) == set(columns)
    for name, each in zip(columns, by_seed, strict=True):
        assert found[name].change.value == pytest.approx(each.mean(), abs=1e-12)
        assert found[name].change.error == pytest.approx(each.std(ddof=1) / 2, abs=1e-12)


def test_shares_are_the_sums_of_squares_of_an_analysis_of_variance():
    values = np.random.default_rng(1).normal(size=(12, 3))
    _, columns = centred(FACTORS)
    y = values.mean(axis=1) - values.mean()
    found = design(values).shares()
    for name, share in found.items():
        own = [c for k, c in columns.items() if tuple(f for f, _ in k) == tuple(name.split(" × "))]
        matrix = np.column_stack(own)  # orthogonal to the columns of other factors, since the design is balanced
        fitted = matrix @ np.linalg.lstsq(matrix, y, rcond=None)[0]
        assert share == pytest.approx((fitted @ fitted) / (y @ y), abs=1e-12), name
    assert 0 < sum(found.values()) < 1


def test_what_a_seed_does_to_all_settings_cancels():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(12, 5))
    plain, shifted = design(values, 5).effects(), design(values + 1000 * rng.normal(size=5), 5).effects()
    for one, other in zip(plain, shifted, strict=True):
        assert other.change.value == pytest.approx(one.change.value, abs=1e-9)
        assert other.change.error == pytest.approx(one.change.error, abs=1e-9)


@pytest.mark.parametrize("seeds", [2, 5])
def test_a_design_without_effects_has_a_verdict_in_5_percent_of_the_cases(seeds):
    rng, n = np.random.default_rng(3), 2000
    small = {"process": ["a", "b"], "head": ["x", "y"]}
    shift = np.array([3.0, 1.0, 0.3, 1.0])[:, None]  # settings of different spread
    family = single = 0
    for _ in range(n):
        found = design(shift * rng.normal(size=(4, seeds)) + rng.normal(size=seeds), seeds, small).effects()
        family += any(one.verdict == SIGNIFICANT for one in found)
        single += es.p_value(found[0].change) <= 0.05
    assert abs(single / n - 0.05) < 4 * (0.05 * 0.95 / n) ** 0.5
    assert family / n < 0.05 + 3 * (0.05 * 0.95 / n) ** 0.5


def test_an_effect_is_found_and_its_interval_holds_it():
    rng = np.random.default_rng(4)
    keys, _ = dummies(FACTORS)
    true = np.array([2.0 * (k[0] == "b") + 5.0 * (k[0] == "b") * (k[1] == "z") for k in keys])[:, None]
    effects = {one.name: one for one in design(true + 0.1 * rng.normal(size=(12, 5)), 5).effects()}
    main, both = effects["process: b − a"], effects["process × head: (b − a) × (z − x)"]
    assert main.verdict == both.verdict == SIGNIFICANT
    for one, value in ((main, 2 + 5 / 3), (both, 5.0)):
        low, high = es.interval(one.change)
        assert low < value < high
    assert effects["NFE: 10 − 5"].verdict == es.UNDECIDED


def test_one_seed_is_not_judged():
    found = design(np.random.default_rng(5).normal(size=(12, 1)), 1).effects()
    assert {one.verdict for one in found} == {es.ONE_SEED}
    assert all(np.isnan(one.change.error) for one in found)


# ---- from rows -------------------------------------------------------------------------------------------------------


def row(process, head, budget=10, seed=0, solver="heun", grid="edm", **more):
    fixed = {"metric": "FD[digits]", "entry": "fd", "of": "samples", "stderr": 0.1, "n": 500, "protocol": "p"}
    fixed |= {"terms": "controlled", "training": seed, "nfe": float(budget or 80), "value": 1.0 + seed}
    return {**fixed, "process": process, "head": head, "budget": budget, "seed": seed, "solver": solver, "grid": grid,
            **more}  # fmt: skip


def test_a_bench_without_axes_has_no_effects():
    assert designs([row("a", "x"), row("b", "x")]) == []
    assert designs([row("a", "x"), row("b", "y")]) == [], "each process has its own head: that is no axis"


def test_rows_make_a_design_of_all_that_varies():
    rows = [row(p, h, b, s) for p, h, b, s in product("ab", "xy", (5, 10), (0, 1))]
    (one,) = designs(rows)
    assert one.factors == {"process": ["a", "b"], "head": ["x", "y"], "NFE": [5, 10]}
    assert one.lacking == ""
    (table,) = effects_tables(rows)
    assert table.title == "Effects on FD[digits]"
    assert len(table.rows) == 6
    assert "paired by seed" in table.caption


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (lambda r: r["process"] == "b" and r["head"] == "y", "1 of 4 settings have no number, e.g. process b, head y"),
        (lambda r: r["process"] == "b" and r["head"] == "y" and r["seed"] == 1, "do not have the same seeds"),
    ],
)
def test_an_unbalanced_design_says_so(lost, words):
    rows = [row(p, h, seed=s) for p, h, s in product("ab", "xy", (0, 1))]
    (table,) = effects_tables([r for r in rows if not lost(r)])
    assert words in table.rows[0][0]


def test_solvers_that_do_not_go_with_all_have_a_design_each():
    rows = [row(p, h, seed=s) for p, h, s in product("ab", "xy", (0, 1))]
    rows += [row("c", h, seed=s, solver="euler_maruyama") for h, s in product("xy", (0, 1))]
    rows += [row(p, h, None, s, solver="rk45", grid="") for p, h, s in product("ab", "xy", (0, 1))]
    found = {one.where: one.factors for one in designs(rows)}
    assert found == {
        "heun": {"process": ["a", "b"], "head": ["x", "y"]},
        "euler_maruyama": {"head": ["x", "y"]},
    }
