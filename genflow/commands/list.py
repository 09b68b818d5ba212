"""`genflow list`: what is registered."""

from __future__ import annotations

import click

from genflow.backbone.sizes import Size
from genflow.cli import say
from genflow.commands.options import examples
from genflow.process import CAPABILITIES
from genflow.registry import Registry, registries, unknown
from genflow.solver import ENDS


@click.command(
    name="list",
    help="List what is registered: built in and from plugins.\n\n"
    + examples("genflow list", "genflow list processes", "genflow list solvers"),
)
@click.argument("kind", required=False)
def list_command(kind: str | None) -> int:
    if kind is not None and kind not in registries():
        raise unknown("kind", kind, registries())
    for plural, registry in registries().items():
        if kind in (None, plural):
            say(f"{plural}:")
            _list_entries(registry)
            say()
    return 0


def _list_entries(registry: Registry) -> None:
    entries = registry.entries()
    width = max(map(len, entries), default=0)
    for entry in entries.values():
        origin = "" if entry.origin == "genflow" else f"  [plugin of {entry.origin}]"
        summary = entry.summary or registry.about(entry.name)
        say(f"  {entry.name:{width}}  {summary}{f'; {entry.source}' if entry.source else ''}{origin}")
        missing = entry.tags.get("missing", {})
        if registry.kind == "process" and entry.tags:
            gone = {*missing, *(["sde"] if "score" in missing else [])}  # without a score there is no reverse SDE
            has = [word for name, word in CAPABILITIES.items() if name not in gone]
            say(f"  {'':{width}}  can: {', '.join(has)}")
        for size in entry.tags.get("sizes", ()):
            say(f"  {'':{width}}  {_weight(size)}")
        for capability, reason in missing.items():
            say(f"  {'':{width}}  no {CAPABILITIES.get(capability, capability)}: {reason}")
    if any("sizes" in entry.tags for entry in entries.values()):
        say("  (FLOPs: one call, a multiplication with its addition as two; no classes, no extra channel of a head)")
    if registry.kind == "solver":
        _list_ends()
    for name, reason in registry.broken.items():
        if name not in entries:
            say(f"  {name}: BROKEN, {reason}")


def _list_ends() -> None:
    """How paths may end: two options that every solver takes."""
    say("  options of every solver, as in --solver-options heun.end=mean:")
    for name, words in ENDS.items():
        say(f"    end={name}: {words}{' (default)' if name == 'none' else ''}")
    say("    end_noise=SIGMA: where the path ends, as noise b/a in data units (default: where the process ends)")


def _weight(size: Size) -> str:
    """A line for a size of a backbone: its images, parameters and arithmetic."""
    about = " ".join([*filter(None, [size.name]), "x".join(map(str, size.shape))])
    published = ", as published" if size.published else ""
    return f"{about}: {short(size.parameters)} parameters, {short(size.flops)}FLOPs an image{published}"


def short(number: float) -> str:
    """A large number to two decimals of its thousands, millions, ..., with a space: 1_230_000 is "1.23 M"."""
    power = min((len(f"{number:.0f}") - 1) // 3, 4)
    return f"{number / 1000**power:.2f} {'kMGT'[power - 1]}" if power else f"{number:.0f} "
