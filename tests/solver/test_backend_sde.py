"""torchsde under this interface: our steps where they are the same, no global state, any shape of state."""

import numpy as np
import pytest
import torch

from genflow.process.score_sde import VP
from genflow.sampling import sample
from genflow.solver.backend_sde import TorchSDE
from genflow.solver.sde import EulerMaruyama, HeunSDE

F64 = torch.float64
POINTS = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", TorchSDE.methods)
def test_torchsde_leaves_the_global_generators_alone(method):
    """No sample depends on them either."""
    process, ends = VP(), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # torchsde's own default takes its seeds from here
        states = torch.get_rng_state(), np.random.get_state()[1].copy()
        ends.append(sample(process, process.oracle(POINTS), TorchSDE(method), 3, nfe=8, seed=5, dtype=F64).x)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(*ends)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(("method", "ours"), [("euler", EulerMaruyama), ("heun", HeunSDE)])
def test_torchsde_takes_our_steps(method, ours):
    """Euler's are equal; Heun's differ by how the noise of a time-dependent ε is averaged, which constant ε removes."""
    process = VP()
    ends = [
        sample(process, process.oracle(POINTS), solver, 4, nfe=31, dtype=F64).x
        for solver in (TorchSDE(method, 0.1, epsilon="constant"), ours(0.1, epsilon="constant"))
    ]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-8, atol=1e-9)


def test_torchsde_takes_images():
    process, points = VP(), torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for method in TorchSDE.methods:
        found = sample(process, process.oracle(points), TorchSDE(method), 2, nfe=9)
        assert found.x.shape == (2, 1, 4, 4)
        assert found.x.dtype == torch.float32
        assert found.nfe == 9
