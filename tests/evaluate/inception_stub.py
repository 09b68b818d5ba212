"""A TorchScript file with the interface of the published Inception graph, small and untrained."""

import torch
from torch import Tensor, nn


class Layers(nn.Module):
    """Normalised images (n, 3, 299, 299) -> (n, dim, 1, 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(37, 37)
        self.mix = nn.Linear(3 * 64, dim)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] == 299
        return torch.tanh(self.mix(self.pool(x).flatten(1)))[:, :, None, None]


class Graph(nn.Module):
    """The whole: resizes for itself, features or class probabilities."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = Layers(dim)
        self.output = nn.Linear(dim, 10)

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        x = nn.functional.interpolate(img, (299, 299), mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128).flatten(1)
        if return_features:
            return features
        bias = torch.zeros(10) if no_output_bias else self.output.bias
        return nn.functional.linear(features, self.output.weight, bias).softmax(1)


def write_stub(path, dim=48, seed=0):
    """Writes the file and returns its module."""
    torch.manual_seed(seed)
    graph = Graph(dim).eval()
    with torch.no_grad():
        graph.layers.mix.weight.mul_(3)
        graph.output.weight.mul_(4)
    torch.jit.script(graph).save(str(path))
    return graph
