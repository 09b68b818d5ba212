"""Feature spaces by name: the package's own, Inception's, and any network that the user gives."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genflow.data.base import Dataset
from genflow.evaluate.checks import ImageCheck, NotMeasurable, conversion, to_grey
from genflow.evaluate.features import SHIPPED, Space, TinyNet, own_space, quiet, shipped_space
from genflow.evaluate.inception import Inception
from genflow.evaluate.weight_files import MODES, WeightsError, check, find
from genflow.places import expand

NAMES = ("own", "digits", "mnist", "tiny", "identity", "inception")


def check_features(features: object) -> None:
    """Refuses a name that is not a feature space's, before anything is computed.

    Raises:
        ValueError: It is neither one of NAMES nor a file that is there.
    """
    if features not in NAMES and not (isinstance(features, str) and expand(features).is_file()):
        raise ValueError(
            f"features = '{features}' is neither one of {', '.join(NAMES)} nor a TorchScript file (.pt) that is there"
        )


def check_mode(mode: object) -> None:
    """Raises ValueError for a name that is not one of Inception's protocols."""
    if mode not in tuple(MODES):
        raise ValueError(f"mode = '{mode}' is not one of {', '.join(MODES)}")


def space_for(
    features: str, dataset: Dataset, *, mode: str = "clean", inception: str = "", device: str = "cpu"
) -> Space:
    """The space that an option names.

    Arguments:
        features: One of NAMES, or the path of a TorchScript file (.pt) that maps raw examples to features (n, d).
        dataset: Whose examples are compared.
        mode: Inception's protocol.
        inception: Path of Inception's weights; "" searches.
        device: Where Inception or the user's network runs.

    Raises:
        ValueError: There is no such space.
        NotMeasurable: The data do not fit it.
        WeightsError: Its weights are missing or not trusted.
    """
    name = own_space(dataset.name) if features == "own" else features
    if name in SHIPPED:
        _check_shipped(name, dataset)
        return shipped_space(name)
    if name == "identity":
        about = f"features 'identity' (d = {math.prod(dataset.shape)}): the raw values"
        return Space("identity", "identity", about, lambda raw: raw.flatten(1))
    if name == "tiny":
        return _tiny(dataset)
    if name == "inception":
        return inception_space(dataset, mode, inception, device)
    return script_space(features, device)


def unfitting(features: str, dataset: Dataset) -> str | None:
    """Why data do not fit a space, found without its weights; None where they do."""
    name = own_space(dataset.name) if features == "own" else features
    try:
        if name in SHIPPED:
            _check_shipped(name, dataset)
        elif name == "tiny":
            _tiny(dataset)
        elif name == "inception":
            to_grey(torch.zeros(1, *dataset.shape), dataset.scaling.levels, 3)
    except NotMeasurable as reason:
        return str(reason)
    return None


def _check_shipped(name: str, dataset: Dataset) -> None:
    shape, levels = SHIPPED[name].shape, SHIPPED[name].levels
    if (tuple(dataset.shape), dataset.scaling.levels) != (shape, levels):
        raise NotMeasurable(
            f"features '{name}' are for images of shape {shape} with {levels} grey levels; "
            f"'{dataset.name}' has {tuple(dataset.shape)} with {dataset.scaling.levels}"
        )


def _tiny(dataset: Dataset) -> Space:
    if len(dataset.shape) != 3:
        raise NotMeasurable(f"features 'tiny' are for images; '{dataset.name}' has shape {tuple(dataset.shape)}")
    net = TinyNet(dataset.shape[0], dataset.scaling.levels).eval().requires_grad_(False)
    return module_space(net.features, "tiny", digest=module_digest(net) + f"/{net.levels}", dim=net.dim)


def inception_space(dataset: Dataset, mode: str, inception: str, device: str) -> Space:
    """Inception's space in one of clean-fid's protocols."""
    check_mode(mode)
    to_grey(torch.zeros(1, *dataset.shape), dataset.scaling.levels, 3)  # refuses other data before it looks for weights
    found = find(MODES[mode], inception)
    net = Inception(found, mode, device)
    about = f"Inception 2015-12-05, protocol {mode}, weights sha256 {found.sha256[:12]} ({found.trust})"
    return Space(
        "inception",
        f"inception/{mode}/{found.sha256}",
        about + conversion(dataset),
        quiet(net.features),
        quiet(net.logits),
        prepare=lambda raw: to_grey(raw, dataset.scaling.levels, 3),
        watch=lambda: ImageCheck("images"),
        batch=50,
    )


def module_digest(module: nn.Module) -> str:
    """Hash of a network's class and weights."""
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def module_space(features: Callable[[Tensor], Any], name: str, *, digest: str = "", dim: int = 0) -> Space:
    """A space from any network or function: raw examples (n, *shape) -> features (n, d).

    Arguments:
        features: A torch module, or a callable with its own `digest`.
        name: For tables: FD[name].
        digest: Hash of what it does; "" takes the module's class and weights.
        dim: d, for the protocol, where it is known.
    """
    if name == "inception":
        raise ValueError("only the published network's features are called 'inception'; give the space another name")
    if not digest:
        if not isinstance(features, nn.Module):
            raise ValueError(f"the features '{name}' are not a torch module; give a digest that identifies them")
        digest = module_digest(features)

    call = quiet(lambda raw: _flat(features(raw)))
    size = f" (d = {dim})" if dim else ""
    return Space(name, digest, f"features '{name}'{size}, sha256 {digest[:12]}", call)


def script_space(file: str, device: str = "cpu") -> Space:
    """A space from a TorchScript file, named by the file. Its code runs, so its content must be trusted first."""
    check_features(file)
    path = expand(file)
    found = check(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        raise WeightsError(f"{path} is not a TorchScript archive: {str(error).splitlines()[0]}") from error
    name = path.stem if path.stem not in NAMES else f"{path.stem}_file"
    return module_space(lambda raw: net(raw.to(device)), name, digest=found.sha256)


def _flat(output: Any) -> Tensor:
    tensor = output if isinstance(output, Tensor) else output[0]
    return tensor.flatten(1).cpu()
