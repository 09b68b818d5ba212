"""Options of processes that leave the range of float32 are refused before training, by name."""

import pytest

import genflow
from genflow.registry import registries
from genflow.training.batches import check_pairs


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ve_ode", {"sigma_max": 1e30}),
        ("pfgm", {"z_max": 1e30}),
        ("si_linear", {"gamma": "brownian", "gamma_scale": 1e300}),
    ],
)
def test_options_beyond_float32_are_named(name, options):
    data = genflow.get_dataset("digits")
    process = genflow.get_process(name, **options).for_data(data.scaling.encode(data.train[:64]))
    with pytest.raises(ValueError, match="has no finite training pairs on 'digits': its options") as refusal:
        check_pairs(process, data)
    assert any(option in str(refusal.value) for option in options)
    assert "give it values nearer to 1" in str(refusal.value)


@pytest.mark.parametrize("name", sorted(registries()["processes"].entries()))
def test_default_options_are_in_range(name):
    data = genflow.get_dataset("digits")
    check_pairs(genflow.get_process(name).for_data(data.scaling.encode(data.train[:64])), data)
