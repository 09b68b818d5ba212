"""`genflow reproduce` on the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from genflow.cli import cli


def call(*words):
    return CliRunner().invoke(cli, ["reproduce", *words], catch_exceptions=True)


@pytest.mark.slow
def test_list_and_plan_import_no_torch():
    code = (
        "import sys; from click.testing import CliRunner; from genflow.cli import cli\n"
        "for words in (['--list'], ['pfgm_nfe', '--dry-run']):\n"
        "    done = CliRunner().invoke(cli, ['reproduce', *words]); assert done.exit_code == 0, done.output\n"
        "    assert 'pfgm_nfe' in done.output\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_dry_run_shows_the_commands_by_hand(tmp_path):
    done = call("pfgm_cifar10", "--scale", "full", "--dry-run", "--published", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert f"genflow import {tmp_path}/poisson_cifar10_ddpmpp.pth --preset poisson/cifar10_ddpmpp" in done.output
    assert "genflow bench --checkpoint " in done.output
    assert "missing here:" in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--list"),
        (("pfgm_nfee",), "pfgm_nfe"),
        (("pfgm_nfe", "--out", __file__), "is a file, not a folder"),
        (("pfgm_nfe", "--cells", __file__), "is a file, not a folder"),
        (("pfgm_nfe", "--set", "out=elsewhere", "--dry-run"), "folders are given by --out"),
    ],
)
def test_a_wrong_name_is_refused(words, told):
    done = call(*words)
    assert done.exit_code != 0
    assert told in str(done.exception)
