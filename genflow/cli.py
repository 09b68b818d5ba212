"""The command line. A command is imported when it is called, so that `genflow --help` is instant.

Exit codes: 0 done, 1 failed, 2 bad input or a file that cannot be read or written, 3 some cells failed,
70 out of memory, 74 a full disk, 75 the folder is in use, 124 the time limit is up, 128 + n ended by signal n
(130 Ctrl-C, 143 SIGTERM).
"""

from __future__ import annotations

import importlib
import logging
import os
import sys

import click

from genflow import __version__
from genflow.accelerators import AUTO
from genflow.memory import MemoryExhaustedError, is_out_of_memory
from genflow.places import FULL
from genflow.signals import stoppable

EXIT_FAILED, EXIT_INPUT, EXIT_CELLS, EXIT_BUSY, EXIT_TIME, EXIT_STOPPED = 1, 2, 3, 75, 124, 130
EXIT_MEMORY, EXIT_DISK = 70, 74

COMMANDS = {
    "bench": ("genflow.commands.bench", "Train, sample and measure a matrix of processes."),
    "tune": ("genflow.commands.tune", "Search each process's best settings in one space for all."),
    "train": ("genflow.commands.train", "Train one process and write a checkpoint."),
    "import": ("genflow.commands.import_", "Make a checkpoint of a published PFGM or score-SDE file."),
    "average": ("genflow.commands.average", "Write a checkpoint with another average of a run's weights."),
    "sample": ("genflow.commands.sample", "Draw samples from a checkpoint."),
    "evaluate": ("genflow.commands.evaluate", "Measure a checkpoint with the bench's metrics."),
    "statistics": ("genflow.commands.statistics", "Write reference statistics of a data set's features."),
    "likelihood": ("genflow.commands.likelihood", "Bits per dimension and nats of the test split."),
    "encode": ("genflow.commands.encode", "Carry test examples to the prior's end."),
    "decode": ("genflow.commands.decode", "Carry latents to the data's end."),
    "interpolate": ("genflow.commands.interpolate", "Draw paths between test examples."),
    "inpaint": ("genflow.commands.inpaint", "Draw a missing part of test images."),
    "colourise": ("genflow.commands.colourise", "Draw the colours of grey images."),
    "reproduce": ("genflow.commands.reproduce", "Reproduce a table or figure of a paper."),
    "study": ("genflow.commands.study", "Measure how robust processes are, against what papers claim."),
    "report": ("genflow.commands.report", "Write tables, plots and page of a finished bench again, or compare two."),
    "list": ("genflow.commands.list", "List processes, backbones, solvers, datasets and metrics."),
    "weights": ("genflow.commands.weights", "Manage the weight files that distances need and that do not ship."),
    "new-plugin": ("genflow.commands.new_plugin", "Write an installable package with a process, a solver, a metric."),
    "doctor": ("genflow.commands.doctor", "Say what this installation has."),
}
"""Command -> module that defines it under the name `<command>_command`, and its line in the help."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called; an unknown one names the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return getattr(importlib.import_module(COMMANDS[cmd_name][0]), f"{cmd_name.replace('-', '_')}_command")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from genflow.registry import unknown

            raise click.UsageError(str(unknown("command", args[0], COMMANDS)), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def say(text: str = "") -> None:
    """A line on standard output; characters that the terminal cannot show are replaced.

    Where its reader has gone (`| head`), the rest is dropped and the work goes on.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        click.echo(text.encode(encoding, "replace").decode(encoding))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="genflow")
def cli() -> None:
    """Compare Poisson flow, score SDEs and stochastic interpolants on equal terms.

    \b
    Examples:
      genflow bench --process pfgm,vp_ode --backbone ncsnv2
      genflow bench --dry-run
      genflow list processes
      genflow train --process pfgm --out runs/pfgm
      genflow sample --checkpoint runs/pfgm --n 64 --nfe 20 --out samples.png
      genflow doctor
    """


def say_device() -> None:
    """On standard error, once in a command, of its first rank: the device that --device auto took."""
    device = click.get_current_context().meta.pop(AUTO, None)
    if device and os.environ.get("RANK", "0") == "0":
        click.echo(f"device: {device} (--device auto)", err=True)


@cli.result_callback()
def end(code: int | None) -> int | None:
    """Names the device after a command that succeeded; long ones have named it when they began to compute."""
    if not code:
        say_device()
    return code


class _Lines(logging.Handler):
    """Warnings of the library as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"genflow: {record.getMessage()}", err=True)


SMALLER = {
    "train": "take a smaller --train-batch-size or more --train-accumulate, or a smaller network or data set",
    "sample": "take a smaller --sample-batch, fewer samples (--n), or less --nfe",
    "evaluate": "take a smaller --sample-batch, or fewer --samples",
    "bench": "take fewer --jobs, a smaller --train-batch-size or --sample-batch, or a smaller network or data set",
    "tune": "take fewer --jobs, a smaller --train-batch-size or --sample-batch, or a smaller network or data set",
    "study": "take fewer --jobs, a smaller --train-batch-size or --sample-batch, or a smaller network or data set",
    "reproduce": "take --set jobs=1, or a smaller --set train.batch_size or sample_batch",
    "likelihood": "take a smaller --sample-batch",
    "encode": "take a smaller --sample-batch",
    "decode": "take a smaller --sample-batch",
    "interpolate": "take a smaller --sample-batch",
    "inpaint": "take a smaller --sample-batch, or fewer --images",
    "colourise": "take a smaller --sample-batch, or fewer --images",
}
"""What needs less memory, by command."""


def _explain(error: BaseException) -> tuple[str, int]:
    """A line and the exit code of an error that is not a bug, such as a full disk; ("", 1) of others."""
    own = type(error).__module__.startswith("genflow.")
    if not isinstance(error, MemoryExhaustedError) and is_out_of_memory(error):
        reason = " ".join(str(error).split()) or type(error).__name__
        command = next((word for word in sys.argv[1:] if word in COMMANDS), "")
        help = SMALLER.get(command, "take a smaller network, data set or batch")
        return f"out of memory: {reason}; {help}", EXIT_MEMORY
    if isinstance(error, ValueError):
        return str(error) or type(error).__name__, EXIT_INPUT
    if own:
        return str(error), int(getattr(error, "exit_code", EXIT_FAILED))
    if isinstance(error, OSError) and (error.errno in FULL or (error.errno and error.filename)):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}", EXIT_DISK if error.errno in FULL else EXIT_INPUT
    return "", EXIT_FAILED


def run() -> int:
    """Runs the command line and turns errors of the caller into one line and an exit code."""
    log, lines = logging.getLogger("genflow"), _Lines(logging.WARNING)
    log.addHandler(lines)
    log.propagate = False
    try:
        with stoppable():
            return int(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        return int(getattr(error.__cause__ or error, "exit_code", EXIT_STOPPED))
    except click.ClickException as error:
        error.show()
        return EXIT_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit:
        raise
    except BaseException as error:  # panics of libraries in Rust are not an `Exception`
        line, code = _explain(error)
        if line:
            click.echo(f"genflow: {line}", err=True)
            return code
        raise
    finally:
        log.removeHandler(lines)
        log.propagate = True
