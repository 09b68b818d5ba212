"""`genflow list` and `genflow doctor`."""

from __future__ import annotations

from collections.abc import Mapping

import click

from genflow.cli import say
from genflow.commands.options import examples
from genflow.process import CAPABILITIES
from genflow.registry import Registry, registries, unknown


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
        say(f"  {entry.name:{width}}  {entry.summary}{f'; {entry.source}' if entry.source else ''}{origin}")
        missing = entry.tags.get("missing", {})
        if registry.kind == "process" and entry.tags:
            has = [word for name, word in CAPABILITIES.items() if name not in missing and not _implied(name, missing)]
            say(f"  {'':{width}}  can: {', '.join(has)}")
        for capability, reason in missing.items():
            say(f"  {'':{width}}  no {CAPABILITIES.get(capability, capability)}: {reason}")
    for name, reason in registry.broken.items():
        say(f"  {name}: BROKEN, {reason}")


def _implied(capability: str, missing: Mapping[str, str]) -> bool:
    """Without a score there is no reverse SDE."""
    return capability == "sde" and "score" in missing


@click.command(
    name="doctor",
    help="Say what this installation has: versions, device, plugins, folders.\n\n" + examples("genflow doctor"),
)
def doctor_command() -> int:
    from genflow.doctor import findings

    lines, healthy = findings()
    for line in lines:
        say(line)
    return 0 if healthy else 1
