"""Records about adapted models. What is of single patients has a type of its own, which nothing that publishes has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medgan.records.base import Handle, Record, Sha256

LEAST_SITE_PATIENTS = 20
"""Fewer train patients than this are people, not a site (privacy.md): their adapter stays in the pseudonymised zone."""


class AdaptRequest(Record):
    """How long to adapt; the rest follows from the base model."""

    steps: int = Field(default=1500, ge=1)
    rank: int = Field(default=8, ge=1, le=64)
    learning_rate: float = Field(default=2e-3, gt=0)
    seed: int = Field(default=0, ge=0)


class PatientAdapter(Record):
    """An adapter to a few patients: usable inside the pseudonymised zone, never published, no `TrainedModel`."""

    adapter: Handle
    base: Handle
    level: Literal["patient"] = "patient"
    patients: int = Field(ge=1)
    images: int = Field(ge=1)
    adapter_sha256: Sha256
    trained_share: float = Field(gt=0, lt=1, description="Adapter parameters as a share of the generator's.")
    steps: int
