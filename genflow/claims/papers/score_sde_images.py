"""Score SDEs' studies: completing and colouring images. Torch is imported inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genflow.bench.rows import Row
from genflow.claims.papers.measuring import distance_row, mean_row, opened, train_config
from genflow.claims.recipe import Work
from genflow.claims.results import row

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.data.base import Dataset
    from genflow.inpainting import Replacement
    from genflow.process.base import Process

DISTANCE, HIDDEN, VARIETY = "distance", "rms of the hidden part", "rms between two draws"
HOWS = ("replacement", "replacement with 3 correctors")
PASTED = "distance, pasted"
FITTING, EITHER, GREY = "hue fits, %", "both hues occur, %", "grey, largest difference"
PURE = "hue of the rule, %"
"""Names of what is measured, in the rows and in the recipes that read them."""

NFE = {"small": 100, "full": 4000}
DRAWS = 8
"""Coloured images for each grey one."""
CHANCE = 20.0
"""Share of hues that are nearest to one of a digit's two, where hues are drawn evenly, in per cent."""

Fields = dict[str, Any]


def _how(scale: str, correctors: int, seed: int, device: Any) -> Replacement:
    from genflow.inpainting import Replacement

    return Replacement(nfe=NFE[scale], correctors=correctors, seed=seed, device=str(device))


def _rms(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference of each row of a and b (n, k): shape (n,), float64."""
    return (a - b).double().flatten(1).square().mean(1).sqrt()


# ---- inpainting ------------------------------------------------------------------------------------------------------


def inpaintings(work: Work) -> list[Row]:
    """Test images whose right half is hidden and completed, with and without correctors."""
    rows: list[Row] = []
    for name, seed, process, backbone, data in opened(work):
        x, mask = _half_hidden(data, 500 if data.held else 16)
        if not rows:
            rows += _other_images(data, x, mask)
        rows += _completed(work, (name, seed), process, backbone, data, x, mask)
    return rows


def _half_hidden(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """Test images in data units, and the mask, 1 on the left half."""
    import torch

    raw = data.examples("test", torch.arange(min(count, data.count("test"))))
    mask = torch.zeros(data.shape)
    mask[..., : data.shape[-1] // 2] = 1
    return data.scaling.encode(raw, torch.Generator().manual_seed(0)), mask


def _other_images(data: Dataset, x: Tensor, mask: Tensor) -> list[Row]:
    """The same numbers for real images: the next one's hidden part, and the test images themselves."""
    hidden = mask == 0
    words = "root mean square difference of the hidden halves of a test image and the next one, data units"
    other = _rms(x[:, hidden], x.roll(1, 0)[:, hidden])
    rows = [mean_row(HIDDEN, other, words, process="data", dataset=data.name)]
    if data.held:
        rows.append(distance_row(DISTANCE, x, data, "as many test images", process="data", dataset=data.name))
    return rows


def _completed(
    work: Work, who: tuple[str, int], process: Process, backbone: Any, data: Dataset, x: Tensor, mask: Tensor
) -> list[Row]:
    from genflow.inpainting import inpaint

    device = next(backbone.parameters()).device
    fields: Fields = {"process": who[0], "seed": who[1], "dataset": data.name, "solver": "euler_maruyama"}
    rows, shown = [], []
    for how, correctors in zip(HOWS, (0, 3), strict=True):
        found = inpaint(process, backbone, x, mask, 2, _how(work.scale, correctors, who[1], device))
        words = f"test images completed by {how}, {found.nfe:g} calls"
        fields["nfe"] = found.nfe
        draws, hidden = found.x, mask == 0
        for metric, other, what in (
            (HIDDEN, x, "the hidden half and its completion"),
            (VARIETY, draws[:, 1], "the hidden half in two completions"),
        ):
            protocol = f"root mean square difference of {what}, data units; {words}"
            apart = _rms(draws[:, 0][:, hidden], other[:, hidden])
            rows.append(mean_row(f"{metric}, {how}", apart, protocol, **fields))
        if data.held:
            rows.append(distance_row(f"{DISTANCE}, {how}", draws[:, 0], data, words, **fields))
        shown.append(draws[:12])
    if data.held:
        rows.append(_pasted(work, process, backbone, data, x, mask, fields))
    words = f"Test images, their known halves, and two completions each by replacement and with correctors, {who[0]}"
    _rows_picture(work.picture(f"inpainting_{who[0]}.png", words), data, x[:12], mask, shown)
    return rows


def _pasted(work: Work, process: Process, backbone: Any, data: Dataset, x: Tensor, mask: Tensor, fields: Fields) -> Row:
    """Unconditional samples with the known half put over theirs."""
    import torch

    from genflow.sampling import sample

    device = next(backbone.parameters()).device
    free = sample(process, backbone, "euler_maruyama", len(x), nfe=NFE[work.scale], seed=fields["seed"], device=device)
    mixed = torch.where(mask.bool(), x, free.x)
    return distance_row(PASTED, mixed, data, "unconditional samples, test images pasted on their left half", **fields)


def _rows_picture(path: Path, data: Dataset, x: Tensor, mask: Tensor, shown: Sequence[Tensor]) -> None:
    import torch

    from genflow.report.pictures import save_rows

    whole = data.scaling.decode(x)
    known = torch.where(mask.bool(), whole, torch.full_like(whole, math.nan))
    groups = {"image": whole[:, None], "known": known[:, None]}
    names = ("replaced", "corrected")
    groups |= {name: data.scaling.decode(draws) for name, draws in zip(names, shown, strict=True)}
    save_rows(path, {name: one.numpy() for name, one in groups.items()}, data.scaling.levels)


# ---- colouring -------------------------------------------------------------------------------------------------------


def coloured_digits(path: Path) -> Path:
    """Writes digits coloured by the rule as an array file of images (n, 8, 8, 3) and labels; returns its path.

    A pixel of grey v in [0, 1] becomes v c with c_k = (1 + cos(2π(h − k/3)))/2, whose mean is 1/2 for every hue h.
    The digits k and k + 5 have h = k/10 or k/10 + 1/2, by a coin.
    """
    import torch

    import genflow

    digits = genflow.get_dataset("digits")
    grey = torch.cat([digits.train, digits.test]).double()[:, 0] / 16
    labels = torch.cat([digits.labels("train"), digits.labels("test")])  # type: ignore[list-item]
    coin = torch.rand(len(labels), generator=torch.Generator().manual_seed(0)) < 0.5
    hue = (labels % 5) / 10 + 0.5 * coin
    colour = (1 + torch.cos(2 * math.pi * (hue[:, None] - torch.arange(3) / 3))) / 2
    images = (255 * grey[..., None] * colour[:, None, None]).round().to(torch.uint8)
    np.savez_compressed(path, images=images.numpy(), labels=labels.numpy())
    return path


def hue_of(raw: Tensor) -> Tensor:
    """Hue in turns, [0, 1), of images (..., 3, H, W) of one colour: the angle of Σ_k X_k e^{2πik/3}, X_k a sum."""
    import torch

    sums = raw.double().sum((-2, -1))
    angle = 2 * math.pi * torch.arange(3, dtype=torch.float64) / 3
    return torch.atan2((sums * angle.sin()).sum(-1), (sums * angle.cos()).sum(-1)) / (2 * math.pi) % 1


def from_rule(hue: Tensor, label: Tensor | None = None) -> Tensor:
    """Which hues are, to a quarter of the distance between two, of the rule; with labels, of that digit's two."""
    place = (hue * 10) % 5  # k of the nearest pair, as a number on a circle of 5
    gap = place - place.round() if label is None else (place - label % 5 + 2.5) % 5 - 2.5
    return gap.abs() < (0.25 if label is None else 0.5)


def colourings(work: Work) -> list[Row]:
    """Grey test images coloured several times: by models trained here on coloured digits, or on bedrooms."""
    if work.scale == "full":
        rows: list[Row] = []
        for name, seed, process, backbone, data in opened(work):
            rows += _coloured(work, (name, seed), process, backbone, data, 8, 2)[0]
        return rows
    return [one for name in ("vp_sde", "ve_sde") for one in _coloured_digits(work, name)]


def _coloured_digits(work: Work, name: str) -> list[Row]:
    import genflow
    from genflow.sampling import sample
    from genflow.training import train

    path = coloured_digits(work.folder / "coloured_digits.npz")
    data = genflow.get_dataset("images", path=str(path), classes=True, test_share=0.2)
    network = genflow.get_backbone("ncsnv2", shape=data.shape)
    trained = train(genflow.get_process(name), network, data, train_config(work, steps=3200), seed=0)
    process, backbone = trained.process, trained.backbone
    rows, draws, fields = _coloured(work, (name, 0), process, backbone, data, 200, DRAWS)
    labels = data.labels("test")[: len(draws)]  # type: ignore[index]
    hue = hue_of(data.scaling.decode(draws))
    right = from_rule(hue, labels[:, None]).double()
    half = ((hue * 10 - (labels % 5)[:, None] + 2.5) % 10 < 5) & (right > 0)
    other = ~half & (right > 0)
    both = (half.any(1) & other.any(1)).double()
    free = sample(process, backbone, "euler_maruyama", 500, nfe=NFE[work.scale], seed=1)
    pure = from_rule(hue_of(data.scaling.decode(free.x))).double()
    chance = "by chance 20"
    of_rule = "share of samples whose hue is of the rule, to a quarter of the distance of two hues; by chance 50"
    fits = f"share of draws whose hue is nearest to one of the digit's two, in per cent; {chance}"
    occur = f"share of grey images both of whose hues occur among {DRAWS} draws, in per cent"
    for metric, values, words in ((FITTING, right.mean(1), fits), (EITHER, both, occur), (PURE, pure, of_rule)):
        rows.append(mean_row(metric, 100 * values, words, **fields))
    return rows


def _coloured(
    work: Work, who: tuple[str, int], process: Process, backbone: Any, data: Dataset, count: int, draws: int
) -> tuple[list[Row], Tensor, Fields]:
    """Variety and exactness of coloured test images, the images (n, draws, 3, H, W), and what rows say of them."""
    import torch

    from genflow.inpainting import colourise
    from genflow.report.pictures import save_rows

    device = next(backbone.parameters()).device
    raw = data.examples("test", torch.arange(min(count, data.count("test"))))
    x = data.scaling.encode(raw, torch.Generator().manual_seed(0))
    grey = x.mean(1, keepdim=True)
    found = colourise(process, backbone, grey, draws, _how(work.scale, 3, who[1], device))
    fields: Fields = {
        "process": who[0],
        "seed": who[1],
        "dataset": data.name,
        "solver": "euler_maruyama",
        "nfe": found.nfe,
    }
    words = f"{HOWS[1]}, {found.nfe:g} calls"
    apart = f"root mean square difference of two draws, data units; {words}"
    kept = f"largest difference of the given and the coloured image's mean of channels, levels; {words}"
    lost = float((found.x.mean(2, keepdim=True) - grey[:, None]).abs().max()) / data.scaling.scale
    rows = [
        mean_row(VARIETY, _rms(found.x[:, 0], found.x[:, 1]), apart, **fields),
        row(GREY, lost, protocol=kept, n=len(x), **fields),
    ]
    as_grey = raw.mean(1, keepdim=True).expand_as(raw)
    shown = {"image": raw[:12, None], "grey": as_grey[:12, None], "coloured": data.scaling.decode(found.x[:12])}
    picture = work.picture(f"coloured_{who[0]}.png", f"Coloured test images, their grey ones, colourings by {who[0]}")
    save_rows(picture, {k: v.numpy() for k, v in shown.items()}, data.scaling.levels)
    return rows, found.x, fields
