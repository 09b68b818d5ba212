"""Ways of running a network: each against the plain float32 call, and a clear refusal where a device cannot do it."""

import shutil

import pytest
import torch
from torch import nn

import genflow
from genflow import devices
from genflow.devices import Execution, Prepared, loss_scaler, multiplying, prepare

NETWORKS = [("mlp", {}), ("ncsnv2", {"features": 8}), ("ddpmpp", {"nf": 8}), ("ncsnpp", {"nf": 8}), ("ddpm", {"nf": 8})]


def network(name, options, classes=0):
    """A network with every parameter drawn, and what it is called with."""
    net = genflow.get_backbone(name, shape=(1, 8, 8), classes=classes, **options)
    net.initialise(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return net, torch.randn(4, 1, 8, 8, generator=generator), torch.rand(4, generator=generator)


def gap(found, want):
    return float(((found - want).abs().max() / want.abs().max()).detach())


def answer(call, net, *inputs):
    """The output, and the gradient of its square with respect to every parameter."""
    net.zero_grad()
    output = call(*inputs)
    output.square().mean().backward()
    return output.detach(), torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.quick_one_in(17)
@pytest.mark.parametrize(("name", "options"), NETWORKS)
@pytest.mark.parametrize(
    ("fast", "tolerance"),
    [
        (Execution(), 0.0),
        (Execution(tf32=True), 0.0),
        (Execution(channels_last=True), 1e-5),
        (Execution("bfloat16"), 3e-2),
        (Execution("float16"), 5e-3),
        (Execution("bfloat16", channels_last=True), 3e-2),
    ],
)
def test_numbers_are_those_of_the_plain_call(name, options, fast, tolerance):
    net, *inputs = network(name, options)
    want, slope = answer(net, net, *inputs)
    found, tilt = answer(prepare(net, fast, "cpu"), net, *inputs)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert gap(found, want) <= tolerance
    assert gap(tilt, slope) <= 2 * tolerance
    if fast.precision != "float32":
        assert gap(found, want) > 1e-6  # it does compute in fewer digits


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_numbers_are_those_of_the_plain_call():
    """Values alone, as compiling is slow; `benchmarks/backbone_speed.py compile` takes training steps too."""
    net, *inputs = network("mlp", {"width": 8, "depth": 1})
    with torch.no_grad():
        assert gap(prepare(net, Execution(compile=True), "cpu")(*inputs), net(*inputs)) <= 1e-5


def test_a_compiled_network_goes_through_the_compiler(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda module, mode: seen.append((module, mode)) or module)
    net, *inputs = network("mlp", {"width": 8})
    call = prepare(net, Execution(compile=True), "cpu")
    assert seen == [(net, None)]
    assert torch.equal(call(*inputs), net(*inputs))


def test_a_prepared_network_has_the_attributes_of_its_own_and_a_field_takes_it():
    net, x, condition = network("mlp", {"width": 8}, classes=3)
    call = prepare(net, Execution("bfloat16"), "cpu")
    assert (call.classes, call.conditioning, call.shape, call.config()) == (3, "condition", (1, 8, 8), net.config())
    assert list(call.state_dict()) == list(net.state_dict())
    labels = torch.tensor([0, 1, 2, -1])
    assert gap(call(x, condition, labels), net(x, condition, labels)) < 3e-2
    with pytest.raises(AttributeError, match="colour"):
        call.colour  # noqa: B018
    process = genflow.get_process("vp_ode")
    plain, fast = (genflow.sample(process, n, "euler", 3, nfe=4, labels=1) for n in (net.eval(), call))
    assert fast.nfe == plain.nfe == 4
    assert fast.x.dtype == torch.float32
    assert 0 < gap(fast.x, plain.x) < 3e-2


def test_a_wrapped_network_shows_what_is_inside():
    net, *inputs = network("mlp", {"width": 8}, classes=3)
    call = prepare(nn.DataParallel(net), Execution(), "cpu")
    assert (call.classes, call.conditioning) == (3, "condition")
    assert torch.equal(call(*inputs), net(*inputs))


def test_processes_compute_in_float32_whatever_the_network_does():
    net, x, _ = network("ddpmpp", {"nf": 8})
    process = genflow.get_process("vp_ode")
    call, generator = prepare(net, Execution("bfloat16"), "cpu"), torch.Generator().manual_seed(0)
    loss = process.loss(call, x, generator=generator)
    plain = process.loss(net, x, generator=torch.Generator().manual_seed(0))
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=3e-2)
    loss.backward()
    assert {p.grad.dtype for p in net.parameters()} == {torch.float32}


def test_a_network_in_float64_stays_in_it():
    net, x, condition = network("mlp", {"width": 8})
    net, x, condition = net.double(), x.double(), condition.double()
    assert torch.equal(prepare(net, Execution("bfloat16"), "cpu")(x, condition), net(x, condition))


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_tf32_is_as_asked_during_the_call_and_as_it_was_afterwards(before, asked, monkeypatch):
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    was = matmul.allow_tf32, convolution.allow_tf32
    seen = []

    class Watch(nn.Module):
        def forward(self, x, condition):
            seen.append((matmul.allow_tf32, convolution.allow_tf32))
            if len(seen) == 2:
                raise RuntimeError("broken")
            return x

    try:
        matmul.allow_tf32 = convolution.allow_tf32 = before
        call = Prepared(Watch(), Execution(tf32=asked), "cpu")
        call(torch.ones(1, 2), torch.ones(1))
        with pytest.raises(RuntimeError, match="broken"):
            call(torch.ones(1, 2), torch.ones(1))
        assert seen == [(asked, asked)] * 2
        assert (matmul.allow_tf32, convolution.allow_tf32) == (before, before)
        with multiplying(Execution(tf32=asked)):
            assert matmul.allow_tf32 == asked
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = was


def test_channels_last_lays_out_the_weights_and_the_images():
    seen = []
    net, x, condition = network("ddpmpp", {"nf": 8})
    net.to(memory_format=torch.contiguous_format)
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    prepare(net, Execution(channels_last=True), "cpu")(x.expand(4, 1, 8, 8), condition)
    weights = [p for p in net.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in [*weights, *seen])


def test_float16_is_trained_with_a_scaled_loss():
    assert loss_scaler(Execution("float16"), "cpu").is_enabled()
    assert not loss_scaler(Execution("bfloat16"), "cpu").is_enabled()


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_an_unknown_precision_is_named():
    with pytest.raises(ValueError, match="precision = 'half' is not allowed; give float32 or bfloat16 or float16"):
        Execution("half")


def test_cuda_graphs_need_a_cuda_device():
    net, *_ = network("mlp", {"width": 8})
    with pytest.raises(ValueError, match="cuda_graphs needs a CUDA device, and this is 'cpu'; leave it out"):
        prepare(net, Execution(cuda_graphs=True), "cpu")
    assert Execution(compile=True, cuda_graphs=True).why_not("cuda") in (None, Execution(compile=True).why_not("cuda"))


def test_compiling_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler on a CPU, and none of g\+\+, .* install one"):
        prepare(nn.Identity(), Execution(compile=True), "cpu")
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    assert "needs Triton" in Execution(compile=True).why_not("cuda:1")
    assert Execution("bfloat16", channels_last=True, tf32=True).why_not("cpu") is None


def test_a_device_that_is_not_there_is_named():
    devices.check_device("cpu")
    with pytest.raises(ValueError, match="device = 'cuda:99' is not available; found: cpu"):
        devices.check_device("cuda:99")
    with pytest.raises(ValueError, match="device = 'meta' is not available; found: cpu"):
        devices.check_device("meta")


def test_the_former_name_of_execution_still_works_and_warns():
    with pytest.warns(FutureWarning, match="genflow.devices.Fast is now Execution"):
        assert devices.Fast is Execution
    with pytest.raises(AttributeError, match="no attribute 'Slow'"):
        devices.Slow  # noqa: B018
