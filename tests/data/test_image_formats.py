"""Formats of image files: every one that Pillow decodes is read, and more than 8 bits a channel are never cut."""

import io
import struct
import warnings

import numpy as np
import pytest
import raw_images as raw
import torch
from image_files import encoded, noise, write_folder
from PIL import Image

import genflow
from genflow.data.decoding import Decoder
from genflow.data.downloads import DataError
from genflow.data.image_formats import channel_bits, image_suffixes

GREY, COLOUR = noise(0, 4, 4), noise(1, 4, 4, 3)
DEEP = noise(2, 4, 4, 4).astype(np.uint16) * 15  # below 4096: the high byte is at most 15
LOW = noise(3, 4, 4, 4).astype(np.int64)
PHOTOGRAPH = np.kron(np.arange(0, 256, 16).reshape(4, 4), np.ones((4, 4))).astype(np.uint8)


def saved(image, form, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def pictured(levels, form, mode=None, **options):
    image = Image.fromarray(levels)
    return saved(image.convert(mode) if mode else image, form, **options)


def loaded(tmp_path, suffix, data, **options):
    """The image of a folder of two equal files."""
    write_folder(tmp_path, {f"{k}{suffix}": data for k in range(2)})
    found = genflow.get_dataset("images", path=tmp_path, **options)
    assert torch.equal(found.train, found.test)
    return found.train[0]


def channels_first(levels):
    levels = np.asarray(levels)
    return torch.from_numpy(levels.astype(np.float32))[None] if levels.ndim == 2 else _colour(levels)


def _colour(levels):
    return torch.from_numpy(levels.astype(np.float32)).permute(2, 0, 1)


def tiffs():
    for order in "<>":
        for big in (False, True):
            for samples in (1, 3, 4):
                where = f"{'big ' if big else ''}{order}{samples}"
                levels = DEEP[:, :, 0] if samples == 1 else DEEP[:, :, :samples]
                for kind in (np.uint16, np.uint32, np.int16, np.float32, np.float64):
                    sample_format = {"u": 1, "i": 2, "f": 3}[np.dtype(kind).kind]
                    data = raw.tiff(levels.astype(kind), order, big, sample_format=sample_format)
                    yield f"tiff {where} {np.dtype(kind).name}", ".tif", data
                yield f"tiff {where} plain uint16", ".tiff", raw.tiff(levels, order, big)
                yield f"tiff {where} int8", ".tif", raw.tiff(levels.astype(np.int8), order, big, sample_format=2)
    yield "tiff cmyk", ".tif", raw.tiff(DEEP, photometric=5)
    yield "tiff lab", ".tif", raw.tiff(DEEP[:, :, :3], photometric=8)
    plain = raw.tiff(DEEP[:, :, :3])
    yield "tiff whose next page is nowhere", ".tif", plain[:-4] + b"\xff\xff\xff\x7f"
    yield "tiff second page", ".tif", raw.tiff(DEEP, pages=2)


def deep_files():
    """(what, suffix, bytes) of images with more than 8 bits a channel."""
    for colour, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
        yield f"png {colour}", ".png", raw.png(DEEP[:, :, :channels], 16, colour)
    yield "animated png", ".apng", raw.png(DEEP[:, :, :3], 16, 2, others=[(b"acTL", struct.pack(">2I", 1, 0))])
    yield from tiffs()
    for most in (256, 1023, 4095, 65535):
        for kind in (2, 3, 5, 6):
            levels = DEEP[:, :, :3] if kind in (3, 6) else DEEP[:, :, 0]
            yield f"pnm {kind} {most}", ".ppm", raw.pnm(np.minimum(levels, most), kind, most)
    commented = raw.pnm(DEEP[:, :, :3], 6, 65535).replace(b"# a comment", b"#" + b" a comment" * 9000)
    yield "pnm with a long comment", ".ppm", commented
    plain = raw.png(DEEP[:, :, :3], 16, 2)
    late = plain[:8] + raw.chunk(b"tEXt", b"a\0b") + raw.chunk(b"CgBI", bytes(4)) + plain[8:]
    yield "png behind other chunks", ".png", late
    yield "ico behind other chunks", ".ico", struct.pack("<3H4B2H2I", 0, 1, 1, 4, 4, 0, 0, 1, 48, len(late), 22) + late
    for kind in ("PyP", "PyRGBA", "PyCMYK", "P0CMYK"):
        yield f"pnm {kind}", ".ppm", f"{kind}\n4 4\n4095\n".encode() + DEEP.astype(">u2").tobytes()
    yield "pfm grey", ".pfm", raw.pfm(DEEP[:, :, 0])
    yield "pfm colour", ".pfm", raw.pfm(DEEP[:, :, :3])
    photograph = {
        "": {},
        " progressive": {"progressive": True},
        " exif": {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"},
    }
    for what, options in photograph.items():
        for levels in (GREY, COLOUR):
            plain = encoded(levels, "JPEG", **options)
            yield f"jpeg{what} {levels.ndim}", ".jpg", raw.jpeg_of_precision(plain, 12)
    for levels in (GREY, COLOUR, noise(4, 4, 4, 4)):
        for no_jp2 in (False, True):
            plain = pictured(levels, "JPEG2000", no_jp2=no_jp2)
            for bits in (9, 12, 16):
                yield f"jpeg2000 {levels.shape} {no_jp2} {bits}", ".jp2", raw.jpeg2000_of_depth(plain, bits)
    for levels in (GREY, COLOUR, noise(4, 4, 4, 4)):
        for bits in (10, 12):
            yield f"avif {levels.shape} {bits}", ".avif", raw.avif_of_depth(pictured(levels, "AVIF"), bits)
    yield "sgi colour", ".rgb", pictured(COLOUR, "SGI", bpc=2)
    yield "sgi grey", ".sgi", pictured(GREY, "SGI", bpc=2)
    yield "psd", ".psd", raw.psd(16)
    yield "psd floats", ".psd", raw.psd(32)
    for dxgi in (94, 95, 96):
        yield f"dds {dxgi}", ".dds", raw.dds(dxgi=dxgi)
    yield "dds masks", ".dds", raw.dds(masks=(0x3FF, 0x3FF << 10, 0x3FF << 20))
    yield "xpm", ".xpm", b'/* XPM */\nstatic char *a[] = {\n"1 1 1 1",\n"a c #00ff00ff00ff",\n"a"\n};\n'
    inner = raw.png(np.tile(DEEP[:, :, :3], (4, 4, 1)), 16, 2)
    yield "ico", ".ico", struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 48, len(inner), 22) + inner
    icns = b"icp4" + struct.pack(">I", 8 + len(inner)) + inner
    yield "icns", ".icns", b"icns" + struct.pack(">I", 8 + len(icns)) + icns
    for mode in ("I;16", "I", "F"):
        yield f"im {mode}", ".im", saved(Image.fromarray(DEEP[:, :, 0].astype(np.int32)).convert(mode), "IM")
    card = [b"SIMPLE  =                    T", b"BITPIX  =                   16", b"NAXIS   =                    2"]
    card += [b"NAXIS1  =                    4", b"NAXIS2  =                    4", b"END"]
    yield "fits", ".fits", b"".join(line.ljust(80) for line in card).ljust(2880) + bytes(2880)


DEEP_FILES = list(deep_files())


@pytest.mark.quick_one_in(11)
@pytest.mark.parametrize(("suffix", "data"), [x[1:] for x in DEEP_FILES], ids=[x[0] for x in DEEP_FILES])
@pytest.mark.parametrize("options", [{}, {"channels": 1, "size": 4}, {"channels": 3, "size": 4}], ids=["", "1", "3"])
def test_deep_images_are_refused_by_name(tmp_path, suffix, data, options):
    with pytest.raises(DataError, match=r"[01]\.\w+ has more than 8 bits a channel .*range=\[low, high\]"):
        loaded(tmp_path, suffix, data, **options)


def test_deep_images_are_skipped_where_that_is_asked_for(tmp_path):
    write_folder(tmp_path, {f"{k}.png": encoded(COLOUR) for k in range(3)})
    write_folder(tmp_path, {"deep.png": raw.png(DEEP[:, :, :3], 16, 2)})
    data = genflow.get_dataset("images", path=tmp_path, on_bad_image="skip")
    assert data.count("train") + data.count("test") == 3
    assert data.skipped == 1


# ---- 8 bits and fewer -------------------------------------------------------------------------------------


def shallow_files():
    """(what, suffix, bytes, levels) of images whose levels are kept, or spread over 0 to 255."""
    for bits in (1, 2, 4, 8):
        most = 2**bits - 1
        levels = LOW[:, :, 0] & most
        yield f"png {bits}", ".png", raw.png(levels, bits, 0), levels * 255 // most
        yield f"PNG {bits}", ".PNG", raw.png(levels, bits, 0), levels * 255 // most
    yield "png rgb", ".png", raw.png(LOW[:, :, :3], 8, 2), LOW[:, :, :3]
    key = [(b"tRNS", struct.pack(">3H", *LOW[0, 0, :3]))]
    yield "png rgb with a transparent colour", ".png", raw.png(LOW[:, :, :3], 8, 2, others=key), LOW[:, :, :3]
    for order, big in (("<", False), (">", False), ("<", True)):  # Pillow reads no big-endian BigTIFF
        yield f"tiff grey {order}{big}", ".tif", raw.tiff(GREY, order, big), GREY
        yield f"tiff rgb {order}{big}", ".TIFF", raw.tiff(COLOUR, order, big, sample_format=1), COLOUR
    yield "tiff white is zero", ".tif", raw.tiff(GREY, photometric=0), 255 - GREY
    for most in (1, 15, 255):
        for kind in (2, 5, 3, 6):
            levels = LOW[:, :, :3] % (most + 1) if kind in (3, 6) else LOW[:, :, 0] % (most + 1)
            yield f"pnm {kind} {most}", ".pnm", raw.pnm(levels, kind, most), levels * 255 // most
    for kind in (1, 4):
        yield f"pbm {kind}", ".pbm", raw.pnm(LOW[:, :, 0] & 1, kind, 1), 255 * (1 - (LOW[:, :, 0] & 1))
    exact = {"BMP": ".bmp", "DIB": ".dib", "PPM": ".pgm", "SGI": ".bw", "TGA": ".tga", "PCX": ".pcx", "IM": ".im"}
    exact |= {"TIFF": ".tif", "PNG": ".apng", "DDS": ".dds", "JPEG2000": ".jp2"}
    for form, suffix in exact.items():
        for levels in (GREY, COLOUR):
            yield f"{form} {levels.ndim}", suffix, encoded(levels, form), levels
    yield "qoi", ".qoi", encoded(COLOUR, "QOI"), COLOUR
    yield "webp", ".webp", encoded(COLOUR, "WEBP", lossless=True), COLOUR
    yield "ico", ".ico", encoded(noise(7, 16, 16, 3), "ICO", sizes=[(16, 16)]), noise(7, 16, 16, 3)
    for compression in ("tiff_lzw", "tiff_deflate", "packbits"):
        yield f"tiff {compression}", ".tif", encoded(COLOUR, "TIFF", compression=compression), COLOUR
    bits = (GREY > 127) * np.uint8(255)
    for form, suffix in {"PNG": ".png", "TIFF": ".tif", "BMP": ".bmp", "XBM": ".xbm", "MSP": ".msp"}.items():
        yield f"{form} of 1 bit", suffix, pictured(bits, form, "1"), bits


SHALLOW = list(shallow_files())


@pytest.mark.parametrize(("suffix", "data", "levels"), [x[1:] for x in SHALLOW], ids=[x[0] for x in SHALLOW])
def test_levels_of_lossless_formats_are_exact(tmp_path, suffix, data, levels):
    assert torch.equal(loaded(tmp_path, suffix, data), channels_first(levels))


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("JPEG", {"quality": 95, "optimize": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
        ("AVIF", {"quality": 95}),
        ("WEBP", {"quality": 95}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
    ],
)
@pytest.mark.parametrize("colour", [False, True])
def test_levels_of_lossy_formats_are_close(tmp_path, form, options, colour):
    levels = np.stack([PHOTOGRAPH, PHOTOGRAPH.T, 255 - PHOTOGRAPH], 2) if colour else PHOTOGRAPH
    suffix = {"JPEG": ".JFIF", "AVIF": ".avif", "WEBP": ".WebP", "TIFF": ".tif"}[form]
    found = loaded(tmp_path, suffix, encoded(levels, form, **options), channels=3 if colour else 1)
    assert float((found - channels_first(levels)).abs().mean()) < (20 if colour else 4)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "P", "PA", "LA", "RGBA", "RGBX", "1", "La", "RGBa"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_pillow_is_converted_as_pillow_does(mode, channels, monkeypatch):
    """By way of RGB; an inverted or shifted conversion is far off."""
    source = Image.fromarray(np.kron(COLOUR, np.ones((4, 4, 1), np.uint8)))
    own = {
        "La": lambda: source.convert("LA").convert("La"),
        "RGBa": lambda: source.convert("RGBA").convert("RGBa"),
        "LAB": lambda: Image.new("LAB", (16, 16), (128, 128, 128)),
        "P": lambda: source.quantize(256),
        "PA": lambda: source.quantize(256).convert("PA"),
    }
    image = own.get(mode, lambda: source.convert(mode))()
    monkeypatch.setattr("genflow.data.decoding._opened", lambda data: image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Decoder(channels).decode(b"")
    wanted = Image.new("RGB", (16, 16), (119, 119, 119)) if mode == "LAB" else source
    wanted = wanted.convert("1") if mode == "1" else wanted.convert("L") if mode in ("LA", "La") else wanted
    wanted = np.asarray(wanted.convert("L" if channels == 1 else "RGB")).reshape(16, 16, -1).transpose(2, 0, 1)
    assert np.abs(found.astype(float) - wanted).mean() < 12  # palettes have 256 colours, CMYK rounds


def test_cmyk_photographs_are_not_inverted(tmp_path):
    data = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    found = loaded(tmp_path, ".jpg", data, channels=3)
    assert float((found - torch.tensor([255.0, 0, 0]).reshape(3, 1, 1)).abs().max()) < 12


# ---- transparency, palettes, orientation -------------------------------------------------------------------


def transparent_files():
    """(what, suffix, bytes, colour under the transparency) of images that are transparent all over."""
    red = np.array([200, 30, 60], np.uint8)
    rgba = np.concatenate([np.tile(red, (4, 4, 1)), np.zeros((4, 4, 1), np.uint8)], 2)
    for form, suffix in {"PNG": ".png", "TIFF": ".tif", "TGA": ".tga"}.items():
        yield form, suffix, encoded(rgba, form), red
    yield "WEBP", ".webp", encoded(rgba, "WEBP", lossless=True, exact=True), red
    yield "LA", ".png", raw.png(np.stack([np.full((4, 4), 90), np.zeros((4, 4))], 2).astype(int), 8, 4), [90] * 3
    zeros = np.zeros((4, 4), int)
    yield "P by bytes", ".png", raw.png(zeros, 8, 3, [200, 30, 60, 1, 2, 3], [(b"tRNS", b"\0\x80")]), red
    yield "P by index", ".png", raw.png(zeros, 8, 3, [200, 30, 60, 1, 2, 3], [(b"tRNS", b"\0")]), red
    key = [(b"tRNS", struct.pack(">3H", *red))]
    yield "RGB key", ".png", raw.png(np.tile(red, (4, 4, 1)), 8, 2, others=key), red
    yield "grey key", ".png", raw.png(np.full((4, 4), 90), 8, 0, others=[(b"tRNS", struct.pack(">H", 90))]), [90] * 3
    palette = Image.new("P", (4, 4))
    palette.putpalette([200, 30, 60, 1, 2, 3])
    yield "GIF", ".gif", saved(palette, "GIF", transparency=0), red


TRANSPARENT = list(transparent_files())


@pytest.mark.parametrize(("suffix", "data", "colour"), [x[1:] for x in TRANSPARENT], ids=[x[0] for x in TRANSPARENT])
@pytest.mark.parametrize("background", [None, 0, 255])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.filterwarnings("error")
def test_transparency_is_dropped_or_put_on_a_background(tmp_path, suffix, data, colour, background, channels):
    found = loaded(tmp_path, suffix, data, channels=channels, background=background)
    if background is not None:
        assert torch.equal(found, torch.full_like(found, background))
        return
    wanted = Image.new("RGB", (1, 1), tuple(map(int, colour))).convert("L" if channels == 1 else "RGB").getpixel((0, 0))
    assert float((found - torch.tensor(wanted, dtype=torch.float32).reshape(-1, 1, 1)).abs().max()) <= 1


def test_a_background_shows_through_by_the_share_that_is_transparent(tmp_path):
    rgba = np.tile(np.array([200, 0, 100, 51], np.uint8), (4, 4, 1))  # a fifth of the colour
    found = loaded(tmp_path, ".png", encoded(rgba), channels=3, background=100)
    assert found[:, 0, 0].tolist() == pytest.approx([120, 80, 100], abs=1)
    with pytest.raises(ValueError, match="background = 256 is not allowed; give a whole number from 0 to 255"):
        loaded(tmp_path, ".png", encoded(rgba), channels=3, background=256)


def test_palettes_give_their_colours(tmp_path):
    palette = noise(8, 16, 3)
    for bits in (1, 2, 4, 8):
        levels = LOW[:, :, 0] & (min(2**bits, 16) - 1)
        data = raw.png(levels, bits, 3, palette[: min(2**bits, 16)].reshape(-1))
        assert torch.equal(loaded(tmp_path, ".png", data, channels=3), channels_first(palette[levels]))
    with pytest.raises(DataError, match=r"is neither grey nor RGB \(mode P, .*channels=3 converts"):
        loaded(tmp_path, ".png", data)


def test_an_orientation_is_told_and_not_applied(tmp_path, caplog):
    levels = np.kron(noise(9, 2, 3), np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(levels, "JPEG", quality=100, exif=exif.tobytes())
    found = loaded(tmp_path, ".jpg", data)
    assert found.shape == (1, 16, 24)
    assert float((found - channels_first(levels)).abs().max()) < 12
    lines = [line for line in caplog.messages if "EXIF orientation 6, which is not applied" in line]
    assert len(lines) == 1


# ---- names ------------------------------------------------------------------------------------------------


def test_suffixes_are_those_of_formats_that_pillow_decodes():
    found = image_suffixes()
    assert {".jpg", ".jfif", ".jpe", ".png", ".apng", ".avif", ".webp", ".jp2", ".qoi", ".tga", ".mpo"} <= found
    assert not found & {".pdf", ".eps", ".ps", ".h5", ".hdf", ".mpg", ".mpeg", ".wmf", ".emf", ".grib", ".bufr"}


@pytest.mark.quick_one_in(7)
@pytest.mark.parametrize("data", [x[2] for x in DEEP_FILES] + [x[2] for x in SHALLOW])
def test_headers_that_are_cut_off_anywhere_raise_nothing(data):
    for end in {*range(64), *range(64, len(data), 97)}:
        assert channel_bits(data[:end]) >= 1
