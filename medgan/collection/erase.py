"""Forget a patient: gone from the head at once, from history after the grace, never stored again.

Frames are overwritten with zeros and rows dropped in one commit; copies that landed from remote archives go; then every
state older than the grace expires and what only it held is deleted. Cohorts that held the patient are deleted (they
are prepared again without), with what killed runs left of any. What was trained or published before cannot be
unlearned here: it is listed, for people to decide.

Killed at any moment, a rerun finishes: the list is written before anything is deleted, and only grows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import zarr
from pydantic import TypeAdapter, ValidationError

from medgan import keys
from medgan.archive import sources
from medgan.archive.prune import Pruned
from medgan.collection import durable, landed, layout, packs, read, store, write
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import CollectionSnapshot, Handle
from medgan.records.erasure import Erasure
from medgan.settings import Zones

_HANDLE: TypeAdapter[str] = TypeAdapter(Handle)


def erase(collection: str, patient: str, *, zones: Zones, grace: timedelta = timedelta(0)) -> Erasure:
    """Erase the patient with this pseudonym from `collection`, its history, and every cohort.

    Raises:
        InvalidRequest: no such collection, or not a pseudonym.
        IntegrityError: what was made of the patient cannot be told, because a record is broken.
        Conflict: an ingest is writing, or a cohort is being prepared; try again when it is done.
    """
    _checked(patient)
    begun = _begin(patient, zones)
    with store.writer(collection, zones=zones) as writer:
        frames = drop(writer, patient)
        if frames or patient not in read.withdrawn(writer.group).patients:
            remember(writer.group, patient, ())
            write.commit(writer, f"erase: {frames} frames of 1 patient")
        durable.keep_only(layout.staging(collection, zones=zones), set())
        landings = _let_go(patient, read.table_of(writer.group), read.withdrawn(writer.group), zones)
    done = {
        "collections": tuple(sorted({*begun.collections, collection})),
        "frames": begun.frames + frames,
        "landed": begun.landed + landings.let_go,
        "landed_shared": landings.shared,
    }
    _save(begun.model_copy(update=done), zones)
    expired = store.forget_history(collection, older_than=datetime.now(UTC) - grace, zones=zones)
    _drop_unfinished_cohorts(zones)
    begun = _begin(patient, zones)  # one that was being prepared when the list was written may stand by now
    for cohort in begun.cohorts:
        _delete_cohort(cohort, zones)
    expired += begun.snapshots_expired
    return _save(begun.model_copy(update={"snapshots_expired": expired, "complete": True}), zones)


def drop(writer: store.Writer, patient: str) -> int:
    """Blank the patient's frames, drop the rows, and list their sources; nothing is committed. Returns the frames."""
    count = 0
    for number, part in enumerate(read.parts_of(writer.group)):
        mine = part["patient_key"] == patient
        if not mine.any():
            continue
        rows = part[mine]
        for kind, of_kind in rows.groupby("pack"):
            packs.blank(writer.group, str(kind), of_kind["pack_index"].tolist())
        remember(writer.group, patient, rows["source_sha256"].tolist())
        write.write_part(writer.group, number, part[~mine].reset_index(drop=True))
        count += len(rows)
    return count


def remember(root: zarr.Group, patient: str, sources: Any) -> None:
    """Add the patient and the digests of the patient's files to those that are not stored again."""
    known = read.withdrawn(root)
    listed = {"patients": sorted({*known.patients, patient}), "sources": sorted({*known.sources, *sources})}
    root.attrs.update({read.WITHDRAWN: listed})


def _let_go(patient: str, table: pd.DataFrame, gone: read.Withdrawn, zones: Zones) -> Pruned:
    """What landed of the patient; a machine without the identified zone has nothing of it to delete."""
    if not sources.registered(zones):
        return Pruned()
    keyring = keys.load(zones.pseudonym_key)
    held = set(table["source_sha256"])
    return landed.forget(patient, held=held, withdrawn=gone.sources, zones=zones, keyring=keyring)


def affected(patient: str, *, zones: Zones) -> Erasure:
    """Cohorts and restorers with the patient, what was made of them, however far down, and what may hold anybody."""
    cohorts = {
        path.name for path in _folders(zones.pseudonymised / "cohorts") if _holds(path / "table.parquet", patient)
    }
    models = {
        model["model"]
        for model in _records(zones.pseudonymised / "models", "*/model.json")
        if model.get("cohort") in cohorts
    }
    synthetic = {
        made["synthetic"]
        for made in _records(zones.synthetic / "cohorts", "*/synthetic.json")
        if made.get("cohort") in cohorts or made.get("model") in models
    }
    releases = {
        f"{manifest['name']}@{manifest['version']}"
        for manifest in _records(zones.registry, "*/*/manifest.json")
        if (manifest.get("evidence") or {}).get("synthetic") in synthetic
    }
    return Erasure(
        patient=patient,
        cohorts=tuple(sorted(cohorts)),
        models=tuple(sorted(models)),
        synthetic=tuple(sorted(synthetic)),
        releases=tuple(sorted(releases)),
        restorers=tuple(
            folder.name
            for folder in sorted((zones.pseudonymised / "restorers").glob("rs-*"))
            if _may_have_learned(folder, patient)
        ),
        nameless=tuple(sorted(_nameless(zones))),
    )


def _may_have_learned(restorer: Path, patient: str) -> bool:
    try:
        return patient in json.loads((restorer / layout.LEARNED_FROM).read_bytes())
    except (OSError, ValueError):
        return True


def _nameless(zones: Zones) -> Iterator[str]:
    """What may hold anybody: nothing of ours says whose images it is."""
    for root, pattern in (
        (zones.identified / "restored", "[!.]*/rs-*"),
        (zones.pseudonymised / "personal", "ca-*"),
        (zones.pseudonymised / "patient-adapters", "pa-*"),
    ):
        yield from (f"{root.name}/{path.relative_to(root)}" for path in sorted(root.glob(pattern)))


def _begin(patient: str, zones: Zones) -> Erasure:
    """Write down what is affected before anything goes; an earlier, unfinished list is kept."""
    now, path = affected(patient, zones=zones), _path(patient, zones)
    if not path.is_file():
        return _save(now, zones)
    before = Erasure.model_validate_json(path.read_bytes())
    lists = ("cohorts", "models", "synthetic", "releases", "restorers", "nameless")
    merged = {name: tuple(sorted({*getattr(before, name), *getattr(now, name)})) for name in lists}
    return _save(before.model_copy(update={**merged, "complete": False}), zones)


def _save(record: Erasure, zones: Zones) -> Erasure:
    durable.write_bytes(_path(record.patient, zones), record.canonical())
    return record


def _path(patient: str, zones: Zones) -> Path:
    return zones.pseudonymised / "erasures" / f"{patient}.json"


def _drop_unfinished_cohorts(zones: Zones) -> None:
    """Delete what killed runs left of cohorts, whoever is in it; `Conflict` while one is being prepared."""
    root = zones.pseudonymised / "cohorts"
    for lock in sorted((root / ".locks").glob("co-*")):
        with durable.locked(lock, wait=False):
            durable.sweep(root, lock.name)


def _delete_cohort(cohort: str, zones: Zones) -> None:
    """Delete a cohort's folder under another name first, so that no half of it is ever read."""
    folder = zones.pseudonymised / "cohorts" / _checked(cohort)
    doomed = folder.with_name(f".{cohort}{durable.PARTIAL}")
    with durable.explained_disk():
        if folder.is_dir():
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _holds(table: Path, patient: str) -> bool:
    try:
        return table.is_file() and patient in set(pd.read_parquet(table, columns=["patient_key"])["patient_key"])
    except (OSError, ValueError):
        raise _untold() from None


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("co-*") if path.is_dir())


def _records(root: Path, pattern: str) -> Iterator[dict[str, Any]]:
    for path in sorted(root.glob(pattern)):
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            raise _untold() from None
        if isinstance(found, dict):
            yield found


def _untold() -> IntegrityError:
    return IntegrityError(
        "a record of a cohort, model or release cannot be read, so what was made of the patient cannot be told: "
        "restore it from a copy, then erase again; nothing is deleted yet"
    )


def _checked(handle: str) -> str:
    try:
        return _HANDLE.validate_python(handle)
    except ValidationError:
        raise InvalidRequest("a pseudonym is two to four letters, a dash and 16 to 64 hex digits") from None


def verify_forgotten(snapshot: CollectionSnapshot, patient: str, *, zones: Zones) -> bool:
    """Whether `snapshot` and every state before it that is left hold no row of the patient."""
    states = {commit.snapshot.snapshot_id: commit.snapshot for commit in store.log(snapshot.collection, zones=zones)}
    return not any((read.table(state, zones=zones)["patient_key"] == patient).any() for state in states.values())
