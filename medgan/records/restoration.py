"""Records about restoration: what is learned, and what came of an archive."""

from __future__ import annotations

from pydantic import Field

from medgan.records.base import Handle, Name, Record, Sha256


class RestorerRequest(Record):
    """What to learn from a collection."""

    task: Name = Field(default="super-resolution-x2", description="A task of medgan.gan.degrade.")
    modality: str = Field(default="MR", pattern="^[A-Z]{2,16}$", description="DICOM modality to learn from.")
    steps: int = Field(default=3000, ge=1, description="Steps on pixels alone.")
    adversarial_steps: int = Field(default=1000, ge=0, description="Steps against the critic.")
    most_images: int = Field(default=2000, ge=16, description="Frames to learn from, evenly over the collection.")
    seed: int = Field(default=0, ge=0)


class RestorerModel(Record):
    """A finished restorer; its files lie in the pseudonymised zone under `restorer`."""

    restorer: Handle
    task: Name
    modality: str
    collection_snapshot: str
    config_sha256: Sha256
    weights_sha256: Sha256
    images: int
    patients: int
    psnr_db: float = Field(description="Mean over images of held-out patients.")
    naive_psnr_db: float = Field(description="The same without the network.")


class RestorationReport(Record):
    """What came of every file of an archive: received = restored + untouched + quarantined."""

    task: Name
    weights_sha256: Sha256
    received: int
    restored: int
    untouched: int = Field(default=0, description="Inpainting: images without a defect.")
    quarantined: dict[str, int] = Field(default_factory=dict, description="By reason; the originals stay as they are.")
    inconsistency_worst: float = Field(
        default=0.0, description="Largest RMS of A(answer) - seen, in parts of the window."
    )
    invented_share_mean: float = Field(default=0.0, description="Mean energy added to the plain answer, in parts of 1.")
    uncertainty_mean: float = Field(default=0.0, description="Mean bound of the error, in parts of the window.")
