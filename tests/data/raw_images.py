"""Image files written by hand, of depths and kinds that Pillow does not write."""

import struct
import zlib

import numpy as np


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(levels, bits, colour, palette=None, others=()):
    """A PNG of (h, w[, channels]) whole levels, `bits` a channel, of a colour type (0 grey, 2 RGB, 3 palette, 4, 6)."""
    levels = np.asarray(levels)
    height, width = levels.shape[:2]
    rows = levels.reshape(height, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        spread = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        lines = [np.packbits(row.astype(np.uint8)).tobytes() for row in spread.reshape(height, -1)]
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0))
    middle = (chunk(b"PLTE", bytes(palette)) if palette is not None else b"") + b"".join(chunk(*c) for c in others)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
    return b"\x89PNG\r\n\x1a\n" + head + middle + pixels + chunk(b"IEND", b"")


def tiff(levels, order="<", big=False, photometric=None, sample_format=None, pages=1):
    """An uncompressed TIFF of (h, w[, channels]) numbers of any type, the pages alike; `big` is BigTIFF."""
    levels = np.asarray(levels)
    height, width = levels.shape[:2]
    samples = levels.shape[2] if levels.ndim == 3 else 1
    pixels = levels.astype(levels.dtype.newbyteorder(order)).tobytes()
    bits = 8 * levels.dtype.itemsize
    wide, count = ("Q", "Q") if big else ("I", "H")
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(order + "H", 43 if big else 42) + (struct.pack(order + "HH", 8, 0) if big else b"")
    start = len(head) + struct.calcsize("<" + wide)
    body = pixels + struct.pack(f"{order}{2 * samples}H", *[bits] * samples, *[sample_format or 1] * samples)
    depths, formats = start + len(pixels), start + len(pixels) + 2 * samples
    room = struct.calcsize("<" + wide)

    def entry(tag, kind, number, value):
        inline = isinstance(value, tuple)
        packed = (
            struct.pack(f"{order}{number}H", *value).ljust(room, b"\0") if inline else struct.pack(order + wide, value)
        )
        return struct.pack(order + "HH" + wide, tag, kind, number) + packed

    def shorts(tag, value, place):
        return entry(tag, 3, samples, (value,) * samples if 2 * samples <= room else place)

    tags = [
        entry(256, 3, 1, (width,)),
        entry(257, 3, 1, (height,)),
        shorts(258, bits, depths),
        entry(259, 3, 1, (1,)),
        entry(262, 3, 1, ((2 if samples > 2 else 1) if photometric is None else photometric,)),
        entry(273, 4, 1, start) if not big else entry(273, 16, 1, start),
        entry(277, 3, 1, (samples,)),
        entry(278, 3, 1, (height,)),
        entry(279, 4, 1, len(pixels)) if not big else entry(279, 16, 1, len(pixels)),
        *([shorts(339, sample_format, formats)] if sample_format else []),
    ]
    first = start + len(body)
    size = struct.calcsize("<" + count) + len(b"".join(tags)) + room
    out = head + struct.pack(order + wide, first) + body
    for page in range(pages):
        follows = 0 if page == pages - 1 else first + (page + 1) * size
        out += struct.pack(order + count, len(tags)) + b"".join(tags) + struct.pack(order + wide, follows)
    return out


def pnm(levels, kind, most):
    """A PBM, PGM or PPM file, P1 to P6, of levels 0 to `most`."""
    levels = np.asarray(levels)
    height, width = levels.shape[:2]
    head = f"P{kind} # a comment 9 9\n{width} {height}\n".encode() + (b"" if kind in (1, 4) else f"{most}\n".encode())
    if kind < 4:
        return head + " ".join(map(str, levels.reshape(-1))).encode() + b"\n"
    if kind == 4:
        return head + b"".join(np.packbits(row.astype(np.uint8)).tobytes() for row in levels)
    return head + levels.astype(">u2" if most > 255 else np.uint8).tobytes()


def pfm(levels):
    """A PFM file of floats, grey or colour."""
    levels = np.asarray(levels, np.float32)
    kind = "PF" if levels.ndim == 3 else "Pf"
    return f"{kind}\n{levels.shape[1]} {levels.shape[0]}\n-1.0\n".encode() + levels.astype("<f4").tobytes()


def psd(bits):
    """The header of a Photoshop file of 4x4 RGB pixels, and flat pixels."""
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 4, 4, bits, 3)
    return head + bytes(12) + struct.pack(">H", 0) + bytes(3 * 16 * bits // 8)


def dds(masks=None, bits=32, dxgi=None):
    """A DDS texture of 4x4 pixels: plain colours by masks, or of a DirectX 10 format."""
    flags, code = (0x40, 0) if masks else (4, int.from_bytes(b"DX10", "little"))
    head = struct.pack("<4s7I44x", b"DDS ", 124, 0x1007, 4, 4, 16, 0, 0)
    head += struct.pack("<8I", 32, flags, code, bits, *(masks or (0, 0, 0)), 0) + bytes(20)
    return head + (struct.pack("<5I", dxgi, 3, 0, 1, 0) if dxgi else b"") + bytes(4 * 4 * 8)


def jpeg_of_precision(data, bits):
    """A JPEG file that declares another precision in its frame's header."""
    place = next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2") if marker in data)
    return data[: place + 4] + bytes([bits]) + data[place + 5 :]


def jpeg2000_of_depth(data, bits):
    """A JPEG 2000 file that declares another depth for all components."""
    start = data.index(b"\xff\x4f\xff\x51")
    out = bytearray(data)
    for k in range(struct.unpack_from(">H", data, start + 40)[0]):
        out[start + 42 + 3 * k] = bits - 1
    if b"ihdr" in data:
        out[data.index(b"ihdr") + 14] = bits - 1
    return bytes(out)


def avif_of_depth(data, bits):
    """An AVIF file that declares another depth in its AV1 configuration."""
    place = data.index(b"av1C\x81") + 6
    flags = data[place] & ~0x60 | {8: 0, 10: 0x40, 12: 0x60}[bits]
    return data[:place] + bytes([flags]) + data[place + 1 :]
