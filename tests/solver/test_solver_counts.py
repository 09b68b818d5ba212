"""What a step asks of an accelerator beside the network: kernels, waits of the host and copies, for every solver."""

import copy

import pytest
import torch
from pretended import pretend
from torch import nn

import genflow
from genflow.catalogue import get_process, get_solver
from genflow.likelihood import log_likelihood
from genflow.registry import registries
from genflow.solver.base import NonFiniteError
from genflow.solver.noise import Noise

KERNELS = {
    "euler": 3, "heun": 3, "midpoint": 3, "rk4": 4, "ddim": 3, "ab2": 5, "ab3": 6, "ab4": 7,
    "deis": 6, "sde_dpmpp_2m": 7, "sde_dpmpp_3m": 8, "ddim_sde": 5,
    "dpmpp_2m": 5, "dpmpp_3m": 6.5, "unipc": 9, "euler_maruyama": 5, "heun_sde": 5, "edm_churn": 5.5,
    "reverse_diffusion": 5, "ancestral": 5, "pc": 5,
}  # fmt: skip
"""Most own kernels per NFE with a linear head, for fixed steps."""
FIELD = 12.5
"""What a Poisson field's inverse may take beside that."""
ADAPTIVE = {"rk45": 12, "rk23": 12}
PROCESSES = ("pfgm", "vp_ode", "vp_sde", "si_linear")
NFE = 32
DATA = torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """(x, condition) -> a bounded answer, and what it takes of kernels, waits and copies itself."""

    shape = (1, 4, 4)

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra, self.calls, self.kernels = extra, 0, 0
        self.card = None
        self.weight = nn.Parameter(torch.tensor(0.3), requires_grad=False)

    def forward(self, x, condition):
        before = self.card.kernels if self.card else 0
        found = torch.cat([x] * (1 + self.extra), dim=1)[:, : x.shape[1] + self.extra] * self.weight
        self.calls += 1
        self.kernels += self.card.kernels - before if self.card else 0
        return found


def pairs(names):
    """Every process with every one of these solvers that can sample it."""
    found = []
    for name in PROCESSES:
        process = get_process(name)
        for solver_name in names:
            solver = get_solver(solver_name)
            if solver.mode == process.mode and not any(process.why_not(need) for need in (solver.mode, *solver.needs)):
                found.append((name, solver_name))
    return found


def counted(kind, name, solver, nfe, **options):
    """A second solve on a pretended device (the first fills what is kept): the samples, NFE and counts per NFE."""
    process = get_process(name, **options).for_data(DATA)
    network = Network(process.extra_channels)
    with pretend(kind) as card:
        network.to(card.name)
        genflow.sample(process, network, solver, 3, nfe=nfe, device=card.name)
        network.card, network.kernels = card, 0
        kernels, waits, copies = card.kernels, card.waits, card.copies
        found = genflow.sample(process, network, solver, 3, nfe=nfe, device=card.name)
        own = card.kernels - kernels - network.kernels
        return found, own / found.nfe, (card.waits - waits) / found.nfe, (card.copies - copies) / found.nfe


def test_every_solver_has_a_bar():
    own = {n for n, e in registries()["solvers"].entries().items() if "/" not in n and e.target.startswith("genflow.")}
    assert own == set(KERNELS) | set(ADAPTIVE)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("name", "solver"), pairs(KERNELS))
def test_fixed_steps(name, solver, monkeypatch):
    monkeypatch.setattr(Noise, "like", lambda self, x: torch.full_like(x, 0.5))  # a draw on the device is one kernel
    found, kernels, waits, copies = counted("cuda", name, get_solver(solver), NFE)
    field = FIELD if get_process(name).prediction.linear is False else 0
    assert kernels <= KERNELS[solver] + field
    assert waits <= 0.1  # a look at 16 steps each, and the samples' way to the host
    assert copies <= 0.13 + bool(field) / NFE  # those, the prior's way from there, and a Poisson prior's radii
    process = get_process(name).for_data(DATA)
    plain = genflow.sample(process, Network(process.extra_channels), solver, 3, nfe=NFE)
    assert torch.allclose(found.x, plain.x, rtol=1e-4, atol=1e-5)


@pytest.mark.quick_one_in(5)
@pytest.mark.parametrize(("name", "solver"), [(p, s) for p, s in pairs(KERNELS) if p != "pfgm"])
def test_fixed_steps_in_sigma(name, solver, monkeypatch):
    """Two kernels more a call: the network's x_t from x/a, and what of the sum no longer is x_t itself."""
    monkeypatch.setattr(Noise, "like", lambda self, x: torch.full_like(x, 0.5))
    _, kernels, waits, copies = counted("cuda", name, get_solver(solver, frame="sigma"), NFE)
    assert kernels <= KERNELS[solver] + 2
    assert waits <= 0.1
    assert copies <= 0.13


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("name", ["pfgm", "vp_ode"])
def test_a_head_that_depends_on_the_state_costs_twelve_kernels_more(name, solver, monkeypatch):
    monkeypatch.setattr(Noise, "like", lambda self, x: torch.full_like(x, 0.5))
    options = {"head": "edm_rms", "frame": "sigma"}
    found, kernels, waits, copies = counted("cuda", name, get_solver(solver), NFE, **options)
    assert round(kernels, 1) <= 15
    assert waits <= 0.1
    assert copies <= 0.13
    process = get_process(name, **options).for_data(DATA)
    plain = genflow.sample(process, Network(process.extra_channels), solver, 3, nfe=NFE)
    assert torch.allclose(found.x, plain.x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vp_ode", "pfgm", "si_linear"])
def test_a_likelihood_asks_as_little_as_its_solver(name):
    process, solver = get_process(name).for_data(DATA), get_solver("rk45", rtol=1e-2, atol=1e-2)
    network = Network(process.extra_channels)
    with pretend("cuda") as card:
        network.to(card.name)
        x = DATA[:3].to(card.name)
        log_likelihood(process, network, x, solver=solver)
        card.reset()
        found = log_likelihood(process, network, x, solver=solver)
        assert card.copies / found.nfe <= 4.8 / 6
        assert card.waits / found.nfe <= 2.4 / 6
    plain = log_likelihood(process, Network(process.extra_channels), DATA[:3], solver=solver)
    assert torch.allclose(found.log_prob, plain.log_prob, rtol=1e-4, atol=1e-4)


def test_heun_under_the_field_head():
    assert counted("cuda", "pfgm", get_solver("heun"), 6)[1] <= 15


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(("name", "solver"), pairs(ADAPTIVE))
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_chosen_steps(kind, name, solver):
    made = get_solver(solver, rtol=1e-3, atol=1e-3)  # many steps, beside which the first one's choice is little
    _, kernels, waits, copies = counted(kind, name, made, None)
    field = FIELD if get_process(name).prediction.linear is False else 0
    stages = len(made.tableau.times)
    assert kernels <= ADAPTIVE[solver] + field
    assert copies <= 4.8 / stages  # in both directions
    if kind == "cuda":  # small copies to it are not waited for
        assert waits <= 2.4 / stages


@pytest.mark.parametrize("solver", ["euler", "dpmpp_3m", "ab3"])
@pytest.mark.parametrize("step", [1, 7, 16, 17, 20])
def test_the_step_that_broke_is_named_though_few_are_looked_at(solver, step):
    process = get_process("vp_ode")
    times = process.grid(20).double()

    class Breaking(Network):
        def forward(self, x, condition):
            return x * (torch.nan if float(condition[0]) <= float(times[step - 1]) * (1 + 1e-6) else 0.1)

    with pytest.raises(NonFiniteError, match=rf"after step {step} at t = {float(times[step]):g}"):
        get_solver(solver).solve(process.field(Breaking(0)), torch.randn(2, 1, 4, 4), grid=times)


def test_finished_rows_stay_with_a_compiled_network():
    process, lengths = get_process("vp_ode"), set()

    class Compiled(Network):
        _orig_mod = None

        def forward(self, x, condition):
            lengths.add(len(x))
            return super().forward(x, condition)

    solver, x = get_solver("rk45"), torch.randn(5, 1, 4, 4) * torch.logspace(-2, 1, 5).reshape(-1, 1, 1, 1)
    want = solver.solve(process.field(Network(0)), x)
    found = solver.solve(process.field(Compiled(0)), x)
    assert lengths == {5}
    assert len(set(want.nfe_per_sample.tolist())) > 1
    assert torch.equal(found.nfe_per_sample, want.nfe_per_sample)
    assert torch.allclose(found.x, want.x, rtol=1e-5, atol=1e-6)


def test_a_process_that_reads_in_its_own_way_is_read_so():
    class Twice(type(get_process("vp_ode"))):
        def velocity(self, output, x, t):
            return 2 * super().velocity(output, x, t)

    plain, own = get_process("vp_ode"), copy.copy(get_process("vp_ode"))
    own.__class__ = Twice
    x, grid = torch.randn(2, 1, 4, 4), plain.grid(1)
    moved = [get_solver("euler").solve(p.field(Network(0)), x, grid=grid).x - x for p in (plain, own)]
    assert torch.allclose(moved[1], 2 * moved[0], rtol=1e-5)
