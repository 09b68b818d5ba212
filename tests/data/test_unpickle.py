"""Pickled batches: what is read, and that nothing of a file is run."""

import os
import pickle

import numpy as np
import pytest
from image_files import python2

from genflow.data import unpickle
from genflow.data.downloads import DataError

VALUES = [
    {b"data": np.arange(12, dtype=np.uint8).reshape(3, 4), b"labels": [1, 2, 3], b"name": b"batch"},
    {"f": np.linspace(0, 1, 5, dtype=np.float32), "d": np.arange(4.0)[::-1], "none": None, "t": (1, 2.5, True)},
    {"fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)), "scalar": np.float64(2.5)},
    [{1, 2}, frozenset([3]), "text", b"\xff\x00", b""],
]


def same(one, two):
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two)
    return one == two and (isinstance(one, np.generic) or type(one) is type(two))


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
@pytest.mark.parametrize("protocol", range(6))
def test_plain_types_and_arrays_of_every_protocol(value, protocol):
    assert same(value, unpickle.load(pickle.dumps(value, protocol), "batch"))


def test_python_2_pickles():
    data = python2(VALUES[0])
    assert b"numpy.core.multiarray" in data
    assert same(VALUES[0], unpickle.load(data, "batch"))
    assert same(pickle.loads(data, encoding="bytes"), unpickle.load(data, "batch"))


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def payloads(marker):
    command = f"touch {marker}"
    yield "posix.system", pickle.dumps(Evil(os.system, command))
    yield "builtins.eval", pickle.dumps(Evil(eval, f"open({str(marker)!r}, 'w')"))
    yield "builtins.getattr", pickle.dumps({"data": Evil(getattr, "text", "join")})
    yield "object", pickle.dumps(np.array([Evil(os.system, command)], dtype=object))
    yield "array type", pickle.dumps(np.zeros(3, dtype="V8"))
    yield "encoding", b"c_codecs\nencode\n(V" + b"x\nVrot13\ntR."
    yield "state of a function", b"c_codecs\nencode\n}(V__globals__\nVx\nub."


@pytest.mark.parametrize("number", range(7))
def test_anything_else_is_refused_by_name_and_never_run(number, tmp_path):
    word, data = list(payloads(tmp_path / "marker"))[number]
    with pytest.raises(DataError, match=r"evil.pkl is (refused|damaged)") as error:
        unpickle.load(data, "evil.pkl")
    assert word in str(error.value) or word == "object"
    assert list(tmp_path.iterdir()) == []


def test_the_array_class_itself_can_not_be_called():
    """ndarray(shape) would reserve memory of any size."""
    with pytest.raises(DataError, match="damaged"):
        unpickle.load(b"cnumpy\nndarray\n(I99999999999\ntR.", "evil.pkl")


@pytest.mark.parametrize("cut", [0, 1, 10, 60, -1])
def test_a_truncated_pickle_is_named(cut):
    with pytest.raises(DataError, match="batch is damaged"):
        unpickle.load(pickle.dumps(VALUES[0])[:cut], "batch")


def test_an_array_that_claims_more_than_it_holds_is_damaged():
    function, args, state = np.arange(10, dtype=np.uint8).__reduce__()
    honest, liar = Evil(None), Evil(None)
    honest.call, liar.call = (function, args, state), (function, args, (1, (10**9,), *state[2:]))
    assert unpickle.load(pickle.dumps(honest), "batch").tolist() == list(range(10))
    with pytest.raises(DataError, match="damaged"):
        unpickle.load(pickle.dumps(liar), "batch")
