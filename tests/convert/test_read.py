"""Reading a published file: both numpy generations, and every damage or malice refused by name, with nothing run."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import re
import struct
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genflow.checkpoint import CheckpointError
from genflow.convert.read import read_published

QUICK = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def refused(path, words, **options):
    """That reading is refused with the file's name and these words."""
    with pytest.raises(CheckpointError, match=words) as error:
        read_published(path, **options)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def same(found, stored):
    """That the weights read are those that were stored."""
    model = {name.removeprefix("module."): value for name, value in stored["model"].items()}
    assert list(found.model) == list(model)
    pairs = zip(found.model.values(), model.values(), strict=True)
    averages = zip(found.average.values, stored["ema"]["shadow_params"], strict=True)
    assert all(torch.equal(a, b) for a, b in [*pairs, *averages])


def test_what_was_stored_comes_back(file, stored):
    found = read_published(file)
    same(found, stored)
    assert (found.average.decay, found.average.updates, found.step) == (0.9999, 5, 5)
    assert (found.name, found.size) == ("checkpoint_1.pth", file.stat().st_size)
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_numbers_of_both_numpy_generations(file, stored, repack, core):
    """The learning rate is a numpy number, whose class has had two addresses."""
    repack(file, lambda name, content: re.sub(rb"cnumpy\._?core\.multiarray", b"c" + core + b".multiarray", content))
    assert core + b".multiarray\nscalar" in file.read_bytes()
    same(read_published(file), stored)


def test_the_hash_of_the_file_is_checked_first(file):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_published(file, sha256=digest.upper()).sha256 == digest
    refused(file, rf"has sha256 {digest}, not {'0' * 64}", sha256="0" * 64)


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@QUICK
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_is_refused(file, stored, share):
    torch.save(stored, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    refused(file, "is empty|is truncated or damaged|is not a file that torch wrote")


@pytest.mark.parametrize("missing", [1, 21, 22, 23, 100, 5000])
def test_a_file_without_its_last_bytes_is_refused(file, missing):
    file.write_bytes(file.read_bytes()[:-missing])
    refused(file, "is truncated or damaged")


@pytest.mark.slow
@QUICK
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_lies_between_the_records(file, stored, share, bit):
    torch.save(stored, file)
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1 << bit
    file.write_bytes(content)
    found = None
    with contextlib.suppress(CheckpointError):
        found = read_published(file)
    if found is None:
        refused(file, "checkpoint_1.pth")
    else:
        same(found, stored)


@pytest.mark.parametrize("part", ["data.pkl", "data/0", "data/7", "version"])
def test_a_flipped_bit_in_a_record_names_the_record(file, part):
    """Also in a tensor's numbers, which torch loads without a word."""
    with zipfile.ZipFile(file) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith(f"/{part}"))
    whole = bytearray(file.read_bytes())
    name, extra = struct.unpack_from("<HH", whole, info.header_offset + 26)
    whole[info.header_offset + 30 + name + extra + info.file_size // 2] ^= 4
    file.write_bytes(whole)
    refused(file, f"is damaged: the record 'checkpoint_1/{part}' does not match its CRC-32")


def test_records_that_torch_never_writes_are_refused(file, repack):
    repack(file, lambda name, content: content, zipfile.ZIP_DEFLATED)
    refused(file, "the record 'checkpoint_1/data.pkl' is compressed, which torch never does")


def test_other_files_are_refused(tmp_path, file):
    cases = {
        b"": "is empty",
        b"<!DOCTYPE html><title>Quota exceeded</title>": "looks like a web page, the result of a failed download",
        b"PK\x03\x04 and nothing more": "is truncated or damaged",
        bytes(range(200)): "is not a file that torch wrote",
    }
    for content, words in cases.items():
        file.write_bytes(content)
        refused(file, words)
    refused(tmp_path / "nothing.pth", "No such file")
    refused(tmp_path, "is a folder")


# ---- contents --------------------------------------------------------------------------------------------------------


@pytest.mark.quick_one_in(3)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": None}, "a published checkpoint has 'model', 'ema', 'step' and 'optimizer'"),
        ({"model": {}}, "its 'model' is empty"),
        ({"model": {"module.a": 3}}, r"model\['a'\] is a int, not a tensor"),
        ({"model": {"module.a": torch.zeros(2, dtype=torch.int64)}}, r"model\['a'\] is a torch.int64 tensor"),
        ({"model": {"module.a": torch.zeros(2).to_sparse()}}, r"model\['a'\] is a torch.float32 tensor"),
        ({"ema": [1, 2]}, "its 'ema' is not as published"),
        ({"ema": {"decay": 0.9, "shadow_params": [1]}}, r"ema.shadow_params\[0\] is a int"),
    ],
)
def test_contents_of_another_kind_are_refused(file, stored, change, words):
    torch.save({**stored, **change}, file)
    refused(file, words)


def test_a_bare_state_dict_is_refused_with_its_names(file, stored):
    torch.save(stored["model"], file)
    refused(file, r"holds the keys \['module.all_modules.0.bias'")


# ---- malice ----------------------------------------------------------------------------------------------------------


class Payload:
    """Unpickled by Python's own reader it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def hidden(stored, payload):
    """The contents with a payload in each part."""
    return [
        payload,
        {**stored, "step": payload},
        {**stored, "ema": {**stored["ema"], "num_updates": payload}},
        {**stored, "optimizer": {"param_groups": [{"lr": payload}]}},
    ]


@pytest.mark.parametrize("part", range(4))
def test_a_malicious_file_is_refused_and_not_run(file, stored, tmp_path, part):
    mark = tmp_path / "was-run"
    torch.save(hidden(stored, Payload(mark))[part], file)
    refused(file, r"refers to \w+.mkdir, which is not plain data: reading it would run code; none of it was run")
    assert not mark.exists()
    torch.load(file, weights_only=False)  # the payload does act where a reader lets it
    assert mark.exists()


def test_a_malicious_file_of_the_old_format_is_refused_and_not_run(file, stored, tmp_path):
    mark = tmp_path / "was-run"
    torch.save({**stored, "step": Payload(mark)}, file, _use_new_zipfile_serialization=False)
    refused(file, "has no checksums")
    refused(file, r"refers to \w+.mkdir", sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    assert not mark.exists()


def test_a_pickle_is_refused_and_not_run(file, tmp_path):
    mark = tmp_path / "was-run"
    file.write_bytes(pickle.dumps(Payload(mark)))
    refused(file, "is a Python pickle, which can run any code when it is read")
    assert not mark.exists()


class Persistent:
    """Stands for a network that was stored with its source code, as EDM and PFGM++ store theirs."""

    def __reduce__(self):
        return _reconstruct_persistent_obj, ({"module_src": "raise SystemExit"},)


def _reconstruct_persistent_obj(state):
    raise AssertionError("was run")


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_snapshots_of_edm_are_refused_with_the_reason(file, kind):
    content = io.BytesIO()
    {"pickle": pickle.dump, "torch": torch.save}[kind]({"ema": Persistent()}, content)
    file.write_bytes(content.getvalue())
    refused(file, "a pickle of EDM or PFGM\\+\\+, which holds Python source code that reading it would run")


def test_the_old_format_is_read_where_its_hash_is_given(file, stored):
    torch.save(stored, file, _use_new_zipfile_serialization=False)
    refused(file, "is in torch's old format, which has no checksums")
    same(read_published(file, sha256=hashlib.sha256(file.read_bytes()).hexdigest()), stored)
