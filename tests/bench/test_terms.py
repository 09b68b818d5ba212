"""Terms of a bench: which options they come to, what differs, and what cannot meet them."""

import csv
import io

import pytest
import torch
import yaml

import genflow
from genflow.bench.cells import plan
from genflow.bench.rows import to_csv
from genflow.bench.tables import tables, terms_table
from genflow.bench.terms import cautions, read_tuned, sampler_options, settle, specs, terms_of, words_of_differences
from genflow.config import BenchConfig, ConfigError
from genflow.process.terms import AXES, CONTROLLED, CONTROLLED_SAMPLER, PUBLISHED, SAMPLER
from genflow.registry import registries

AFFINE = ["pfgm", "pfgmpp", "vp_ode", "subvp_ode", "ve_ode", "si_linear", "si_trig", "si_fourier"]


def bench(**given):
    return BenchConfig(**{"process": ("pfgm", "vp_ode"), "solver": ("heun", "rk45"), **given})


def options_of(config, name):
    entry = registries()["processes"].entry(name)
    settled, _ = settle(config)
    return {**settled.process_options.get(entry.family, {}), **settled.process_options.get(name, {})}


@pytest.mark.parametrize("scale", [0.1, 0.6, 2.0])
@pytest.mark.parametrize("name", AFFINE)
def test_every_affine_process_meets_controlled_terms(name, scale):
    process = genflow.get_process(name, **options_of(bench(process=(name,)), name))
    data = scale * torch.randn(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fitted = process.for_data(data)
    sigma = fitted.noise_ratio(torch.tensor(fitted.safe_interval, dtype=torch.float64)) / fitted.sigma_data
    torch.testing.assert_close(sigma.tolist(), [CONTROLLED["sigma_min"], CONTROLLED["sigma_max"]])
    pairs = fitted.training_pairs(data, generator=torch.Generator().manual_seed(0), refs=data)
    assert pairs.target.isfinite().all()


def test_controlled_terms_leave_nothing_but_the_process_to_differ():
    config, origin = settle(bench(process=tuple(AFFINE)), {})
    found = specs(config)
    assert len({tuple(spec.values()) for spec in found.values()}) == 1
    assert words_of_differences(found) == "Nothing but path and base differs between the processes."
    assert origin["process_options"] == "controlled terms"
    assert cautions(config) == []
    assert config.solver_options["heun"] == CONTROLLED_SAMPLER
    assert config.solver_options["rk45"] == {"end": "none", "end_noise": "own"}
    assert settle(config)[0] == config


def test_published_terms_change_nothing_and_list_what_differs():
    config = bench(terms="published")
    assert settle(config)[0] == config
    words = words_of_differences(specs(config))
    assert "head (field: pfgm; noise: vp_ode)" in words
    assert "target (stable, 512 references: pfgm; own: vp_ode)" in words
    assert "Besides the process" in terms_table(config).caption


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_terms_are_the_defaults_of_the_classes(family):
    process, wanted = genflow.get_process(family), PUBLISHED[family]
    for axis, option in AXES.items():
        if axis not in SAMPLER and (family, axis) != ("pfgm", "target"):
            assert getattr(process, option) == wanted[option], axis
    assert process.averages == (wanted["objective"] == "stable" or not process.prediction.linear)
    if process.why_not("affine") is None and family != "pfgm":
        low, high = process.noise_ratio(torch.tensor(process.safe_interval, dtype=torch.float64)).tolist()
        assert wanted["sigma"] == f"{low:.3g} to {high:.3g}"


def test_what_was_given_goes_before_the_terms_and_is_pointed_out():
    given = {"pfgm": {"head": "data"}, "vp_ode": {"beta_max": 40.0}}
    config, _ = settle(bench(process_options=given, solver_options={"heun": {"grid": "snr"}}))
    assert options_of(config, "pfgm")["head"] == "data"
    assert options_of(config, "vp_ode")["beta_max"] == 40.0
    assert config.solver_options["heun"] == {**CONTROLLED_SAMPLER, "grid": "snr"}
    assert any("head differ" in sentence for sentence in cautions(config))


@pytest.mark.parametrize("name", ["si_encdec", "si_mirror"])
def test_a_process_without_a_noise_level_is_named_before_training(name):
    solver = "heun" if name == "si_encdec" else "euler_maruyama"
    with pytest.raises(ConfigError, match=f"'{name}' cannot meet controlled terms.*--terms published"):
        plan(bench(process=(name,), solver=(solver,)))
    assert plan(bench(process=(name,), solver=(solver,), terms="published"))


def test_a_free_path_is_named_before_training():
    from genflow.bench.worker import Worker

    config = bench(process=("si_linear",), process_options={"si_linear": {"source": "uniform"}})
    with pytest.raises(ValueError, match="'si_linear' was to have controlled terms"):
        Worker(config, lambda: False).check()


class Alone(genflow.process.Process):
    """A plugin that is no affine path and takes no options."""

    t_data, t_prior = 0.0, 1.0
    perturb = velocity = sample_prior = log_prior = None


class Path(genflow.process.AffineProcess):
    """A plugin that is one."""

    t_data, t_prior = -6.0, 6.0

    def coefficients(self, t):
        return genflow.process.Coefficients(a=1.0, b=t.exp(), da=0.0, db=t.exp())


@pytest.fixture
def plugins():
    processes = registries()["processes"]
    for name, cls in (("alone", Alone), ("path", Path)):
        processes.add(name, cls, tags={"mode": "ode"})
    yield
    for name in ("alone", "path"):
        processes.remove(name)


def test_a_plugin_without_a_spec_gets_published_terms_with_a_caution(plugins):
    config, _ = settle(bench(process=("pfgm", "path", "alone")))
    assert [terms_of(config, name) for name in config.process] == ["controlled", "controlled", "published"]
    assert options_of(config, "path")["head"] == "edm_rms"
    assert options_of(config, "alone") == {}
    assert cautions(config) == [
        "alone has no spec of controlled terms: it has its own, called published, and is not ranked with the others."
    ]
    labels = {cell.labels["process"]: cell.labels["terms"] for cell in plan(config) if cell.kind == "sample"}
    assert labels == {"pfgm": "controlled", "path": "controlled", "alone": "published"}


def row(process, terms):
    fixed = {"backbone": "mlp", "dataset": "digits", "solver": "heun", "nfe": 10.0, "budget": 10}
    fixed |= {"value": 3.0, "stderr": 0.5, "n": 500, "seed": 0, "protocol": "p", "seconds": 1.0, "stopped": None}
    facts = {"metric": "FD[digits]", "entry": "fd", "of": "samples", "training": 0}
    return {**fixed, **facts, "process": process, "terms": terms}


def test_rows_of_different_terms_are_not_in_one_table_unless_that_is_asked_for():
    rows = [row("data", ""), row("pfgm", "controlled"), row("vp_ode", "published")]
    found = tables(rows)
    assert [table.title for table in found] == [
        "FD[digits] against NFE, controlled terms",
        "FD[digits] against NFE, published terms",
    ]
    assert [[line[0] for line in table.rows] for table in found] == [
        ["real test split", "pfgm"],
        ["real test split", "vp_ode"],
    ]
    assert "Terms: controlled." in found[0].caption
    (one,) = tables(rows, mixed=True)
    assert "Terms: controlled and published." in one.caption
    assert len(one.rows) == 3
    written = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [line["terms"] for line in written] == ["", "controlled", "published"]


TUNED = {
    "terms": 1,
    "search": "8 trainings and 40 samplings of each",
    "backbone": "ncsnv2",
    "processes": {
        "pfgm": {"head": "edm_rms", "target": "stable", "times": "log_normal", "weight": "unit",
                 "options": {"P_mean": -1.0}, "solver": "heun", "grid": "snr", "end": "mean"},
        "vp": {"head": "noise", "grid": "edm(5)"},
    },
}  # fmt: skip


def test_tuned_terms_come_from_a_file_and_may_differ_in_the_sampler(tmp_path):
    file = tmp_path / "tuned.yaml"
    file.write_text(yaml.safe_dump(TUNED))
    config, _ = settle(bench(terms="tuned", terms_file=str(file)))
    assert options_of(config, "pfgm") == {
        "head": "edm_rms", "objective": "stable", "times": "log_normal", "weighting": "unit", "P_mean": -1.0
    }  # fmt: skip
    assert options_of(config, "vp_ode") == {"head": "noise"}
    assert sampler_options(config, "pfgm", "heun") == {"grid": "snr", "end": "mean"}
    assert sampler_options(config, "pfgm", "rk45") == {}
    assert sampler_options(config, "vp_ode", "heun") == {"grid": "edm(5)"}
    specs_of = {c.labels["process"]: c.spec["options"] for c in plan(config) if c.labels.get("solver") == "heun"
                and c.kind == "sample"}  # fmt: skip
    assert specs_of == {"pfgm": {"grid": "snr", "end": "mean"}, "vp_ode": {"grid": "edm(5)"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"terms": 2}, "not a file of tuned terms"),
        ({"processes": []}, "not a file of tuned terms"),
        ({"processes": {"pfgm": {"haed": "data"}}}, "did you mean 'head'"),
        ({"processes": {"ve": {}}}, "no terms of 'pfgm'"),
        ({"backbone": "mlp"}, "was tuned for backbone = 'mlp'"),
    ],
)
def test_a_wrong_file_of_tuned_terms_is_named(tmp_path, change, words):
    file = tmp_path / "tuned.yaml"
    file.write_text(yaml.safe_dump(TUNED | change))
    read_tuned.cache_clear()
    with pytest.raises(ValueError, match=words):
        settle(bench(terms="tuned", terms_file=str(file)))


def test_tuned_terms_need_a_file_and_checkpoints_have_their_own():
    with pytest.raises(ConfigError, match="--terms-file"):
        settle(bench(terms="tuned"))
    with pytest.raises(ConfigError, match="nothing is trained here"):
        settle(bench(checkpoint=("somewhere",)), {"terms": "command line"})
    assert settle(bench(checkpoint=("somewhere",)))[0].terms == "published"
