"""Forget a patient: gone from the head at once, from history after the grace, never stored again.

Frames are overwritten with zeros and rows dropped in one commit; copies that landed from remote archives go; then every
state older than the grace expires and what only it held is deleted. Cohorts that held the patient are deleted (they
are prepared again without), with what killed runs left of any; whose they were stays written down, because models that
learned from them stay. What was trained or published before cannot be unlearned here: it is listed, for people to
decide.

Killed at any moment, a rerun finishes: the list is written before anything is deleted, and only what has a record
by then that tells of others leaves it.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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
from medgan.errors import Conflict, IntegrityError, InvalidRequest, of_system
from medgan.records import CollectionSnapshot, Handle, canonical_json
from medgan.records.erasure import Erasure
from medgan.settings import Zones

_HANDLE: TypeAdapter[str] = TypeAdapter(Handle)


def erase(collection: str, patient: str, *, zones: Zones, grace: timedelta = timedelta(0)) -> Erasure:
    """Erase the patient with this pseudonym from `collection`, its history, and every cohort.

    Raises:
        InvalidRequest: no such collection, or not a pseudonym.
        IntegrityError: what was made of the patient cannot be told, because a record is broken.
        Conflict: an ingest is writing, a cohort is being prepared, or a model or restorer is learning: the patient is
            gone from the collection, and what may have been made meanwhile is listed when it is done; try again then.
        StoreUnavailable: a disk refuses; try again.
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
    begun = _save(begun.model_copy(update=done), zones)
    expired = store.forget_history(collection, older_than=datetime.now(UTC) - grace, zones=zones)
    _save(begun.model_copy(update={"snapshots_expired": begun.snapshots_expired + expired}), zones)
    _each(begun.cohorts, lambda cohort: _delete_cohort(cohort, zones))
    _sweep_cohorts(zones)
    # One that was being prepared when the list was made may stand by now.
    _each(_begin(patient, zones).cohorts, lambda cohort: _delete_cohort(cohort, zones))
    _sweep_learners(zones)
    # Nothing reads these cohorts any more, and what was learning from them has written its record or is dead.
    return _save(_begin(patient, zones).model_copy(update={"complete": True}), zones)


def drop(writer: store.Writer, patient: str) -> int:
    """Blank the patient's frames, drop the rows, and list their sources; nothing is committed. Returns the frames.

    What was drawn on an image or series of the patient goes with it, whoever a segmentation is filed under.
    """
    count, parts = 0, read.parts_of(writer.group)
    own = [part.loc[part["patient_key"] == patient, ["instance_key", "series_key"]] for part in parts]
    images = {key for part in own for key in part.to_numpy().ravel()}
    for number, part in enumerate(parts):
        mine = part["patient_key"] == patient
        if "outlines" in part:
            mine |= part["outlines"].isin(images)
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


def affected(patient: str, *, zones: Zones, cohorts: Iterable[str] = ()) -> Erasure:
    """Cohorts and restorers with the patient, what was made of them, however far down, and what may hold anybody.

    `cohorts` held the patient too, whether they stand or not.
    """
    within = {*cohorts, *_standing(patient, zones), *_deleted(patient, zones)}
    models, untold = _models(within, zones)
    synthetic = {
        _handle_in(made, "synthetic")
        for made in _records(zones.synthetic / "cohorts", "*/synthetic.json")
        if _text(made, "cohort") in within or _text(made, "model") in models
    }
    releases = {
        f"{_text(manifest, 'name')}@{_text(manifest, 'version')}"
        for manifest in _records(zones.registry, "*/*/manifest.json")
        if _text(_object(manifest.get("evidence") or {}), "synthetic") in synthetic
    }
    return Erasure(
        patient=patient,
        cohorts=tuple(sorted(within)),
        models=tuple(sorted(models)),
        synthetic=tuple(sorted(synthetic)),
        releases=tuple(sorted(releases)),
        restorers=tuple(
            folder.name
            for folder in sorted((zones.pseudonymised / "restorers").glob("rs-*"))
            if _may_have_learned(folder, patient)
        ),
        nameless=tuple(sorted({*_nameless(zones), *(f"models/{model}" for model in untold)})),
    )


def _standing(patient: str, zones: Zones) -> Iterator[str]:
    for folder in _folders(zones.pseudonymised / "cohorts"):
        if patient in _patients_of(folder):
            yield folder.name


def _deleted(patient: str, zones: Zones) -> Iterator[str]:
    """Cohorts that went with another patient, as `_delete_cohort` wrote down whose they were."""
    for path in sorted(_whose("co-*", zones).parent.glob("co-*.json")):
        listed = _json(path)
        if not isinstance(listed, list):
            raise _untold()
        if patient in listed:
            yield path.stem


def _models(cohorts: set[str], zones: Zones) -> tuple[set[str], set[str]]:
    """Models that learned from one of `cohorts` or were adapted from such a one, and those of which nothing tells.

    Nothing does where the cohort went without a list of its patients, or the base is gone or cannot be told.
    """
    root = zones.pseudonymised / "models"
    known = {folder.name for folder in _folders(zones.pseudonymised / "cohorts")}
    known |= cohorts | {path.stem for path in _whose("co-*", zones).parent.glob("co-*.json")}
    learned, untold, base_of = set(), set(), {}
    for record in _records(root, "*/model.json"):
        model, cohort = _handle_in(record, "model"), _text(record, "cohort")
        if cohort in cohorts:
            learned.add(model)
        elif cohort not in known:
            untold.add(model)
        try:
            described = _object(_json(root / model / "config.json") or {})
            base_of[model] = _text(_object(described.get("adapted") or {}), "base")
        except IntegrityError:
            base_of[model] = ""  # no model is called so
    untold |= {model for model, base in base_of.items() if base is not None and base not in base_of}
    return (found := _adapted(learned, base_of)), _adapted(untold, base_of) - found


def _adapted(models: set[str], base_of: dict[str, str | None]) -> set[str]:
    """`models`, and what was adapted from them, however far down."""
    while more := {model for model, base in base_of.items() if base in models} - models:
        models = models | more
    return models


def _may_have_learned(restorer: Path, patient: str) -> bool:
    try:
        listed = json.loads((restorer / layout.LEARNED_FROM).read_bytes())
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(listed, list) or patient in listed


def _nameless(zones: Zones) -> Iterator[str]:
    """What may hold anybody: nothing of ours says whose images it is."""
    for root, pattern in (
        (zones.identified / "restored", "[!.]*/rs-*"),
        (zones.pseudonymised / "personal", "ca-*"),
        (zones.pseudonymised / "patient-adapters", "pa-*"),
    ):
        yield from (f"{root.name}/{path.relative_to(root)}" for path in sorted(root.glob(pattern)))
    for model in sorted((zones.pseudonymised / "models").glob("mo-*")):  # a training that was cut off
        if not (model / "model.json").exists():
            yield f"models/{model.name}"


def _begin(patient: str, zones: Zones) -> Erasure:
    """Write down what is affected before anything goes; an earlier, unfinished list is kept."""
    path = _path(patient, zones)
    if not path.is_file():
        return _save(affected(patient, zones=zones), zones)
    try:
        before = Erasure.model_validate(_object(_json(path)))
    except ValidationError:
        raise _untold() from None
    now = affected(patient, zones=zones, cohorts=before.cohorts)
    lists = ("cohorts", "models", "synthetic", "releases", "restorers", "nameless")
    merged = {name: {*getattr(before, name), *getattr(now, name)} for name in lists}
    # What was learning when it was listed may have its record by now, which tells of others.
    home = zones.pseudonymised
    told = (name for name in before.restorers if (home / "restorers" / name / layout.LEARNED_FROM).is_file())
    merged["restorers"] -= {*told} - {*now.restorers}
    told = (name for name in before.nameless if name.startswith("models/") and (home / name / "model.json").is_file())
    merged["nameless"] -= {*told} - {*now.nameless}
    return _save(
        before.model_copy(update={**{name: tuple(sorted(names)) for name, names in merged.items()}, "complete": False}),
        zones,
    )


def _save(record: Erasure, zones: Zones) -> Erasure:
    durable.write_bytes(_path(record.patient, zones), record.canonical())
    return record


def _path(patient: str, zones: Zones) -> Path:
    return zones.pseudonymised / "erasures" / f"{patient}.json"


def _whose(cohort: str, zones: Zones) -> Path:
    """Where the patients of a deleted cohort are listed."""
    return zones.pseudonymised / "erasures" / "cohorts" / f"{cohort}.json"


def _each(names: Iterable[str], act: Callable[[str], None]) -> None:
    """`act` on every one of `names`; `Conflict` in the end where one was busy."""
    busy = None
    for name in names:
        try:
            act(name)
        except Conflict as conflict:
            busy = conflict
    if busy is not None:
        raise busy


def _sweep_cohorts(zones: Zones) -> None:
    """Delete what killed runs left of cohorts, whoever is in it; `Conflict` while one is being prepared."""
    root = zones.pseudonymised / "cohorts"

    def sweep(name: str) -> None:
        with durable.locked(root / ".locks" / name, wait=False):
            _keep_whose(name, zones)
            durable.sweep(root, name)

    left = {path.name.split(".")[1] for path in root.glob(f".co-*{durable.PARTIAL}")}  # earlier releases held no lock
    _each(sorted({*_locks(root), *left}), sweep)


def _keep_whose(cohort: str, zones: Zones) -> None:
    """Write down who is in a half-deleted cohort: an erasure of an earlier release, killed, kept no list."""
    listed = _whose(cohort, zones)
    for left in (zones.pseudonymised / "cohorts").glob(f".{cohort}.*"):
        with suppress(IntegrityError):  # what cannot be read tells nothing: its models are nameless
            if left.is_dir() and not listed.exists() and (patients := _patients_of(left)):
                durable.write_bytes(listed, canonical_json(sorted(patients)))


def _sweep_learners(zones: Zones) -> None:
    """Delete what killed runs left half-written in models and restorers; `Conflict` while one is learning.

    A finished model is measured without a lock: what lies in its folder may be somebody's who lives.
    """
    for root in (zones.pseudonymised / "models", zones.pseudonymised / "restorers"):
        for name in sorted({*_locks(root), *(folder.name for folder in root.glob("[mr][os]-*"))}):
            with durable.locked(root / ".locks" / name, wait=False):
                if not (root / name / "model.json").exists():
                    durable.sweep_below(root / name)


def _locks(root: Path) -> Iterator[str]:
    return (lock.name for lock in (root / ".locks").glob("*"))


def _delete_cohort(cohort: str, zones: Zones) -> None:
    """Delete a cohort's folder under another name first, so that no half of it is ever read; keep whose it was."""
    folder = zones.pseudonymised / "cohorts" / _checked(cohort)
    with durable.locked(folder.parent / ".locks" / cohort, wait=False), durable.explained_disk():
        if folder.is_dir():
            durable.write_bytes(_whose(cohort, zones), canonical_json(sorted(_patients_of(folder))))
            folder.rename(folder.with_name(f".{cohort}.{os.getpid()}{durable.PARTIAL}"))
        _keep_whose(cohort, zones)
        durable.sweep(folder.parent, cohort)


def _patients_of(cohort: Path) -> set[str]:
    """Pseudonyms in a cohort's table; none where there is no table."""
    data = _bytes(cohort / "table.parquet")
    if data is None:
        return set()
    try:
        return set(pd.read_parquet(io.BytesIO(data), columns=["patient_key"])["patient_key"])
    except (OSError, ValueError, KeyError, TypeError):
        raise _untold() from None


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("co-*") if path.is_dir())


def _records(root: Path, pattern: str) -> Iterator[dict[str, Any]]:
    for path in sorted(root.glob(pattern)):
        if (found := _json(path)) is not None:
            yield _object(found)


def _bytes(path: Path) -> bytes | None:
    """What stands in `path`, or None where nothing does (any more); `StoreUnavailable` where the disk refuses it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise of_system(error) from None


def _json(path: Path) -> Any:
    """The JSON in `path`, or None where it is gone."""
    data = _bytes(path)
    try:
        return None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        raise _untold() from None


def _object(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise _untold()
    return found


def _text(record: dict[str, Any], key: str) -> str | None:
    found = record.get(key)
    if not isinstance(found, str | None):
        raise _untold()
    return found


def _handle_in(record: dict[str, Any], key: str) -> str:
    try:
        return _HANDLE.validate_python(record.get(key))
    except ValidationError:
        raise _untold() from None


def _untold() -> IntegrityError:
    return IntegrityError(
        "a record of a cohort, model or release cannot be read, so what was made of the patient cannot be told: "
        "restore it from a copy, then erase again"
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
