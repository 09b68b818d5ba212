"""The Inception network of Fréchet Inception distances in clean-fid's three protocols."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from genflow.evaluate.resize import resize
from genflow.evaluate.weight_files import MODES, Found, WeightsError


class Inception:
    """Features (2048) and class logits (1008) of images by the published network.

    Arguments:
        found: Its checked weight file: the TorchScript graph, or the state dict of the PyTorch port.
        mode: "clean": Pillow's bicubic resize to 299 x 299, not quantised. "legacy_tensorflow": TensorFlow 1's bilinear
            resize, which is inside the TorchScript graph. "legacy_pytorch": torch's bilinear, and 2x/255 − 1 instead
            of (x − 128)/128.
        device: Where it runs.

    Source: Heusel et al. 2017, arXiv:1706.08500; the protocols: Parmar et al. 2022, arXiv:2104.11222.
    """

    def __init__(self, found: Found, mode: str = "clean", device: str = "cpu") -> None:
        if mode not in MODES:
            raise ValueError(f"mode = '{mode}' is not one of {', '.join(MODES)}")
        if mode == "legacy_pytorch" and found.code:
            raise WeightsError(f"legacy_pytorch is defined with the PyTorch port's weights (.pth), not {found.path}")
        self.mode, self.device, self.code = mode, torch.device(device), found.code
        self.net: Any = _graph(found, self.device) if found.code else _port(found).to(self.device)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features (n, 2048), float32, of images (n, 3, height, width) with grey levels 0 to 255."""
        x = images.to(self.device, torch.float32)
        if self.code and self.mode == "legacy_tensorflow":
            return _flat(self.net(x, return_features=True))
        x = resize(x, self.mode)
        x = 2 * (x / 255) - 1 if self.mode == "legacy_pytorch" else (x - 128) / 128
        return _flat(self.net.layers(x) if self.code else self.net(x))

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Class logits (n, 1008) without the output layer's bias, as the published Inception Score has them."""
        weight = self.net.output.weight if self.code else self.net.output_weight
        return nn.functional.linear(features.to(weight.device), weight)


def _flat(output: Any) -> Tensor:
    """(n, d) from a tensor or a list with one."""
    tensor = output if isinstance(output, Tensor) else output[0]
    return tensor.reshape(len(tensor), -1).float()


def _graph(found: Found, device: torch.device) -> Any:
    """The TorchScript archive. Its hash was checked: loading it runs its code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.14 calls torch.jit deprecated; the published file is what it is
            return torch.jit.load(str(found.path), map_location=device).eval()
    except RuntimeError as error:
        raise WeightsError(f"{found.path} is not a TorchScript archive: {str(error).splitlines()[0]}") from error


def _port(found: Found) -> nn.Module:
    """The PyTorch port from its state dict, loaded without running code.

    torchvision's Inception v3 with clean-fid's blocks in the nine places where TensorFlow's network differs.
    """
    from cleanfid import inception_pytorch as blocks
    from torchvision.models import inception_v3

    net = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    for name, channels in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        setattr(net, name, blocks.FIDInceptionA({"Mixed_5b": 192, "Mixed_5c": 256}.get(name, 288), channels))
    for name, channels in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        setattr(net, name, blocks.FIDInceptionC(768, channels))
    net.Mixed_7b, net.Mixed_7c = blocks.FIDInceptionE_1(1280), blocks.FIDInceptionE_2(2048)
    try:
        net.load_state_dict(torch.load(found.path, map_location="cpu", weights_only=True))
    except MemoryError:
        raise
    except Exception as error:
        raise WeightsError(
            f"{found.path} is not a state dict of the Inception port: {str(error).splitlines()[0]}"
        ) from error
    return _Port(net).eval().requires_grad_(False)


class _Port(nn.Module):
    """Images of 299 x 299 in about [−1, 1] to features, with torchvision's own rescaling left out."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.register_buffer("output_weight", net.fc.weight.detach())
        kept = [m for name, m in net.named_children() if name not in ("AuxLogits", "avgpool", "dropout", "fc")]
        self.body = nn.Sequential(*kept, nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)
