"""Published files: found, missed with a message, fetched, and refused when they are wrong."""

import hashlib
import http.server
import threading

import pytest

import genflow
from genflow.data.downloads import DataError, DataFile, DataFolders

CONTENT = b"published bytes" * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) + 100 * (self.path == "/short")))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_found_in_the_root_or_the_data_sets_own_folder(tmp_path):
    folders = DataFolders("thing", str(tmp_path))
    assert folders.find([DataFile("a")]) is None
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "b").write_text("")
    assert folders.need(DataFile("a"), DataFile("b")) == tmp_path / "thing" / "b"
    (tmp_path / "a").write_text("")
    assert folders.need(DataFile("a"), DataFile("b")) == tmp_path / "a"


def test_the_root_is_the_option_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    for name in ("option", "variable", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path / "cache"))
    assert DataFolders("thing").root == tmp_path / "cache" / "data"
    monkeypatch.setenv("GENFLOW_DATA_DIR", str(tmp_path / "variable"))
    assert DataFolders("thing").root == tmp_path / "variable"
    assert DataFolders("thing", str(tmp_path / "option")).root == tmp_path / "option"
    with pytest.raises(DataError, match=r"thing: root = .*absent.* is not a folder"):
        DataFolders("thing", str(tmp_path / "absent"))
    monkeypatch.setenv("GENFLOW_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(DataError, match="GENFLOW_DATA_DIR = "):
        DataFolders("thing")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "cifar10",
            ["cifar-10-python.tar.gz", "toronto.edu", "163 MiB", "cifar10.root=FOLDER", "cifar10.download=true"],
        ),
        ("svhn", ["train_32x32.mat", "ufldl.stanford.edu", "svhn.download=true"]),
        ("celeba64", ["list_eval_partition.txt", "mmlab", "GENFLOW_DATA_DIR"]),
        ("lsun_bedroom", ["bedroom_train_lmdb", "dl.yf.io"]),
        ("ffhq", ["ffhq-64x64", "images1024x1024", "NVlabs"]),
        ("imagenet32", ["Imagenet32_train_npz.zip", "image-net.org"]),
        ("power", ["power/data.npy", "zenodo.org"]),
        ("gas", ["ethylene_CO.npy", "ethylene_CO.txt", "archive.ics.uci.edu"]),
        ("hepmass", ["1000_train.csv", "zenodo.org"]),
        ("miniboone", ["miniboone/data.npy", "zenodo.org"]),
        ("bsds300", ["BSDS300.hdf5", "zenodo.org"]),
    ],
)
def test_what_is_missing_where_it_was_looked_for_and_what_to_do(name, words, tmp_path):
    with pytest.raises(DataError) as error:
        genflow.get_dataset(name, root=str(tmp_path))
    for word in [f"'{name}'", str(tmp_path), str(tmp_path / name), *words]:
        assert word in str(error.value)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("name", ["celeba64", "ffhq", "lsun_bedroom", "imagenet32", "gas"])
def test_what_can_not_be_fetched_says_why(name, tmp_path):
    with pytest.raises(DataError, match="cannot be fetched from here: "):
        genflow.get_dataset(name, root=str(tmp_path), download=True)


def test_nothing_is_fetched_unasked(server, tmp_path):
    with pytest.raises(DataError, match=r"thing\.download=true fetches it"):
        DataFolders("thing", str(tmp_path)).need(DataFile("a", f"{server}/a", md5=MD5))
    assert files_below(tmp_path) == []


def test_a_file_is_fetched_once_and_checked(server, tmp_path):
    folders = DataFolders("thing", str(tmp_path), download=True)
    path = folders.need(DataFile("sub/a", f"{server}/a", md5=MD5))
    assert path == tmp_path / "thing" / "sub" / "a"
    assert path.read_bytes() == CONTENT
    assert folders.need(DataFile("sub/a", f"{server}/missing")) == path
    assert files_below(tmp_path) == [path]


@pytest.mark.parametrize(
    ("url", "md5", "message"),
    [
        ("/a", "0" * 32, f"MD5 {MD5}, published is 0000"),
        ("/short", "", "ended after"),
        ("/missing", "", "could not be fetched: Not Found"),
    ],
)
def test_a_wrong_download_leaves_nothing(server, tmp_path, url, md5, message):
    with pytest.raises(DataError, match=message):
        DataFolders("thing", str(tmp_path), download=True).need(DataFile("a", f"{server}{url}", md5=md5))
    assert files_below(tmp_path) == []


def test_offline_the_reason_and_the_way_out_are_said(tmp_path):
    with pytest.raises(DataError, match=r"could not be fetched: .*refused.*needs a; looked in .*Put it there"):
        DataFolders("thing", str(tmp_path), download=True).need(DataFile("a", "http://127.0.0.1:9/a"))


def test_download_is_true_or_false(tmp_path):
    with pytest.raises(DataError, match="download = 'yes'"):
        DataFolders("thing", str(tmp_path), download="yes")
