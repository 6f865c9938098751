"""Release + local cases -> what a model for those cases gains."""

from __future__ import annotations

from prefect import flow

from medgan.records import LocalCases, PersonalReport, PersonalRequest
from tasks.personal import personalise


@flow(name="personalize")
def personalize(
    release: str,
    cases: LocalCases,
    request: PersonalRequest = PersonalRequest(),  # noqa: B008 - frozen
) -> PersonalReport:
    """Compare training with and without a release's synthetic cases for one group of real cases.

    Args:
        release: NAME or NAME@VERSION of this workspace's registry.
        cases: Registered local cases; `python -m flows personalize --cases FILE.npz` registers them.
        request: Task, numbers of real cases, seeds and steps.
    """
    return personalise(release, cases, request)
