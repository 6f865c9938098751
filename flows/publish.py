"""Cleared cohort -> published version."""

from __future__ import annotations

from prefect import flow

from medgan.records import Night, Release, ReleaseTerms, SynthesisOutcome
from tasks.publish import clear_cohort, publish_version


@flow(name="publish")
def publish(synthesis: SynthesisOutcome, terms: ReleaseTerms, night: Night) -> Release:
    """Let the gate decide on the stored evidence, and publish what it clears.

    Args:
        synthesis: The synthetic cohort and its reports; the gate reads them again from the store.
        terms: What the data set is published under.
        night: Whose version this is.
    """
    cleared = clear_cohort(synthesis.synthetic, synthesis.quality, synthesis.privacy)
    return publish_version(cleared, terms, night)
