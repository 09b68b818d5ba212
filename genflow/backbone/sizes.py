"""The costs of the backbones at common image sizes, for `genflow list backbones`: a table, so that nothing is built to
print it; a test compares it with the classes.

FLOPs are those of one call on one image, a multiplication with its addition counted as two; see
`genflow.backbone.cost`.
"""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """A size of a backbone for images (channels, height, width); "": its only size.

    A published network is built as published; the others are what a shape gets when no size is given. None has classes
    or the extra channel of a head.
    """

    name: str
    shape: tuple[int, int, int]
    parameters: int
    flops: int
    published: bool = False


SIZES: dict[str, tuple[Size, ...]] = {
    "mlp": (
        Size("", (1, 8, 8), 117_952, 233_984),
        Size("", (1, 28, 28), 801_808, 1_598_464),
        Size("", (3, 32, 32), 1_975_552, 3_941_376),
    ),
    "ncsnv2": (
        Size("tiny", (1, 8, 8), 181_585, 10_313_728),
        Size("small", (1, 28, 28), 466_161, 237_432_832),
        Size("small", (3, 32, 32), 466_739, 311_296_000),
        Size("deeper", (3, 128, 128), 1_307_891, 4_753_195_008),
        Size("deepest", (3, 256, 256), 1_475_411, 13_245_612_032),
        Size("cifar10", (3, 32, 32), 29_694_083, 19_786_104_832, published=True),
        Size("celeba64", (3, 64, 64), 29_694_083, 79_144_419_328, published=True),
        Size("lsun128", (3, 128, 128), 83_445_379, 302_015_053_824, published=True),
    ),
    "ncsnpp": (
        Size("tiny", (1, 8, 8), 190_593, 9_470_112),
        Size("small", (1, 28, 28), 323_585, 130_327_712),
        Size("small", (3, 32, 32), 324_451, 175_652_576),
        Size("cifar10", (3, 32, 32), 62_758_787, 21_762_459_744, published=True),
        Size("ffhq256", (3, 256, 256), 65_574_421, 532_193_262_592, published=True),
        Size("ffhq1024", (3, 1024, 1024), 105_785_880, 500_038_823_936, published=True),
    ),
    "ncsnpp_deep": (
        Size("tiny", (1, 8, 8), 262_001, 12_726_432),
        Size("small", (1, 28, 28), 447_761, 179_319_968),
        Size("small", (3, 32, 32), 448_627, 241_602_272),
        Size("cifar10", (3, 32, 32), 107_586_947, 37_162_895_456, published=True),
    ),
    "ddpmpp": (
        Size("tiny", (1, 8, 8), 189_409, 9_411_712),
        Size("small", (1, 28, 28), 317_761, 128_872_704),
        Size("small", (3, 32, 32), 318_339, 173_538_432),
        Size("cifar10", (3, 32, 32), 61_804_419, 21_693_071_360, published=True),
        Size("celeba64", (3, 64, 64), 61_804_419, 83_722_895_360, published=True),
        Size("lsun256", (3, 256, 256), 124_075_139, 559_441_772_544, published=True),
    ),
    "ddpmpp_deep": (
        Size("tiny", (1, 8, 8), 260_817, 12_668_032),
        Size("small", (1, 28, 28), 441_937, 177_864_960),
        Size("small", (3, 32, 32), 442_515, 239_488_128),
        Size("cifar10", (3, 32, 32), 106_632_579, 37_093_507_072, published=True),
    ),
    "ddpm": (
        Size("tiny", (1, 8, 8), 173_201, 8_012_928),
        Size("small", (1, 28, 28), 276_529, 106_780_928),
        Size("small", (3, 32, 32), 277_107, 144_688_256),
        Size("cifar10", (3, 32, 32), 35_218_947, 12_041_060_352, published=True),
    ),
}
