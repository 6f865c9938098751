"""One batch on one worker: read, de-identify, verify, decode, stage. Only counts come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgan import keys
from medgan.archive import instance, pixels, quarantine, references, series
from medgan.collection import attributes, durable, judgement
from medgan.collection.packs import Frame
from medgan.collection.staging import Batch, Stage
from medgan.deid import apply, deface, profile, review, structures
from medgan.errors import BadInstance, MedganError
from medgan.keys import Keyring
from medgan.records import QuarantineReason, QuarantineRecord
from medgan.settings import Zones


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """What a worker needs beside its batch: handles and roots, never a key."""

    zones: Zones
    key_handle: str
    profile: str
    folder: Path
    cuts: Mapping[str, deface.Shear] = field(default_factory=dict)
    judged_by: str | None = None


def run(batch: Batch, context: StageContext) -> str:
    """Stage one batch and return its name; a batch that stands finished is left as it is.

    A bad instance leaves a quarantine record and the batch goes on.

    Raises:
        InvalidRequest: this worker would judge by other rules than whoever asked.
        StoreUnavailable: a disk refused; running again resumes.
    """
    target = context.folder / batch.name
    if target.exists():
        return batch.name
    keyring = keys.load(context.key_handle)
    expression = profile.load(context.profile)
    if context.judged_by is not None:
        judgement.agree(expression.digest, context.judged_by)
    with durable.new_folder(target) as folder:
        stage = Stage(folder)
        released = review.releases(context.zones)
        for study, locator in zip(batch.studies, batch.locators, strict=True):
            reviewed = released.get(locator.sha256, frozenset())
            try:
                made = _made(locator, expression, keyring, context, reviewed=reviewed)
            except BadInstance as refusal:
                stage.refused[locator.sha256] = _refuse(locator.sha256, refusal.reason, "ingest", study, context)
            except MedganError:
                raise
            except Exception as error:  # noqa: BLE001 - its text may quote the file; its class says what to look for
                where = f"ingest:{type(error).__name__}"
                reason = QuarantineReason.CORRUPT_HEADER
                if isinstance(error, OSError | MemoryError):  # of this machine, not of the file: tried again
                    reason = QuarantineReason.CHANGED_WHILE_READ
                stage.refused[locator.sha256] = _refuse(locator.sha256, reason, where, study, context)
            else:
                stage.add(made.columns, made.frames, made.places)  # a disk that refuses this refuses the batch
                stage.audit[locator.sha256] = made.audit
        stage.close()
    return batch.name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What becomes of one instance: columns of all its frames, the frames, columns of each, a line for the audit."""

    columns: dict[str, Any]
    frames: Frame
    places: list[dict[str, Any]]
    audit: dict[str, Any]


def _made(
    locator: Any,
    expression: profile.Profile,
    keyring: Keyring,
    context: StageContext,
    *,
    reviewed: frozenset[str],
) -> _Made:
    zones = context.zones
    data = instance.read(locator, zones=zones, keyring=keyring)
    try:
        clean = apply.deidentify(
            data, profile=expression, keyring=keyring, reviewed=reviewed, cuts=context.cuts, sha256=locator.sha256
        )
    except BadInstance as refusal:
        if refusal.reason in review.RELEASABLE:
            review.keep_picture(zones, locator.sha256, data, keyring)
        raise
    decoded = pixels.decode(clean.dataset)
    frames, places = _places(data, clean.dataset, decoded.frames)
    # the mask of a head would show the face that is cut out of its images
    joins = str(clean.dataset.SOPClassUID) == references.SEGMENTATION and deface.OPTION not in expression.options
    outlined = references.masks(data, keyring) if joins else []
    columns = attributes.of_instance(clean.dataset) | {
        "instance_key": clean.instance_key,
        "series_key": clean.series_key,
        "study_key": clean.study_key,
        "patient_key": clean.patient_key,
        "source_sha256": locator.sha256,
        "photometric": decoded.photometric,
        "bits_stored": decoded.bits_stored,
        "rescale_slope": decoded.rescale_slope,
        "rescale_intercept": decoded.rescale_intercept,
        "units": decoded.units or "1",
    }
    return _Made(
        columns=columns,
        frames=frames,
        places=_with_outlines([attributes.of_frame(place) for place in places], outlined, len(frames)),
        audit=apply.audit_line(clean),
    )


def _with_outlines(
    places: list[dict[str, Any]], outlined: list[references.Outline | None], frames: int
) -> list[dict[str, Any]]:
    """Columns of each frame, and of a segmentation's what it outlines, in words that name nobody."""
    if len(outlined) != frames:
        return places
    whole = (places + [{}] * frames)[:frames]
    return [own if one is None else {**own, **_outline(one)} for own, one in zip(whole, outlined, strict=True)]


def _outline(one: references.Outline) -> dict[str, Any]:
    return {
        "outlines": one.image,
        "outlines_frame": one.frame,
        "structure": structures.name(one.structure, one.scheme, one.code),
        "inside_from": one.inside_from,
    }


def _places(data: bytes, dataset: Any, frames: Frame) -> tuple[Frame, tuple[series.FrameGeometry, ...]]:
    """Frames and where each lies. A Siemens mosaic is cut into its slices: only the source says how."""
    if "MOSAIC" in attributes.text(dataset, "ImageType"):
        slices = series.unmosaic(instance.parse(data), frames)
        if slices is not None:
            return slices
    return frames, series.geometry(dataset)


def _refuse(sha256: str, reason: str, stage: str, study: str, context: StageContext) -> str:
    refused = QuarantineRecord(
        sha256=sha256, reason=QuarantineReason(reason), stage=stage, study=study, judged_by=context.judged_by
    )
    quarantine.record(context.zones, refused)
    return refused.reason.value
