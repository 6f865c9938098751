"""What stands in the store about a cleared cohort, read again before anything is published.

A `ClearedCohort` is a pointer that anyone who can post parameters can post; what decides is here:
the stored records, the reports they name by digest, and the pixels themselves.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from pydantic import ValidationError

from medgan.cohort import planes
from medgan.cohort import synthetic as cohorts
from medgan.cohort.stored import IMAGES, MASKS, STRUCTURES
from medgan.errors import IntegrityError, MedganError, PrivacyRefused
from medgan.gan.level import refuse_patient_level
from medgan.records import ClearedCohort, PrivacyReport, QualityReport, Record, SyntheticCohort, Verdict, sha256_hex
from medgan.settings import Zones

REPORTS = ("quality.json", "quality.html", "privacy.json", "privacy.html")
_AnyRecord = TypeVar("_AnyRecord", bound=Record)
Pixels = npt.NDArray[np.uint16] | npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything a release is made of.

    `images` (N, H, W), or (N, D, H, W), uint16 in stored units, `labels` row i is image i, `reports` name -> bytes.
    `masks`, where structures were asked: uint8 of the images' shape, value k is structure k of `synthetic`, from 1.
    """

    synthetic: SyntheticCohort
    quality: QualityReport
    privacy: PrivacyReport
    images: npt.NDArray[np.uint16]
    attributes: dict[str, Any]
    labels: pd.DataFrame
    labels_bytes: bytes
    reports: dict[str, bytes]
    masks: npt.NDArray[np.uint8] | None = None

    @property
    def arrays(self) -> dict[str, tuple[Pixels, dict[str, Any]]]:
        """Arrays of the version by name, each with its attributes: `images`, and `masks` where there are any."""
        found: dict[str, tuple[Pixels, dict[str, Any]]] = {IMAGES: (self.images, self.attributes)}
        if self.masks is not None:
            found[MASKS] = self.masks, {STRUCTURES: list(self.synthetic.structures)}
        return found

    @property
    def approval(self) -> bool:
        """Whether the policy, as the cleared report states it, asks for an approver's signature; older ones do not."""
        policy = json.loads(self.reports["privacy.json"]).get("policy", {})
        return bool(policy.get("approval", False))


def collect(cleared: ClearedCohort, *, zones: Zones) -> Evidence:
    """Read and check everything behind `cleared`; `PrivacyRefused` or `IntegrityError` when it does not hold."""
    handle = cleared.synthetic.synthetic
    if not re.fullmatch(r"[a-z]{2,4}-[0-9a-f]{16,64}", handle):
        raise IntegrityError("the cleared cohort has no valid handle")
    folder = zones.synthetic / "cohorts" / handle
    synthetic = _record(folder / "synthetic.json", SyntheticCohort, IntegrityError)
    quality = _record(folder / "quality-record.json", QualityReport, IntegrityError)
    privacy = _record(folder / "privacy-record.json", PrivacyReport, PrivacyRefused)
    reports = {name: _read(folder / name, _kind(name)) for name in REPORTS}
    refuse_patient_level(synthetic.model, zones=zones)
    check_verdict(cleared, privacy)
    _check_digests(cleared, synthetic, quality, privacy, reports)
    labels_bytes = _read(folder / "labels.parquet", IntegrityError)
    images_NHW, attributes = _images(folder / "images.zarr")
    if sha256_hex(labels_bytes) != synthetic.labels_sha256:
        raise IntegrityError("the labels are not the ones that were cleared: synthesise and attack the cohort again")
    if cohorts.pixel_digest(images_NHW) != synthetic.pixel_sha256:
        raise IntegrityError("the images are not the ones that were cleared: synthesise and attack the cohort again")
    masks_NHW = _masks(folder / "images.zarr", synthetic, images_NHW.shape)
    labels = pd.read_parquet(io.BytesIO(labels_bytes))
    if len(labels) != len(images_NHW) or len(labels) != synthetic.images:
        raise IntegrityError(f"{len(images_NHW)} images stand beside {len(labels)} rows of labels")
    return Evidence(
        synthetic=synthetic,
        quality=quality,
        privacy=privacy,
        images=images_NHW,
        attributes=attributes,
        labels=labels,
        labels_bytes=labels_bytes,
        reports=reports,
        masks=masks_NHW,
    )


def check_verdict(cleared: ClearedCohort, privacy: PrivacyReport) -> None:
    """`PrivacyRefused` unless the stored verdict is `cleared`, by tests, under the policy that is claimed."""
    if privacy.verdict is not Verdict.CLEARED:
        raise PrivacyRefused(f"the stored privacy report says {privacy.verdict}: nothing is published")
    if not privacy.tests:
        raise PrivacyRefused("the stored privacy report holds no test: nothing is published")
    if (privacy.policy, privacy.policy_sha256) != (cleared.policy, cleared.policy_sha256):
        raise PrivacyRefused("the stored privacy report was made under another policy: nothing is published")


def pixel_digest(images_NHW: Pixels) -> str:
    """Hex SHA-256 over images or masks in row order, C order, little-endian."""
    stored = np.ascontiguousarray(images_NHW, dtype=images_NHW.dtype.newbyteorder("<"))
    return hashlib.sha256(stored.data.cast("B")).hexdigest()


def _check_digests(
    cleared: ClearedCohort,
    synthetic: SyntheticCohort,
    quality: QualityReport,
    privacy: PrivacyReport,
    reports: dict[str, bytes],
) -> None:
    about = cleared.synthetic
    if len({synthetic.synthetic, quality.synthetic, privacy.synthetic, about.synthetic}) != 1:
        raise IntegrityError("the reports are about another synthetic cohort: nothing is published")
    if len({synthetic.pixel_sha256, quality.pixel_sha256, privacy.pixel_sha256, about.pixel_sha256}) != 1:
        raise IntegrityError("the reports are about other images than the cleared ones: nothing is published")
    if about.labels_sha256 != synthetic.labels_sha256:
        raise IntegrityError("the cleared labels are not the stored ones: nothing is published")
    if len({synthetic.masks_sha256, quality.masks_sha256, privacy.masks_sha256, about.masks_sha256}) != 1:
        raise IntegrityError("the reports are about other masks than the cleared ones: nothing is published")
    if len({sha256_hex(reports["quality.json"]), quality.report_sha256, cleared.quality_sha256}) != 1:
        raise IntegrityError("the quality report is not the one that was cleared: nothing is published")
    if len({sha256_hex(reports["privacy.json"]), privacy.report_sha256, cleared.privacy_sha256}) != 1:
        raise PrivacyRefused("the privacy report is not the one that was cleared: nothing is published")


def _images(path: Path) -> tuple[npt.NDArray[np.uint16], dict[str, Any]]:
    images, attributes = _array(path, IMAGES)
    if images.ndim not in (planes.FLAT, planes.FLAT + 1) or images.dtype != np.uint16:
        raise IntegrityError("the images must be (N, H, W) or (N, D, H, W) uint16: synthesise the cohort again")
    return images, attributes


def _masks(path: Path, synthetic: SyntheticCohort, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """The masks that the record tells of; None where it tells of none."""
    if synthetic.masks_sha256 is None:
        return None
    masks, attributes = _array(path, MASKS)
    told = (masks.shape, masks.dtype, attributes.get(STRUCTURES))
    if (
        told != (shape, np.dtype(np.uint8), list(synthetic.structures))
        or masks.max(initial=0) > len(synthetic.structures)
        or cohorts.pixel_digest(masks) != synthetic.masks_sha256
    ):
        raise IntegrityError("the masks are not the ones that were drawn: synthesise and attack the cohort again")
    return masks


def _array(path: Path, name: str) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    try:
        array = zarr.open_group(path, mode="r", zarr_format=3)[name]
        return np.asarray(array[:]), dict(array.attrs)  # type: ignore[index]
    except (OSError, ValueError, KeyError, RuntimeError):
        raise IntegrityError(f"the synthetic {name} cannot be read: synthesise the cohort again") from None


def _record(path: Path, kind: type[_AnyRecord], refusal: type[MedganError]) -> _AnyRecord:
    try:
        return kind.model_validate_json(_read(path, refusal))
    except ValidationError:
        raise refusal(f"{path.name} beside the synthetic cohort is malformed: nothing is published") from None


def _read(path: Path, refusal: type[MedganError]) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise refusal(f"{path.name} is missing beside the synthetic cohort: nothing is published") from None


def _kind(name: str) -> type[MedganError]:
    return PrivacyRefused if name.startswith("privacy") else IntegrityError
