"""The README and the docs: relative links lead somewhere, Python examples run, shown commands exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_relative_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_shown_commands_parse(page):
    """Every `genflow ...` line in a code block names a command and options that exist."""
    import shlex

    from genflow.cli import COMMANDS, cli

    for block in re.findall(r"```(?:bash|sh|console|text)?\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        for line in re.findall(r"(?:^|&& )(?:\$ )?genflow ([^\n&]*)", block, re.M):
            words = shlex.split(line.split(" #")[0])
            assert words[0] in COMMANDS or words[0].startswith("-"), line
            if words[0] in COMMANDS:
                command = cli.get_command(None, words[0])
                known = {o for p in command.params for o in p.opts}
                used = {w.split("=")[0] for w in words[1:] if w.startswith("--")}
                assert used <= known | {"--help"}, (line, used - known)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_named_tests_exist(page):
    """Every `tests/...py::name` that a page gives as its proof."""
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_named_files_exist(page):
    """Every file of the repository that a page names in full."""
    named = re.findall(r"`((?:tests|benchmarks|configs|genflow|docs)/[\w/.-]+\.\w+)", page.read_text(encoding="utf-8"))
    assert not [file for file in named if not (ROOT / file).exists()]


@pytest.mark.slow
def test_the_readme_example_runs(tmp_path, monkeypatch):
    """The example under fifteen lines, with its budget cut down."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    assert len(code.strip().splitlines()) < 15
    monkeypatch.chdir(tmp_path)
    small = re.sub(r"steps=\d+", "steps=5", code)
    assert small != code
    names = {}
    exec(compile(small, "README.md", "exec"), names)
    assert names["distance"] > 0
