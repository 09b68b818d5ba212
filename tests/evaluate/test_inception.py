"""The Inception wrapper: a stub of the published graph, and the PyTorch port with drawn weights against clean-fid's own
network and torch-fidelity's."""

import warnings

import numpy as np
import pytest
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from inception_stub import write_stub

from genflow.evaluate.inception import Inception
from genflow.evaluate.weight_files import KNOWN, Found, WeightsError


def images(n=3, size=32):
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(1)).float()


def resized(x, mode):
    one = build_resizer(mode)
    return torch.stack([torch.tensor(one(i.numpy().transpose(1, 2, 0)).transpose(2, 0, 1)) for i in x])


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / KNOWN["inception"].file
    return Found(path, "0" * 64, "published"), write_stub(path, 2048)


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_features_of_a_torchscript_graph_equal_clean_fids(graph, mode):
    found, _ = graph
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = InceptionV3W(str(found.path.parent), download=False, resize_inside=mode == "legacy_tensorflow")
    x = images()
    with torch.no_grad():
        want = theirs(x if mode == "legacy_tensorflow" else resized(x, mode))
    torch.testing.assert_close(Inception(found, mode).features(x), want, rtol=1e-4, atol=1e-5)


def test_logits_leave_the_bias_out_as_the_graph_does(graph):
    found, module = graph
    net = Inception(found, "legacy_tensorflow")
    got = net.logits(net.features(images())).softmax(1)
    torch.testing.assert_close(got, module(images(), no_output_bias=True))


@pytest.mark.slow
def test_what_is_no_graph_and_what_does_not_fit_a_protocol_is_refused(graph, tmp_path):
    found, _ = graph
    with pytest.raises(WeightsError, match="legacy_pytorch is defined"):
        Inception(found, "legacy_pytorch")
    with pytest.raises(ValueError, match="mode = 'cleen'"):
        Inception(found, "cleen")
    for name in ("bad.pt", "bad.pth"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 cut short")
        with pytest.raises(WeightsError, match="is no"):
            Inception(Found(tmp_path / name, "", "published"))


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """The file of a PyTorch port with drawn weights, and clean-fid's network with them."""
    from unittest import mock

    from cleanfid import inception_pytorch

    torch.manual_seed(0)
    drawn = {}
    keep = mock.patch.object(torch.nn.Module, "load_state_dict", lambda self, *a, **k: drawn.update(self.state_dict()))
    with mock.patch.object(inception_pytorch, "load_state_dict_from_url", return_value=None), keep:
        inception_pytorch.fid_inception_v3()
    for name, value in drawn.items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("port") / KNOWN["inception_pytorch"].file
    torch.save(drawn, path)
    with mock.patch.object(inception_pytorch, "load_state_dict_from_url", return_value=drawn):
        theirs = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False).eval()
    return Found(path, "1" * 64, "published"), theirs


@pytest.mark.slow
def test_the_port_equals_clean_fids_legacy_pytorch(port):
    found, theirs = port
    with torch.no_grad():
        want = theirs(resized(images(2), "legacy_pytorch") / 255)[0].flatten(1)
    got = Inception(found, "legacy_pytorch").features(images(2))
    assert float((got - want).abs().max() / want.abs().max()) < 1e-5


@pytest.mark.slow
def test_the_port_in_tensorflows_protocol_equals_torch_fidelity_in_features_and_logits(port):
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    found, _ = port
    theirs = fidelity.FeatureExtractorInceptionV3(
        "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(found.path)
    )
    with torch.no_grad():
        features, logits = theirs(images(2).byte())
    net = Inception(found, "legacy_tensorflow")
    got = net.features(images(2))
    assert float((got - features).abs().max() / features.abs().max()) < 1e-5
    assert np.allclose(net.logits(got).numpy(), logits.numpy(), rtol=1e-4, atol=1e-5 * float(logits.abs().max()))
