"""A folder or archive in, de-identified DICOM files out: the tool behind `medgan deid SRC DST`.

Output lies under pseudonyms only: `<patient>/<study>/<series>/<instance>.dcm`, beside `audit/` and `quarantine/`.
Running it twice writes the same bytes; files are written to a temporary name and renamed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgan import keys
from medgan.archive import container, scratch, sources
from medgan.archive.storage import write_atomically
from medgan.deid import apply, audit, deface, elements, mapping, profile, pseudonym
from medgan.errors import BadInstance, Conflict, IntegrityError, InvalidRequest, MedganError, StoreUnavailable
from medgan.records import QuarantineReason, QuarantineRecord

if TYPE_CHECKING:
    from medgan.archive.container import Leaf

AUDIT, QUARANTINE, PARTS = "audit", "quarantine", ".parts"
_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did: counts of files by outcome. `known` were there already, byte for byte."""

    received: int
    written: int
    known: int
    quarantined: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What every worker needs: where to write, the profile by name and the key by handle."""

    destination: Path
    profile: str
    site: str
    key_handle: str
    cuts: dict[str, deface.Shear] = field(default_factory=dict)
    keeps_origin: bool = False


def deidentify_tree(
    source: Path,
    destination: Path,
    *,
    profile_name: str = "basic",
    site: str = "",
    key_handle: str,
    workers: int = 1,
    map_path: Path | None = None,
    map_key_handle: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """De-identify every instance of `source` (folder, zip, tar or file) into `destination`.

    Raises `UnusableArchive`, `UnusableKey` or `InvalidRequest` before anything is written, `Conflict` while another
    run writes to `destination`. A file that is refused leaves a record in `quarantine/`, and the run goes on. With
    `map_path` the way back is kept there, sealed with the key behind `map_key_handle` (the pseudonym key where it is
    empty).
    """
    sources.preflight(source)
    keyring = keys.load(key_handle)
    chosen = profile.load(profile_name, site)
    _check_apart(source, destination)
    map_key = _check_map(map_path, destination, map_key_handle or key_handle)
    counts: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    origins: dict[str, dict[str, str | int]] = {}
    with _explained_disk(), scratch.own_folder() as spool:
        leaves = [leaf for leaf in container.leaves(source, spool=spool) if not _is_index(leaf)]
        job = _Job(
            destination=destination,
            profile=chosen.name,
            site=site,
            key_handle=key_handle,
            keeps_origin=map_path is not None,
            cuts=_cuts(leaves, keyring) if deface.OPTION in chosen.options else {},
        )
        with _alone(destination), audit.Log(destination / AUDIT) as log:
            for done, outcome in enumerate(_outcomes(leaves, job, workers), start=1):
                origins |= outcome.pop("origin", {})
                _settle(outcome, destination)
                log.add(outcome)
                if "refused" in outcome:
                    refused[outcome["refused"]] += 1
                    _record(destination, outcome)
                else:
                    counts[outcome["outcome"]] += 1
                if on_progress is not None:
                    on_progress(done, len(leaves))
            shutil.rmtree(destination / PARTS, ignore_errors=True)
    if map_path is not None:
        mapping.add(map_path, origins, map_key)
    return Report(
        received=len(leaves),
        written=counts["written"],
        known=counts["known"],
        quarantined=dict(sorted(refused.items())),
    )


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """Be the one run that writes to `destination`: its log is one chain, what it leaves over is removed at its end."""
    destination.mkdir(parents=True, exist_ok=True)
    with scratch.held(destination) as alone:
        if not alone:
            raise Conflict("another run is writing to this destination: wait until it is done, then run again")
        yield


@contextmanager
def _explained_disk() -> Iterator[None]:
    """Say in our words what a disk refused: the system's own quote paths."""
    try:
        yield
    except OSError:
        message = "the destination cannot be written: check its free space and permissions, then run again"
        raise StoreUnavailable(message) from None


def _check_apart(source: Path, destination: Path) -> None:
    """Identified and de-identified files must not lie in one tree."""
    from_path, to_path = source.resolve(), destination.resolve()
    if from_path == to_path or from_path in to_path.parents or to_path in from_path.parents:
        raise InvalidRequest("source and destination lie inside each other: give a destination of its own")


def _check_map(map_path: Path | None, destination: Path, handle: str) -> keys.Keyring:
    """The map's key; a map must not lie with what it leads back from."""
    if map_path is not None and destination.resolve() in map_path.resolve().parents:
        raise InvalidRequest("the map leads back to patients: give it a place outside of the destination")
    keyring = keys.load(handle)
    if map_path is not None:
        mapping.opened(map_path, keyring)  # better now than after a night's work
    return keyring


def _cuts(leaves: list[Leaf], keyring: keys.Keyring) -> dict[str, deface.Shear]:
    """Where faces are cut away, by series: a first pass over the files, because a volume lies in many."""
    loaders = [partial(container.read_extent, leaf.extent) for leaf in leaves if leaf.extent is not None]
    return deface.by_key(deface.plan(loaders), partial(pseudonym.series_key, keyring))


def _is_index(leaf: Leaf) -> bool:
    """Whether a file is named DICOMDIR and is one: an index of the medium's files, not an instance."""
    if Path(leaf.name).name.upper() != "DICOMDIR" or leaf.extent is None:
        return False
    try:
        head = container.read_extent(leaf.extent)[: 4 * elements.PREAMBLE_BYTES]
    except BadInstance:
        return False
    return apply.MEDIA_INDEX.encode() + b"\0" in head


def _outcomes(leaves: list[Leaf], job: _Job, workers: int) -> Iterator[dict[str, Any]]:
    """What became of each leaf, in the order of the source whatever the number of workers."""
    if workers <= 1:
        for leaf in leaves:
            yield _one(leaf, job)
        return
    batches = _batched(leaves)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for outcomes in pool.map(_many, batches, [job] * (len(leaves) // _BATCH + 1)):
            yield from outcomes


def _batched(leaves: Iterable[Leaf]) -> Iterator[list[Leaf]]:
    rest = iter(leaves)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _many(leaves: list[Leaf], job: _Job) -> list[dict[str, Any]]:
    return [_one(leaf, job) for leaf in leaves]


def _one(leaf: Leaf, job: _Job) -> dict[str, Any]:
    """De-identify one leaf and write it; the line for the audit."""
    digest = hashlib.sha256()
    try:
        if leaf.extent is None:
            raise BadInstance(str(leaf.refusal))  # noqa: TRY301 - one place turns refusals into lines
        data = container.read_extent(leaf.extent)
        digest.update(data)
        clean = apply.deidentify(
            data, profile=profile.load(job.profile, job.site), keyring=_keyring(job.key_handle), cuts=job.cuts
        )
    except BadInstance as refusal:
        return {"source_sha256": digest.hexdigest(), "refused": QuarantineReason(refusal.reason).value}
    except MedganError:
        raise
    except Exception:  # noqa: BLE001 - its text may quote the file, and the run goes on
        return {"source_sha256": digest.hexdigest(), "refused": QuarantineReason.CORRUPT_HEADER.value}
    write_atomically(job.destination / PARTS / clean.source_sha256, clean.data)
    origin = {}
    if job.keeps_origin and clean.origin is not None:
        origin["origin"] = mapping.entries(
            clean.origin,
            patient_key=clean.patient_key,
            study_key=clean.study_key,
            days=clean.date_shift_days,
        )
    return {
        **origin,
        "place": f"{clean.patient_key}/{clean.study_key}/{clean.series_key}/{clean.instance_key}.dcm",
        "source_sha256": clean.source_sha256,
        "output_sha256": hashlib.sha256(clean.data).hexdigest(),
        "actions": clean.actions,
        "profile": clean.profile,
        "profile_digest": clean.profile_digest,
        "tool": f"medgan {apply.VERSION}",
    }


def _settle(outcome: dict[str, Any], destination: Path) -> None:
    """Give a finished file its place, in the order of the source: the first of two that disagree stays."""
    if "place" not in outcome:
        return
    part, path = destination / PARTS / outcome["source_sha256"], destination / outcome["place"]
    outcome["outcome"] = "written"
    if path.exists():
        same = hashlib.sha256(path.read_bytes()).hexdigest() == outcome["output_sha256"]
        part.unlink(missing_ok=True)
        if same:
            outcome["outcome"] = "known"
            return
        source_sha256 = outcome["source_sha256"]
        outcome.clear()
        outcome.update(source_sha256=source_sha256, refused=QuarantineReason.CONFLICT.value)
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part.replace(path)


@lru_cache(maxsize=4)
def _keyring(handle: str) -> keys.Keyring:
    return keys.load(handle)


def _record(destination: Path, outcome: dict[str, Any]) -> None:
    reason = QuarantineReason(outcome["refused"])
    record = QuarantineRecord(sha256=outcome["source_sha256"], reason=reason, stage="deid")
    write_atomically(destination / QUARANTINE / f"{record.sha256}.json", record.canonical())


def check_files(destination: Path) -> int:
    """How many files lie under `destination` as the audit says; `IntegrityError` where one differs or is missing."""
    said = {
        entry["place"]: entry["output_sha256"]
        for entry in audit.entries(destination / AUDIT)
        if "output_sha256" in entry
    }
    files = {str(path.relative_to(destination)): path for path in destination.glob("pt-*/st-*/se-*/in-*.dcm")}
    for place, digest in said.items():
        path = files.pop(place, None)
        if path is None or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise IntegrityError("a de-identified file is missing or is not what the audit says")
    if files:
        raise IntegrityError(f"{len(files)} files lie there that the audit does not know")
    return len(said)
