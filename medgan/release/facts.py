"""What documents say about a version, gathered once from records and data: no number is typed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medgan.cohort import planes
from medgan.records import GateTest, Manifest, Measure, PrivacyReport, ReleaseRequest, SyntheticCohort
from medgan.release.evidence import Evidence

DESCRIPTIVE = ("class", "split", "sex", "age_band")
"""Label columns whose counts are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts of one version. `counts`: column -> value -> rows; `columns`: label column -> dtype name.

    `structures`: what masks outline -> images that show it, in the order of the masks' values.
    """

    request: ReleaseRequest
    version: str
    previous: str | None
    synthetic: SyntheticCohort
    privacy: PrivacyReport
    measures: tuple[Measure, ...]
    encoder_sha256: str
    shape: tuple[int, ...]
    attributes: dict[str, Any]
    columns: dict[str, str]
    counts: dict[str, dict[str, int]]
    structures: dict[str, int]

    @classmethod
    def gather(cls, evidence: Evidence, request: ReleaseRequest, *, number: str, previous: Manifest | None) -> Facts:
        """Collect from checked evidence."""
        labels = evidence.labels
        counts = {
            column: {str(value): int(count) for value, count in sorted(labels[column].value_counts().items(), key=str)}
            for column in DESCRIPTIVE
            if column in labels.columns
        }
        return cls(
            request=request,
            version=number,
            previous=previous.version if previous else None,
            synthetic=evidence.synthetic,
            privacy=evidence.privacy,
            measures=evidence.quality.measures,
            encoder_sha256=evidence.quality.encoder_sha256,
            shape=evidence.images.shape,
            attributes=evidence.attributes,
            columns={str(name): str(kind) for name, kind in labels.dtypes.items()},
            counts=counts,
            structures=_shown(evidence),
        )

    @property
    def spec(self) -> str:
        """`name@version`."""
        return f"{self.request.name}@{self.version}"

    @property
    def pictured(self) -> str:
        """What an image is: `images of 64 x 64 pixels`, `volumes of 32 x 32 x 32 voxels`."""
        sizes = " x ".join(map(str, self.shape[1:]))
        return f"volumes of {sizes} voxels" if len(self.shape) > planes.FLAT else f"images of {sizes} pixels"

    @property
    def class_counts(self) -> dict[str, int]:
        """Images a class."""
        return self.counts.get("class", {})

    @property
    def limits(self) -> tuple[str, ...]:
        """What a reader must not take the images for, beside what the gate says."""
        resemble = "Synthetic images resemble the distribution they were trained on, with its gaps and biases."
        apart = (
            "The images of one synthetic patient are drawn independently of each other: they share what the labels say "
            "and no anatomy. Do not use them for re-identification, growth or change over time."
        )
        drawn = (
            "Masks were drawn by a network that learned from segmentations of the training cohort, image by image. "
            "Nobody corrected them: they have that network's errors."
        )
        several, masked = "patient" in self.columns, bool(self.structures)
        return (resemble, *([apart] if several else []), *([drawn] if masked else []))

    @property
    def tests(self) -> tuple[GateTest, ...]:
        """Tests of the privacy gate."""
        return self.privacy.tests

    @property
    def citation(self) -> str:
        """How to cite the version."""
        year = self.request.created[:4]
        return (
            f"{self.request.title}, version {self.version} ({year}). Synthetic data set, {self.shape[0]:,} images. "
            f"Pixel SHA-256 {self.synthetic.pixel_sha256[:16]}."
        )


def _shown(evidence: Evidence) -> dict[str, int]:
    masks = evidence.masks
    if masks is None:
        return {}
    return {
        name: int((masks == value).reshape(len(masks), -1).any(1).sum())
        for value, name in enumerate(evidence.synthetic.structures, start=1)
    }


def number(value: float) -> str:
    """A number for people: whole from 1,000 on, else four significant digits; an exponent only below 0.0001."""
    if abs(value) >= 1000:  # noqa: PLR2004 - from here on digits after the point are noise
        return f"{value:,.0f}"
    return f"{value:.4g}"
