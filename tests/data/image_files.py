"""Small files of published formats that the tests of image data sets make."""

import io
import pickle
import struct
import zipfile

import numpy as np
from PIL import Image


def encoded(array, form="PNG", **options):
    """The bytes of an image file, from (h, w) or (h, w, 3) levels."""
    out = io.BytesIO()
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(out, form, **options)
    return out.getvalue()


def noise(seed, *shape):
    return np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8)


def colour_files(count, height=6, width=5, name="img{:03d}.png"):
    """Names and bytes of random RGB images."""
    return {name.format(k): encoded(noise(k, height, width, 3)) for k in range(count)}


def write_folder(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and its numpy wrote: protocol 2, bytes as strings, numpy.core."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, text):
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch[bytes] = save_bytes


def python2(value):
    out = io.BytesIO()
    Python2Pickler(out, 2).dump(value)
    return out.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")
