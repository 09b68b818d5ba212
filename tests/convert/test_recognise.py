"""What weights show: every published configuration is read back from its network's names and shapes alone."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import genflow
from genflow.convert.configs import PRESETS, preset
from genflow.convert.plan import candidates, complete, differences, make_plan, unit
from genflow.convert.recognise import recognise


@cache
def published(name):
    """Names and shapes of a preset's file."""
    return weights(PRESETS[name])


def network(config):
    """The network of a configuration at its full size, without memory."""
    plan = make_plan(config)
    with torch.device("meta"):
        return genflow.get_backbone(plan.backbone["name"], **plan.backbone["options"])


def weights(config):
    """Names and shapes as a file has them, with the table of noise levels."""
    model = config["model"]
    low, high, count = (model[key] for key in ("sigma_min", "sigma_max", "num_scales"))
    sigmas = torch.linspace(float(high), float(low), count, dtype=torch.float64).log().exp()
    return {"sigmas": sigmas, **network(config).state_dict()}


@pytest.mark.quick_one_in(23)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_recognised_from_its_weights(name):
    """All that can be seen is right, and the presets that fit are those that name their weights alike."""
    seen = recognise(published(name))
    assert differences(seen, PRESETS[name]) == ({}, {})
    fitting = candidates(seen)
    assert name in fitting
    model = PRESETS[name]["model"]
    visible = ("name", "nf", "ch_mult", "num_res_blocks", "embedding_type", "progressive_input", "num_scales")
    for other in fitting:
        assert [PRESETS[other]["model"].get(key) for key in visible] == [model.get(key) for key in visible]
        assert PRESETS[other]["data"]["image_size"] == PRESETS[name]["data"]["image_size"]


def test_poisson_flow_is_alone():
    """One output channel more than x: no other process fits, and the exact preset is the only one."""
    for name in [n for n in PRESETS if n.startswith("poisson/")]:
        assert list(candidates(recognise(published(name)))) == [name]


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("poisson/cifar10_ddpmpp", 61.81),
        ("poisson/cifar10_ddpmpp_deep", 106.63),
        ("poisson/cifar10_ncsnpp", 62.76),
        ("poisson/bedroom_ddpmpp", 124.08),
        ("vp/cifar10_ddpmpp_continuous", 61.80),
        ("ve/cifar10_ncsnpp_continuous", 62.76),
        ("ve/cifar10_ncsnpp_deep_continuous", 107.59),
        ("vp/ddpm/cifar10", 35.22),
        ("ve/ncsnv2/cifar10", 29.69),
    ],
)
def test_presets_have_the_published_sizes(name, millions):
    count = sum(value.numel() for key, value in published(name).items() if key != "sigmas")
    assert round(count / 1e6, 2) == millions


LAYERS = {"dropout": 0.0, "nf": 8, "ch_mult": (1, 2, 3), "num_res_blocks": 2, "attn_resolutions": (8,)}


@pytest.mark.quick_one_in(17)
@pytest.mark.parametrize("progressive", ["none", "output_skip", "residual"])
@pytest.mark.parametrize("progressive_input", ["none", "input_skip", "residual"])
@pytest.mark.parametrize("blocks", ["biggan", "ddpm"])
def test_pyramids_and_blocks_are_seen(progressive, progressive_input, blocks):
    """Designs other than the published ones, and the differences between them."""
    for combine in ("sum", "cat") if progressive_input == "input_skip" else ("sum",):
        design = {"progressive": progressive, "progressive_input": progressive_input, "resblock_type": blocks}
        model = {**PRESETS["ve/cifar10_ncsnpp_continuous"]["model"], **LAYERS, **design, "progressive_combine": combine}
        config = {**PRESETS["ve/cifar10_ncsnpp_continuous"], "model": model}
        seen = recognise(weights(config))
        assert differences(seen, config) == ({}, {})
        wrong = {**config, "model": {**model, "resblock_type": "biggan" if blocks == "ddpm" else "ddpm"}}
        assert "model.resblock_type" in differences(seen, wrong)[0]


@pytest.mark.parametrize("levels", [1, 2])
def test_few_levels(levels):
    """Without a change of resolution the blocks are counted from the whole."""
    for extra in (0, 1):
        options = {
            "nf": 8,
            "ch_mult": [1, 2][:levels],
            "num_res_blocks": 2,
            "attn_resolutions": [16],
            "normalise": False,
        }
        net = genflow.get_backbone(
            "ncsnpp", shape=(3, 32, 32), extra_channels=extra, progressive_input="none", **options
        )
        seen = recognise(net.state_dict())
        assert (seen.facts["model.ch_mult"], seen.facts["model.num_res_blocks"]) == ((1, 2)[:levels], 2)
        assert seen.attends == (False, True)[:levels]
        assert seen.extra == extra


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"conv1.weight": (3, 3)}, "the weights are of no known network: conv1.weight"),
        ({"all_modules.0.weight": (3, 3), "head": (2,)}, "of no known U-Net: it has 'head'"),
        ({"all_modules.0.weight": (3, 3), "all_modules.9999999.weight": (2,)}, "of no known U-Net"),
        ({"all_modules.0.weight": (3, 3)}, "its layers are L"),
        ({"begin_conv.weight": (8, 3, 3, 3), "normalizer.embed.weight": (10, 24)}, "those of the first NCSN"),
    ],
)
def test_other_weights_are_refused(names, words):
    with pytest.raises(ValueError, match=words):
        recognise({name: torch.empty(shape, device="meta") for name, shape in names.items()})


# ---- what a configuration stands for ---------------------------------------------------------------------------------


def test_exploding_noise_is_twice_as_high_where_images_are_twice_as_wide():
    plan = make_plan(PRESETS["ve/ffhq_256_ncsnpp_continuous"])
    assert (plan.process["options"]["sigma_min"], plan.process["options"]["sigma_max"]) == (0.02, 696.0)
    assert plan.backbone["options"]["centre"] is False
    assert plan.scaling == {"scale": 2 / 256, "shift": -1.0, "levels": 256}
    assert unit(PRESETS["vp/cifar10_ddpmpp"]) == 1.0


def test_grey_levels_come_back():
    """Level k lies at 2 k/255 − 1 in the authors' data."""
    from genflow.data.base import Scaling

    levels = torch.arange(256.0)
    assert torch.equal(Scaling(**make_plan(PRESETS["vp/cifar10_ddpmpp"]).scaling).decode(levels / 255 * 2 - 1), levels)


def test_data_of_other_units_name_no_data_set():
    """A process that is not the same in any unit keeps [0, 1], which genflow's data sets are not on."""
    config = PRESETS["vp/cifar10_ddpmpp_continuous"]
    plan = make_plan({**config, "data": {**config["data"], "centered": False}})
    assert plan.dataset is None
    assert plan.backbone["options"]["centre"] is True
    assert plan.scaling == {"scale": 1 / 256, "levels": 256}


def test_named_data_sets_exist_and_take_the_options():
    """Each in the catalogue, whose constructor has the option for the side."""
    import inspect

    from genflow.registry import registries

    plans = {name: make_plan(config) for name, config in PRESETS.items()}
    for plan in plans.values():
        if plan.dataset:
            options = inspect.signature(registries()["datasets"].load(plan.dataset["name"])).parameters
            assert set(plan.dataset["options"]) <= set(options)
    assert plans["ve/ncsnv2/bedroom"].dataset == {"name": "lsun_bedroom", "options": {"size": 128}}
    assert plans["ve/church_ncsnpp_continuous"].dataset is None


def test_the_authors_rules_are_an_option_of_poisson_flow_alone():
    for name in PRESETS:
        plain, theirs = (make_plan(PRESETS[name], as_published=flag).process["options"] for flag in (False, True))
        more = {k: v for k, v in theirs.items() if plain.get(k) != v}
        wanted = dict.fromkeys(("prior", "inverse", "constant"), "published") if name.startswith("poisson/") else {}
        assert more == wanted


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown preset 'vp/cifar10_ddpmp'; did you mean 'vp/cifar10_ddpmpp'\?"):
        preset("vp/cifar10_ddpmp")


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("model", "nf", None, "c.json lacks model.nf"),
        ("model", "skip_rescale", None, "c.json lacks model.skip_rescale"),
        ("training", "gamma", None, "c.json lacks training.gamma"),
        ("sampling", "z_max", None, "c.json lacks sampling.z_max"),
        ("training", "sde", "poison", "unknown training.sde 'poison'; did you mean 'poisson'"),
        ("model", "name", "ncsn", "unknown model.name 'ncsn'"),
    ],
)
def test_incomplete_configurations_name_the_key(section, key, value, words):
    config = {name: dict(values) for name, values in PRESETS["poisson/cifar10_ddpmpp"].items()}
    config[section] = {k: v for k, v in config[section].items() if k != key} | ({key: value} if value else {})
    with pytest.raises(ValueError, match=words):
        complete(config, "c.json")
