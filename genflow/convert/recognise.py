"""What the names and shapes of a published network's weights show about its configuration.

Each fact has the path that it has in the published configurations, such as "model.nf".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Seen:
    """What a file's weights show.

    Arguments:
        facts: Values by their path in a configuration; those that the weights do not show are missing.
        attends: Whether each level of a U-Net has attention; None for other networks.
        extra: Output channels besides x's own.
    """

    facts: dict[str, Any]
    attends: tuple[bool, ...] | None
    extra: int


def recognise(model: Mapping[str, Tensor]) -> Seen:
    """The facts that weights show, names without "module.".

    Raises:
        ValueError: They belong to no known network.
    """
    shapes = {name: tuple(value.shape) for name, value in model.items() if name != "sigmas"}
    if "all_modules.0.weight" in shapes or "all_modules.0.W" in shapes:
        seen = _unet(shapes)
    elif "begin_conv.weight" in shapes:
        seen = _refinenet(shapes)
    else:
        raise ValueError(
            f"the weights are of no known network: {', '.join(list(shapes)[:3])} ...; known are NCSN++, DDPM++, DDPM "
            "and NCSNv2, as published by Song et al. and Xu et al."
        )
    return Seen({**seen.facts, **_table(model)}, seen.attends, seen.extra)


def _table(model: Mapping[str, Tensor]) -> dict[str, Any]:
    """The table of noise levels that every published network carries, used or not."""
    sigmas = model.get("sigmas")
    if sigmas is None or sigmas.ndim != 1 or not len(sigmas):
        return {}
    high, low = float(sigmas.max()), float(sigmas.min())
    return {"model.num_scales": len(sigmas), "model.sigma_min": low, "model.sigma_max": high}


# ---- NCSNv2 ----------------------------------------------------------------------------------------------------------


def _refinenet(shapes: Shapes) -> Seen:
    if any(".embed." in name for name in shapes):
        raise ValueError(
            "the weights are those of the first NCSN, whose norms depend on the noise level; genflow has only NCSNv2"
        )
    deepest = any(name.startswith("res31.") for name in shapes)
    name = ["ncsnv2_64", "ncsnv2_128", "ncsnv2_256"][("refine5.crp.convs.0.weight" in shapes) + deepest]
    width, channels = shapes["begin_conv.weight"][:2]
    facts = {"model.name": name, "model.nf": width, "data.num_channels": channels}
    return Seen(facts, None, shapes["end_conv.weight"][0] - channels)


# ---- U-Nets ----------------------------------------------------------------------------------------------------------


def _unet(shapes: Shapes) -> Seen:
    """Reads the layers as a string of one letter each, from left to right.

    F Fourier features, L linear, C convolution, N norm, R residual block, S residual block that changes the resolution,
    A attention, D change of resolution with a convolution, K combination with the input pyramid, - no parameters.
    """
    layers = _layers(shapes)
    word = "".join(_letter(layer) for layer in layers)
    start = re.match(r"(F?)LLC", word)
    if not start or not word.endswith("NC"):
        raise ValueError(f"the weights are of no known U-Net: its layers are {word}")
    way = _way_down(word, start.end())
    nf, channels = layers[start.end() - 1]["weight"][:2]
    widths = [layers[at]["Conv_0.weight"][0] for at in way.starts]
    if any(width % nf for width in widths):
        raise ValueError(f"the widths {widths} of the levels are not multiples of the first one's unit, {nf}")
    fir = next(("Conv2d_0.weight" in layer for layer, letter in zip(layers, word, strict=True) if letter == "D"), None)
    biggan = "S" in word or any("Conv_2.weight" in layer for layer in layers)
    out = layers[-1]["weight"][0]
    facts = {
        "model.embedding_type": "fourier" if start[1] else "positional",
        "model.nf": nf,
        "model.ch_mult": tuple(width // nf for width in widths),
        "model.num_res_blocks": way.blocks,
        "model.resblock_type": "biggan" if biggan else "ddpm",
        "model.progressive": _output_pyramid(layers, word, len(widths)),
        "model.progressive_input": {"K": "input_skip", "D": "residual", "": "none"}[way.pyramid],
        "data.num_channels": channels,
        **_combine(layers, word, way.pyramid),
        **({} if fir is None else {"model.fir": fir}),
        **({} if biggan or len(widths) == 1 else {"model.resamp_with_conv": way.change == "D"}),
    }
    return Seen({**facts, **_name(facts)}, tuple(way.attends), out - channels)


@dataclass(frozen=True)
class Way:
    """The way down: where its levels start, which have attention, blocks per level, and what follows them."""

    starts: list[int]
    attends: list[bool]
    blocks: int
    change: str
    pyramid: str


def _way_down(word: str, start: int) -> Way:
    first = re.search(r"[SD-]", word[start:])
    blocks = word[start : start + first.start()].count("R") if first else (word.count("R") - 3) // 2
    if blocks < 1:
        raise ValueError(f"the weights are of no known U-Net: its layers are {word}")
    level = re.compile(rf"((?:RA?){{{blocks}}})(?:([SD-])([KD]?))?")
    starts, attends, at, change, pyramid = [], [], start, "", ""
    while match := level.match(word, at):
        starts.append(at)
        attends.append("A" in match[1])
        at = match.end()
        if not match[2]:
            return Way(starts, attends, blocks, change, pyramid)
        change, pyramid = match[2], match[3]
    raise ValueError(f"the weights are of no known U-Net: its layers are {word}")


def _layers(shapes: Shapes) -> list[dict[str, tuple[int, ...]]]:
    """Shapes of each layer's parameters; {} for a layer without any."""
    layers: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        match = re.fullmatch(r"all_modules\.(\d{1,4})\.(\w+(?:\.\w+)?)", name)
        if not match:
            raise ValueError(f"the weights are of no known U-Net: it has '{name}'")
        layers.setdefault(int(match[1]), {})[match[2]] = shape
    return [layers.get(index, {}) for index in range(max(layers) + 1)]


def _letter(layer: Mapping[str, tuple[int, ...]]) -> str:
    if not layer:
        return "-"
    if "Dense_0.weight" in layer and "Conv_0.weight" in layer:
        outputs, inputs = layer["Conv_0.weight"][:2]
        return "S" if outputs == inputs and "Conv_2.weight" in layer else "R"
    if "weight" in layer:
        return {1: "N", 2: "L", 4: "C"}.get(len(layer["weight"]), "?")
    conv = layer.get("Conv_0.weight") or layer.get("Conv2d_0.weight")
    if conv:
        return "K" if conv[-1] == 1 else "D"
    return "A" if "NIN_3.W" in layer else "F" if "W" in layer else "?"


def _combine(layers: list[dict[str, tuple[int, ...]]], word: str, pyramid: str) -> dict[str, Any]:
    """How an input pyramid is combined: the next block has its channels, or twice as many."""
    if pyramid != "K":
        return {}
    at = word.index("K")
    wide = layers[at]["Conv_0.weight"][0]
    return {"model.progressive_combine": "sum" if layers[at + 1]["Conv_0.weight"][1] == wide else "cat"}


def _output_pyramid(layers: list[dict[str, tuple[int, ...]]], word: str, levels: int) -> str:
    """Images at each level end in a norm and a convolution; a residual pyramid has two norms in all."""
    norms = word.count("N")
    if norms == 1:
        return "none"
    image = layers[word.index("N") + 1].get("weight", (0,))[0] == layers[-1]["weight"][0]
    return "output_skip" if image and norms == levels else "residual"


def _name(facts: Mapping[str, Any]) -> dict[str, Any]:
    """NCSN++ or DDPM. With DDPM's blocks NCSN++ has the same names of weights, but then it filters."""
    if facts["model.resblock_type"] == "biggan" or facts.get("model.fir") or facts["model.embedding_type"] == "fourier":
        return {"model.name": "ncsnpp"}
    return {"model.name": "ddpm"} if "model.fir" in facts else {}
