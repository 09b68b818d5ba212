"""--only, --force and --time-limit: which cells are meant, and what is done of them."""

import inline_workers as inline
import pytest

from genflow.bench.cells import REAL, plan
from genflow.bench.choose import chosen, matches, prepare, seconds_of
from genflow.config import BenchConfig, ConfigError, build

CELLS = plan(build(BenchConfig, {"process": "pfgm,vp_ode,vp_sde", "solver": "heun,rk45,euler_maruyama", "nfe": "5,35"}))


def names(pattern):
    return [c.name.removesuffix(" seed 0") for c in CELLS if matches(c, pattern)]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("pfgm:*:35", ["sample pfgm heun 35", "fd pfgm heun 35"]),
        ("pfgm:heun", ["sample pfgm heun 5", "fd pfgm heun 5", "sample pfgm heun 35", "fd pfgm heun 35"]),
        ("vp_*:*:5", [f"{k} {s} 5" for s in ("vp_ode heun", "vp_sde euler_maruyama") for k in ("sample", "fd")]),
        ("*:*:own", [f"{k} {p} rk45" for p in ("pfgm", "vp_ode") for k in ("sample", "fd")]),
        ("*::[12345]5", [c.name.removesuffix(" seed 0") for c in CELLS if c.labels.get("nfe") == 35]),
        ("train", ["train pfgm", "train vp"]),
        ("bpd", ["bpd data", "bpd pfgm", "bpd vp_ode", "bpd vp_sde"]),
        ("data", ["fd data", "norm_z data", "bpd data"]),
    ],
)
def test_what_a_pattern_means(pattern, wanted):
    assert names(pattern) == wanted


def test_everything_of_a_process_is_its_name_or_its_name_and_colons():
    of_pfgm = [c.name.removesuffix(" seed 0") for c in CELLS if c.labels["process"] == "pfgm"]
    assert names("pfgm") == names("pfgm:") == names("pfgm:*:*") == of_pfgm
    assert "train pfgm" in of_pfgm


@pytest.mark.parametrize("pattern", ["pfgm:*:36", "heum", "*:heum", "ve_ode"])
def test_a_pattern_that_means_nothing_tells_what_there_is(pattern):
    with pytest.raises(ConfigError) as caught:
        chosen(CELLS, [pattern])
    assert f"only = '{pattern}' matches no cell of this bench" in str(caught.value)
    assert "solvers euler_maruyama, heun, rk45; NFE 35, 5, own" in str(caught.value)


def test_a_pattern_of_four_parts_is_refused():
    with pytest.raises(ConfigError, match="too many parts"):
        chosen(CELLS, ["a:b:c:d"])


# ---- what is done ----------------------------------------------------------------------------------------


def todo(config, *words, **flags):
    return [cell.name.removesuffix(" seed 0") for cell in prepare(config, words, **flags).todo]


def test_chosen_cells_come_with_what_they_need_and_the_floor(tiny):
    config = tiny()
    wanted = ["fd data", "train vp", "sample vp_ode heun 3", "fd vp_ode heun 3"]
    assert todo(config, "vp_ode:heun:3") == wanted
    assert todo(config, "train") == ["train vp"]
    found = prepare(config, ["vp_ode:heun:3"])
    assert found.left == len(prepare(config).todo) - len(wanted)


def test_the_rest_follows_later_and_nothing_is_done_twice(tiny):
    config = tiny()
    plan = prepare(config, ["vp_ode:heun:3"])
    plan.store.prepare()
    inline.run(config, plan)
    assert todo(config, "vp_ode:heun:3") == []
    rest = prepare(config)
    assert (rest.left, len(rest.todo)) == (0, len(rest.cells) - 4)
    assert not {c.key for c in rest.todo} & {c.key for c in plan.todo}


@pytest.fixture
def finished(tiny):
    config = tiny()
    plan = prepare(config)
    plan.store.prepare()
    inline.run(config, plan)
    return config


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["vp_ode:heun:3"], ["sample vp_ode heun 3", "fd vp_ode heun 3"]),
        (["vp_ode:euler:2", "data"], ["fd data", "sample vp_ode euler 2", "fd vp_ode euler 2"]),
        (["fd"], ["fd data", *(f"fd vp_ode {s} {n}" for s in ("euler", "heun") for n in (2, 3))]),
    ],
)
def test_force_does_the_chosen_cells_again_and_what_builds_on_them(finished, words, wanted):
    assert todo(finished, *words) == []
    assert todo(finished, *words, force=True) == wanted


def test_force_from_the_training_on_is_everything_but_the_floor(finished):
    plan = prepare(finished, ["train"], force=True)
    assert [c.key for c in plan.todo] == [c.key for c in plan.cells if c.labels["process"] != REAL]
    plan.store.state_folder(plan.todo[0].key).mkdir()
    plan.store.sweep(plan.again)
    assert not plan.store.state_folder(plan.todo[0].key).exists()
    before = {c.key: plan.store.folder(c.key).stat().st_mtime_ns for c in plan.cells}
    inline.run(finished, plan)
    after = {c.key: plan.store.folder(c.key).stat().st_mtime_ns for c in plan.cells}
    assert {key for key in before if before[key] != after[key]} == {c.key for c in plan.todo}
    assert todo(finished) == []


# ---- times -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400)]
)
def test_times(text, seconds):
    assert seconds_of("time-limit", text) == seconds


@pytest.mark.parametrize("text", ["", "90", "1 h", "h", "1h30", "-1h", "0s", "1w", "h1"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigError, match=rf"time-limit = '{text}' is not a time; write it as 90s, 30m, 1h30m or 2d"):
        seconds_of("time-limit", text)
