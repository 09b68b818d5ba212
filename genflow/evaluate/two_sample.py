"""Two-sample distances for vectors: sliced Wasserstein and the classifier test. Kernel distances are in kernels.py."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genflow.estimates import Estimate
from genflow.evaluate.kernels import as_pair

CLASSIFIERS = ("logistic", "knn")


def wasserstein_squares(x: Tensor, y: Tensor) -> Tensor:
    """W2² of every column's one-dimensional distributions: x (n, k), y (m, k) -> (k,).

    ∫ (F⁻¹(u) − G⁻¹(u))² du over u in [0, 1], exact also where n and m differ.
    """
    x, y = x.sort(0).values, y.sort(0).values
    n, m = len(x), len(y)
    if n == m:
        return (x - y).square().mean(0)
    edges = torch.cat([torch.arange(1, n + 1).double() / n, torch.arange(1, m + 1).double() / m]).sort().values
    widths = edges.diff(prepend=torch.zeros(1, dtype=torch.float64))
    middle = edges - widths / 2
    gaps = x[(middle * n).long().clamp_max(n - 1)] - y[(middle * m).long().clamp_max(m - 1)]
    return (widths[:, None] * gaps.square()).sum(0)


def sliced_wasserstein(x: Tensor, y: Tensor, *, generator: torch.Generator, directions: int = 500) -> Estimate:
    """√ of the mean over directions of W2² of the projections, in the data's units.

    Arguments:
        x, y: Vectors (n, d) and (m, d).
        generator: Draws directions uniformly on the sphere.
        directions: How many.

    The error is that of the mean over directions; it says nothing of the sample's own.

    Source: Bonneel et al. 2015, J. Math. Imaging Vis. 51.
    """
    x, y = as_pair(x, y)
    if x.shape[1] == 1:
        return Estimate(float(wasserstein_squares(x, y).sqrt()), 0.0)
    lines = torch.randn(x.shape[1], directions, generator=generator, dtype=torch.float64)
    lines = lines / lines.norm(dim=0)
    squares = wasserstein_squares(x @ lines, y @ lines)
    root = float(squares.mean().sqrt())
    return Estimate(root, float(squares.std() / math.sqrt(directions)) / (2 * root) if root else 0.0)


def classifier_test(x: Tensor, y: Tensor, classifier: str = "knn", *, seed: int = 0, folds: int = 5) -> Estimate:
    """Cross-validated accuracy of a classifier that distinguishes two sets of equal size; 1/2 where they are alike.

    Arguments:
        x, y: Vectors (n, d); the larger set is cut to the size of the smaller, so that guessing gives 1/2.
        classifier: "knn": √n neighbours, finds any difference; "logistic": linear, finds differences of means.
        seed: Shuffles the folds.
        folds: Parts; each is classified by a fit to the others.

    Returns:
        Accuracy and its binomial standard error.

    Source: Lopez-Paz & Oquab 2017, arXiv:1610.06545.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    if classifier not in CLASSIFIERS:
        raise ValueError(f"classifier = '{classifier}' is not one of {', '.join(CLASSIFIERS)}")
    x, y = as_pair(x, y)
    size = min(len(x), len(y))
    if size < folds:
        raise ValueError(f"{size} points of each set cannot be split into {folds} folds")
    points = torch.cat([x[:size], y[:size]]).numpy()
    truth = torch.arange(2).repeat_interleave(size).numpy()
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    accuracy = float(cross_val_score(_judge(classifier, 2 * size), points, truth, cv=split).mean())
    return Estimate(accuracy, math.sqrt(max(accuracy * (1 - accuracy), 0.0) / (2 * size)))


def _judge(classifier: str, total: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    odd = math.isqrt(total) | 1
    last = LogisticRegression(max_iter=1000) if classifier == "logistic" else KNeighborsClassifier(odd)
    return make_pipeline(StandardScaler(), last)
