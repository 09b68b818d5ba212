"""Weight files: where they are looked for, what is accepted, what is said when they are missing."""

import dataclasses
import hashlib

import pytest
from click.testing import CliRunner
from inception_stub import write_stub

from genflow.commands.weights import weights_command
from genflow.evaluate import weight_files as weights
from genflow.evaluate.weight_files import KNOWN, WeightsError, add, check, download, find, is_without_weights, stamp

BOTH = ("inception", "inception_pytorch")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(weights.VARIABLE, raising=False)


def publish(monkeypatch, content, name="inception"):
    """Takes `content` for the published file."""
    known = dataclasses.replace(KNOWN[name], sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    monkeypatch.setitem(KNOWN, name, known)
    return known


def test_a_missing_file_is_named_with_hash_places_command_and_alternative(tmp_path):
    with pytest.raises(WeightsError) as error:
        find(BOTH)
    text = str(error.value)
    for part in (
        KNOWN["inception"].file,
        KNOWN["inception"].sha256,
        KNOWN["inception_pytorch"].sha256,
        f"${weights.VARIABLE} (not set)",
        str(tmp_path / "cache"),
        "genflow weights download inception",
        "genflow weights add",
        "fd",
    ):
        assert part in text
    assert len(text) < 1000


def test_given_then_variable_then_cache(tmp_path, monkeypatch):
    known = publish(monkeypatch, b"weights")
    cache = weights.store_folder() / known.file
    cache.write_bytes(b"weights")
    assert find(BOTH).path == cache
    (tmp_path / "folders").mkdir()
    (tmp_path / "folders" / known.file).write_bytes(b"weights")
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path / "folders"))
    assert find(BOTH).path == tmp_path / "folders" / known.file
    (tmp_path / "mine.pt").write_bytes(b"weights")
    found = find(BOTH, str(tmp_path / "mine.pt"))
    assert (found.path, found.trust) == (tmp_path / "mine.pt", "published")
    with pytest.raises(WeightsError, match=r"nowhere\.pt' is not a file"):
        find(BOTH, str(tmp_path / "nowhere.pt"))


def test_a_truncated_or_changed_file_is_refused_with_both_hashes(tmp_path, monkeypatch):
    known = publish(monkeypatch, b"published weights")
    path = weights.store_folder() / known.file
    for content, word in ((b"published", "truncated"), (b"publishes weights", "trust this one")):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=word) as error:
            find(BOTH)
        assert known.sha256 in str(error.value)
        assert hashlib.sha256(content).hexdigest() in str(error.value)


def test_unknown_code_runs_only_after_it_was_trusted_and_only_that_content(tmp_path):
    path = tmp_path / "own.pt"
    path.write_bytes(b"PK\x03\x04 code")
    with pytest.raises(WeightsError, match="would run code"):
        check(path)
    found = add(path)
    assert found.trust.startswith("trusted")
    assert found.path == weights.store_folder() / "own.pt"
    assert check(path).sha256 == hashlib.sha256(b"PK\x03\x04 code").hexdigest()
    path.write_bytes(b"PK\x03\x04 other code")
    with pytest.raises(WeightsError, match="would run code"):
        check(path)


def test_a_published_file_is_recognised_whatever_its_name(tmp_path, monkeypatch):
    known = publish(monkeypatch, b"weights")
    (tmp_path / "download(1).bin").write_bytes(b"weights")
    found = add(tmp_path / "download(1).bin")
    assert (found.path.name, found.trust) == (known.file, "published")
    assert weights.trusted() == {}


def test_a_download_is_kept_only_with_the_right_hash(tmp_path, monkeypatch):
    known = publish(monkeypatch, b"weights")
    source = tmp_path / "server.pt"
    source.write_bytes(b"not the weights")
    with pytest.raises(WeightsError, match="not kept"):
        download("inception", source.as_uri())
    with pytest.raises(WeightsError, match="cannot be fetched"):
        download("inception", (tmp_path / "absent").as_uri())
    assert list(weights.store_folder().iterdir()) == []
    source.write_bytes(b"weights")
    assert download("inception", source.as_uri()).path == weights.store_folder() / known.file
    assert find(BOTH).trust == "published"


def test_a_cells_stamp_follows_the_files(tmp_path):
    assert stamp({}, None) == {}
    absent = stamp({}, "")
    assert is_without_weights(absent)
    assert absent == stamp({}, "")
    add_me = tmp_path / "a.pt"
    write_stub(add_me)
    refused = stamp({}, str(add_me))
    assert is_without_weights(refused), "it has not been trusted"
    assert refused["inception"] != absent["inception"], "another reason, which is to be told"
    add(add_me, "inception")
    assert not is_without_weights(stamp({}, ""))
    assert stamp({}, "") == stamp({}, str(add_me)) == {**stamp({}, ""), "inception": weights.sha256(add_me)}
    reference = tmp_path / "stats.npz"
    reference.write_bytes(b"one")
    first = stamp({"reference": str(reference)}, "")
    reference.write_bytes(b"two!")
    assert stamp({"reference": str(reference)}, "") != first
    assert "inception" not in stamp({"features": "tiny"}, "")


def run(*words):
    return CliRunner().invoke(weights_command, list(words), standalone_mode=False)


def test_commands_list_add_path_verify(tmp_path, monkeypatch):
    listed = run("list").output
    assert all(known.file in listed and known.sha256 in listed for known in KNOWN.values())
    assert isinstance(run("path").exception, WeightsError)
    assert run("verify").return_value == 0
    (tmp_path / "stub.pt").write_bytes(b"PK\x03\x04 stub")
    assert "trusted" in run("add", str(tmp_path / "stub.pt"), "--name", "inception").output
    stored = run("path").output.strip()
    assert stored.endswith(KNOWN["inception"].file)
    assert "trusted by you" in run("list").output
    with open(stored, "ab") as file:
        file.write(b"!")
    verified = run("verify")
    assert verified.return_value == 1
    assert "refused" in run("list").output
    assert "did you mean 'inception'" in str(run("add", stored, "--name", "inceptoin").exception)


def test_a_stamp_follows_the_file_of_its_protocol(tmp_path, monkeypatch):
    """A graph that is here does not serve legacy_pytorch, and does not hide the state dict's coming."""
    port = {"mode": "legacy_pytorch"}
    (tmp_path / "graph.pt").write_bytes(b"PK\x03\x04 graph")
    add(tmp_path / "graph.pt", "inception")
    assert stamp({}, "")["inception"] == weights.sha256(tmp_path / "graph.pt")
    assert is_without_weights(stamp(port, ""))
    publish(monkeypatch, b"PK\x03\x04 state dict", "inception_pytorch")
    (tmp_path / "port.pth").write_bytes(b"PK\x03\x04 state dict")
    add(tmp_path / "port.pth")
    assert stamp(port, "")["inception"] == weights.sha256(tmp_path / "port.pth")


def test_a_stamp_tells_a_trusted_network_from_the_same_file_before(tmp_path):
    path = tmp_path / "mine.pt"
    path.write_bytes(b"PK\x03\x04 mine")
    before = stamp({"features": str(path)}, None)
    add(path)
    after = stamp({"features": str(path)}, None)
    assert before != after
    assert after["files"] == {str(path): weights.sha256(path)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("some.py", b"print(1)"),
        ("some", b"PK\x03\x04"),
        ("notes.pt", b"print(1)"),
        ("empty.pt", b""),
        ("empty.pth", b""),
        ("picture.pth", b"\x89PNG\r\n"),
        ("stats.npz", b"PK\x03\x04"),
        ("pickled.pt", b"\x80\x02"),
    ],
)
def test_what_can_be_no_weights_is_not_trusted(tmp_path, name, content):
    """Trusting a file means that it is loaded later; what no loader reads is refused while its name is at hand."""
    (tmp_path / name).write_bytes(content)
    for known in ("", "inception"):
        with pytest.raises(WeightsError, match=rf"{name}' is not a file of weights"):
            add(tmp_path / name, known)
    assert weights.trusted() == {}
    assert list(weights.store_folder().iterdir()) == []
