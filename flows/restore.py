"""Collection -> restorer, and archive -> restored images."""

from __future__ import annotations

from prefect import flow

from medgan.records import ArchiveRef, CollectionSnapshot, Handle, RestorationReport, RestorerModel, RestorerRequest
from tasks.restore import restore_archive, train_restorer


@flow(name="learn-restoration")
def learn_restoration(snapshot: CollectionSnapshot, request: RestorerRequest) -> RestorerModel:
    """Train a restorer on a collection, by degrading its images as a scanner, a dose or a narrow line would.

    Args:
        snapshot: The state of the collection to learn from.
        request: The task, the modality and how long to train.
    """
    return train_restorer(snapshot, request)


@flow(name="restore")
def restore(archive: ArchiveRef, restorer: Handle) -> RestorationReport:
    """Restore an archive into derived instances, each with a map of where to doubt it; originals are never touched.

    Args:
        archive: A registered source; its place is never a parameter.
        restorer: Handle of a restorer that `learn-restoration` made.
    """
    return restore_archive(archive, restorer)
