"""The outliner: a small U-Net that draws the mask of an image, learned from what people outlined on real ones.

p(image, mask) = p(image) p(mask | image): the generator stays what it is, and what it draws is outlined afterwards, as
in DatasetGAN (Zhang et al., CVPR 2021) from pixels instead of features. No left is mirrored into a right in training:
structures have sides. Legend: N images, C channels, H, W, K structures and the background before them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from medgan.cohort.masks import MASKED
from medgan.cohort.read import Cohort
from medgan.collection import durable
from medgan.errors import IntegrityError, InvalidRequest
from medgan.gan import checkpoint
from medgan.gan.arithmetic import fixed
from medgan.gan.images import to_unit
from medgan.gan.restorer import Shape, Unet
from medgan.records import Outliner, TrainedModel
from medgan.settings import Zones

WEIGHTS = "outliner.safetensors"
LEAST_PATIENTS = 20
"""Train patients who show a structure: of fewer, a mask would say more of somebody than of anatomy."""
FEWEST_JUDGED = 11
"""Holdout patients who show a structure: of fewer, its Dice describes people (docs/privacy.md, G7)."""
BATCH = 16
STEPS, RATE = 1200, 2e-3
"""A minute of one core at 64 px; half as many batches cost 0.02 to 0.04 of Dice there (docs/adr/0102)."""
_SHAPE = Shape(widths=(16, 32, 48), blocks=1)
_SHIFT, _CONTRAST, _GRAIN = 1 / 16, 0.2, 0.1
"""What an image is moved, stretched and grained by in training, as synthetic images differ from real ones: shares of
the side, of the window's half."""


class Network(Unet):
    """Images (N, 1, H, W) in [-1, 1] to logits (N, K + 1, H, W)."""

    def __init__(self, structures: int) -> None:
        """Build for `structures` structures."""
        super().__init__(_SHAPE)
        first = _SHAPE.widths[0]
        self.enter = nn.Conv2d(4, first, 3, padding=1)
        self.leave = nn.Conv2d(first, 4 * (structures + 1), 3, padding=1)


def check(cohort: Cohort) -> None:
    """`InvalidRequest` where too few train patients show one of the structures to learn from."""
    shown = _patients(cohort, _rows(cohort, ("train",)))
    rare = int(np.argmin(shown))
    if shown[rare] < LEAST_PATIENTS:
        raise InvalidRequest(
            f"{shown[rare]} train patients have a mask of structure {rare + 1} of the recipe's {len(shown)}, and masks "
            f"are learned from {LEAST_PATIENTS} at least: have more outlined, or ask for a cohort without it"
        )


def fit(cohort: Cohort, folder: Path, *, seed: int) -> Outliner:
    """Learn from the masked train images of `cohort`, judge on those of both holdouts, write the weights to `folder`.

    The same cohort and seed give the same bytes, on one thread whatever the machine has.
    """
    check(cohort)
    structures = cohort.snapshot.recipe.structures
    train, held = _rows(cohort, ("train",)), _rows(cohort, ("holdout-1", "holdout-2"))
    with fixed(1):
        network = trained(lambda rows: _pairs(cohort, train[rows]), len(train), len(structures), seed=seed)
    found = outlined(network, cohort.images[held], cohort.attrs)
    weights = save(network.state_dict())
    durable.write_bytes(folder / WEIGHTS, weights)
    return Outliner(
        structures=structures,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        patients=cohort.table.loc[train, "patient_key"].nunique(),
        images=len(train),
        dice=tuple(
            score if patients >= FEWEST_JUDGED else None
            for score, patients in zip(
                dice(found, _masks(cohort)[held], len(structures)), _patients(cohort, held), strict=True
            )
        ),
        holdout_patients=cohort.table.loc[held, "patient_key"].nunique(),
        holdout_images=len(held),
    )


def outlined(network: Network, stored_NHW: NDArray[np.uint16], attrs: dict[str, Any]) -> NDArray[np.uint8]:
    """The masks (N, H, W) of stored images (N, H, W); a mask depends on its image and on `row % 16` alone."""
    lo, hi = (float(value) for value in attrs["intensity_range"])
    masks = np.empty(stored_NHW.shape, np.uint8)
    with fixed(1), torch.inference_mode():
        for start in range(0, len(masks), BATCH):
            rows = slice(start, min(start + BATCH, len(masks)))
            batch = np.zeros((BATCH, 1, *masks.shape[1:]), np.float32)
            batch[: rows.stop - start, 0] = to_unit(stored_NHW[rows], lo, hi)
            masks[rows] = network(torch.from_numpy(batch)).argmax(1).numpy()[: rows.stop - start]
    return masks


def dice(found_NHW: NDArray[np.uint8], truth_NHW: NDArray[np.uint8], structures: int) -> tuple[float | None, ...]:
    """2 |A and B| / (|A| + |B|) of each structure over all pixels; None where the truth has none of it."""
    scores = []
    for value in range(1, structures + 1):
        ours, theirs = found_NHW == value, truth_NHW == value
        both = float((ours & theirs).sum())
        scores.append(round(2 * both / float(ours.sum() + theirs.sum()), 6) if theirs.any() else None)
    return tuple(scores)


@lru_cache(maxsize=2)
def of_model(model: TrainedModel, zones: Zones) -> Network | None:
    """The outliner of a model, opened once a process; None where it has none.

    Raises:
        IntegrityError: its weights are gone, or are not those that the model's record names.
    """
    if model.outliner is None:
        return None
    path = zones.pseudonymised / "models" / model.model / WEIGHTS
    if not stands(path.parent, model.outliner):
        raise IntegrityError("the outliner's weights are not those the model record names: train again")
    network = Network(len(model.outliner.structures))
    checkpoint.load_network(path, network)
    return network.eval().requires_grad_(requires_grad=False)


def stands(folder: Path, outliner: Outliner | None) -> bool:
    """Whether `folder` holds the very weights of `outliner`, or there is none to hold."""
    path = folder / WEIGHTS
    if outliner is None:
        return True
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == outliner.weights_sha256


def _rows(cohort: Cohort, splits: tuple[str, ...]) -> NDArray[np.intp]:
    """Rows of these splits whose image has a mask."""
    return np.flatnonzero((cohort.table["split"].isin(splits) & cohort.table[MASKED]).to_numpy())


def _masks(cohort: Cohort) -> NDArray[np.uint8]:
    if cohort.masks is None:
        raise InvalidRequest("this cohort has no masks: name structures in its recipe")
    return cohort.masks


def _pairs(cohort: Cohort, rows: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
    """(N, 1, H, W) float32 images in [-1, 1] and their masks (N, H, W) int64."""
    lo, hi = (float(value) for value in cohort.attrs["intensity_range"])
    images, masks = to_unit(cohort.images[rows], lo, hi), _masks(cohort)[rows].astype(np.int64)
    return torch.from_numpy(np.asarray(images, np.float32))[:, None], torch.from_numpy(masks)


def _patients(cohort: Cohort, rows: NDArray[np.intp]) -> list[int]:
    """How many patients show each structure on these rows."""
    masks, most = _masks(cohort), len(cohort.snapshot.recipe.structures)
    shows = np.array([np.bincount(masks[row].ravel(), minlength=most + 1)[1:] > 0 for row in rows], np.bool_)
    who = cohort.table["patient_key"].to_numpy()[rows]
    return [len(set(who[column])) for column in shows.reshape(-1, most).T]


def trained(
    pairs: Callable[[NDArray[np.intp]], tuple[Tensor, Tensor]], count: int, structures: int, *, seed: int
) -> Network:
    """The network after `STEPS` batches, its step falling to nothing.

    `pairs` gives for rows (N,) below `count` images (N, 1, H, W) in [-1, 1] and their masks (N, H, W) int64.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(structures)
        optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            x_N1HW, mask_NHW = _varied(*pairs(torch.randint(count, (BATCH,)).numpy()))
            optimiser.zero_grad()
            loss(network(x_N1HW), mask_NHW).backward()  # type: ignore[no-untyped-call]  # torch's own lack types
            optimiser.step()
            falling.step()
    return network.eval().requires_grad_(requires_grad=False)


def _varied(x_N1HW: Tensor, mask_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """A batch moved as one, its intensities stretched and grained image by image; masks only move."""
    side = x_N1HW.shape[-1]
    reach = max(1, round(side * _SHIFT))
    down, right = torch.randint(2 * reach + 1, (2,)).tolist()
    window = (slice(down, down + side), slice(right, right + side))
    moved_N1HW = pad(x_N1HW, [reach] * 4, mode="replicate")[..., window[0], window[1]]
    moved_NHW = pad(mask_NHW[:, None].float(), [reach] * 4, mode="replicate")[:, 0, window[0], window[1]].long()
    gain, shift, grain = (torch.rand(len(x_N1HW), 1, 1, 1) for _ in range(3))
    stretched = moved_N1HW * (1 + _CONTRAST * (2 * gain - 1)) + _CONTRAST * (2 * shift - 1)
    return stretched + _GRAIN * grain * torch.randn(x_N1HW.shape), moved_NHW


def loss(logits_NCHW: Tensor, mask_NHW: Tensor) -> Tensor:
    """Cross entropy, and 1 - soft Dice of the structures, so that a small one counts as a large one does."""
    shares_NCHW = logits_NCHW.softmax(1)[:, 1:]
    truth_NCHW = torch.stack([(mask_NHW == value).float() for value in range(1, logits_NCHW.shape[1])], 1)
    both = (shares_NCHW * truth_NCHW).sum((0, 2, 3))
    score = (2 * both + 1) / (shares_NCHW.sum((0, 2, 3)) + truth_NCHW.sum((0, 2, 3)) + 1)
    return cross_entropy(logits_NCHW, mask_NHW) + 1 - score.mean()
