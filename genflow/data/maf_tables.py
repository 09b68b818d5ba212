"""The five tables of density estimation, with the preprocessing of masked autoregressive flows, quirks kept.

Source: Papamakarios et al. 2017, arXiv:1705.07057, and its code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genflow.checks import is_number, require
from genflow.data.downloads import DataError, DataFile, reading
from genflow.data.table_files import Parts, TableDataset, check_table, last_rows, moments, numbers, standardised, tenths


class Power(TableDataset):
    """POWER: household electricity, 6 columns.

    Published: rows shuffled by RandomState(42), columns 3 and 1 dropped, then uniform noise of the same generator in
    the order voltage (0.01), active power (0.001), three meters (1); none on the time of day. `tenths`, `standardised`.
    """

    name = "power"
    files = ("power/data.npy",)

    def prepare(self) -> Parts:
        random, data = np.random.RandomState(42), self.array(self.files[0])
        if data.shape[1] != 8:
            raise DataError(f"{self._title} has {data.shape[1]} columns, POWER's file has 8")
        random.shuffle(data)
        data = np.delete(data, [1, 3], axis=1)
        count = (len(data), 1)
        voltage, active = 0.01 * random.rand(*count), 0.001 * random.rand(*count)
        meters = random.rand(len(data), 3)
        return standardised(
            tenths(data + np.hstack([active, voltage, meters, np.zeros(count)])), self._title, (0, 2, 4, 5, 6, 7)
        )


class Gas(TableDataset):
    """GAS: sixteen gas sensors, of which 8 columns are left.

    Published: time and both concentrations dropped; while a column correlates above 0.98 with another, the first such
    column is dropped; all rows, test included, standardised by their mean and deviation (of a sample); `tenths`.

    The published file is a pickled pandas table, which is not read, since unpickling one can run code. It is a random
    quarter of the rows of the UCI text, drawn without a seed. Read instead are:

    * gas/ethylene_CO.npy: that table saved as an array with its 19 columns, all rows in their order;
    * gas/ethylene_CO.txt: the UCI text, of which `share` of the rows are drawn by RandomState(0), so that numbers of
      rows agree with the published ones and the rows themselves do not.

    Arguments:
        share: Share of the UCI text's rows.
    """

    name = "gas"
    files = ("gas/ethylene_CO.npy",)
    TEXT = DataFile(
        "gas/ethylene_CO.txt", "https://archive.ics.uci.edu/dataset/322", by_hand="it is inside a zip file of UCI"
    )
    MOST = 0.98

    def __init__(
        self, root: str | None = None, download: bool = False, held_out: str = "test", share: float = 0.25
    ) -> None:
        require(self.name, {"share": (share, is_number(share) and 0 < share <= 1, "a number in (0, 1]")})
        super().__init__(root, download, held_out)
        self.share = share

    def _find(self, file: str) -> Path:
        flat = [DataFile(Path(name).name) for name in (file, self.TEXT.name)]
        return self.folders.need(DataFile(file), self.TEXT, *flat)

    def prepare(self) -> Parts:
        data = self._text() if self._found[self.files[0]].suffix == ".txt" else self.array(self.files[0])
        if data.shape[1] != 19:
            raise DataError(f"{self._title} has {data.shape[1]} columns; wanted are time, 2 concentrations, 16 sensors")
        data, columns = data[:, 3:], range(3, 19)
        mean, deviation = moments(data, self._title, columns, ddof=1)
        while (repeated := (np.corrcoef(data, rowvar=False) > self.MOST).sum(1) > 1).any():
            data, mean, deviation = (np.delete(a, repeated.argmax(), axis=-1) for a in (data, mean, deviation))
        return tenths((data - mean) / deviation)

    def _text(self) -> np.ndarray:
        """The drawn rows of the UCI text: one line of heading, then 19 numbers a line."""
        import pandas as pd

        path = self._found[self.files[0]]
        with reading(path, "cannot be read as numbers"):
            found = pd.read_csv(path, sep=r"\s+", skiprows=1, header=None, low_memory=False)
        data = numbers(found, path)
        return data[np.random.RandomState(0).permutation(len(data))[: round(self.share * len(data))]]


class Hepmass(TableDataset):
    """HEPMASS: particle collisions with a new particle of mass 1000 (class 1 alone), 21 columns.

    Published: class and the test file's surplus last column dropped; standardised by mean and deviation (of a sample)
    of all rows of the training file; columns dropped whose SMALLEST value occurs more than five times there (the
    published code means the most frequent value; this is what it does); the last tenth of the training file validates.
    """

    name = "hepmass"
    files = ("hepmass/1000_train.csv", "hepmass/1000_test.csv")
    MOST = 5

    def prepare(self) -> Parts:
        train, test = self._signal(self.files[0]), self._signal(self.files[1])[:, :-1]
        if train.shape[1] != test.shape[1]:
            raise DataError(
                f"{self._title}: {train.shape[1]} columns to train, {test.shape[1]} to test without the surplus one"
            )
        mean, deviation = moments(train, self._found[self.files[0]], range(1, 1 + train.shape[1]), ddof=1)
        train, test = (train - mean) / deviation, (test - mean) / deviation
        kept = (train == train.min(0)).sum(0) <= self.MOST
        rest, validation = last_rows(train[:, kept], int(len(train) * 0.1))
        return Parts(rest, validation, test[:, kept])

    def _signal(self, file: str) -> np.ndarray:
        """Columns after the class of the rows of class 1."""
        import pandas as pd

        with reading(self._found[file], "cannot be read as numbers"), self.open(file) as source:
            found = pd.read_csv(source, index_col=False, low_memory=False)
        table = numbers(found, self._found[file])
        return table[table[:, 0] == 1][:, 1:]


class Miniboone(TableDataset):
    """MINIBOONE: neutrino events, 43 columns, in the published data.npy. `tenths`, `standardised`; no shuffling.

    Outliers and columns of repeated values had been removed from that file as for HEPMASS.
    """

    name = "miniboone"
    files = ("miniboone/data.npy",)

    def prepare(self) -> Parts:
        data = self.array(self.files[0])
        return standardised(tenths(data), self._title, range(data.shape[1]))


class Bsds300(TableDataset):
    """BSDS300: patches of natural images, 63 columns, three parts as stored in BSDS300.hdf5 (extra `tabular`)."""

    name = "bsds300"
    files = ("BSDS300/BSDS300.hdf5",)

    def prepare(self) -> Parts:
        try:
            import h5py
        except ImportError:
            raise DataError("the data set 'bsds300' is an HDF5 file: pip install 'genflow[tabular]'") from None
        opening = reading(self._title, "is damaged, or not BSDS300's file")
        with opening, self.open(self.files[0]) as source, h5py.File(source, "r") as stored:
            parts = Parts(*(np.asarray(stored[name][:]) for name in Parts._fields))
        for name, part in parts._asdict().items():
            check_table(part, f"{self._title}: the {name} part")
        return parts
