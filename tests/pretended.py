"""An accelerator that is not there: tensors which say they live on cuda:0 or mps:0, with their numbers on the CPU.

    with pretend("cuda") as card:
        found = genflow.sample(process, net.to(card.name), "heun", 4, nfe=8)
        assert card.waits < 4

What a real device refuses is refused here: operands on two devices, a generator of the other device, `numpy()`,
float64 on MPS. What it does is counted: `kernels` launched, `copies` between host and device and their `bytes`, and
`waits`, the points at which the host stands still until the device has finished. Numbers are those of the CPU, so a
result can be compared with the plain one. A generator of the device draws other numbers than one of the host with the
same seed, as on a real device. Modules that are moved in the block stay on the device that is no longer there.

Two layers: `_Calls` sees what Python calls (`torch.tensor`, `Tensor.to`), `_Kernels` what reaches a device. Sources:
torch.overrides and torch.utils._python_dispatch.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # optimisers import it, and it looks at what is replaced here
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

STAGED = 64 * 1024
"""Bytes of pageable memory that are copied to a card without a wait (CUDA's rule for asynchronous copies)."""

ALLOCATE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh"}
READ = {"_local_scalar_dense", "equal", "is_nonzero"}
SIZED_BY_VALUES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
SEED = 0x5EED
HOST = torch.device("cpu")


class DeviceTensor(torch.Tensor):
    """A tensor whose `device` is the accelerator's and whose numbers, `held`, are on the host."""

    held: torch.Tensor
    place: torch.device
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor, place: torch.device) -> DeviceTensor:
        about = {"dtype": held.dtype, "layout": held.layout, "device": HOST, "requires_grad": False}
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), **about
        )
        made.held, made.place = held, place
        return made

    device = property(lambda self: self.place)
    is_cpu = property(lambda self: False)
    is_cuda = property(lambda self: self.place.type == "cuda")
    is_mps = property(lambda self: self.place.type == "mps")

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {self.place}"

    def get_device(self) -> int:
        return self.place.index

    def numpy(self, **_: Any) -> None:
        raise TypeError(f"can't convert {self.place} device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def __reduce_ex__(self, _: int) -> None:
        raise TypeError(f"a tensor on the pretended {self.place} cannot be pickled; move it to the CPU first")

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied = self.detach().clone()
        copied = torch.nn.Parameter(copied, self.requires_grad) if hasattr(self, "_is_param") else copied
        memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return copied

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} of a tensor on a pretended device, outside of `with pretend(...)`")


class _AnyGenerator(type(torch.Generator)):  # type: ignore[misc]
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _HOST_GENERATOR)


_HOST_GENERATOR = torch.Generator


class DeviceGenerator(_HOST_GENERATOR, metaclass=_AnyGenerator):
    """Takes the place of torch.Generator: knows its device, and draws other numbers on an accelerator."""

    def __new__(cls, device: Any = "cpu") -> DeviceGenerator:
        made = super().__new__(cls)
        found = torch.device(device)
        made.place = HOST if found.type == "cpu" else torch.device(found.type, found.index or 0)
        return made

    def __init__(self, device: Any = "cpu") -> None:
        self.asked = super().initial_seed()

    device = property(lambda self: self.place)

    def manual_seed(self, seed: int) -> DeviceGenerator:
        self.asked = seed
        super().manual_seed(seed if self.place == HOST else seed ^ SEED)
        return self

    def initial_seed(self) -> int:
        return self.asked


class Accelerator:
    """Counts of one `pretend` block; `reset` sets them to 0.

    Arguments:
        kind: "cuda" or "mps".
        cards: How many there are.

    `places` has, for each kind of event ("kernel", "wait", "copy", "float64"), how often a line of code caused it.
    `synchronised` lists the devices that were waited for by name.
    """

    def __init__(self, kind: str, cards: int) -> None:
        self.kind, self.cards, self.device = kind, cards, torch.device(kind, 0)
        self.reset()

    @property
    def name(self) -> str:
        return str(self.device)

    def reset(self) -> None:
        self.kernels = self.waits = self.copies = self.bytes = 0
        self.places: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.synchronised: list[str | None] = []

    def place_of(self, device: Any) -> torch.device:
        """The device a call asks for; raises RuntimeError for one that is not there, as torch does."""
        found = torch.device(device)
        if found.type in ("cpu", "meta"):
            return found
        if found.type != self.kind or (found.index or 0) >= self.cards:
            raise RuntimeError(f"invalid device: {found} is not among the {self.cards} of {self.kind}")
        return torch.device(self.kind, found.index or 0)

    def count(self, event: str, times: int = 1) -> None:
        name = {"kernel": "kernels", "wait": "waits", "copy": "copies"}.get(event)
        if name is not None:
            setattr(self, name, getattr(self, name) + times)
        self.places[event][_line()] += times

    def synchronise(self, device: Any = None) -> None:
        self.count("wait")
        self.synchronised.append(None if device is None else str(self.place_of(device)))

    def keep(self, value: Any, place: torch.device) -> Any:
        """Results as tensors of a place."""
        return tree_map(lambda t: self._put(t, place) if isinstance(t, torch.Tensor) else t, value)

    def _put(self, held: torch.Tensor, place: torch.device) -> torch.Tensor:
        if held.dtype in (torch.float64, torch.complex128):
            self.count("float64")
            if self.kind == "mps":
                raise TypeError(
                    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
                    f"Please use float32 instead. ({_line()})"
                )
        return DeviceTensor(held, place)


def _line() -> str:
    """The innermost line of the package, or of the test where none is."""
    frame, first = sys._getframe(1), ""
    while frame is not None:
        file = frame.f_code.co_filename
        if "/genflow/" in file:
            return f"{file.split('/genflow/')[-1]}:{frame.f_lineno}"
        if not first and "/torch/" not in file and file != __file__:
            first = f"{file}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return first


def _on(value: Any) -> list[DeviceTensor]:
    return [t for t in tree_iter(value) if isinstance(t, DeviceTensor)]


class _Calls(TorchFunctionMode):
    """Calls from Python whose device C++ would look up by itself."""

    def __init__(self, card: Accelerator, kernels: _Kernels) -> None:
        super().__init__()
        self.card, self.kernels = card, kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, own = getattr(func, "__name__", ""), bool(args) and isinstance(args[0], DeviceTensor)
        asked = kwargs.get("device")
        if name in ("tensor", "as_tensor", "asarray", "new_tensor"):
            return self._made(func, name, args, dict(kwargs))
        if name in ("to", "cpu", "cuda", "mps", "type_as") and isinstance(args[0], torch.Tensor):
            return self._moved(name, args, kwargs)
        if own and name == "tolist":
            return _copied(args[0], HOST).tolist()
        if own and name.startswith("new_") and asked is not None:
            args = (torch.empty(0, dtype=args[0].dtype), *args[1:])
        if name == "pin_memory":
            pinned = args[0].clone()
            pinned.is_page_locked = True
            return pinned
        if name == "is_pinned":
            return hasattr(args[0], "is_page_locked")
        home = None if asked is not None else next((t.place for t in _on((args, kwargs))), None)
        source = next((v for v in tree_iter((args, kwargs)) if isinstance(v, DeviceGenerator)), None)
        with self.kernels.inside(home, getattr(source, "device", HOST)):
            found = func(*args, **kwargs)
        if kwargs.get("pin_memory"):
            found.is_page_locked = True
        return found

    def _made(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        source, data = (args[0], args[1]) if name == "new_tensor" else (None, args[0])
        default = getattr(source if source is not None else data, "device", HOST)
        place = self.card.place_of(kwargs.pop("device", None) or default)
        dtype, grad = kwargs.pop("dtype", None), kwargs.pop("requires_grad", False)
        if source is not None and dtype is None:
            dtype = source.dtype
        if isinstance(data, torch.Tensor):
            made = _copied(data.detach() if name in ("tensor", "new_tensor") else data, place, dtype)
        else:
            data = tree_map(lambda v: v.item() if isinstance(v, torch.Tensor) else v, data)
            made = (torch.as_tensor if name == "as_tensor" else torch.tensor)(data, dtype=dtype, **kwargs)
            made = _copied(made, place)
        return made.requires_grad_() if grad else made

    def _moved(self, name: str, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        x, *rest = args
        like = next((a for a in (*rest, *kwargs.values()) if isinstance(a, torch.Tensor)), None)
        device = {"cpu": HOST, "cuda": "cuda", "mps": "mps"}.get(name)
        if like is not None:
            return _copied(x, like.device, like.dtype)
        if device is not None:
            return _copied(x, self.card.place_of(device))
        wanted = {k: v for k, v in kwargs.items() if k not in ("copy", "memory_format")}
        device, dtype, soon, shape = torch._C._nn._parse_to(*rest, **wanted)
        place = x.device if device is None else self.card.place_of(device)
        shape = kwargs.get("memory_format", shape)
        return _copied(x, place, dtype, soon, shape, kwargs.get("copy", False))


def _copied(
    x: torch.Tensor,
    place: torch.device,
    dtype: torch.dtype | None = None,
    soon: bool = False,
    layout: torch.memory_format | None = None,
    anew: bool = False,
) -> torch.Tensor:
    """x on a place; x itself where nothing changes."""
    same = layout is None or x.is_contiguous(memory_format=layout)
    if x.device == place and dtype in (None, x.dtype) and same and not anew:
        return x
    how = {"memory_format": layout} if layout is not None else {}
    return torch.ops.aten._to_copy(x, device=place, dtype=dtype or x.dtype, non_blocking=soon, **how)


class _Kernels(TorchDispatchMode):
    """Every operation: refused as the device would, counted, and done on the host."""

    def __init__(self, card: Accelerator) -> None:
        super().__init__()
        self.card, self.home, self.source = card, None, HOST

    @contextmanager
    def inside(self, home: torch.device | None, source: torch.device) -> Iterator[None]:
        """Tensors that C++ makes by itself in a call are made where the call's own tensors are, its `home`; the
        generator it draws from, whose Python object C++ drops, is of the device `source`."""
        before, (self.home, self.source) = (self.home, self.source), (home, source)
        try:
            yield
        finally:
            self.home, self.source = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, own = func.overloadpacket.__name__, _on((args, kwargs))
        place = self._place(name, args, kwargs, own)
        if "device" in kwargs:
            kwargs["device"] = HOST if kwargs["device"] is not None and place.type != "meta" else kwargs["device"]
        kwargs.pop("pin_memory", None)
        self._refuse(func, name, args, kwargs, own, place)
        if own or place.type == self.card.kind:
            self._count(func, name, args, kwargs, place)
        plain = tree_map(lambda t: t.held if isinstance(t, DeviceTensor) else t, (args, kwargs))
        found = func(*plain[0], **plain[1])
        if not own and place.type != self.card.kind:
            return found
        return self._result(func, args, kwargs, found, place)

    def _place(self, name: str, args: Any, kwargs: dict[str, Any], own: list[DeviceTensor]) -> torch.device:
        """Where the result is."""
        asked = kwargs.get("device")
        if asked is None:
            return own[0].place if own else HOST
        if name == "_to_copy" or torch.device(asked).type != "cpu":
            return self.card.place_of(asked)
        if own and name.startswith("new_"):  # C++ gives the device of the wrapper
            return own[0].place
        return self.home or HOST

    def _refuse(self, func: Any, name: str, args: Any, kwargs: Any, own: list[DeviceTensor], place: Any) -> None:
        drawing = any(isinstance(v, _HOST_GENERATOR) for v in tree_iter((args, kwargs)))
        at = self.source
        if drawing and at.type != place.type and place.type != "meta":
            raise RuntimeError(f"Expected a '{place.type}' device type for generator but found '{at.type}' ({_line()})")
        if not own or name in ("copy_", "_to_copy"):
            return
        everything = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
        if name in INDEXED:  # indices may be on the host
            everything = [args[0], args[2] if len(args) > 2 else args[0]]
        others = [t for t in everything if not isinstance(t, DeviceTensor)]
        changed = args[0] if func._schema.is_mutable else None
        bad = [t for t in others if t.dim() > 0 or name in ("cat", "stack") or t is changed]
        if bad or len({t.place for t in own if t.dim()}) > 1:
            found = " and ".join(sorted({str(t.device) for t in (*own, *bad)}))
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {found}! "
                f"({func} at {_line()})"
            )

    def _count(self, func: Any, name: str, args: Any, kwargs: Any, place: torch.device) -> None:
        if name in ("_to_copy", "copy_"):
            target, source = (place, args[0]) if name == "_to_copy" else (args[0].device, args[1])
            return self._count_copy(source, target, bool(kwargs.get("non_blocking") or args[2:3] == (True,)))
        if name in READ:
            self.card.count("copy")
            self.card.count("wait")
            return None
        if name in SIZED_BY_VALUES:
            self.card.count("wait")
        if name in INDEXED:
            indices = [i for i in args[1] if i is not None]
            for index in indices:
                if not isinstance(index, DeviceTensor):
                    self._count_copy(index, place, soon=False)
                elif index.dtype in (torch.bool, torch.uint8):
                    self.card.count("wait")
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not view and name not in ALLOCATE:
            self.card.count("kernel")
        return None

    def _count_copy(self, source: torch.Tensor, target: torch.device, soon: bool) -> None:
        size = source.numel() * source.element_size()
        if source.device.type == target.type:
            self.card.count("kernel")
            return
        self.card.count("copy")
        self.card.bytes += size
        staged = target.type != "cpu" and (size <= STAGED or hasattr(source, "is_page_locked"))
        if not (soon and staged):
            self.card.count("wait")

    def _result(self, func: Any, args: Any, kwargs: Any, found: Any, place: torch.device) -> Any:
        schema = func._schema
        if any(r.alias_info is not None and r.alias_info.is_write for r in schema.returns):
            names = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
            given = dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
            changed = given[names[0]]
            if isinstance(changed, DeviceTensor) and changed.held.shape != changed.shape:
                raise NotImplementedError(f"{func} changes the shape in place, which is not pretended")
            return changed
        return self.card.keep(found, place) if place.type == self.card.kind else found


@contextmanager
def pretend(kind: str, cards: int = 1) -> Iterator[Accelerator]:
    """A block in which `cards` devices of a kind, "cuda" or "mps", seem to be there; see the module."""
    card = Accelerator(kind, cards)
    kernels = _Kernels(card)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as held:
        for module, names in _replacements(card):
            for name, value in names.items():
                held.enter_context(mock.patch.object(module, name, value, create=True))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        held.callback(torch.__future__.set_overwrite_module_params_on_conversion, before)
        held.enter_context(kernels)
        held.enter_context(_Calls(card, kernels))
        yield card


def _replacements(card: Accelerator) -> list[tuple[Any, dict[str, Any]]]:
    """(module, its functions that would look for a driver)."""
    state = torch.zeros(16, dtype=torch.uint8)
    shared = {
        "synchronize": card.synchronise,
        "empty_cache": lambda: None,
        "manual_seed": lambda seed: None,
        "get_rng_state": lambda device=None: state,
        "set_rng_state": lambda state, device=None: None,
    }
    there, count = card.kind == "cuda", card.cards if card.kind == "cuda" else 0
    about = SimpleNamespace(name="Pretended card", total_memory=2**34, major=8, minor=0, multi_processor_count=1)
    cuda = shared | {
        "_lazy_init": lambda: None,
        "is_available": lambda: there,
        "device_count": lambda: count,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "Event": lambda **how: SimpleNamespace(record=lambda: None, elapsed_time=lambda end: 1.0),
        "device": lambda device: nullcontext(),
        "get_device_name": lambda device=None: about.name,
        "get_device_properties": lambda device=None: about,
        "get_device_capability": lambda device=None: (8, 0),
        "mem_get_info": lambda device=None: (2**33, 2**34),
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state_all": lambda: [state] * count,
        "set_rng_state_all": lambda states: None,
        "is_bf16_supported": lambda *a, **k: there,
        "is_current_stream_capturing": lambda: False,
    }
    plain_autocast = torch.autocast.__init__

    def autocast(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        plain_autocast(self, "cpu" if device_type == card.kind else device_type, *args, **kwargs)

    return [
        (torch.cuda, cuda),
        (torch.mps, shared | {"current_allocated_memory": lambda: 0, "driver_allocated_memory": lambda: 0}),
        (torch.backends.mps, {"is_available": lambda: not there, "is_built": lambda: not there}),
        (torch.autocast, {"__init__": autocast}),
        (torch, {"Generator": DeviceGenerator}),
        (torch.optim.Optimizer, dict.fromkeys(_checks_of_capture(), lambda self: None)),
    ]


def _checks_of_capture() -> list[str]:
    return [name for name in dir(torch.optim.Optimizer) if name.endswith("_graph_capture_health_check")]


__all__ = ["Accelerator", "DeviceGenerator", "DeviceTensor", "pretend"]
