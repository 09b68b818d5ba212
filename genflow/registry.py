"""Names to classes, lazily: the built-in catalogues and the plugins found by entry point.

A catalogue is plain data, so that names can be listed and checked without importing torch; the class behind a
name is imported only when it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from genflow.kinds import Kind, conform, kind_of
from genflow.places import shorten
from genflow.signatures import imported, written


@dataclass(frozen=True)
class Entry:
    """One registered name.

    Arguments:
        name: What the user types.
        target: Where the class is, as "package.module:Class".
        summary: One line for `genflow list`.
        source: Paper and year, where there is one.
        family: Name under which trained weights are shared (`vp_ode` and `vp_sde` share `vp`).
        preset: Constructor options that the name stands for.
        origin: "genflow", or the distribution that the plugin comes from.
        tags: Facts that must be known without importing the class (`mode`, `kind`, ...).
    """

    name: str
    target: str
    summary: str = ""
    source: str = ""
    family: str = ""
    preset: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "genflow"
    tags: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        module, _, attribute = self.target.partition(":")
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
        return found


class UnknownNameError(ValueError):
    """A name that no catalogue holds; the message gives the nearest one and all known."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """The error for a mistyped name: what came, the nearest name, what is allowed."""
    known = sorted(set(known))
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ";"
    return UnknownNameError(f"unknown {kind} '{name}'{hint} known: {', '.join(known) or 'none'}")


class Registry:
    """The names of one kind: built in, plugged in by entry point, or added in the running program.

    Arguments:
        kind: The noun used in messages, e.g. "process".
        module: Module whose `CATALOG` lists the built-in entries.
        group: Entry-point group of the plugins.
        reserved: Options that the program gives, never the user.
    """

    def __init__(self, kind: str, module: str, group: str, reserved: tuple[str, ...] = ()) -> None:
        self.kind, self.module, self.group, self.reserved = kind, module, group, reserved
        self._added: dict[str, Entry] = {}
        self._classes: dict[str, Callable[..., Any]] = {}
        self.broken: dict[str, str] = {}
        self._found: dict[str, Entry] | None = None
        self.changes = 0  # counts what was added and removed, so that what is derived of the entries can be kept

    def add(self, name: str, factory: Callable[..., Any], **facts: Any) -> None:
        """Registers a class in this program only; a plugin for everybody is an entry point."""
        if name in self.entries():
            raise ValueError(f"the {self.kind} '{name}' exists already; choose another name")
        self._added[name] = Entry(name, target="", origin="this program", **facts)
        self._classes[name] = factory
        self.changes += 1

    def remove(self, name: str) -> None:
        """Takes back what `add` registered."""
        del self._added[name], self._classes[name]
        self.changes += 1

    def entries(self) -> dict[str, Entry]:
        """All names with their entries; broken and duplicate plugins are left to `broken`."""
        if self._found is None:
            self._found = self._discover()
        return {**self._found, **self._added}

    def entry(self, name: str) -> Entry:
        """The entry of one name; a family's name stands for its first member without a preset (`vp` for `vp_ode`).

        Raises:
            UnknownNameError: The name is not registered, or its plugin is broken (with the reason).
        """
        if name in self.broken:
            raise UnknownNameError(f"the {self.kind} '{name}' cannot be used: {self.broken[name]}")
        entries = self.entries()
        if name not in entries:
            family = [entry for entry in entries.values() if entry.family == name and not entry.preset]
            if not family:
                raise unknown(self.kind, name, entries)
            return family[0]
        return entries[name]

    def get(self, name: str, **options: Any) -> Any:
        """An instance of the class behind a name.

        Raises:
            UnknownNameError: No such name.
            ValueError: An option the class does not take, or a value it refuses.
        """
        entry = self.entry(name)
        factory = self.load(name)
        options = check_options(f"{self.kind} '{name}'", factory, options, self.reserved)
        try:
            return factory(**{**entry.preset, **options})
        except (TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
            given = ", ".join(f"{k} = {v!r}" for k, v in options.items() if k not in self.reserved)
            if not given:
                raise
            fault = "too large or too small" if isinstance(error, ArithmeticError) else "of the wrong kind"
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"no {self.kind} '{name}' can be made with {given}: a value is {fault} ({reason})"
            ) from error

    def load(self, name: str) -> Callable[..., Any]:
        """The class behind a name; a plugin that does not import is reported, not raised through."""
        if name in self._classes:
            return self._classes[name]
        entry = self.entry(name)
        try:
            found = entry.load()
            wrong = "" if entry.origin == "genflow" else self._why_not(found)
            if wrong:
                raise TypeError(wrong)
            return found
        except (Exception, SystemExit) as error:  # a module may do anything while it is imported
            if entry.origin == "genflow":
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.broken[name] = f"{reason} (plugin of {entry.origin})"
            raise UnknownNameError(f"the {self.kind} '{name}' cannot be used: {self.broken[name]}") from error

    def _why_not(self, found: object) -> str:
        """Why what a plugin points to cannot be of this kind; "" where it can."""
        if not callable(found):
            return f"it points to {type(found).__name__} {shorten(repr(found))}, not to a class"
        for registry in registries().values():
            if registry.kind != self.kind and registry.base is not None and _is_a(found, registry.base):
                return f"{getattr(found, '__name__', found)} is a {registry.kind}, not a {self.kind}"
        return ""

    @property
    def base(self) -> type | None:
        """The class that those of this kind derive from, where it is imported: nothing derives from it before."""
        name = {"process": "Process", "backbone": "Backbone", "solver": "Solver", "dataset": "Dataset"}
        return getattr(sys.modules.get(f"{self.module}.base"), name.get(self.kind, "Metric"), None)

    def about(self, name: str) -> str:
        """A line on a name without a summary: the first of its class's docstring, or why it cannot be used."""
        try:
            found = self.load(name)
        except ValueError:
            return f"BROKEN, {self.broken.get(name, 'it cannot be loaded')}"
        lines = (found.__doc__ or "").strip().splitlines()
        line = lines[0].strip() if lines else "no description"
        derived = not isinstance(found, type) or _is_a(found, self.base)
        return line if derived else f"{line} (not a {self.kind}'s class, but perhaps like one)"

    def kinds(self, name: str) -> dict[str, Kind] | None:
        """What each option of a name takes, without importing it where its source says so; None where that is open."""
        try:
            entry = self.entry(name)
            takes = written(entry.target) if entry.target else None
            takes = imported(self.load(name)) if takes is None else takes
        except ValueError:  # an unknown name or a broken plugin, which its user reports better
            return None
        if takes is None:
            return None
        return {option: kind_of(annotation) for option, annotation in {**self.shared(entry), **takes}.items()}

    def shared(self, entry: Entry) -> Mapping[str, str]:
        """Options that the classes of this kind take beside their own, with their annotations."""
        module = importlib.import_module(self.module)
        steps = getattr(module, "STEP_OPTIONS", {}) if entry.tags.get("budget", True) else {}
        return {**getattr(module, "SHARED_OPTIONS", {}), **steps}

    def _discover(self) -> dict[str, Entry]:
        from importlib import metadata

        found = {entry.name: entry for entry in importlib.import_module(self.module).CATALOG}
        for point in metadata.entry_points(group=self.group):
            origin = point.dist.name if point.dist else "an unnamed distribution"
            if point.name in found:
                other = found[point.name].origin
                self.broken[f"{point.name} ({origin})"] = f"the name is taken by {other}; rename one of them"
                continue
            found[point.name] = Entry(point.name, point.value, origin=origin, family=point.name)
        return found


def check_options(
    owner: str, factory: Callable[..., Any], options: Mapping[str, Any], reserved: Iterable[str] = ()
) -> dict[str, Any]:
    """Options in the types that a constructor declares.

    Arguments:
        owner: Whose options they are, for messages.
        factory: The class or function that takes them.
        options: As they came.
        reserved: Those that the program gives, which are not looked at.

    Raises:
        UnknownNameError: The constructor takes no such option; the nearest that it does is named.
        ValueError: A value of another kind than its option's.
    """
    takes = imported(factory)
    if takes is None:
        return dict(options)
    for name in options:
        if name not in takes:
            raise unknown(f"option of {owner}", name, takes)
    return {
        name: value if name in reserved else fitting(f"{owner}: {name}", kind_of(takes[name]), value)
        for name, value in options.items()
    }


def fitting(what: str, kind: Kind, value: Any) -> Any:
    """A value in one of a kind's types; raises ValueError saying what is allowed."""
    try:
        return conform(kind, value)
    except (ValueError, OverflowError):
        raise ValueError(f"{what} = {value!r} is not allowed; give {kind}") from None


def _is_a(found: object, base: type | None) -> bool:
    return isinstance(found, type) and base is not None and issubclass(found, base)


@cache
def registries() -> dict[str, Registry]:
    """Every registry by its plural, which is also the word of `genflow list`."""
    kinds = {
        "processes": ("process", "genflow.process"),
        "backbones": ("backbone", "genflow.backbone", "shape", "extra_channels"),
        "solvers": ("solver", "genflow.solver"),
        "datasets": ("dataset", "genflow.data"),
        "metrics": ("metric", "genflow.evaluate"),
    }
    return {plural: Registry(k, m, f"genflow.{plural}", tuple(rest)) for plural, (k, m, *rest) in kinds.items()}
