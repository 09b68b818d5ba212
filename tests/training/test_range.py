"""Options of processes that leave the range of float32 are refused before training, by name."""

import pytest

import genflow
from genflow.registry import registries
from genflow.training.batches import check_pairs

EXTREME = [
    ("ve_ode", {"sigma_max": 1e30}),
    ("vp_ode", {"beta_max": 1e30}),
    ("pfgmpp", {"sigma_max": 1e30}),
    ("si_linear", {"gamma": "brownian", "gamma_scale": 1e300}),
    ("pfgm", {"z_max": 1e30}),
]


@pytest.mark.parametrize(("name", "options"), EXTREME)
def test_options_beyond_float32_are_named_or_harmless(name, options):
    """Either the pairs are finite, or the refusal names the option and what to do."""
    data = genflow.get_dataset("digits")
    process = genflow.get_process(name, **options).for_data(data.fitting_points())
    try:
        check_pairs(process, data)
    except ValueError as refusal:
        assert any(option in str(refusal) for option in options)
        assert "give it values nearer to 1" in str(refusal)


def test_a_noise_beyond_float32_is_refused():
    process = genflow.get_process("ve_ode", sigma_max=1e30)
    with pytest.raises(ValueError, match=r"VE has no finite training pairs on 'digits': its options \(.*sigma_max = 1e\+30"):
        check_pairs(process, genflow.get_dataset("digits"))


@pytest.mark.parametrize("name", sorted(registries()["processes"].entries()))
def test_default_options_are_in_range(name):
    data = genflow.get_dataset("digits")
    check_pairs(genflow.get_process(name).for_data(data.scaling.encode(data.train[:64])), data)
