"""Paths by their coefficients against stored conversions, Student-t paths against Poisson-field identities."""

from __future__ import annotations

import pytest
import torch

from genflow.process.paths import SILinear, SITrig
from genflow.process.poisson import PFGMPP
from genflow.process.posterior import posterior_mean

PATHS = {"CondOT": SILinear, "Cosine": SITrig}
"""flow_matching's names of the two paths; its t is 0 at the base and 1 at the data, as ours."""


@pytest.fixture
def paths(load):
    return load("interpolants/fm_paths.npz")


@pytest.mark.parametrize("name", PATHS)
def test_path_and_its_coefficients(paths, error, name):
    process, t = PATHS[name](), paths["t"]
    stored = {k.removeprefix(f"{name}/"): v for k, v in paths.items() if k.startswith(f"{name}/")}
    c = process.coefficients(t)
    for value, key in zip(c[:4], ("alpha_t", "sigma_t", "d_alpha_t", "d_sigma_t"), strict=True):
        assert error(value, stored[key]) < 1e-9
    assert error(process.interpolate(paths["x1"], paths["x0"], t), stored["x_t"]) < 1e-9
    pair = process.at(t, paths["x"])
    assert error(pair.da * paths["x1"] + pair.db * paths["x0"], stored["dx_t"]) < 1e-9


@pytest.mark.parametrize("name", PATHS)
def test_conversions_between_heads(paths, error, name):
    """Stored with inputs of their own for each kind: what is predicted is not tied to x."""
    x, t = paths["x"], paths["t"]
    heads = {head: PATHS[name](head=head) for head in ("data", "noise", "velocity")}
    c = heads["data"].at(t, x)
    given = {"data": paths["target_in"], "noise": paths["eps_in"], "velocity": paths["vel_in"]}
    names = {"data": "target", "noise": "epsilon", "velocity": "velocity"}
    for source, process in heads.items():
        means = process.prediction.decode(given[source], x, c)
        found = {"data": means[0], "noise": means[1], "velocity": process.velocity(given[source], x, t)}
        for goal in set(names) - {source}:
            assert error(found[goal], paths[f"{name}/{names[source]}_to_{names[goal]}"]) < 1e-9
        if source != "data":
            assert error(process.score(given[source], x, t), paths[f"{name}/score_from_{names[source]}"]) < 1e-9


def test_pfgmpp_with_one_dimension_more_has_the_field_of_forty_charges(load, error):
    """Posterior mean, velocity and log density of the stored field."""
    stored = load("interpolants/pfgm_interpolant_identities.npz")
    process = PFGMPP(D=1, sigma_min=1e-3, sigma_max=1e3)
    x, y, z = stored["x"], stored["y"], stored["z"]
    mean = posterior_mean(x, z, y, process)
    assert error(mean, stored["posterior_mean"]) < 1e-9
    output = process.prediction.encode(mean, x, process.at(z, x))
    assert error(process.velocity(output, x, z), stored["velocity_dxdz"]) < 1e-9
    log_density = [
        process.base.log_prob((row - y) / height).logsumexp(0) - torch.log(len(y) * height**6)
        for row, height in zip(x, z, strict=True)
    ]
    assert error(torch.stack(log_density), stored["log_density"]) < 1e-9
