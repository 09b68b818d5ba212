"""What the headers of files show: which are images that Pillow reads, and how many bits a channel they have.

Pillow opens many deep colour files as 8-bit ones and keeps the high byte alone, so its mode does not show their
depth; the file's own header does.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache

PROGRAMS = ("EPS", "WMF", "MPEG")
"""Formats that Pillow names but needs another program for."""
COMMENT_BYTES = 2**20
"""How far the header of a PNM file is searched: it may hold comments."""
SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"8BPS", "PSD"),
    (b"DDS ", "DDS"),
    (b"\x01\xda", "SGI"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"icns", "ICNS"),
    (b"qoif", "QOI"),
    (b"/* XPM */", "XPM"),
)
"""How files of a format begin."""


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the image files that this Pillow decodes by itself, in lower case, each with its dot."""
    from PIL import Image, ImageFile

    Image.init()
    stub = ImageFile.StubImageFile
    stubs = {name for name, (make, _) in Image.OPEN.items() if isinstance(make, type) and issubclass(make, stub)}
    decoded = {*Image.OPEN, "MPO"} - stubs - set(PROGRAMS)
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in decoded)


def image_format(data: bytes) -> str:
    """The format that the first bytes show, by Pillow's name; "" where it is not a common one."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and re.search(rb"avi[fs]", data[8:64]):
        return "AVIF"
    if re.match(rb"P[1-6fF]\s", data[:3]):
        return "PPM"
    return next((name for start, name in SIGNATURES if data.startswith(start)), "")


def channel_bits(data: bytes) -> int:
    """The most bits that a channel of an image file has; 8 where its format has no more, or its header is cut off.

    Arguments:
        data: The file, or its first bytes.
    """
    bits = [8]
    with suppress(struct.error, IndexError, ValueError):  # what was found before the header breaks off counts
        if reader := BITS.get(image_format(data)):
            bits.extend(reader(data))
    return max(bits)


def _png(data: bytes) -> Iterator[int]:
    """The depth in the header, behind any other chunks."""
    place = 8
    while data[place + 4 : place + 8] != b"IHDR":
        place += 12 + struct.unpack_from(">I", data, place)[0]
    yield data[place + 16]


def _jpeg(data: bytes) -> Iterator[int]:
    """The precision in the frame's header (SOF), behind any number of other segments."""
    place = 2
    while place < len(data):
        if data[place] != 0xFF:
            return
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            yield data[place + 4]
            return
        bare = marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8
        place += (1 if marker == 0xFF else 2) if bare else 2 + struct.unpack_from(">H", data, place + 2)[0]


def _tiff(data: bytes) -> Iterator[int]:
    """BitsPerSample of every page; signed and floating samples count as deep, since 8 bits here are levels 0 to 255."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    offset, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    (place,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    seen: set[int] = set()
    while place and place not in seen:
        seen.add(place)
        (entries,) = struct.unpack_from(order + count, data, place)
        place += struct.calcsize(order + count)
        for k in range(entries):
            tag, kind = struct.unpack_from(order + "HH", data, place + k * entry)
            if tag in (258, 339) and kind == 3:
                values = _shorts(data, place + k * entry + 4, order, offset)
                yield from values if tag == 258 else (16 for value in values if value in (2, 3))
        (place,) = struct.unpack_from(order + offset, data, place + entries * entry)


def _shorts(data: bytes, place: int, order: str, offset: str) -> tuple[int, ...]:
    """A TIFF entry's 16-bit values, from its count on: in place where they fit, else where it points."""
    (count,) = struct.unpack_from(order + offset, data, place)
    place += struct.calcsize(order + offset)
    if 2 * count > struct.calcsize(order + offset):
        (place,) = struct.unpack_from(order + offset, data, place)
    return struct.unpack_from(f"{order}{min(count, 64)}H", data, place)


def _ppm(data: bytes) -> Iterator[int]:
    """The bits of the largest level; PFM holds floats."""
    kind = data[1:2]
    if kind in b"fF":
        yield 32
    elif kind in b"2356":
        words = re.sub(rb"#[^\r\n]*[\r\n]", b"", data[2:COMMENT_BYTES]).split(None, 3)
        yield int(words[2]).bit_length()


def _jpeg2000(data: bytes) -> Iterator[int]:
    """The components of the code stream, and of a palette."""
    start = data.find(b"\xff\x4f\xff\x51")
    components = struct.unpack_from(">H", data, start + 40)[0] if start >= 0 else 0
    yield from ((data[start + 42 + 3 * k] & 0x7F) + 1 for k in range(components))
    header = data.find(b"ihdr", 0, max(start, 0))
    if header >= 0 and data[header + 14] != 255:
        yield (data[header + 14] & 0x7F) + 1
    palette = data.find(b"pclr", 0, max(start, 0))
    if palette >= 0:
        yield from ((bits & 0x7F) + 1 for bits in data[palette + 7 : palette + 7 + data[palette + 6]])


def _avif(data: bytes) -> Iterator[int]:
    """The AV1 configurations: the bits "high bit depth" and "twelve bits" of their third byte."""
    for found in re.finditer(rb"av1C\x81.(.)", data, re.DOTALL):
        flags = found[1][0]
        yield (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _dds(data: bytes) -> Iterator[int]:
    """The masks of plain colours, or a DirectX 10 format of halves (BC6H)."""
    flags, code = struct.unpack_from("<I4s", data, 80)
    if flags & 0x40:
        yield from (mask.bit_count() for mask in struct.unpack_from("<4I", data, 92))
    if code == b"DX10" and struct.unpack_from("<I", data, 128)[0] in (94, 95, 96):
        yield 16


def _xpm(data: bytes) -> Iterator[int]:
    """Hexadecimal colours: two digits a channel are 8 bits."""
    yield from (4 * (len(digits) // 3) for digits in re.findall(rb"#([0-9a-fA-F]{3,})", data))


def _embedded(data: bytes) -> Iterator[int]:
    """Icons hold whole PNG and JPEG 2000 files."""
    for found in re.finditer(rb"\x89PNG\r\n\x1a\n|\0\0\0\x0cjP  |\xff\x4f\xff\x51", data):
        yield channel_bits(data[found.start() :])


BITS: dict[str, Callable[[bytes], Iterable[int]]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "TIFF": _tiff,
    "PPM": _ppm,
    "JPEG2000": _jpeg2000,
    "AVIF": _avif,
    "PSD": lambda data: struct.unpack_from(">H", data, 22),
    "SGI": lambda data: [8 * data[3]],
    "DDS": _dds,
    "XPM": _xpm,
    "ICO": _embedded,
    "CUR": _embedded,
    "ICNS": _embedded,
}
