"""The whole night: archive -> collection -> cohort -> generator -> synthetic cohort -> gate -> version."""

from __future__ import annotations

from prefect import flow

from flows.ingest import ingest
from flows.publish import publish
from flows.synthesize import synthesize
from flows.train import train
from medgan.records import ArchiveRef, CohortRecipe, CohortSpec, Name, NightReport, ReleaseTerms, TrainRequest
from tasks.night import ledger
from tasks.summary import summarise


@flow(name="nightly")
def nightly(
    archive: ArchiveRef,
    dataset: Name,
    recipe: CohortRecipe,
    terms: ReleaseTerms,
    training: TrainRequest = TrainRequest(),  # noqa: B008 - frozen
    spec: CohortSpec = CohortSpec(),  # noqa: B008 - frozen
    policy: Name = "internal",
    collection: Name = "main",
    profile: str = "basic+clean-pixel-data",
    label_columns: tuple[str, ...] = ("finding", "sex", "age"),
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
    """
    with ledger(dataset) as tonight:
        ingested = ingest(archive, collection, profile, label_columns)
        trained = train(ingested.ingest.snapshot, recipe, tonight.seeded(training))
        synthesised = synthesize(trained, tonight.seeded(spec), policy)
        release = publish(synthesised, terms, tonight)
    report = NightReport(night=tonight, ingest=ingested, training=trained, synthesis=synthesised, release=release)
    summarise(report)
    return report
