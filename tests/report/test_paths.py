"""The norm study's kept paths are the paths it measures, so a moving picture shows what the numbers say."""

import numpy as np
import pytest
import torch

import genflow
from genflow.config import BenchConfig, NormConfig
from genflow.evaluate.base import Context
from genflow.evaluate.norm_z import QUANTILES, norm_study
from genflow.report.motion import moving


@pytest.mark.parametrize("dataset", ["digits", "two_moons"])
def test_kept_states_have_the_measured_norms(dataset, tmp_path):
    data = genflow.get_dataset(dataset)
    process = genflow.get_process("vp_ode").for_data(data.fitting_points())
    config = BenchConfig(dataset=dataset, samples=12, norm=NormConfig(nfe=8, factors=(0.5, 2.0)))
    study = norm_study(process, process.oracle(data.fitting_points()[:200]), Context(config, data, seed=3))
    states, times = study.arrays["states"], study.arrays["times"]
    assert states.shape == (len(times), 12, *data.shape)
    assert states.dtype == np.float32
    norms = np.linalg.norm(states.reshape(len(times), 12, -1), axis=2)
    measured = study.arrays["path"]
    assert measured == pytest.approx(np.quantile(norms, QUANTILES, axis=1).T, rel=1e-5)
    end = data.scaling.decode(torch.from_numpy(states[-1]))
    assert end.numpy() == pytest.approx(study.pushed[1.0].numpy(), abs=1e-4)
    assert moving(states, times, tmp_path / "p.gif", "#0072B2").is_file()
