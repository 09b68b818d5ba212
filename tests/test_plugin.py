"""The plugin of docs/design.md, as it is printed there."""

import re
from pathlib import Path

import pytest

import genflow
from genflow.registry import registries
from genflow.testing import check_process

DESIGN = Path(__file__).parents[1] / "docs" / "design.md"


@pytest.mark.slow
def test_the_documented_plugin_passes_the_contract_and_is_usable_by_name():
    code = re.search(r"```python\n(.*?)```", DESIGN.read_text(encoding="utf-8"), re.S).group(1)
    names = {}
    exec(compile(code, str(DESIGN), "exec"), names)
    check_process(names["FastVE"]())
    processes = registries()["processes"]
    processes.add("fast_ve", names["FastVE"], tags={"mode": "ode"})
    try:
        process = genflow.get_process("fast_ve")
        points = process.sample_prior((5, 2), generator=__import__("torch").Generator())
        assert genflow.sample(process, process.oracle(points), "heun", 3, nfe=5).x.shape == (3, 2)
    finally:
        processes.remove("fast_ve")
