"""Sampling paths as animations (GIF) and as a strip of stills. Drawn with Pillow alone.

A heavy-tailed path starts thousands of data units out, so a frame shows its state scaled: an image by its own root
mean square where that is above one, points by the width of the view, which is written in the frame.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from genflow.report.pictures import as_rgb, tiled

MILLISECONDS, HOLD = 140, 1800
"""A frame's time, and the last one's."""

SIDE, FOOT, FINE = 320, 26, 2
"""Width of a frame and height of its foot, pixels; points are drawn this many times finer and shrunk."""

GAP = 4
"""Between images of a frame, pixels."""

INK, RAIL = "#5a6675", "#dfe4ea"


def moving(states: np.ndarray, times: np.ndarray, path: Path, colour: str) -> Path | None:
    """Writes path (a GIF) and path with the suffix ".png" (a strip of stills from it).

    Arguments:
        states: Paths of m samples at K times, (K, m, C, H, W) or (K, m, 2), data units.
        times: Native times (K,), from the prior's end to the data's.
        path: GIF file to write.
        colour: Of the points and the progress rail.

    Returns:
        path, or None where such states have no picture (vectors of more than two entries).
    """
    shape = states.shape[2:]
    if len(shape) != 3 and shape != (2,):
        return None
    bodies = _images(states) if len(shape) == 3 else _points(states, colour)
    shares = np.linspace(0, 1, len(bodies))
    frames = [_framed(*body, share, t, colour) for body, share, t in zip(bodies, shares, times, strict=True)]
    small = [frame.quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for frame in frames]
    pauses = [MILLISECONDS] * (len(small) - 1) + [HOLD]
    small[0].save(path, save_all=True, append_images=small[1:], duration=pauses, loop=0)
    _strip(frames).save(path.with_suffix(".png"))
    return path


@cache
def _font(size: int) -> Any:
    """The typeface of the plots."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _images(states: np.ndarray) -> list[tuple[Image.Image, str]]:
    """Grids of up to sixteen images."""
    columns = min(4, states.shape[1])
    scale = max(1, round(SIDE / columns / (states.shape[-1] + 1)))
    result = []
    for state in states[:, : columns * columns]:
        size = np.sqrt(np.mean(state.astype(np.float64) ** 2, axis=(1, 2, 3), keepdims=True))
        shown = as_rgb((state / np.maximum(size, 1) + 1) * 127.5, 256)
        large = shown.repeat(scale, axis=-2).repeat(scale, axis=-1)
        picture = 255 * tiled(large, columns, gap=GAP, shade=1.0)
        result.append((Image.fromarray(picture.astype(np.uint8)), ""))
    return result


def _points(states: np.ndarray, colour: str) -> list[tuple[Image.Image, str]]:
    """Points with the last piece of their path; the view is square and never smaller than the data."""
    end = states[-1]
    middle = (np.quantile(end, 0.01, axis=0) + np.quantile(end, 0.99, axis=0)) / 2
    reach = 1.15 * np.quantile(np.abs(states - middle).max(-1), 0.97, axis=1)
    reach = np.maximum(np.maximum.accumulate(reach[::-1])[::-1], 1e-9)
    side, result = SIDE * FINE, []
    pale = tuple(round(255 - 0.28 * (255 - part)) for part in ImageColor.getrgb(colour))
    for k, state in enumerate(states):
        picture = Image.new("RGB", (side, side), "#ffffff")
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, 0, side - 1, side - 1), outline=RAIL, width=FINE)
        here, before = (_pixels(s, middle, reach[k], side) for s in (state, states[max(0, k - 1)]))
        for (x0, y0), (x1, y1) in zip(before, here, strict=True):
            draw.line((x0, y0, x1, y1), fill=pale, width=FINE)
        radius = 1.7 * FINE
        for x, y in here:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        words = f"view {2 * reach[k]:.3g} wide"
        result.append((picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), words))
    return result


def _pixels(points: np.ndarray, middle: np.ndarray, reach: float, side: int) -> np.ndarray:
    """Positions in a square of `side` pixels, y upwards; far ones stay within a few sides, which is out of sight."""
    unit = np.clip((points - middle) / reach, -9, 9)
    return side / 2 * (1 + unit * np.array([1, -1]))


def _framed(body: Image.Image, words: str, share: float, time: float, colour: str) -> Image.Image:
    """A picture above a bar that fills from prior to data, the native time, and the width of the view."""
    width, height = body.size
    frame = Image.new("RGB", (width, height + FOOT), "#ffffff")
    frame.paste(body, (0, 0))
    draw = ImageDraw.Draw(frame)
    draw.rectangle((0, height + 5, width - 1, height + 7), fill=RAIL)
    draw.rectangle((0, height + 5, round(share * (width - 1)), height + 7), fill=colour)
    draw.text((0, height + 11), f"t = {time:.3g}", font=_font(11), fill=INK)
    draw.text((width, height + 11), words, font=_font(11), fill=INK, anchor="ra")
    return frame


def _strip(frames: list[Image.Image], count: int = 6) -> Image.Image:
    """Evenly chosen frames side by side, the first and the last among them."""
    chosen = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))]
    width, height = chosen[0].size
    gap = 12
    strip = Image.new("RGB", (len(chosen) * (width + gap) - gap, height), "#ffffff")
    for i, frame in enumerate(chosen):
        strip.paste(frame, (i * (width + gap), 0))
    return strip
