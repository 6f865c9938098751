"""The whole night: archive -> collection -> cohort -> generator -> synthetic cohort -> gate -> version."""

from __future__ import annotations

import itertools
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.ingest import ingest
from flows.publish import publish
from flows.synthesize import synthesize
from flows.train import train
from medgan.errors import PrivacyRefused
from medgan.records import (
    ArchiveRef,
    Choice,
    CohortRecipe,
    CohortSpec,
    CollectionSnapshot,
    Name,
    Night,
    NightReport,
    Refusal,
    Release,
    ReleaseTerms,
    ShippedPolicy,
    SynthesisOutcome,
    TrainAt,
    TrainOutcome,
    TrainRequest,
)
from tasks.assess import attack_privacy
from tasks.decision import ask
from tasks.elsewhere import train_elsewhere
from tasks.night import ledger
from tasks.summary import summarise

AskHours = Annotated[int, Field(ge=1, le=72)]


# A night that hangs ends before the one after the next; it stays open, so that one resumes it.
@flow(name="nightly", timeout_seconds=23 * 3600)
def nightly(
    archive: ArchiveRef,
    dataset: Name,
    recipe: CohortRecipe,
    terms: ReleaseTerms,
    training: TrainRequest = TrainRequest(),  # noqa: B008 - frozen
    spec: CohortSpec = CohortSpec(),  # noqa: B008 - frozen
    policy: ShippedPolicy = "internal",
    collection: Name = "main",
    profile: str = "basic+clean-pixel-data",
    label_columns: tuple[str, ...] = ("finding", "sex", "age"),
    on_refusal: Refusal = Refusal.END,
    ask_hours: AskHours = 12,
    train_at: TrainAt = TrainAt.HERE,
) -> NightReport:
    """Turn the archive as it is tonight into the next published version, or say why not.

    Args:
        archive: The registered source to read.
        dataset: Name that the version is published under.
        recipe: Which images to train on, in which form, split how.
        terms: What the data set is published under.
        training: Which training recipe, for how long.
        spec: What to synthesise.
        policy: The privacy policy that decides.
        collection: The collection that receives the studies.
        profile: De-identification profile and options.
        label_columns: Columns of the label tables to keep; every other one is dropped.
        on_refusal: What to do when the gate does not clear the cohort. To publish it all the same is no choice.
        ask_hours: How long a paused night waits for a person, before the cohort is left unpublished.
        train_at: Where to train; the train deployment stands on the GPU work pool.
    """
    with ledger(dataset) as tonight:
        ingested = ingest(archive, collection, profile, label_columns)
        trained = _train(train_at, ingested.ingest.snapshot, recipe, tonight.seeded(training))
        synthesised = synthesize(trained, tonight.seeded(spec), policy)
        try:
            release = publish(synthesised, terms, tonight)
        except PrivacyRefused as refusal:
            if on_refusal is Refusal.END:
                raise
            synthesised, release = _decided(refusal, trained, synthesised, terms, tonight, ask_hours)
    report = NightReport(night=tonight, ingest=ingested, training=trained, synthesis=synthesised, release=release)
    summarise(report)
    return report


def _train(at: TrainAt, snapshot: CollectionSnapshot, recipe: CohortRecipe, request: TrainRequest) -> TrainOutcome:
    if at is TrainAt.POOL:
        return train_elsewhere(snapshot, recipe, request)
    return train(snapshot, recipe, request)


def _decided(
    refusal: PrivacyRefused,
    trained: TrainOutcome,
    refused: SynthesisOutcome,
    terms: ReleaseTerms,
    tonight: Night,
    hours: int,
) -> tuple[SynthesisOutcome, Release]:
    """Ask until a policy clears the cohort, or a person leaves it unpublished; then the last refusal stands."""
    for question in itertools.count(1):
        decision = ask(refusal, refused.privacy, hours=hours, question=question)
        if decision.choice is Choice.LEAVE:
            break
        again = attack_privacy(refused.synthetic, trained.cohort, decision.policy)
        refused = refused.model_copy(update={"privacy": again})
        try:
            return refused, publish(refused, terms, tonight)
        except PrivacyRefused as still:
            refusal = still
    raise refusal
