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
_STEPS, _LEAST_STEPS, _EPOCHS = 1000, 200, 20
"""As often through the images as few of them bear, and no more steps than many of them need."""
_BATCH, _RATE, _DROPPED = 128, 4e-3, 0.2
_PLACES, _WIDTH = 16, 24
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
    """A small convolutional network, of images in [-1, 1]; classes missing from a side are not judged.

    Twenty times through the images, in 200 to 1,000 steps on batches of 128 that `seed` draws, on one thread: at most
    some 25 seconds of one core, at any image size.
    """
    values = np.unique(train_class)
    known = np.isin(test_class, values)
    if len(values) < 2 or len(np.unique(test_class[known])) < 2:  # noqa: PLR2004 - one class teaches nothing
        return Utility(auc=float("nan"), balanced_accuracy=float("nan"))
    with fixed(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(train_NHW.shape[-1], len(values))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not among torch's; twice as fast
        _teach(network, train_NHW, np.searchsorted(values, train_class), np.random.default_rng(seed))
        parts = np.array_split(test_NHW[known], -(-int(known.sum()) // 256))
        with torch.inference_mode():
            scores = torch.cat([network(torch.from_numpy(part)[:, None]) for part in parts])
    return _judged(test_class[known], scores.double().softmax(1).numpy(), values)


def _network(size: int, classes: int) -> nn.Sequential:
    """Four convolutions; the first strides so that images of any size become 16 x 16 places, which bounds the cost."""
    stride = max(1, size // _PLACES)
    layers: list[nn.Module] = [nn.Conv2d(1, _WIDTH, 2 * stride + 1, stride, stride)]
    for width in (_WIDTH, 2 * _WIDTH):
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, 1, 1)]
    layers += [nn.BatchNorm2d(4 * _WIDTH), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(_DROPPED), nn.Linear(4 * _WIDTH * 4 * 4, classes))


def _teach(
    network: nn.Module, images_NHW: NDArray[np.float32], target_N: NDArray[np.int64], rng: np.random.Generator
) -> None:
    """AdamW under one cycle of the rate; leaves the network in evaluation."""
    steps = int(np.clip(_EPOCHS * len(images_NHW) // _BATCH, _LEAST_STEPS, _STEPS))
    optimiser = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=1e-2, fused=True)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    for _ in range(steps):
        rows = rng.choice(len(images_NHW), min(_BATCH, len(images_NHW)), replace=False)
        scores = network(torch.from_numpy(images_NHW[rows])[:, None])
        loss = cross_entropy(scores, torch.from_numpy(target_N[rows]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        optimiser.step()
        rates.step()
    network.eval()


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
