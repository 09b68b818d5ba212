"""Ways of running a network: each against the plain float32 call, and a clear refusal where a device cannot do it."""

import json
import shutil

import pytest
import torch
from pretended import pretend
from torch import nn

import genflow
import genflow.inpainting
import genflow.latent
from genflow import accelerators, devices
from genflow.bench.cells import plan
from genflow.bench.pool import job_count
from genflow.bench.worker import Worker
from genflow.config import BenchConfig, TrainConfig, build
from genflow.devices import Execution, Prepared, loss_scaler, multiplying, prepare, trained_network
from genflow.memory import is_out_of_memory

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


# ---- one setting of TF32 ---------------------------------------------------------------------------------------------


def tf32_now():
    """Torch's old switches, and the new ones where it has them."""
    backends = torch.backends
    old = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    new = [s.fp32_precision == "tf32" for s in (backends.cuda.matmul, backends.cudnn.conv)] if NEW_SWITCHES else []
    return {*old, *new}


NEW_SWITCHES = hasattr(torch.backends.cudnn, "conv")
BEFORE = [("matmul", "allow_tf32", True), ("cudnn", "allow_tf32", False)]
MIXED = [("matmul", "fp32_precision", "tf32"), ("backends", "fp32_precision", "ieee"), ("cudnn", "allow_tf32", True)]


@pytest.fixture
def switches():
    """Sets a switch of torch by name; all are as they were afterwards."""
    owners = {"matmul": torch.backends.cuda.matmul, "cudnn": torch.backends.cudnn, "backends": torch.backends}
    yield lambda owner, name, value: setattr(owners[owner], name, value)
    if NEW_SWITCHES:
        torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("before", [BEFORE, MIXED if NEW_SWITCHES else BEFORE[:1], []])
@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_one_setting_whatever_switches_were_set_before(switches, before, tf32):
    for switch in before:
        switches(*switch)

    def read():
        found = []
        for owner, name in [("matmul", "allow_tf32"), ("cudnn", "allow_tf32"), ("matmul", "fp32_precision")]:
            backends = {"matmul": torch.backends.cuda.matmul, "cudnn": torch.backends.cudnn}
            try:
                found.append(getattr(backends[owner], name, None))
            except RuntimeError:  # torch refuses to read a switch that another contradicts
                found.append("refused")
        return found

    was = read()
    with multiplying(Execution(tf32=tf32)), multiplying(Execution(tf32=not tf32)), multiplying(Execution(tf32=tf32)):
        assert tf32_now() == {tf32}
    assert read() == was


@pytest.mark.parametrize("tf32", [False, True, None])
def test_tf32_holds_forwards_backwards_and_in_everything_that_samples_or_measures(tf32):
    """A network without an `Execution` (None) is run without TF32, though torch allows it for convolutions."""
    seen = []

    class Seen(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            seen.append(("forward", tf32_now()))
            return x * 0.5

        @staticmethod
        def backward(_, grad):
            seen.append(("backward", tf32_now()))
            return grad * 0.5

    class Net(nn.Module):
        shape = (3,)

        def forward(self, x, condition):
            return Seen.apply(x)

    net, process, x = Net().eval(), genflow.get_process("vp_sde"), torch.randn(2, 3)
    call = net if tf32 is None else Prepared(net, Execution(tf32=tf32), "cpu")
    mask = torch.tensor([1.0, 0, 0])
    genflow.sample(process, call, "euler_maruyama", 2, nfe=3)
    genflow.log_likelihood(genflow.get_process("vp_ode"), call, x, solver=genflow.get_solver("euler"), nfe=3)
    genflow.latent.encode(genflow.get_process("vp_ode"), call, x, "euler", nfe=3)
    genflow.inpainting.inpaint(process, call, x, mask, 1, genflow.inpainting.Replacement(nfe=3))
    assert {kind for kind, _ in seen} == {"forward", "backward"}
    assert all(state == {bool(tf32)} for _, state in seen)


# ---- trained networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), NETWORKS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_that_are_converted_once_give_the_numbers_of_every_call_s_conversion(name, options, precision):
    net, *inputs = network(name, options)
    net.eval()
    before = [p.clone() for p in net.parameters()]
    with torch.no_grad():
        every, once = (make(net, Execution(precision), "cpu") for make in (prepare, trained_network))
        assert torch.equal(once(*inputs), every(*inputs))
    assert any(p.dtype != torch.float32 for p in once.network.parameters())
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert trained_network(net, Execution(), "cpu") is net


def test_graphs_serve_sampling_and_not_likelihoods(monkeypatch):
    used = []

    def compiled(module, mode):
        def call(*inputs):
            used.append(mode)
            return module(*inputs)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    net, *_ = network("mlp", {"width": 8})
    call = Prepared(net.eval().requires_grad_(False), Execution(cuda_graphs=True), "cpu")
    process, x = genflow.get_process("vp_ode"), torch.randn(2, 1, 8, 8)
    genflow.sample(process, call, "euler", 2, nfe=2)
    assert set(used) == {"reduce-overhead"}
    used.clear()
    how = {"solver": genflow.get_solver("euler"), "nfe": 2, "probes": 3}
    found, want = (genflow.log_likelihood(process, n, x, **how).log_prob for n in (call, net))
    assert set(used) == {None}
    assert torch.equal(found, want)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("how", [{"probes": 3}, {"trace": "exact"}])
def test_a_compiled_network_has_likelihoods(how):
    net = genflow.get_backbone("mlp", shape=(2,), width=8, depth=1)
    net.initialise(0)
    net.eval().requires_grad_(False)
    call, process, x = (
        trained_network(net, Execution(compile=True), "cpu"),
        genflow.get_process("vp_ode"),
        torch.ones(2, 2),
    )
    solver = genflow.get_solver("euler")
    found, want = (genflow.log_likelihood(process, n, x, solver=solver, nfe=2, **how).log_prob for n in (call, net))
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


# ---- what is here ----------------------------------------------------------------------------------------------------


def test_precisions_as_people_spell_them():
    for short, name in {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.items():
        assert Execution(short) == Execution(name)
        assert build(TrainConfig, {"precision": short}) == TrainConfig(precision=name)
        assert build(BenchConfig, {"precision": short, "train.precision": short}).precision == name


@pytest.mark.parametrize(("kind", "cards"), [("cuda", 3), ("mps", 1)])
def test_auto_takes_what_is_here_and_workers_follow_the_cards(kind, cards):
    assert BenchConfig().device == "cpu"
    assert accelerators.missing()[0].startswith("cuda: ")
    with pretend(kind, cards=cards) as card:
        config = BenchConfig(process=("pfgm", "vp_ode", "ve_ode", "si_linear"))
        assert config.device == kind
        assert job_count(config, plan(config)) == cards
        assert job_count(BenchConfig(device=f"{kind}:0"), plan(config)) == 1
        assert any(name.startswith(kind) for name in accelerators.found())
        assert not any(reason.startswith(kind) for reason in accelerators.missing())
        devices.synchronise(f"{kind}:0")
        devices.synchronise("cpu")
        assert card.waits == 1
        if kind == "cuda":
            devices.synchronise("cuda:2")
            assert card.synchronised == ["cuda:0", "cuda:2"]


def test_a_missing_device_says_why(monkeypatch):
    monkeypatch.setattr(accelerators.os.path, "exists", lambda path: False)
    for built, hidden, words in [
        (False, None, "built without CUDA"),
        (True, "", "CUDA_VISIBLE_DEVICES = '' hides every card"),
        (True, None, "no card or driver is visible"),
    ]:
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda built=built: built)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if hidden is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        with pytest.raises(ValueError, match=f"device = 'cuda' is not available; found: cpu .*; no cuda: .*{words}"):
            devices.check_device("cuda")


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "MPS backend out of memory (MPS allocated: 9 GB)",
    ],
)
def test_failed_allocations_of_the_libraries_of_a_card_count_as_out_of_memory(words):
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm`"))


def test_a_bench_names_how_its_networks_run_in_cells_and_protocols(tmp_path):
    given = {"process": "vp_ode", "backbone": "mlp", "solver": "euler", "nfe": "2", "samples": 20, "metric": "fd,bpd"}
    given |= {"bpd.examples": 2, "train.steps": 1, "train.batch_size": 4, "out": str(tmp_path), "bpd.rtol": 0.5}
    config = build(BenchConfig, {**given, "precision": "bf16", "channels_last": True})
    plain, own = plan(build(BenchConfig, given)), plan(config)
    same = {cell.key for cell in plain} & {cell.key for cell in own}
    assert {cell.key for cell in plain if cell.kind == "train" or cell.labels["process"] == "data"} == same
    worker = Worker(config, lambda: False)
    for cell in own:
        worker.run(json.loads(json.dumps(cell.to_json())), lambda *_: None)
    rows = [row for file in tmp_path.rglob("rows.json") for row in json.loads(file.read_text())]
    ran = {row["process"] == "data" or row["protocol"].endswith("network in bfloat16, channels last") for row in rows}
    assert ran == {True}
    assert not any("network in" in row["protocol"] for row in rows if row["process"] == "data")
