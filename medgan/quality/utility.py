"""Are synthetic images of use: train on synthetic, test on real, beside real on real."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from medgan.gan.arithmetic import fixed

_COMPONENTS = 50
_STEPS, _BATCH, _RATE = 400, 64, 2e-3
_SEED = 20_26


@dataclass(frozen=True, slots=True, kw_only=True)
class Utility:
    """Area under the ROC curve (one against rest, mean over classes) and balanced accuracy, on real test images."""

    auc: float
    balanced_accuracy: float


def pca_logistic(
    train_NHW: NDArray[np.float32],
    train_class: NDArray[np.int64],
    test_NHW: NDArray[np.float32],
    test_class: NDArray[np.int64],
) -> Utility:
    """PCA (50 components, whitened) and logistic regression; classes missing from a side are not judged."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    known = np.isin(test_class, np.unique(train_class))
    flat_train, flat_test = (x.reshape(len(x), -1).astype(np.float64) for x in (train_NHW, test_NHW[known]))
    truth = test_class[known]
    if len(np.unique(train_class)) < 2 or len(np.unique(truth)) < 2:  # noqa: PLR2004 - one class teaches nothing
        return Utility(auc=float("nan"), balanced_accuracy=float("nan"))
    model = make_pipeline(
        PCA(min(_COMPONENTS, *flat_train.shape), whiten=True, svd_solver="covariance_eigh"),
        LogisticRegression(C=0.1, max_iter=1000),
    ).fit(flat_train, train_class)
    return _judged(truth, model.predict_proba(flat_test), model.classes_)


def small_network(
    train_NHW: NDArray[np.float32],
    train_class: NDArray[np.int64],
    test_NHW: NDArray[np.float32],
    test_class: NDArray[np.int64],
    seed: int = _SEED,
) -> Utility:
    """A network of three strided convolutions, 400 steps of Adam on batches of 64 that `seed` draws, one thread."""
    values = np.unique(train_class)
    known = np.isin(test_class, values)
    with fixed(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for c_in, c_out in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(c_in, c_out, 3, 2, 1), nn.BatchNorm2d(c_out), nn.ReLU()]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, len(values)))
        optimiser = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=1e-2)
        steps = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=_STEPS)
        rng, target = np.random.default_rng(seed), np.searchsorted(values, train_class)
        for _ in range(_STEPS):
            rows = rng.choice(len(train_NHW), _BATCH)
            loss = cross_entropy(network(torch.from_numpy(train_NHW[rows])[:, None]), torch.from_numpy(target[rows]))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            optimiser.step()
            steps.step()
        with torch.inference_mode():
            chance = network.eval()(torch.from_numpy(test_NHW[known])[:, None]).softmax(1).numpy()
    return _judged(test_class[known], chance, values)


def _judged(truth: NDArray[np.int64], chance_NC: NDArray[np.floating[Any]], values: NDArray[np.int64]) -> Utility:
    """Utility of chances (N, C) for the classes `values` (C,)."""
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    judged = [
        roc_auc_score(truth == value, chance_NC[:, column])
        for column, value in enumerate(values)
        if 0 < (truth == value).sum() < len(truth)
    ]
    accuracy = balanced_accuracy_score(truth, values[chance_NC.argmax(1)])
    return Utility(auc=float(np.mean(judged)), balanced_accuracy=float(accuracy))
