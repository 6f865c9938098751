"""Images to learn restoration from: a collection, DICOM files, NIfTI volumes or plain arrays; each in [-1, 1]."""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgan.archive import container, nifti, pixels, scratch
from medgan.archive import instance as instances
from medgan.cohort import stored
from medgan.collection import durable, layout
from medgan.collection import read as collections
from medgan.errors import BadInstance, InvalidRequest
from medgan.gan.repair import Restorer
from medgan.gan.restore import fit
from medgan.gan.restore_config import RestoreConfig
from medgan.gan.scans import Scans, window_of
from medgan.records import CollectionSnapshot, RestorerModel, RestorerRequest, canonical_json, sha256_hex
from medgan.restoration import body
from medgan.settings import Zones

CT_WINDOW = (-1024.0, 3071.0)
"""Hounsfield units that become -1 and 1 (design: intensity is not 8 bit)."""
LEAST_PX = 32
_LEAST_FOREGROUND = 0.05
"""A slice with less contrast than this share of its volume's has no anatomy to learn from."""
RECORD = "record.json"


def train(
    snapshot: CollectionSnapshot,
    request: RestorerRequest,
    *,
    zones: Zones,
    on_progress: Callable[[int, int], None] | None = None,
) -> RestorerModel:
    """Learn from a collection's frames of one modality; the finished model of this very request is returned at once.

    Patients stay apart: the uncertainty and the figures of the record come from patients that were not learned from.

    Raises:
        InvalidRequest: an unknown task, or no frame of the modality that is at least 32 px each way.
        Conflict: another process learns this very restorer.
    """
    config = RestoreConfig(
        task=request.task, steps=request.steps, adversarial_steps=request.adversarial_steps, seed=request.seed
    )
    content = {"config": config.digest, "table": snapshot.table_sha256, "request": request.model_dump(mode="json")}
    handle = "rs-" + sha256_hex(canonical_json(content))[:32]
    folder = restorer_folder(handle, zones=zones)
    finished = load(folder)
    if finished is not None:
        return finished
    with durable.locked(folder.parent / ".locks" / handle, wait=False):  # before images are read: an erasure waits
        durable.sweep_below(folder)
        return _train(snapshot, request, config, folder, zones=zones, on_progress=on_progress)


def _train(
    snapshot: CollectionSnapshot,
    request: RestorerRequest,
    config: RestoreConfig,
    folder: Path,
    *,
    zones: Zones,
    on_progress: Callable[[int, int], None] | None,
) -> RestorerModel:
    """Learn into `folder`, whose lock is ours, and write the restorer's record last."""
    table = collections.table(snapshot, zones=zones)
    collections.refuse_withdrawn(snapshot, table, zones=zones)
    big = table[(table["modality"] == request.modality) & table["photometric"].str.startswith("MONOCHROME")]
    if big.empty:
        raise InvalidRequest(
            f"the collection holds no grey image of modality {request.modality}: nothing to learn from"
        )
    chosen = big.iloc[np.unique(np.linspace(0, len(big) - 1, min(request.most_images, len(big))).astype(int))]
    physical = (
        frame.astype(np.float64) * slope + intercept
        for frame, slope, intercept in zip(
            collections.frames(snapshot, chosen, zones=zones),
            chosen["rescale_slope"],
            chosen["rescale_intercept"],
            strict=True,
        )
    )
    parts = ((one,) for one in chosen["body_part"])
    scans, attrs = _scans(zip(physical, chosen["patient_key"], parts, strict=True), request.modality)
    made = fit(scans, config, folder, attrs=attrs, on_tick=_told(on_progress))
    # Whom it was learned from, so that an erasure finds it when the collection's history is gone.
    durable.write_bytes(folder / layout.LEARNED_FROM, canonical_json(sorted(set(chosen["patient_key"]))))
    model = RestorerModel(
        restorer=folder.name,
        task=request.task,
        modality=request.modality,
        collection_snapshot=snapshot.snapshot_id,
        config_sha256=config.digest,
        weights_sha256=made.sha256,
        images=len(scans.images),
        patients=len(np.unique(scans.patient)),
        psnr_db=made.held_out["psnr_db"],
        naive_psnr_db=made.held_out["naive_psnr_db"],
    )
    durable.write_bytes(folder / RECORD, model.canonical())
    return model


def restorer_folder(handle: str, *, zones: Zones) -> Path:
    """Where a restorer lies: learned from patients, so in the pseudonymised zone."""
    if not re.fullmatch(r"rs-[0-9a-f]{16,64}", handle):
        raise InvalidRequest("a restorer's handle is rs- and 16 to 64 hex digits")
    return zones.pseudonymised / "restorers" / handle


def load(folder: Path) -> RestorerModel | None:
    """The record of a finished restorer whose weights still are what it says, or None."""
    model = stored.record(folder / RECORD, RestorerModel)
    if model is None:
        return None
    return model if Restorer(folder).sha256 == model.weights_sha256 else None


def _told(on_progress: Callable[[int, int], None] | None) -> Callable[[Any], None] | None:
    if on_progress is None:
        return None
    return lambda tick: on_progress(tick.step, tick.total)


def from_files(source: Path, *, modality: str, body_part: str = "") -> tuple[Scans, dict[str, Any]]:
    """Images of a DICOM folder or archive, NIfTI volumes, .npz (`images`, and `patient` where known) or .npy.

    `body_part` (as in a header, `HEAD`) is what images show that do not say so themselves. Files that are no such image
    are passed over. Raises `InvalidRequest` where nothing is left, or for a body part that is not known.
    """
    if body_part and not body.regions([body_part]):
        raise InvalidRequest("there is no such body part: name one as a header does, HEAD, CHEST, ABDOMEN or KNEE")
    if not source.exists():
        raise InvalidRequest("the images to learn from do not exist: check the path")
    images = _arrays(source) if source.suffix in {".npz", ".npy"} else _leaves(source, modality)
    return _scans(((image, whose, parts or (body_part,)) for image, whose, parts in images), modality)


Shown = Iterable[tuple[NDArray[Any], Any, Iterable[str]]]
"""Images, whose each is, and words for the parts of the body it shows (none where nothing says so)."""


def _arrays(source: Path) -> Shown:
    try:
        with source.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            images = loaded if isinstance(loaded, np.ndarray) else loaded["images"]
            has_patient = not isinstance(loaded, np.ndarray) and "patient" in loaded
            patient = loaded["patient"] if has_patient else np.zeros(images.shape[:1])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        raise InvalidRequest("an .npz to learn restoration from holds an array `images` (N, H, W)") from None
    if images.ndim != 3 or len(patient) != len(images):  # noqa: PLR2004 - (N, H, W)
        raise InvalidRequest("`images` must be (N, H, W), and `patient` (N,) where it is given")
    return zip(images, patient, repeat(()))


def _leaves(source: Path, modality: str) -> Shown:
    with durable.explained_disk(), scratch.own_folder() as spool:
        for leaf in container.leaves(source, spool=spool):
            if leaf.extent is None:
                continue
            try:
                data = container.read_extent(leaf.extent)
                if nifti.is_nifti(data):
                    volume = nifti_frames(data)
                    yield from ((frame, hashlib.sha256(data).hexdigest(), ()) for frame in volume)
                    continue
                dataset = instances.parse(data)
                if str(dataset.get("Modality", "")) != modality:
                    continue
                decoded = pixels.decode(dataset)
            except BadInstance:
                continue
            if decoded.photometric != "RGB":
                whose, parts = str(dataset.get("PatientID", "")), body.of_header(dataset)
                slope, intercept = decoded.rescale_slope, decoded.rescale_intercept
                yield from ((frame * slope + intercept, whose, parts) for frame in decoded.frames)


def nifti_frames(data: bytes) -> NDArray[np.float64]:
    """Slices (N, H, W) of a NIfTI-1 file's first volume along its third axis; those without anatomy are left out."""
    header = nifti.read_header(data)
    columns, rows, slices, _ = header.shape
    voxels = np.frombuffer(data, f"{header.order}{header.dtype}", columns * rows * slices, header.offset)
    volume = voxels.reshape(slices, rows, columns).astype(np.float64) * (header.slope or 1.0) + header.intercept
    spread = volume.std((1, 2))
    kept: NDArray[np.float64] = volume[spread > _LEAST_FOREGROUND * spread.max()]
    return kept


def _scans(images: Shown, modality: str) -> tuple[Scans, dict[str, Any]]:
    """Each image in [-1, 1] by its own percentiles (CT: by Hounsfield units), patients as indices.

    `body` of what describes them: all regions that are known of any, none where nothing is known.
    """
    window = CT_WINDOW if modality == "CT" else None
    kept, whose = [], []
    shown: set[str] = set()
    for image, patient, parts in images:
        values = np.asarray(image, np.float64)
        if min(values.shape) < LEAST_PX or not np.isfinite(values).all() or values.min() == values.max():
            continue
        lo, hi = window or window_of(values)
        kept.append((np.clip((values - lo) / (hi - lo), 0, 1) * 2 - 1).astype(np.float32))
        whose.append(patient)
        shown |= body.regions(parts)
    if not kept:
        raise InvalidRequest(f"no image of at least {LEAST_PX} px each way was found to learn from")
    index = {one: number for number, one in enumerate(dict.fromkeys(whose))}
    patient_N = np.array([index[one] for one in whose], np.int64)
    return Scans(images=kept, patient=patient_N), {"modality": modality, "window": window, "body": sorted(shown)}
