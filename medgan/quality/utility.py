"""Are synthetic images of use: train on synthetic, test on real, beside real on real."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_COMPONENTS = 50


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
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score
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
    chance = model.predict_proba(flat_test)
    judged = [
        roc_auc_score(truth == value, chance[:, column])
        for column, value in enumerate(model.classes_)
        if 0 < (truth == value).sum() < len(truth)
    ]
    accuracy = balanced_accuracy_score(truth, model.predict(flat_test))
    return Utility(auc=float(np.mean(judged)), balanced_accuracy=float(accuracy))
