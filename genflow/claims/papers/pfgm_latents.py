"""Studies for the figures of PFGM: computed here, since a bench does not measure them. Torch is imported inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genflow.bench.rows import Row
from genflow.claims.papers.measuring import distance_row, jackknife, mean_row, opened
from genflow.claims.recipe import Work
from genflow.claims.results import EXACT, Results, row
from genflow.estimates import mean

if TYPE_CHECKING:
    from torch import Tensor

    from genflow.data.base import Dataset
    from genflow.process.base import Process

SIDES = (8, 32, 64, 256)
"""Sides of the images, in pixels, at which RK45's calls are counted."""

MIDPOINTS, ROUND_TRIP = "distance of midpoints: ", "there and back, rms"
FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)
DISTANCE, VARIETY = "distance", "variety"
"""Names of what is measured, in the rows and in the recipes that read them."""


def level_of(results: Results) -> float:
    """A grey level of the images at a scale, data units."""
    return 2 / 17 if results.scale == "small" else 2 / 256


# ---- calls against size ----------------------------------------------------------------------------------------------


def calls_against_size(work: Work) -> list[Row]:
    """NFE of RK45 with PFGM's exact field of enlarged digits, by their side."""
    import torch

    import genflow
    from genflow.claims.draw import Axes, Curve, curves
    from genflow.report.palette import COLOURS
    from genflow.sampling import sample
    from genflow.solver.adaptive import RK45

    digits = genflow.get_dataset("digits")
    small = digits.scaling.encode(digits.train[:300], torch.Generator().manual_seed(0))
    rows, spent_at = [], []
    for side in SIDES:
        points = torch.nn.functional.interpolate(small, (side, side), mode="nearest")
        process = genflow.get_process("pfgm").for_data(points)
        oracle = process.oracle(points)
        spent = [sample(process, oracle, RK45(1e-4, 1e-4), 1, seed=0, first_index=k).nfe for k in range(8)]
        found = mean(spent)
        protocol = (
            f"mean backbone calls of RK45 at 1e-4 with the exact field of {len(points)} digits enlarged to "
            f"{side}x{side}"
        )
        more: dict[str, Any] = {"process": f"pfgm, {side}x{side}", "backbone": EXACT, "solver": "rk45"}
        more |= {"dataset": "digits", "n": len(spent), "nfe": found.value, "stderr": found.error}
        rows.append(row("NFE", found.value, protocol=protocol, **more))
        spent_at.append(found)
    picture = work.picture("calls.png", "Calls of RK45 at 1e-4 with the exact field, by the side of the images")
    line = Curve("PFGM's exact field", SIDES, spent_at, COLOURS[0])
    curves(picture, {"": [line]}, Axes("side of the image, pixels", "NFE of RK45 at 1e-4", places=SIDES))
    return rows


# ---- latents ---------------------------------------------------------------------------------------------------------


def interpolations(work: Work) -> list[Row]:
    """Midpoints between latents of test images against midpoints of pixels, and what encoding and decoding loses."""
    import torch

    rows: list[Row] = []
    for name, seed, process, backbone, data in opened(work):
        pairs = min(128, data.count("test") // 2)
        raw = data.examples("test", torch.arange(2 * pairs))
        x = data.scaling.encode(raw, torch.Generator().manual_seed(seed))
        if not rows:
            rows += _reference_midpoints(data, x, pairs)
        rows += _latent_midpoints(work, name, seed, process, backbone, data, raw, x)
    return rows


def _midpoint_row(name: str, kind: str, x: Tensor, data: Dataset, what: str, **more: Any) -> Row:
    note = f"{what}; n = {len(x)} is small and the distance biased upward"
    return distance_row(MIDPOINTS + kind, x, data, note, process=name, dataset=data.name, **more)


def _reference_midpoints(data: Dataset, x: Tensor, pairs: int) -> list[Row]:
    pixels = (x[0::2] + x[1::2]) / 2
    return [
        _midpoint_row("data", "pixel", pixels, data, "the means of pairs of test images"),
        _midpoint_row("data", "real", x[:pairs], data, "as many test images"),
    ]


def _latent_midpoints(
    work: Work, name: str, seed: int, process: Process, backbone: Any, data: Dataset, raw: Tensor, x: Tensor
) -> list[Row]:
    from genflow.latent import blend, decode, encode, interpolate
    from genflow.report.pictures import save_rows

    x = x.to(next(backbone.parameters()).device)
    latents = encode(process, backbone, x, batch_size=256)
    middle = decode(process, backbone, blend(latents.x[0::2], latents.x[1::2], 3)[:, 1], batch_size=256)
    back = decode(process, backbone, latents.x[:64], batch_size=256)
    lost = (back.x - x[:64]).double().flatten(1).square().mean(1).sqrt()
    what = "images decoded from the middle of paths between the latents of pairs of test images"
    more: dict[str, Any] = {"solver": "rk45", "nfe": latents.nfe * 2 + middle.nfe, "seed": seed}
    rows = [_midpoint_row(name, "latent", middle.x.cpu(), data, what, **more)]
    words = "root mean square difference of a test image and its decoded latent, data units, mean over images"
    trip = {"process": name, "solver": "rk45", "nfe": latents.nfe + back.nfe, "dataset": data.name, "seed": seed}
    rows.append(mean_row(ROUND_TRIP, lost, words, **trip))
    path = data.scaling.decode(interpolate(process, backbone, x[0:12:2], x[1:12:2], 9).x.cpu())
    shown = {"from": raw[0:12:2, None], "path": path, "to": raw[1:12:2, None]}
    picture = work.picture(f"path_{name}.png", f"Paths between latents of test images, {name}")
    save_rows(picture, {k: v.numpy() for k, v in shown.items()}, data.scaling.levels)
    return rows


def temperatures(work: Work) -> list[Row]:
    """Distance and variety of samples whose latents' norms are scaled."""
    import torch

    from genflow.report.pictures import save_rows
    from genflow.sampling import sample

    rows, pictures = [], {}
    factors = ", ".join(f"{f:g}" for f in FACTORS)
    for name, seed, process, backbone, data in opened(work):
        shown = []
        for factor in FACTORS:
            found = sample(
                process,
                backbone,
                "heun",
                200,
                nfe=20,
                seed=seed,
                temperature=factor,
                device=next(backbone.parameters()).device,
            )
            rows += _temperature_rows(name, seed, factor, found.x, found.nfe, data)
            shown.append(data.scaling.decode(found.x[:12]))
        pictures[name] = torch.stack(shown).numpy()
        save_rows(
            work.picture(
                f"temperature_{name}.png", f"Samples of {name}; a row for each factor on the latents' norm, {factors}"
            ),
            {f"|latent| × {factors}, from above": pictures[name]},
            data.scaling.levels,
        )
    return rows


def _temperature_rows(name: str, seed: int, factor: float, x: Tensor, nfe: float, data: Dataset) -> list[Row]:
    real = data.scaling.encode(data.examples("test", range_of(data))).flatten(1).double().var(0).sum()
    where, of = f" at |latent| × {factor:g}", f"samples whose prior draws' norms were multiplied by {factor:g}"
    more = {"process": name, "solver": "heun", "nfe": nfe, "dataset": data.name, "seed": seed}
    note = f"{of}; n = {len(x)} is small and the distance biased upward"
    variety, error = jackknife(x, lambda kept: float(kept.flatten(1).double().var(0).sum() / real))
    words = f"summed variance of pixels over that of test images, of {of}; error by jackknife"
    return [
        distance_row(DISTANCE + where, x, data, note, **more),
        row(VARIETY + where, variety, protocol=words, n=len(x), stderr=error, **more),
    ]


def range_of(data: Dataset) -> Tensor:
    """Row numbers of up to 1,000 test examples."""
    import torch

    return torch.arange(min(1000, data.count("test")))
