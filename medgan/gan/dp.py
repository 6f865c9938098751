"""Differential privacy for the discriminator: exact per-sample gradients, clipped by patient, noised in secret.

Only the discriminator sees real images, so only its steps are privatised; the generator and its average are
post-processing. `torch.func` gives per-sample gradients through the R1 term, where hooks on modules do not.

The guarantee is for adding or removing one *patient*: a step draws each patient with probability `rate` (Poisson),
sums that patient's gradients first, clips the sum to norm `clip`, and adds Gaussian noise of `sigma x clip`. What that
costs is `medgan.gan.accountant`'s business.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import special
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from medgan.collection import durable
from medgan.errors import IntegrityError
from medgan.gan.loss import LOSSES

Gradients = dict[str, Tensor]
Logit = Callable[[Tensor, Tensor], Tensor]
"""One image (C, H, W) and its condition to one logit ()."""
SampleLoss = Callable[..., Tensor]
"""(Logit, *tensors of one sample) to a scalar."""

_KEY_BYTES = 32
_GAUSSIANS_A_DRAW = 4
"""The mean of several draws hides the gaps that one 53-bit draw leaves (Mironov 2012; Holohan and Braghin 2021)."""


class Secret:
    """All randomness that a guarantee rests on: the ChaCha20 keystream of a key from the operating system.

    A step's draws follow from the key and the step's number. So a run that is resumed after a kill repeats the very
    noise it had drawn, which gives nothing away twice, and nobody without the key can foresee it.
    """

    def __init__(self, key: bytes) -> None:
        """Draw from `key` (32 bytes)."""
        if len(key) != _KEY_BYTES:
            raise IntegrityError("the noise key of this run is broken: delete the model's folder and train again")
        self._key = key

    @classmethod
    def at(cls, path: Path) -> Secret:
        """The secret at `path`, made and fsynced there first (mode 0600) where there is none."""
        if not path.exists():
            temporary = path.with_name(f".{path.name}.{os.getpid()}{durable.PARTIAL}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            try:
                path.hardlink_to(temporary)  # the first of two processes wins, and both read one key
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        return cls(path.read_bytes())

    @property
    def fingerprint(self) -> str:
        """32 hex digits that name this secret and tell nothing of it."""
        return hashlib.blake2b(b"name", key=self._key, digest_size=16).hexdigest()

    def uniforms(self, purpose: str, step: int, count: int) -> npt.NDArray[np.float64]:
        """(count,) draws in (0, 1)."""
        label = f"{purpose} {step}".encode()
        key = hashlib.blake2b(label, key=self._key, digest_size=_KEY_BYTES).digest()
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * count))
        return ((np.frombuffer(stream, "<u8") >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def generator(self, purpose: str, step: int) -> np.random.Generator:
        """A generator whose draws nobody foresees: latents must be, or a patient's leaving would move the others'."""
        label = f"{purpose} {step}".encode()
        key = hashlib.blake2b(label, key=self._key, digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=np.frombuffer(key, "<u8")))

    def normals(self, purpose: str, step: int, count: int) -> npt.NDArray[np.float64]:
        """(count,) standard normal draws."""
        draws = special.ndtri(self.uniforms(purpose, step, _GAUSSIANS_A_DRAW * count)).reshape(_GAUSSIANS_A_DRAW, count)
        summed: npt.NDArray[np.float64] = draws.sum(axis=0) / _GAUSSIANS_A_DRAW**0.5
        return summed


class Patients:
    """Which rows belong to whom, and whom a step draws."""

    def __init__(self, patient_of_row: npt.NDArray[np.object_]) -> None:
        """Of the patient (N,) of each image."""
        self.keys, owner = np.unique(np.asarray(patient_of_row).astype(str), return_inverse=True)
        self._rows = np.argsort(owner, kind="stable")
        self._counts = np.bincount(owner, minlength=len(self.keys))
        self._starts = np.cumsum(self._counts) - self._counts

    def __len__(self) -> int:
        """How many there are."""
        return len(self.keys)

    def draw(self, secret: Secret, step: int, rate: float) -> npt.NDArray[np.int64]:
        """One row of each patient drawn: each patient with probability `rate`, on its own, then one of its images."""
        chosen = np.flatnonzero(secret.uniforms("patients", step, len(self)) < rate)
        place = secret.uniforms("images", step, len(self))[chosen]
        rows: npt.NDArray[np.int64] = self._rows[
            self._starts[chosen] + (place * self._counts[chosen]).astype(np.int64)
        ].astype(np.int64)
        return rows


def sample_loss(game: str, gamma: float) -> SampleLoss:
    """The discriminator's loss of one pair under one condition, with gamma/2 |grad D(real)|^2 (R1) where gamma > 0."""

    def loss(logit: Logit, real_CHW: Tensor, fake_CHW: Tensor, c: Tensor) -> Tensor:
        value = LOSSES[game].discriminator(logit(real_CHW, c)[None], logit(fake_CHW, c)[None])
        return value + gamma / 2 * grad(logit)(real_CHW, c).square().sum() if gamma > 0 else value

    return loss


def per_sample_gradients(network: nn.Module, loss: SampleLoss, *batch: Tensor) -> Gradients:
    """Gradient of the loss of each sample alone: name -> (N, ...). Exact, penalties included."""
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def of_one(weights: Gradients, *sample: Tensor) -> Tensor:
        def logit(image_CHW: Tensor, c: Tensor) -> Tensor:
            logits: Tensor = functional_call(network, (weights, buffers), (image_CHW[None], c[None]))
            return logits[0]

        return loss(logit, *sample)

    gradients: Gradients = vmap(grad(of_one), in_dims=(None, *([0] * len(batch))))(parameters, *batch)
    return gradients


def clipped_sum(gradients: Gradients, patients: Sequence[int], clip: float) -> Gradients:
    """Sum over patients of each patient's summed gradient, scaled to norm `clip` at most.

    However many images a patient has, that patient moves the result by no more than `clip`.
    """
    _, owner = torch.unique(torch.as_tensor(patients), return_inverse=True)
    count = int(owner.max()) + 1 if len(owner) else 0
    if count < len(owner):
        gradients = {
            name: torch.zeros((count, *value.shape[1:]), dtype=value.dtype).index_add_(0, owner, value)
            for name, value in gradients.items()
        }
    squares = sum((value.reshape(count, -1).square().sum(1) for value in gradients.values()), torch.zeros(count))
    factors = (clip / squares.sqrt().clamp_min(1e-12)).clamp_max(1.0)
    return {name: torch.tensordot(factors, value, dims=1) for name, value in gradients.items()}


def privatised(
    total: Gradients, *, clip: float, sigma: float, expected_patients: float, secret: Secret, step: int
) -> Gradients:
    """The mean gradient to step with: (sum + N(0, (sigma clip)^2)) / patients expected in a step."""
    sizes = [value.numel() for value in total.values()]
    noise = np.split(secret.normals("noise", step, sum(sizes)), np.cumsum(sizes)[:-1])
    return {
        name: (value + sigma * clip * torch.from_numpy(draw).to(value.dtype).view_as(value)) / expected_patients
        for (name, value), draw in zip(total.items(), noise, strict=True)
    }
