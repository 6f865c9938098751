"""Records of the nightly run."""

from __future__ import annotations

from pydantic import Field

from medgan.records.base import Name, Record


class Night(Record):
    """One night of one data set. Seeds and timestamps come from here, so a rerun makes the same bytes."""

    dataset: Name
    number: int = Field(ge=1)
    started: str = Field(description="UTC, ISO 8601, seconds.")

    @property
    def seed(self) -> int:
        """Seed of everything random in this night."""
        return self.number
