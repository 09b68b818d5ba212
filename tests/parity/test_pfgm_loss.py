"""The whole PFGM loss with the published DDPM++ weights against Poisson_flow: its value and every gradient's norm.

The stored numbers are float32, whose field targets alone are 3e-6 off; ours are computed in float64.
"""

from __future__ import annotations

import pytest
import torch

from genflow.backbone.ncsnpp import NCSNpp
from genflow.backbone.unet_design import published_options
from genflow.process.poisson import PFGM

N = 3 * 32 * 32
BATCH = 8


@pytest.fixture
def stored(load):
    return load("pfgm/loss_ddpmpp.npz")


@pytest.fixture
def net(load):
    published = load("nets/pfgm_ddpmpp.pt")
    net = NCSNpp((3, 32, 32), extra_channels=1, **published_options(published["config"]))
    net.load_published(published["state_dict"])
    return net.double().eval()


@pytest.fixture
def loss(stored, net, monkeypatch):
    """Our loss of the stored batch with the stored draws, in order of use: m, z, m where restricted, radius, way."""
    process = PFGM(dim=N, gamma=5.0, m_max=291, z_min=1e-10, z_max=1e3, perturbation="published", prior="published")
    z = stored["draw_z_raw"].flatten()
    low = z.double().abs() * 0.01 < 0.005
    assert int(low.sum()) == int(stored["num_restricted"])
    again = torch.zeros(BATCH).masked_scatter(low, stored["draw_u_restrict"])
    draws = {
        "rand": [stored["draw_u_m"], again],
        "randn": [z, stored["draw_noise"].flatten(1), stored["draw_gaussian"]],
    }
    for name, queue in draws.items():
        queue = [v.double() for v in queue]
        monkeypatch.setattr(torch, name, lambda *args, q=queue, **options: q.pop(0))
    data = stored["data"].double()
    return process.loss(net, data[:BATCH], generator=torch.Generator(), refs=data[BATCH:])


def test_value(stored, loss):
    """The published loss takes half the sum over N + 1 entries, or their mean; ours is the mean."""
    assert float(loss.detach()) == pytest.approx(float(stored["loss_reduce_mean_True"]), rel=1e-6)
    assert float(loss.detach()) * (N + 1) / 2 == pytest.approx(float(stored["loss_reduce_mean_False"]), rel=1e-6)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(("mode", "scale"), [("True", 1.0), ("False", (N + 1) / 2)])
def test_gradient_of_every_parameter(stored, net, loss, mode, scale):
    """The bias of the keys, which a softmax takes out, has gradient zero: in float32, 1e-10 of the total."""
    loss.backward()
    norms = dict(zip(stored["param_names"].tolist(), stored[f"grad_norms_reduce_mean_{mode}"].tolist(), strict=True))
    found = {name: scale * float(p.grad.double().norm()) for name, p in net.named_parameters()}
    assert list(found) == list(norms)
    total = float(stored[f"grad_total_norm_reduce_mean_{mode}"])
    for name, want in norms.items():
        assert found[name] == pytest.approx(want, rel=2e-5, abs=1e-9 * total), name
    assert sum(v * v for v in found.values()) ** 0.5 == pytest.approx(total, rel=1e-5)
