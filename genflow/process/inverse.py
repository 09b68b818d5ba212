"""The Poisson field's inverse in a dozen operations on short rows, where its formula as written takes forty.

`PoissonField` finds p* from q = |v_x|/√N, p = −v_z/√N, |x| and z. With G = R + γ = (γ + s)/(1 − q²) and
s² = q²γ² + (1 − q²) z², the derivation's z² + Rγ is G s and its r is q G, so that the weight of "projected" is
w = q² z²/(z² + γ² q²). Then the five quotients that are needed have numerators and denominators that are linear in q²
or in (|x| ± radius)², or square roots of such. They are computed as the rows of one table, whose numbers depend on the
time alone and are found on the host in float64.

Rows come in pairs of numerator and denominator: w, −√N z p_exact, the velocity's bound, the two bounds of p*.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from genflow.process.shapes import quick_on_host

LARGEST = 1e6
"""R + γ above which w no longer grows, in data units; as in `PoissonField`."""
ROWS = 10


class Inverse(Protocol):
    """The numbers of a `PoissonField` that matter here."""

    @property
    def gamma(self) -> float: ...
    @property
    def radius(self) -> float: ...
    @property
    def inverse(self) -> str: ...


def table(head: Inverse, z: Tensor, dim: int) -> list[Tensor]:
    """What `divisor` needs at times z (n,), float64 on the host: columns (n,).

    The columns are, for each row, the least and the largest feature, what is taken off it, and the bias and the factor
    of its square; then what the denominators are taken off.
    """
    g, far, z2 = head.gamma, head.radius, z * z
    zero, one, none = torch.zeros_like(z), torch.ones_like(z), torch.full_like(z, math.inf)
    weight = z2 if head.inverse == "projected" else zero
    reach = LARGEST - g
    most = (dim * (reach * reach - z2).clamp_min(0)).sqrt() / LARGEST
    least = [zero] * 5 + [1e-18 * one] + [zero] * 3 + [far * one]
    largest = [most, most] + [none] * 8
    shift = [zero] * 5 + [-far * one, zero, -far * one, zero, far * one]
    scale = math.sqrt(dim) * z
    bias = [zero, z2, scale, z2, zero, zero, dim * z2, z2, dim * z2, z2]
    factor = [weight / dim, g * g / dim * one, -z / math.sqrt(dim), (g * g - z2) / dim, z2, one, zero, one, zero, one]
    return [*least, *largest, *shift, *bias, *factor, -g * one, zero, -g * one, -g * one]


def divisor(output: Tensor, x: Tensor, table: Tensor) -> Tensor:
    """−√N p* of each row, shape (B,): what v_x is divided by to give the velocity.

    Arguments:
        output: (v_x, v_z), shape (B, C + 1, *).
        x: States (B, C, *).
        table: `table` at the time of all rows, shape (k, 1), or of each, (k, B).
    """
    if quick_on_host(output, x):
        return torch.from_numpy(_on_host(output.numpy(), x.numpy(), table.numpy()))
    sizes = torch.empty(2, 1, len(x), dtype=x.dtype, device=x.device)
    torch.linalg.vector_norm(output[:, :-1].flatten(1), dim=1, out=sizes[0, 0])
    torch.linalg.vector_norm(x.flatten(1), dim=1, out=sizes[1, 0])
    plane = output[:, -1:].flatten(1).mean(1)
    least, largest, shift, bias, factor = table[: 5 * ROWS].reshape(5, 2, ROWS // 2, -1)
    features = torch.clamp(sizes, least, largest)
    squares = torch.ops.aten.mse_loss(features, shift, 0)  # (feature − shift)² in one kernel
    rows = torch.addcmul(bias, factor, squares).reshape(ROWS, -1)
    rows[3:].clamp_min_(0).sqrt_()
    torch.sub(table[5 * ROWS :], rows[3::2], out=rows[3::2])
    weight, exact, fastest, nearest, farthest = (rows[0::2] / rows[1::2]).unbind()
    found = torch.lerp(exact, plane, weight)
    return torch.minimum(torch.clamp(found, farthest, nearest), fastest)


def _on_host(output: Any, x: Any, table: Any) -> Any:
    """The same by numpy."""
    x, flat = x.reshape(len(x), -1), output.reshape(len(x), -1)
    in_space, plane = flat[:, : x.shape[1]], flat[:, x.shape[1] :]
    sizes = np.empty((2, 1, len(x)), x.dtype)
    np.einsum("ij,ij->i", in_space, in_space, out=sizes[0, 0])
    np.einsum("ij,ij->i", x, x, out=sizes[1, 0])
    np.sqrt(sizes, out=sizes)
    plane = plane[:, 0] if plane.shape[1] == 1 else plane.mean(1)
    least, largest, shift, bias, factor = table[: 5 * ROWS].reshape(5, 2, ROWS // 2, -1)
    rows = np.minimum(np.maximum(sizes, least), largest)
    rows -= shift
    rows *= rows
    rows *= factor
    rows += bias
    rows = rows.reshape(ROWS, -1)
    roots = rows[3:]
    np.sqrt(np.maximum(roots, 0, out=roots), out=roots)
    np.subtract(table[5 * ROWS :], rows[3::2], out=rows[3::2])
    weight, exact, fastest, nearest, farthest = rows[0::2] / rows[1::2]
    found = exact + weight * (plane - exact)
    return np.minimum(np.minimum(np.maximum(found, farthest), nearest), fastest)
