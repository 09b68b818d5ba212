"""The pretended device refuses and counts what a real one does."""

import copy

import pytest
import torch
from pretended import pretend
from torch import nn

KINDS = ["cuda", "mps"]


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_live_where_they_were_put(kind):
    with pretend(kind) as card:
        x = torch.ones(3, 4).to(card.name)
        made = [
            torch.tensor([1.0], device=card.name),
            torch.as_tensor([1.0], device=card.device),
            torch.zeros(2, device=kind),
            torch.ones_like(x),
            x.new_full((2,), 1.0),
            x.new_tensor([1.0]),
            x[:, [0, 2]] * 2,
            nn.functional.one_hot(x.long(), 3),
        ]
        assert {t.device for t in made} == {torch.device(kind, 0)}
        assert {t.device.type for t in (x.cpu(), x.to("cpu"), x.new_zeros(2, device="cpu"), torch.ones(1))} == {"cpu"}
        assert x[0].tolist() == [1.0] * 4
        x[0], x[:, 1] = torch.tensor(3.0), 5.0
        assert x.cpu()[:2].tolist() == [[3.0, 5.0, 3.0, 3.0], [1.0, 5.0, 1.0, 1.0]]
        assert torch.cuda.is_available() == (kind == "cuda")
        assert torch.backends.mps.is_available() == (kind == "mps")
    assert not torch.cuda.is_available()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda x, g: x + torch.ones(4), "same device"),
        (lambda x, g: torch.ones(4).add_(x), "same device"),
        (lambda x, g: torch.cat([x, torch.ones(4)]), "same device"),
        (lambda x, g: torch.stack([x[0], torch.tensor(1.0)]), "same device"),
        (lambda x, g: torch.linspace(0, 1, 4)[x.long()], "same device"),
        (lambda x, g: nn.Linear(4, 1)(x), "same device"),
        (lambda x, g: torch.randn(2, generator=g, device=x.device), "device type for generator"),
        (lambda x, g: x.normal_(generator=g), "device type for generator"),
        (lambda x, g: torch.randn(2, generator=torch.Generator(x.device)), "device type for generator"),
        (lambda x, g: x.numpy(), "convert .* to numpy"),
        (lambda x, g: x.to(f"{x.device.type}:1"), "invalid device"),
        (lambda x, g: x.to("mps" if x.is_cuda else "cuda"), "invalid device"),
    ],
)
def test_what_a_device_refuses_is_refused(kind, act, error):
    with pretend(kind) as card, pytest.raises((RuntimeError, TypeError), match=error):
        act(torch.ones(4, device=card.name), torch.Generator())


def test_mps_has_no_float64_and_cuda_counts_it():
    with pretend("mps") as card:
        for make in (lambda: torch.ones(1, device="mps").double(), lambda: torch.ones(1).double().to("mps")):
            with pytest.raises(TypeError, match="MPS framework doesn't support float64"):
                make()
        assert torch.ones(1, dtype=torch.float64).to("mps", torch.float32).dtype == torch.float32
    with pretend("cuda") as card:
        torch.ones(1).double().to("cuda")
        assert sum(card.places["float64"].values()) == 1


def test_kernels_copies_bytes_and_waits_are_counted():
    with pretend("cuda") as card:
        x = torch.ones(4).to("cuda")
        assert (card.kernels, card.copies, card.bytes, card.waits) == (0, 1, 16, 1)
        card.reset()
        y = (x[:2].reshape(2, 1) + 1).exp()
        assert (card.kernels, card.copies, card.waits) == (2, 0, 0)
        assert float(y[0]) > 0
        assert (card.copies, card.waits) == (1, 1)
        card.reset()
        x[x > 0]
        torch.zeros(2).to("cuda", non_blocking=True)
        assert card.waits == 1
        torch.zeros(2**18).to("cuda", non_blocking=True)
        assert card.waits == 2
        torch.zeros(2**18).pin_memory().to("cuda", non_blocking=True)
        torch.cuda.synchronize("cuda:0")
        assert (card.waits, card.synchronised) == (3, ["cuda:0"])
        assert any("test_pretended" in place for place in card.places["wait"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_trains_and_has_the_numbers_of_the_host(kind):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4)), torch.randn(3, 4)

    def trained(net, x):
        adam = torch.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(3):
            adam.zero_grad()
            net(x).square().mean().backward()
            adam.step()
        return net(x).detach().cpu()

    want = trained(copy.deepcopy(net), x)
    with pretend(kind) as card:
        twin = copy.deepcopy(net.to(card.name))
        assert torch.equal(trained(twin, x.to(card.name)), want)
        assert {p.device.type for p in [*net.parameters(), *twin.parameters()]} == {kind}
        twin.load_state_dict({k: v.cpu() for k, v in net.state_dict().items()})
        assert torch.equal(twin(x.to(card.name)), net(x.to(card.name)))
        with torch.autocast(kind, dtype=torch.bfloat16):
            assert net(x.to(card.name)).dtype == torch.bfloat16
        assert net.to("cpu")(x).device.type == "cpu"


def test_a_generator_of_the_device_draws_other_numbers():
    with pretend("cuda"):
        host, card = torch.Generator().manual_seed(1), torch.Generator("cuda").manual_seed(1)
        assert isinstance(host, torch.Generator)
        assert card.device == torch.device("cuda", 0)
        assert card.initial_seed() == host.initial_seed() == 1
        assert not torch.equal(torch.rand(3, generator=card, device="cuda").cpu(), torch.rand(3, generator=host))
