"""Philox4x64-10: 256 random bits from a 256-bit counter and a 128-bit key, the same on every device.

The counter holds what a number belongs to, so numbers need no state and no order. On the host numpy's compiled code
makes the bits; elsewhere integer operations of torch do, which wrap at 64 bits as the algorithm wants. Bits become
numbers by a table and by operations that IEEE 754 rounds in one way (conversion, addition, multiplication), so normal
numbers too are the same to the last bit.

Source: Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORDS = 8
"""32-bit words of one counter."""
ROUNDS = 10
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
"""Added to the two key words after each round."""
LOW, MASK = 2**32 - 1, 2**64 - 1
CHUNK = 2**14
"""Words made at a time on the host, so that they stay in the cache until they are numbers."""
STEP_BITS = 10
"""An octave of the normal's table has 2^10 pieces."""
SHIFT = 23 - STEP_BITS

_local = threading.local()


def signed(value: int) -> int:
    """A 64-bit word as torch's int64 holds it."""
    value &= MASK
    return value - 2**64 if value >= 2**63 else value


def philox(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """The bits of counters (..., 4), int64, on their device: shape (..., 4), int64.

    Arguments:
        counter: Words of each counter, the lowest first.
        key: Two 64-bit words.
    """
    multiplier = torch.tensor([signed(m) for m in MULTIPLIERS]).to(counter.device, non_blocking=True)
    low, high = multiplier & LOW, (multiplier >> 32) & LOW
    keys = [[signed(key[i] + r * WEYL[i]) for i in (0, 1)] for r in range(ROUNDS)]
    rounds = torch.tensor(keys).to(counter.device, non_blocking=True)
    x, y = counter[..., 0::2], counter[..., 1::2]
    for r in range(ROUNDS):
        x0, x1 = x & LOW, (x >> 32) & LOW
        cross = x0 * high
        middle = ((x0 * low >> 32) & LOW) + (cross & LOW) + x1 * low
        upper = x1 * high + ((cross >> 32) & LOW) + ((middle >> 32) & LOW)
        x, y = upper.flip(-1) ^ y ^ rounds[r], (x * multiplier).flip(-1)
    return torch.stack([x, y], -1).flatten(-2)


def host_bits(first: tuple[int, int, int, int], key: tuple[int, int]) -> Any:
    """numpy's generator, set so that its next output is the first of the given counter; one per thread.

    It raises its counter before it makes its bits, so it is set to one below.
    """
    if not hasattr(_local, "bits"):
        _local.bits = np.random.Philox(key=0)
        words = {"counter": np.zeros(4, np.uint64), "key": np.zeros(2, np.uint64)}
        more = {"buffer": np.zeros(4, np.uint64), "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}
        _local.state = {"bit_generator": "Philox", "state": words, **more}
    words, below = _local.state["state"], [word & MASK for word in first]
    for i in range(4):
        below[i] = below[i] - 1 & MASK
        if below[i] != MASK:
            break
    words["counter"][:] = below
    words["key"][:] = [key[0] & MASK, key[1] & MASK]
    _local.bits.state = _local.state
    return _local.bits


# ---- bits to numbers -------------------------------------------------------------------------------------------


@cache
def normal_table(double: bool) -> Any:
    """The standard normal's quantiles in pieces, as numpy's complex numbers: z = real + imag · f in each piece.

    |s|/2^32 is the probability of the tail beyond z for a signed word s, and f is s as a float. Its first bits (sign,
    exponent, ten of the mantissa) are the piece's index: pieces shrink with the tail, so that the largest numbers,
    ±6.2, are as exact as the others. Between the ends of its piece z is off by up to 5e-8.
    """
    table = np.zeros(2 ** (9 + STEP_BITS), np.complex128)
    index = torch.arange(127 << STEP_BITS, (158 << STEP_BITS) + 1, dtype=torch.int32)
    ends = torch.stack([index, index + 1]).bitwise_left_shift(SHIFT).view(torch.float32).double()
    z = torch.special.ndtri(ends / 2**32)
    slope = (z[1] - z[0]) / (ends[1] - ends[0])
    rows, offset = index.numpy(), z[0] - slope * ends[0]
    table[rows] = torch.complex(offset, slope).numpy()
    table[rows + (1 << 8 + STEP_BITS)] = torch.complex(-offset, slope).numpy()
    table[0] = z[0, 0]  # s = 0
    return table if double else table.astype(np.complex64)


def host_normal(words: Any, out: Any) -> None:
    """Standard normal numbers of at most `CHUNK` 32-bit words (n,), written to `out` (n,), float32 or float64."""
    f, bits, index, piece, offset, slope = (part[: len(words)] for part in _scratch())
    np.copyto(f, words.view(np.int32), casting="unsafe")
    np.right_shift(f.view(np.uint32), SHIFT, out=bits)
    np.copyto(index, bits)
    if out.dtype == np.float32:
        np.take(normal_table(False), index, out=piece, mode="clip")
        np.multiply(f, slope, out=f)
        np.add(f, offset, out=out)
    else:
        pieces = np.take(normal_table(True), index, mode="clip")
        np.multiply(words.view(np.int32), pieces.imag, out=out)
        out += pieces.real


def _scratch() -> tuple[Any, ...]:
    """Arrays of one thread, so that nothing is allocated for a chunk."""
    if not hasattr(_local, "scratch"):
        piece = np.empty(CHUNK, np.complex64)
        kinds = (np.float32, np.uint32, np.intp)
        _local.scratch = (*(np.empty(CHUNK, kind) for kind in kinds), piece, piece.real, piece.imag)
    scratch: tuple[Any, ...] = _local.scratch
    return scratch


def host_uniform(words: Any, out: Any) -> None:
    """Numbers in [0, 1): float32 of 24 bits of each word, float64 of 53 bits of each two."""
    if out.dtype == np.float32:
        np.multiply(words >> 8, np.float32(2**-24), out=out, dtype=np.float32, casting="unsafe")
    else:
        np.multiply(words.view(np.uint64) >> 11, 2**-53, out=out, dtype=np.float64, casting="unsafe")


@cache
def _device_table(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    table = torch.from_numpy(normal_table(dtype == torch.float64))
    return table.real.contiguous().to(device), table.imag.contiguous().to(device)


def device_normal(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """`host_normal` of bits (..., n), int64, on their device: shape (..., 2 n)."""
    words = bits.view(torch.int32)
    f = words.to(torch.float32)
    index = (f.view(torch.int32) >> SHIFT) & (2 ** (9 + STEP_BITS) - 1)
    offset, slope = _device_table(bits.device, dtype)
    f = words.to(dtype)
    return slope[index.long()] * f + offset[index.long()]


def device_uniform(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """`host_uniform` of bits (..., n), int64, on their device: shape (..., 2 n), or (..., n) in float64."""
    if dtype == torch.float32:
        return ((bits.view(torch.int32) >> 8) & (2**24 - 1)).to(dtype) * 2**-24
    return ((bits >> 11) & (2**53 - 1)).to(dtype) * 2**-53
