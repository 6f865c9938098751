"""An archive in, derived instances out: every file restored, left alone, or quarantined with a reason, and counted.

Nothing of the archive is written to, and a second run gives the same files again. OUT holds `restored/` and
`uncertainty/` (one folder a series, named by the new UIDs), `restored.json` (the report, and what was measured of each
image) and `quarantine.jsonl` (digest, reason, and why in words where there are any); `.lock` keeps a second run out. It
holds the images of the same people as IN: the same zone.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgan.archive import container, judge, quarantine, scratch, sources
from medgan.archive.container import Leaf
from medgan.collection import durable
from medgan.errors import BadInstance, InvalidRequest, MedganError, UnusableArchive
from medgan.gan.repair import Restorer, Unfamiliar
from medgan.keys import Keyring
from medgan.records import ArchiveRef, QuarantineRecord, RestorationReport
from medgan.records import QuarantineReason as Reason
from medgan.restoration import body, defects, derived, learn, page
from medgan.settings import Zones

REPORT, QUARANTINE, PAGE, LOCK = "restored.json", "quarantine.jsonl", "restored.html", ".lock"
_PICTURES = 12
_MOST_PX = 25_000_000
"""Of an answer: the largest mammograms have 20 million, and a network needs about 100 bytes for each."""

OnProgress = Callable[[int, int], None]
OnRefused = Callable[[str, Reason], None]


@dataclass(slots=True)
class _Tally:
    """What has come of the files so far."""

    keyring: Keyring | None = None
    received: int = 0
    untouched: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    lines: list[dict[str, str]] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[page.Picture] = field(default_factory=list)

    def unread(self, name: str) -> str:
        """Stands for the digest of a file that cannot be read. A name may be a patient's: keyed, or only its number."""
        if self.keyring is None:
            return hashlib.sha256(b"unread %d" % self.received).hexdigest()
        return self.keyring.mac("unread-file", name).hex()


def restore(
    root: Path,
    out: Path,
    restorer: Restorer,
    *,
    mask_HW: NDArray[np.bool_] | None = None,
    keyring: Keyring | None = None,
    on_progress: OnProgress | None = None,
    on_refused: OnRefused | None = None,
) -> RestorationReport:
    """Restore every single-frame grey image of `root` (folder, zip, tar or file) into the folder `out`.

    `mask_HW` says where all images have their defect (inpainting); without it defects are looked for in each.
    A file that cannot be read is named by its number, or where there is a `keyring` by its keyed name.
    `on_progress` gets (files done, 0). `on_refused` gets digest and reason of each file that is quarantined.

    Raises:
        UnusableArchive: `root` does not exist or holds no file.
        InvalidRequest: `out` lies inside `root` or holds something else.
        Conflict: another process restores into `out`.
    """
    _check(root, out)
    tally = _Tally(keyring=keyring)
    with durable.locked(out / LOCK, wait=False), durable.explained_disk(), scratch.own_folder() as spool:
        durable.sweep_below(out)
        for leaf in container.leaves(root, spool=spool):
            _one(leaf, out, restorer, mask_HW, tally, on_refused)
            if on_progress is not None:
                on_progress(tally.received, 0)
    if not tally.received:
        raise UnusableArchive("the archive is empty")
    return _report(out, restorer, tally)


def _check(root: Path, out: Path) -> None:
    if not root.exists():
        raise UnusableArchive("the archive to restore does not exist: check the path")
    inside = root.resolve()
    if out.resolve() == inside or (root.is_dir() and out.resolve().is_relative_to(inside)):
        raise InvalidRequest("restored images never go where the originals are: choose another folder for them")
    ours = {LOCK, REPORT, QUARANTINE, PAGE, "restored", "uncertainty"}
    # what a killed run left unfinished is ours too: the next one sweeps it
    if out.exists() and not (
        out.is_dir() and all(one.name in ours or one.suffix == durable.PARTIAL for one in out.iterdir())
    ):
        raise InvalidRequest("the output folder holds something else already: choose a new one")


def _one(
    leaf: Leaf,
    out: Path,
    restorer: Restorer,
    mask_HW: NDArray[np.bool_] | None,
    tally: _Tally,
    on_refused: OnRefused | None,
) -> None:
    tally.received += 1
    digest = tally.unread(leaf.name)
    try:
        data = _bytes(leaf)
        digest = hashlib.sha256(data).hexdigest()
        if judge.is_media_directory(data):
            tally.untouched += 1
            return
        if not _guarded(data, out, restorer, mask_HW, tally):
            tally.untouched += 1
    except BadInstance as refused:
        reason = Reason(refused.reason)
        tally.quarantined[reason] += 1
        told = {"told": str(refused)} if str(refused) != refused.reason else {}
        tally.lines.append({"sha256": digest, "reason": str(reason), **told})
        if on_refused is not None:
            on_refused(digest, reason)


def _guarded(data: bytes, out: Path, restorer: Restorer, mask_HW: NDArray[np.bool_] | None, tally: _Tally) -> bool:
    """`_image`; whatever a hostile header makes a library raise becomes a refusal, for its text may quote values."""
    try:
        return _image(data, out, restorer, mask_HW, tally)
    except MedganError:
        raise
    except MemoryError:
        raise BadInstance(Reason.TOO_LARGE) from None
    except Exception:  # noqa: BLE001 - as everywhere that bytes of strangers are parsed
        raise BadInstance(Reason.CORRUPT_HEADER) from None


def _bytes(leaf: Leaf) -> bytes:
    if leaf.extent is None:
        raise BadInstance(leaf.refusal or Reason.NOT_REGULAR_FILE)
    return container.read_extent(leaf.extent)


def _image(data: bytes, out: Path, restorer: Restorer, mask_HW: NDArray[np.bool_] | None, tally: _Tally) -> bool:
    """Restore one file; False where there is nothing to repair."""
    source = derived.read(data)
    _check_header(source, restorer)
    if source.values.size * restorer.degradation.factor**2 > _MOST_PX:
        raise BadInstance(Reason.TOO_LARGE)
    hole = None
    if restorer.degradation.name == "inpaint":
        hole = _hole(source, mask_HW)
        if hole is None:
            return False
    try:
        made = restorer.restore(
            source.values, hole_HW=hole, steps_88=source.steps_88, grey=abs(source.decoded.rescale_slope)
        )
    except Unfamiliar as refused:
        raise BadInstance(Reason.UNFAMILIAR, str(refused)) from None
    except InvalidRequest:
        raise BadInstance(Reason.UNSUPPORTED) from None
    done = derived.Process(
        task=restorer.config.task,
        degradation=restorer.degradation.name,
        factor=restorer.degradation.factor,
        model_sha256=restorer.sha256,
        held_out=restorer.held_out,
    )
    parts = derived.derive(source, made.image, made.uncertainty, done)
    window = float(np.ptp(source.values)) or 1.0
    for folder, part in zip(("restored", "uncertainty"), parts, strict=True):
        durable.write_bytes(out / folder / part.series / f"{part.instance}.dcm", part.data)
    tally.measured.append(
        {
            "instance": parts[0].instance,
            "uncertainty": parts[1].instance,
            "inconsistency": made.inconsistency,
            "invented_share": made.invented_share,
            "guessed_share": made.guessed_share,
            "uncertainty_mean": float(made.uncertainty.mean()) / window,
            "distance": made.distance,
            "distance_limit": made.limit,
        }
    )
    if len(tally.pictures) < _PICTURES:
        tally.pictures.append(page.picture(source.values, made))
    return True


def _check_header(source: derived.Source, restorer: Restorer) -> None:
    """Refuse what its header says to be of another modality or part of the body; pixels tell neither well."""
    modality, learned = restorer.attrs.get("modality"), set(restorer.attrs.get("body") or ())
    if modality not in {None, str(source.dataset.get("Modality", ""))}:
        raise BadInstance(Reason.OTHER_MODALITY, f"of another modality than the restorer learned from ({modality})")
    shown = body.of_header(source.dataset)
    if learned and shown and learned.isdisjoint(shown):
        named = ", ".join(sorted(learned))
        raise BadInstance(Reason.OTHER_BODY_PART, f"of another body part than the restorer learned from ({named})")


def _hole(source: derived.Source, mask_HW: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    if mask_HW is not None:
        if mask_HW.shape != source.values.shape:
            raise BadInstance(Reason.UNSUPPORTED, "the mask has another size than the image")
        return mask_HW if mask_HW.any() else None
    found = [one for one in (derived.padding(source), defects.find(source.values)) if one is not None]
    return np.logical_or.reduce(found) if found else None


def _report(out: Path, restorer: Restorer, tally: _Tally) -> RestorationReport:
    def mean(key: str) -> float:
        return float(np.mean([one[key] for one in tally.measured])) if tally.measured else 0.0

    report = RestorationReport(
        task=restorer.config.task,
        weights_sha256=restorer.sha256,
        received=tally.received,
        restored=len(tally.measured),
        untouched=tally.untouched,
        quarantined=dict(sorted(tally.quarantined.items())),
        inconsistency_worst=max((one["inconsistency"] for one in tally.measured), default=0.0),
        invented_share_mean=mean("invented_share"),
        uncertainty_mean=mean("uncertainty_mean"),
    )
    whole = {**report.model_dump(mode="json"), "held_out": restorer.held_out, "planted": restorer.planted}
    whole["filled"] = restorer.filled
    whole["images"] = tally.measured
    durable.write_bytes(out / QUARANTINE, b"".join(_lines(tally)))
    durable.write_bytes(out / PAGE, page.render(report, restorer, tally.pictures).encode())
    durable.write_bytes(out / REPORT, json.dumps(whole, sort_keys=True, indent=1, allow_nan=False).encode())
    return report


def _lines(tally: _Tally) -> Iterator[bytes]:
    for line in sorted(tally.lines, key=lambda one: (one["sha256"], one["reason"])):
        yield json.dumps(line, sort_keys=True).encode() + b"\n"


def read_mask(path: Path) -> NDArray[np.bool_]:
    """(H, W) True where a PNG or .npy is not 0; `InvalidRequest` when it is neither."""
    from PIL import Image, UnidentifiedImageError

    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                mask = np.load(file, allow_pickle=False)
        else:
            with Image.open(path) as picture:
                mask = np.asarray(picture.convert("L"))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, UnidentifiedImageError, Image.DecompressionBombError):
        raise InvalidRequest("the mask cannot be read: give a PNG or an .npy of the images' size") from None
    if not isinstance(mask, np.ndarray) or mask.ndim != 2:  # noqa: PLR2004 - (H, W)
        raise InvalidRequest("the mask must be two-dimensional")
    return np.asarray(mask != 0)


def restore_source(
    ref: ArchiveRef, handle: str, *, zones: Zones, keyring: Keyring, on_progress: OnProgress | None = None
) -> RestorationReport:
    """Restore a registered source with a restorer of the workspace; results stay in the identified zone.

    They lie in `restored/<source>/<restorer>/`; what was refused has its record among the quarantined.

    Raises:
        InvalidRequest: no such source or restorer.
    """
    root = sources.locate(ref.source, zones=zones, keyring=keyring)
    out = zones.identified / "restored" / ref.source / handle

    def refused(digest: str, reason: Reason) -> None:
        quarantine.record(zones, QuarantineRecord(sha256=digest, reason=reason, stage="restore"))

    restorer = Restorer(learn.restorer_folder(handle, zones=zones))
    return restore(root, out, restorer, keyring=keyring, on_progress=on_progress, on_refused=refused)
