from dataclasses import dataclass

import numpy as np
import pytest

from medgan.collection import merge, read, schema, staging
from medgan.collection.accounting import Accounting
from medgan.collection.staging import Batch, Stage
from medgan.errors import IntegrityError
from medgan.records import sha256_hex
from tests.builders.cohort import handle


@dataclass(frozen=True)
class Source:
    sha256: str
    instance: str
    pixels: np.ndarray
    patient: str = handle("pt", 1)


def source(name, instance=1, value=0, patient=1):
    frames = np.full((2, 3, 3), value, np.uint16)
    return Source(sha256_hex(name.encode()), handle("in", instance), frames, handle("pt", patient))


def staged(folder, sources, refused=()):
    batch = Batch.of([(handle("st", 1), one) for one in sources], context={})
    target = folder / batch.name
    target.mkdir(parents=True)
    stage = Stage(target)
    for one in sources:
        keys = {"study_key": handle("st", 1), "series_key": handle("se", 1), "patient_key": one.patient}
        stage.add({"instance_key": one.instance, "source_sha256": one.sha256, **keys}, one.pixels)
    stage.refused.update(refused)
    stage.close()
    return batch


def settle(tmp_path, sources, table=None, **options):
    accounting = Accounting(received=frozenset(one.sha256 for one in sources))
    batch = staged(tmp_path, sources)
    settled = merge.settle([batch], tmp_path, schema.frame_of([]) if table is None else table, accounting, **options)
    accounting.check()
    assert accounting.pending == set()
    return settled, accounting


def test_the_same_uid_with_other_pixels_is_a_conflict_and_nothing_is_overwritten(tmp_path):
    held, _ = settle(tmp_path / "a", [source("one", value=1)])
    settled, accounting = settle(tmp_path / "b", [source("other", value=2)], held.rows)
    assert accounting.reasons == {"CONFLICT": 1}
    assert settled.rows.empty
    assert list(settled.conflicts) == [sha256_hex(b"other")]


def test_the_same_pixels_under_another_header_are_known(tmp_path):
    held, _ = settle(tmp_path / "a", [source("one")])
    settled, accounting = settle(tmp_path / "b", [source("other")], held.rows)
    assert accounting.known == {sha256_hex(b"other")}
    assert settled.rows.empty


def test_between_two_newcomers_the_order_of_files_does_not_decide(tmp_path):
    two = [source("one", value=1), source("two", value=2)]
    stored = {frozenset(settle(tmp_path / str(i), order)[1].stored) for i, order in enumerate([two, two[::-1]])}
    assert stored == {frozenset({min(one.sha256 for one in two)})}


def test_what_comes_of_an_erased_patient_is_not_stored_again(tmp_path):
    sources = [source("one", 1, patient=1), source("two", 2, patient=2)]
    settled, accounting = settle(tmp_path, sources, withdrawn={handle("pt", 2)})
    assert accounting.withdrawn == {sha256_hex(b"two")}
    assert set(settled.rows["patient_key"]) == {handle("pt", 1)}


def test_staged_frames_come_back_and_a_torn_one_is_refused(tmp_path):
    settled, _ = settle(tmp_path, [source("one", 1, value=5), source("two", 2, value=9)])
    values = [int(frame.max()) for frame in staging.frames(settled.folders, settled.rows)]
    assert sorted(values) == [5, 5, 9, 9]
    raw = next(settled.folders[0].glob("*.raw"))
    raw.write_bytes(b"\7" * raw.stat().st_size)
    with pytest.raises(IntegrityError):
        list(staging.frames(settled.folders, settled.rows))


def test_an_accounting_that_does_not_add_up_stops_before_the_commit():
    accounting = Accounting(received=frozenset({"a", "b"}))
    accounting.stored.add("a")
    accounting.check()
    assert accounting.pending == {"b"}
    accounting.known.add("a")
    with pytest.raises(IntegrityError):
        accounting.check()


def test_rows_of_a_volume_are_in_order_along_its_normal():
    rows = [
        {"study_key": "s", "series_key": "v", "instance_key": f"in-{i}", "slice_position_mm": z, "instance_number": n}
        for i, (z, n) in enumerate([(3.0, 1), (-1.5, 2), (float("nan"), 0), (0.0, 3)])
    ]
    ordered = schema.in_order(schema.frame_of(rows))
    assert ordered["instance_key"].tolist() == ["in-1", "in-3", "in-0", "in-2"]
    assert read.content_digest(ordered) == read.content_digest(schema.in_order(schema.frame_of(rows[::-1])))
