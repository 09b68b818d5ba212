"""Random numbers of a run: each is a function of (seed, stream, index, row, draw, entry), and of nothing else.

A `Stream` has no state but the number of draws made of it. Its numbers do not depend on the batch, shard or rank that a
row is drawn in, nor on the device: bits are those of `genflow.philox`, and rows never share a counter.

A stream is also a `torch.Generator`, so it goes wherever one is asked for. What genflow draws, it draws by the
functions here (`normal`, `uniform`, ...), which read a stream by counters and use any other generator as torch does.
Code that hands a stream to torch itself, as a plugin may, reads an ordinary generator seeded for the stream's first
row; `by_row` then gives each row a stream of its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genflow.philox import (
    CHUNK,
    WORDS,
    device_normal,
    device_uniform,
    host_bits,
    host_normal,
    host_uniform,
    philox,
    signed,
)

MOST = 2**22
"""Words made at a time where draws are made ahead; of one row, two chunks."""
ON_HOST = 2**15
"""Fewer words than this are made on the host for any device: the copy costs less than the device's many kernels."""


class Place(NamedTuple):
    """Counters: of `each` that a row owns, `used` from `start` on; the other three words of all are `rest`."""

    rows: Sequence[int]
    each: int
    start: int
    used: int
    rest: tuple[int, int, int]

    def runs(self) -> Iterator[tuple[int, int]]:
        """First counter and number of those that follow one another."""
        rows, low = self.rows, 0
        whole = isinstance(rows, range) and rows.step == 1
        for high in [len(rows)] if whole and self.used == self.each else range(1, len(rows) + 1):
            if self.used < self.each or high == len(rows) or rows[high] != rows[high - 1] + 1:
                yield rows[low] * self.each + self.start, (high - low) * self.used
                low = high


class Counters:
    """Random numbers by (seed, name, index, row, draw, entry); see `Stream`, which is also a generator of torch.

    Arguments:
        ahead: Draws whose counters follow one another in each row, so that they can be made together; part of what the
            numbers are a function of.
    """

    def __init__(self, seed: int, name: str, index: int = 0, *, rows: Sequence[int] | None, ahead: int) -> None:
        self.key, self.index, self.ahead, self.draws = (seed, _word(name)), index, ahead, 0
        self.rows = rows if rows is None or isinstance(rows, range) else [int(row) for row in rows]

    def block(self, kind: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """The next draw, and those that are made together with it: (K, B, *). None of them counts as drawn yet.

        Arguments:
            kind: "normal", or "uniform" on [0, 1).
            shape: (B, *).
        """
        law = torch.float64 if dtype == torch.float64 else torch.float32
        each = 2 if kind == "uniform" and law == torch.float64 else 1
        count, entries = shape[0], math.prod(shape[1:])
        size = -(-each * entries // WORDS)
        block, at = divmod(self.draws, self.ahead)
        most = (2 * CHUNK if count == 1 else MOST) // max(1, count * size * WORDS)
        span = min(self.ahead - at, max(1, most))
        place = Place(self._rows(count), self.ahead * size, at * size, span * size, (block, each * entries, self.index))
        if device.type == "cpu" or count * span * size * WORDS < ON_HOST:
            made = self._on_host(kind, place, law)
            made = made if device.type == "cpu" else made.to(device, non_blocking=True)
        else:
            made = self._on_device(kind, place, law, device)
        made, width = made if law == dtype else made.to(dtype), size * WORDS // each
        if span == 1 and width == entries:
            return made.view(1, *shape)
        return made.view(count, span, width)[..., :entries].transpose(0, 1).view(span, *shape)

    def _rows(self, count: int) -> Sequence[int]:
        rows = range(count) if self.rows is None else self.rows
        if len(rows) != count:
            raise ValueError(f"this stream has {len(rows)} rows; {count} cannot be drawn from it")
        return rows

    def _on_host(self, kind: str, place: Place, dtype: torch.dtype) -> Tensor:
        make, law = HOST[kind], np.float64 if dtype == torch.float64 else np.float32
        words = 2 if kind == "uniform" and dtype == torch.float64 else 1
        out, low = np.empty(len(place.rows) * place.used * WORDS // words, law), 0
        for first, count in place.runs():
            bits, left = host_bits((first, *place.rest), self.key), count * WORDS
            while left:
                raw = bits.random_raw(min(CHUNK, left) // 2).view(np.uint32)
                make(raw, out[low : low + len(raw) // words])
                low, left = low + len(raw) // words, left - len(raw)
        return torch.from_numpy(out)

    def _on_device(self, kind: str, place: Place, dtype: torch.dtype, device: torch.device) -> Tensor:
        first = torch.tensor([signed(row * place.each + place.start) for row in place.rows]).to(
            device, non_blocking=True
        )
        low = (first[:, None] + torch.arange(place.used, device=device)).flatten()
        high = torch.tensor([signed(word) for word in place.rest]).to(device, non_blocking=True)
        bits = philox(torch.cat([low[:, None], high.expand(len(low), 3)], 1), self.key).flatten()
        return (device_normal if kind == "normal" else device_uniform)(bits, dtype)


class Stream(Counters, torch.Generator):
    """Random numbers by (seed, name, index, row, draw, entry), and a generator of torch for code that knows no streams.

    Arguments:
        seed: The run's seed.
        name: What is drawn; streams of other names are independent.
        index: Training step, epoch, or 0.
        rows: Number of each row of the batch: samples of a run, or rows of a whole batch. None: 0, 1, 2, ...
        whole: Rows of the whole batch that these are part of, where something is spread over it. None: all are here.
        device: Where numbers are made unless a draw asks for another place.
    """

    def __new__(cls, *args: Any, **more: Any) -> Stream:
        return super().__new__(cls)

    def __init__(
        self,
        seed: int,
        name: str,
        index: int = 0,
        *,
        rows: Sequence[int] | None = None,
        whole: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(seed, name, index, rows=rows, ahead=1)
        self.whole, self.place = whole, torch.device(device)
        self.manual_seed(torch_seed(seed ^ self.key[1], index + (self.rows[0] if self.rows else 0)))

    def numbers(self, kind: str, shape: Sequence[int], dtype: torch.dtype, device: Any) -> Tensor:
        """The next draw, on the device, or at `place` for None."""
        found = self.block(kind, tuple(shape), dtype, self.place if device is None else torch.device(device))
        self.draws += 1
        return found.squeeze(0).contiguous()

    def plain(self) -> bool:
        """Whether torch itself has drawn from this generator."""
        return not torch.equal(self.get_state(), torch.Generator().manual_seed(self.initial_seed()).get_state())


HOST: dict[str, Callable[[Any, Any], None]] = {"normal": host_normal, "uniform": host_uniform}


@cache
def _word(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def torch_seed(seed: int, index: int) -> int:
    """A seed for torch's own generator, of both numbers mixed.

    torch keeps 32 bits of a seed, so the index goes through a permutation of 32 bits: no two rows of one run share a
    generator, which random 32-bit seeds would by 50,000 rows.
    """
    mixed = (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64
    mixed = ((mixed ^ (mixed >> 31)) * 0xBF58476D1CE4E5B9) % 2**64
    value = (index ^ (mixed >> 32)) % 2**32
    for shift, odd in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        value = ((value ^ (value >> shift)) * odd) % 2**32
    return value ^ (value >> 16)


def by_row(draw: Callable[[Stream, slice], Tensor], seed: int, name: str, rows: Sequence[int], **more: Any) -> Tensor:
    """A draw of given rows, each the same in any batch: at once, or row by row where torch itself draws in it.

    Arguments:
        draw: Makes the rows of a slice from a stream of theirs, shape (B, *).
        seed, name, rows, more: As for `Stream`.
    """
    stream = Stream(seed, name, rows=rows, **more)
    found = draw(stream, slice(None))
    if len(rows) == 1 or not stream.plain():
        return found
    return torch.cat([draw(Stream(seed, name, rows=[k], **more), slice(i, i + 1)) for i, k in enumerate(rows)])


def made_on(generator: torch.Generator) -> torch.device:
    """Where a generator's numbers are made."""
    return generator.place if isinstance(generator, Stream) else generator.device


# ---- draws, of a stream or of any generator of torch -----------------------------------------------------------


def _numbers(
    kind: str,
    plain: Callable[..., Tensor],
    shape: Sequence[int],
    generator: torch.Generator,
    dtype: torch.dtype,
    device: str | torch.device | None,
) -> Tensor:
    if isinstance(generator, Stream):
        return generator.numbers(kind, shape, dtype, device)
    return plain(tuple(shape), generator=generator, dtype=dtype, device=generator.device).to(device)


def normal(
    shape: Sequence[int],
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Standard normal numbers of shape (B, *), on `device`, else where the generator makes them."""
    return _numbers("normal", torch.randn, shape, generator, dtype, device)


def uniform(
    shape: Sequence[int],
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> Tensor:
    """Numbers in [0, 1) of shape (B, *), on `device`, else where the generator makes them."""
    return _numbers("uniform", torch.rand, shape, generator, dtype, device)


def strata(count: int, *, generator: torch.Generator) -> Tensor:
    """A number from each row's part of [0, 1), cut in as many as the whole batch has rows: (count,), float64, host."""
    u = uniform((count,), generator=generator, dtype=torch.float64, device="cpu")
    if not isinstance(generator, Stream) or generator.rows is None:
        return (torch.arange(count) + u) / count
    rows = generator.rows
    own = torch.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else torch.tensor(list(rows))
    return (own + u) / (generator.whole or count)


def categorical(weights: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """Indices (count,), int64, on the host, with probabilities as the weights: (K,), or (count, K) for each row."""
    sums = weights.double().cpu().cumsum(-1)
    u = uniform((count,), generator=generator, dtype=torch.float64, device="cpu")
    if not isinstance(generator, Stream):
        host = generator if generator.device.type == "cpu" else None
        return torch.multinomial(weights.cpu(), count if weights.ndim == 1 else 1, True, generator=host).reshape(-1)
    found = torch.searchsorted(sums, (u * sums[..., -1]).reshape(count, *(1,) * (weights.ndim - 1)), right=True)
    return found.reshape(-1).clamp_max(weights.shape[-1] - 1)


def integers(high: int, count: int, *, generator: torch.Generator) -> Tensor:
    """Whole numbers from 0 to high − 1: (count,), int64, on the host."""
    if not isinstance(generator, Stream):
        return torch.randint(high, (count,), generator=generator, device=generator.device).cpu()
    return (uniform((count,), generator=generator, dtype=torch.float64, device="cpu") * high).long()


TRIES = 8
"""Proposals for each χ² number: all are refused once in 10^10 numbers at most, and then the first is taken. Half as
many do for 20 degrees of freedom or more, where one is refused once in 200 times at most."""


def chi_square(count: int, df: float, *, generator: torch.Generator) -> Tensor:
    """χ² numbers with `df` degrees of freedom, any number above 0: (count,), float64, on the host.

    With one degree it is the square of a normal number. Else it is twice a Gamma(df/2) number by rejection, whose
    proposals all come from one draw, so that how many are refused moves no other number. Below 1 it is a
    Gamma(df/2 + 1) number times U^(2/df).

    Source: Marsaglia & Tsang 2000, "A simple method for generating gamma variables".
    """
    if not isinstance(generator, Stream):
        alphas = torch.full((count,), df / 2, dtype=torch.float64, device=generator.device)
        return 2 * torch._standard_gamma(alphas, generator=generator).cpu()
    here: Any = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    if df == 1:
        return 2 * torch.special.erfinv(uniform((count,), **here) + 2**-54).square()
    tries = TRIES if df < 20 else TRIES // 2
    z, u = normal((count, tries), **here).numpy(), uniform((count, tries + 1), **here).numpy() + 2**-54
    alpha = df / 2
    d = (alpha if alpha >= 1 else alpha + 1) - 1 / 3
    v = np.maximum((1 + z / math.sqrt(9 * d)) ** 3, 1e-300)
    taken = (np.log(u[:, 1:]) < z * z / 2 + d * (1 - v + np.log(v))).argmax(1)
    found = d * v[np.arange(count), taken]
    if alpha < 1:
        found *= u[:, 0] ** (1 / alpha)
    return torch.from_numpy(np.maximum(2 * found, np.finfo(np.float64).tiny))
