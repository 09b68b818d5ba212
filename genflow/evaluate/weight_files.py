"""Weight files that are not part of genflow: which are known, where they are searched for, and checks of their content.
Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from genflow.places import expand
from genflow.registry import unknown

VARIABLE = "GENFLOW_WEIGHTS_DIR"
TRUSTED = "trusted.json"


class WeightsError(RuntimeError):
    """A weight file is missing or not the right one; the message says which is needed, where it was searched for, and
    what to do."""

    exit_code = 2


@dataclass(frozen=True)
class WeightFile:
    """A published weight file.

    Arguments:
        file: Its published name.
        url: Where it is published.
        sha256: Hash of the published file.
        size: Bytes.
        use: What it is for.
        code: Whether loading it runs code from the file (TorchScript).
    """

    file: str
    url: str
    sha256: str
    size: int
    use: str
    code: bool


KNOWN = {
    "inception": WeightFile(
        "inception-2015-12-05.pt",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        95_607_719,
        "FID, KID and IS in the protocols clean and legacy_tensorflow",
        code=True,
    ),
    "inception_pytorch": WeightFile(
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        95_628_359,
        "FID, KID and IS in the protocol legacy_pytorch, and in the others through the same layers",
        code=False,
    ),
}
"""Known files by the name that `genflow weights` uses.

The first hash is the one that k-diffusion checks its download against and that several public evaluation scripts
record; the second begins with the eight digits that its publisher wrote into the file's name. Neither file could be
fetched where this was written, so neither hash was recomputed here.
"""


MODES = {
    "clean": ("inception", "inception_pytorch"),
    "legacy_tensorflow": ("inception", "inception_pytorch"),
    "legacy_pytorch": ("inception_pytorch",),
}
"""The weight files for each protocol, the preferred one first."""


@dataclass(frozen=True)
class Found:
    """A weight file whose content is known.

    Arguments:
        path: Where it is.
        sha256: Hash of its content.
        trust: "published", or "trusted by genflow weights add".
    """

    path: Path
    sha256: str
    trust: str

    @property
    def code(self) -> bool:
        """Whether loading it runs code from the file: a TorchScript archive is named .pt."""
        return self.path.suffix == ".pt"


def sha256(path: Path) -> str:
    """Hash of a file's content; read once for each size and time of change."""
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def store_folder() -> Path:
    """Where `genflow weights` keeps files."""
    from genflow.cache import folder

    return folder("weights")


def folders() -> list[tuple[str, Path | None]]:
    """Folders that are searched, in order, each with its name in messages; None where one is not set."""
    chosen = os.environ.get(VARIABLE)
    return [(f"${VARIABLE}", expand(chosen) if chosen else None), ("the cache folder", store_folder())]


def candidates(names: tuple[str, ...]) -> Iterator[Path]:
    """Existing files of known names, folder by folder."""
    for _, place in folders():
        for name in names:
            if place is not None and (place / KNOWN[name].file).is_file():
                yield place / KNOWN[name].file


def find(names: tuple[str, ...], given: str = "") -> Found:
    """The file to use: the given one, else the first of the known names in `$GENFLOW_WEIGHTS_DIR` or the cache.

    Arguments:
        names: WeightFile files that would serve, the preferred first.
        given: Path from the user; "" searches.

    Raises:
        WeightsError: There is none, or its content is neither published nor trusted.
    """
    if given:
        path = expand(given)
        if not path.is_file():
            raise WeightsError(f"inception = '{given}' is not a file. {missing(names, given)}")
        return check(path)
    path = next(candidates(names), None)  # type: ignore[assignment]
    if path is None:
        raise WeightsError(missing(names))
    return check(path)


def check(path: Path) -> Found:
    """A file whose content is published or trusted.

    Raises:
        WeightsError: It is neither; the message says what came, what was expected, and what to do.
    """
    digest = sha256(path)
    if any(digest == known.sha256 for known in KNOWN.values()):
        return Found(path, digest, "published")
    if digest in trusted():
        return Found(path, digest, "trusted by genflow weights add")
    known = next((k for k in KNOWN.values() if k.file == path.name), None)
    if known is not None:
        size = path.stat().st_size
        cut = f" ({size} bytes instead of {known.size}: truncated?)" if size < known.size else ""
        raise WeightsError(
            f"{path} has sha256 {digest}, not {known.sha256}{cut}; remove it and fetch it again "
            f"(genflow weights download {_name(known)}), or trust this one: genflow weights add {path}"
        )
    runs = "loading it would run code from it" if path.suffix == ".pt" else "it has not been trusted yet"
    raise WeightsError(
        f"{path} has sha256 {digest}, which is not that of a published file, and {runs}; "
        f"if you trust it: genflow weights add {path}"
    )


def _name(known: WeightFile) -> str:
    return next(name for name, other in KNOWN.items() if other is known)


def missing(names: tuple[str, ...], given: str = "") -> str:
    """A message: what is missing, where it was searched for, its hash, how to get it, and what works without it."""
    wanted = " or ".join(f"{KNOWN[n].file} (sha256 {KNOWN[n].sha256})" for n in names)
    places = [f"inception = {given}" if given else "inception (not given)"]
    places += [f"{words} ({place if place is not None else 'not set'})" for words, place in folders()]
    return (
        f"The Inception weights are missing: {wanted} is needed; searched {', '.join(places)}. "
        f"With a network: genflow weights download {names[0]}. Without one: copy the file here and "
        f"genflow weights add PATH, or --inception PATH. Until then fd and prdc, and kid with features=own, "
        f"measure in a feature space that needs no download"
    )


# ---- keeping ---------------------------------------------------------------------------------------------


def trusted() -> dict[str, dict[str, Any]]:
    """Files that the user trusts, by hash: name, and date."""
    path = store_folder() / TRUSTED
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); remove it and add your files again") from error


def add(path: Path, name: str = "") -> Found:
    """Copies a file into the cache under its known name or its own, and records its hash.

    A published file is recognised by its hash. Any other is trusted on first use: from then on this content is
    accepted, and no other.

    Arguments:
        path: The file.
        name: A known name to serve as ("inception"); "" for one that is recognised, or that is named by its path.

    Raises:
        WeightsError: There is no such file, or it is not a file of weights.
        UnknownNameError: The name is not known.
    """
    if not path.is_file():
        raise WeightsError(f"'{path}' is not a file")
    if name and name not in KNOWN:
        raise unknown("weight file", name, KNOWN)
    digest = sha256(path)
    published = next((known for known in KNOWN.values() if known.sha256 == digest), None)
    if published is None:
        _check_form(path)
    file = KNOWN[name].file if name else published.file if published else path.name
    target = store_folder() / file
    if target.resolve() != path.resolve():
        fresh = target.with_name(f"{file}.tmp-{os.getpid()}")
        shutil.copyfile(path, fresh)
        fresh.replace(target)
    if published is None:
        _trust(digest, file)
    return check(target)


FORMS = {".pt": (b"PK\x03\x04",), ".pth": (b"PK\x03\x04", b"\x80\x02")}
"""Endings of files of weights, and how their content begins: TorchScript archives, and torch's two formats."""


def _check_form(path: Path) -> None:
    """Raises WeightsError for a file that cannot hold weights, before it is trusted."""
    begins = FORMS.get(path.suffix)
    if begins is None:
        raise WeightsError(
            f"'{path}' is not a file of weights: those end in .pt (TorchScript: a network with code) or .pth (tensors)"
        )
    with path.open("rb") as file:
        start = file.read(4)
    if not start.startswith(begins):
        raise WeightsError(
            f"'{path}' is not a file of weights: its content is not what torch writes to a {path.suffix} file"
        )


def _trust(digest: str, file: str) -> None:
    from genflow.checkpoint import write_file

    known = trusted() | {digest: {"file": file, "added": time.strftime("%Y-%m-%d", time.gmtime())}}
    write_file(store_folder() / TRUSTED, json.dumps(known, indent=1))


def download(name: str, url: str = "") -> Found:
    """Fetches a known file into the cache; a part or another content never takes its place.

    Raises:
        WeightsError: It cannot be fetched, or has another hash.
    """
    import urllib.error
    import urllib.request

    if name not in KNOWN:
        raise unknown("weight file", name, KNOWN)
    known = KNOWN[name]
    target = store_folder() / known.file
    fresh = target.with_name(f"{known.file}.tmp-{os.getpid()}")
    try:
        with urllib.request.urlopen(url or known.url, timeout=60) as answer, fresh.open("wb") as file:
            shutil.copyfileobj(answer, file)
        found = sha256(fresh)
        if found != known.sha256:
            raise WeightsError(f"{url or known.url} gave sha256 {found}, not {known.sha256}; it is not kept")
        fresh.replace(target)
    except (OSError, urllib.error.URLError) as error:
        raise WeightsError(
            f"{url or known.url} cannot be fetched: {getattr(error, 'reason', error)}; fetch it on a machine with a "
            f"network (sha256 {known.sha256}) and run: genflow weights add {known.file}"
        ) from None
    finally:
        fresh.unlink(missing_ok=True)
    return check(target)


WITHOUT = "missing"
"""In a stamp, the beginning of what takes the place of a hash of missing weights."""


def stamp(options: Mapping[str, Any], inception: str | None) -> dict[str, Any]:
    """What a measurement depends on outside the package, for a bench's cell key: the metric's options, and hashes of
    the files they name and of Inception's weights. A new file means a new measurement. {} where there is nothing.

    The stamp of a file that is refused differs from that of the same file once it is trusted.

    Arguments:
        options: The metric's options.
        inception: Path of the weights, "" for those that a search finds, None for a metric that needs none.
    """
    named = {k: v for k, v in options.items() if isinstance(v, str) and expand(v).is_file()}
    files = {v: _stamp_of(expand(v), loaded=k == "features") for k, v in named.items()}
    found = {"options": dict(options), "files": files}
    if inception is None or options.get("features", "inception") != "inception":
        return found if options else {}
    try:
        weights = find(MODES.get(str(options.get("mode", "clean")), tuple(KNOWN)), inception).sha256
    except WeightsError as error:
        weights = f"{WITHOUT} {hashlib.sha256(str(error).encode()).hexdigest()}"
    return found | {"inception": weights}


def is_without_weights(stamped: Mapping[str, Any]) -> bool:
    """Whether a stamp records that Inception's weights were missing or refused; it has a hash of the reason."""
    return str(stamped.get("inception", "")).startswith(WITHOUT)


def _stamp_of(path: Path, loaded: bool) -> str:
    """Hash of a file that an option names, marked where it is a network that would be refused."""
    try:
        return check(path).sha256 if loaded else sha256(path)
    except WeightsError:
        return f"refused {sha256(path)}"
