"""Published sets of large images, decoded when they are asked for: CelebA 64x64, LSUN bedrooms, FFHQ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from genflow.checks import is_count, require
from genflow.data.bad_images import BadImages
from genflow.data.decoding import Decoder
from genflow.data.downloads import DataError, DataFile, DataFolders
from genflow.data.image_files import PictureDataset, Pictures
from genflow.data.sources import Source, open_source
from genflow.data.table_files import HELD_OUT, VALIDATION

DRIVE = "Google Drive asks for a confirmation in a browser"


class CelebA64(PictureDataset):
    """Faces of CelebA: the centred 140x140 pixels of the aligned 178x218 images, resized to 64x64.

    162,770 train, 19,962 test, 19,867 validation by list_eval_partition.txt; the published score models compare with
    the validation part. Their resizing is TensorFlow's antialiased bilinear one on floats; here it is Pillow's, whose
    result is rounded to whole grey levels.

    Arguments:
        root: Folder of the files; `$GENFLOW_DATA_DIR` or the cache folder by default.
        download: Refused with a sentence: the files cannot be fetched without a browser.
        flip: Whether training mirrors images.
        held_out: "test" or "validation": which part is the test split.
        on_bad_image: "stop" or "skip".
        bad_limit: Most images that are skipped.

    Source: Liu et al. 2015; crop and size as in Song et al. 2021, arXiv:2011.13456.
    """

    CROP, SIDE = 140, 64
    URL = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    FOLDER = DataFile("img_align_celeba")
    ARCHIVE = DataFile("img_align_celeba.zip", URL, "1.3 GiB", by_hand=DRIVE)
    PARTITION = DataFile("list_eval_partition.txt", URL, by_hand=DRIVE)

    def __init__(
        self,
        root: str | None = None,
        download: bool = False,
        flip: bool = True,
        held_out: str = "test",
        on_bad_image: str = "stop",
        bad_limit: int = 100,
    ) -> None:
        require("celeba64", {"held_out": (held_out, held_out in HELD_OUT, "'test' or 'validation'")})
        folders = DataFolders("celeba64", root, download)
        partition, place = folders.need(self.PARTITION), folders.need(self.ARCHIVE, self.FOLDER)
        self.held_out, source = held_out, open_source(place)
        parts = self._partition(partition, source)
        splits = {
            "train": Pictures(source, parts[0]),
            "test": Pictures(source, parts[1 if held_out == "validation" else 2]),
        }
        decoder = Decoder(3, (self.SIDE, self.SIDE), self.CROP, "bilinear")
        super().__init__("celeba64", splits, decoder, flip, BadImages(on_bad_image, bad_limit))

    def declared(self) -> dict[str, str]:
        facts = super().declared()
        return facts if self.held_out == "test" else {**facts, "split": VALIDATION}

    def _partition(self, path: Path, source: Source) -> tuple[list[str], list[str], list[str]]:
        """Names of the training, validation and test images, in the file's order."""
        known = {PurePosixPath(name).name: name for name in source.names}
        parts: tuple[list[str], list[str], list[str]] = ([], [], [])
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            name, _, part = line.strip().partition(" ")
            if not line.strip():
                continue
            if part.strip() not in ("0", "1", "2"):
                raise DataError(f"{path}:{number} is {line!r}, not an image's name and 0, 1 or 2; fetch it again")
            if name not in known:
                raise DataError(f"{source.place} lacks {name}, which {path}:{number} names; fetch it again")
            parts[int(part)].append(known[name])
        return parts


class LsunBedroom(PictureDataset):
    """LSUN bedrooms: the largest centred square, resized with an antialiased bicubic filter, as published for 256x256.

    3,033,042 train, 300 test (the published validation part). Read from the unpacked LMDB folders (extra `lsun`), or
    from a folder or zip file of images of the same name without `_lmdb`. A published zip file of an LMDB must be
    unpacked first. torchvision's own class is not used: it leaves a pickled list of keys beside the data.

    Arguments:
        size: Pixels a side.
        root, download, flip, on_bad_image, bad_limit: As of `CelebA64`.

    Source: Yu et al. 2015, arXiv:1506.03365.
    """

    URL = "http://dl.yf.io/lsun/scenes/bedroom_{part}_lmdb.zip"
    PARTS = {"train": "train", "test": "val"}

    def __init__(
        self,
        root: str | None = None,
        size: int = 256,
        download: bool = False,
        flip: bool = True,
        on_bad_image: str = "stop",
        bad_limit: int = 100,
    ) -> None:
        require("lsun_bedroom", {"size": (size, is_count(size), "a whole number above 0")})
        folders = DataFolders("lsun_bedroom", root, download)
        sources = {split: open_source(folders.need(*self._files(part))) for split, part in self.PARTS.items()}
        splits = {split: Pictures(source, source.names) for split, source in sources.items()}
        super().__init__(
            "lsun_bedroom", splits, Decoder(3, (int(size), int(size))), flip, BadImages(on_bad_image, bad_limit)
        )

    def _files(self, part: str) -> Sequence[DataFile]:
        size = "43 GB" if part == "train" else "4 MB"
        url = self.URL.format(part=part)
        by_hand = f"bedroom_{part}_lmdb.zip must be unpacked"
        return (
            DataFile(f"bedroom_{part}_lmdb", url, size, by_hand=by_hand),
            DataFile(f"bedroom_{part}"),
            DataFile(f"bedroom_{part}.zip"),
        )


class FFHQ(PictureDataset):
    """Flickr-Faces-HQ: images numbered 0 to 59,999 train, those from 60,000 on are the test split, as published.

    Read from a folder or zip file of PNG images whose names end in their number: images1024x1024, thumbnails128x128,
    or a file made from them. Images of another size are resized (bicubic, antialiased).

    Arguments:
        size: Pixels a side.
        root, download, flip, on_bad_image, bad_limit: As of `CelebA64`.

    Source: Karras et al. 2019, arXiv:1812.04948.
    """

    FIRST_TEST = 60_000
    URL = "https://github.com/NVlabs/ffhq-dataset"

    def __init__(
        self,
        root: str | None = None,
        size: int = 64,
        download: bool = False,
        flip: bool = True,
        on_bad_image: str = "stop",
        bad_limit: int = 100,
    ) -> None:
        require("ffhq", {"size": (size, is_count(size), "a whole number above 0")})
        source = open_source(DataFolders("ffhq", root, download).need(*self._files(int(size))))
        splits = {"train": Pictures(source, []), "test": Pictures(source, [])}
        for name in source.names:
            splits["train" if self._number(name, source) < self.FIRST_TEST else "test"].names.append(name)
        super().__init__("ffhq", splits, Decoder(3, (int(size), int(size))), flip, BadImages(on_bad_image, bad_limit))

    def _files(self, size: int) -> Sequence[DataFile]:
        """Files made at the wanted size first, then the published ones that it can be made from."""
        names = [f"ffhq-{size}x{size}", *(["thumbnails128x128"] if size <= 128 else []), "images1024x1024"]
        first, *rest = (f"{name}{suffix}" for name in names for suffix in (".zip", ""))
        return (DataFile(first, self.URL, by_hand=DRIVE), *map(DataFile, rest))

    def _number(self, name: str, source: Source) -> int:
        digits = re.search(r"(\d+)$", PurePosixPath(name).stem)
        if digits is None:
            raise DataError(f"{source.title(name)} has no number at the end of its name, which decides its split")
        return int(digits[1])
