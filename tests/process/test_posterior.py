"""The posterior routine in float32, at sizes where rounding and memory matter."""

import torch

from genflow.process.poisson import PFGM
from genflow.process.posterior import posterior_mean


def published_target(x, z, refs, gamma):
    """The normalised field by its definition, with B x N x (D + 1) differences, float64."""
    gaps = torch.cat([refs[None] - x[:, None], -z[:, None, None].expand(-1, len(refs), 1)], dim=2)
    weights = (-(x.shape[1] + 1) * gaps.norm(dim=2).log()).softmax(1)
    field = (weights[:, :, None] * gaps).sum(1)
    return x.shape[1] ** 0.5 * field / (field.norm(dim=1, keepdim=True) + gamma)


def test_float32_target_is_near_float64_in_the_worst_row():
    generator = torch.Generator().manual_seed(0)
    refs = torch.rand(256, 192, generator=generator) * 2 - 1
    process = PFGM(dim=192, norm=8.0, gamma=5.0)
    pairs = process.perturb(refs[:64], generator=generator, refs=refs[64:])
    want = published_target(pairs.x_t.double(), pairs.t, refs.double(), 5.0)
    worst = (pairs.target - want).norm(dim=1) / want.norm(dim=1)
    assert float(worst.max()) < 5e-5


def test_a_point_far_out_and_a_point_on_a_charge():
    refs = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    process = PFGM(dim=5, norm=2.0)
    far = posterior_mean(1e7 * torch.ones(1, 5, dtype=torch.float64), torch.tensor(1.0), refs, process)
    torch.testing.assert_close(far[0], refs.mean(0), rtol=0, atol=1e-5)
    on = posterior_mean(refs[:1], torch.tensor(1e-3), refs, process)
    torch.testing.assert_close(on, refs[:1], rtol=0, atol=1e-9)


def test_zero_variance_data_and_one_pixel():
    process = PFGM(dim=1, norm=1.0)
    same = torch.full((6, 1, 1, 1), 0.25)
    found = posterior_mean(torch.randn(3, 1, 1, 1), torch.tensor(0.5), same, process)
    torch.testing.assert_close(found, same[:3])


def test_chunks_do_not_change_the_mean(monkeypatch):
    refs, x = torch.randn(50, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    process = PFGM(dim=6, norm=2.0)
    whole = posterior_mean(x, torch.tensor(0.7), refs, process)
    monkeypatch.setattr("genflow.process.posterior.CHUNK", 7)
    torch.testing.assert_close(posterior_mean(x, torch.tensor(0.7), refs, process), whole, rtol=1e-12, atol=1e-12)


def test_data_far_from_the_origin_keep_their_digits_in_float32():
    generator = torch.Generator().manual_seed(3)
    refs = 1000 + torch.randn(40, 6, generator=generator, dtype=torch.float64)
    process, x = PFGM(dim=6, norm=2.0), refs[:5] + 0.3
    exact = posterior_mean(x, torch.tensor(0.5), refs, process)
    rough = posterior_mean(x.float(), torch.tensor(0.5), refs.float(), process)
    torch.testing.assert_close(rough.double(), exact, rtol=0, atol=2e-2)


def test_parts_are_as_good_as_one_tensor():
    refs, x = torch.randn(50, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    process = PFGM(dim=6, norm=2.0)
    whole = posterior_mean(x, torch.tensor(0.7), refs, process)
    parts = posterior_mean(x, torch.tensor(0.7), [refs[:13], refs[13:13], refs[13:]], process)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_float32_on_a_charge_is_finite_and_the_charge():
    refs = torch.randn(9, 64, generator=torch.Generator().manual_seed(1))
    process = PFGM(dim=64, norm=8.0)
    for z in (1e-3, 1e-2):
        found = posterior_mean(refs[:3] + 1e-4, torch.tensor(z), refs, process)
        torch.testing.assert_close(found, refs[:3], rtol=0, atol=1e-5)
