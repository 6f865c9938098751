import json
from datetime import datetime, timedelta

import numpy as np
import pytest

from medgan.archive import phantom
from medgan.cohort import layout as cohorts
from medgan.cohort import prepare
from medgan.collection import durable, erase, layout, read, store
from medgan.deid import audit
from medgan.errors import Conflict, IntegrityError, InvalidRequest, StoreUnavailable
from medgan.records import sha256_hex
from medgan.settings import Zones
from tests.builders.cohort import commit, handle, lung_and_heart, outlined, radiographs, xray_recipe, xray_rows

from .conftest import write_zip


@pytest.fixture(scope="module")
def sample():
    pixels, labels = radiographs(40)
    return np.ascontiguousarray(pixels), xray_rows(pixels, labels)


def stored_bytes(zones):
    return sum(path.stat().st_size for path in layout.repository("main", zones=zones).rglob("*") if path.is_file())


def test_an_erased_patient_is_in_no_state_of_the_collection_and_the_others_are_untouched(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    first = commit(rows[:30], pixels, zones)
    commit(rows[30:], pixels, zones)
    gone = rows["patient_key"][3]
    record = erase.erase("main", gone, zones=zones)
    assert (record.frames, record.complete) == (1, True)
    head = store.head("main", zones=zones)
    assert head.instances == 39
    table = read.table(head, zones=zones)
    assert gone not in set(table["patient_key"])
    by_key = dict(zip(rows["instance_key"], rows["source"], strict=True))
    for key, frame in zip(table["instance_key"], read.frames(head, table, zones=zones), strict=True):
        np.testing.assert_array_equal(frame, pixels[by_key[key]])
    with pytest.raises(InvalidRequest):
        read.table(first, zones=zones)
    assert erase.verify_forgotten(head, gone, zones=zones)


@pytest.mark.parametrize("named_by", ["instance_key", "series_key"])
def test_masks_of_an_erased_patients_images_go_too_whoever_they_are_filed_under(named_by, tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    told, stored = outlined(rows, pixels, lung_and_heart(pixels))
    gone, another = rows["patient_key"][3], rows["patient_key"][4]
    misfiled = (told["outlines"] == rows["instance_key"][3]) & (told["structure"] == "heart")
    told.loc[misfiled, ["patient_key", "outlines"]] = another, rows[named_by][3]
    commit(told[told["outlines"] == ""], stored, zones)
    commit(told[told["outlines"] != ""], stored, zones)
    assert erase.erase("main", gone, zones=zones).frames == 3
    head = store.head("main", zones=zones)
    table = read.table(head, zones=zones)
    assert read.masks(table) == {"heart": 39, "lung": 39}
    assert another in set(table["patient_key"])
    with store.writer("main", zones=zones) as writer:
        assert set(told.loc[misfiled, "source_sha256"]) <= read.withdrawn(writer.group).sources
    recipe = xray_recipe(structures=("heart",))
    assert prepare.prepare(head, recipe, zones=zones).masked == 39


def test_the_pixels_are_gone_from_the_disk_not_only_from_the_table(tmp_path, sample):
    _, rows = sample
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (40, 128, 128)).astype(np.uint8)  # does not compress: its bytes show in the size
    rows = xray_rows(noise, np.zeros(40, int))
    zones = Zones.under(tmp_path)
    commit(rows, noise, zones)
    before = stored_bytes(zones)
    for patient in rows["patient_key"][:20]:
        erase.erase("main", patient, zones=zones)
    assert stored_bytes(zones) < 0.6 * before


def test_within_the_grace_the_past_can_still_be_read(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    first = commit(rows, pixels, zones)
    record = erase.erase("main", rows["patient_key"][3], zones=zones, grace=timedelta(days=7))
    assert record.snapshots_expired == 0
    assert len(read.table(first, zones=zones)) == 40
    with pytest.raises(InvalidRequest, match="withdrew since"):
        prepare.prepare(first, xray_recipe(), zones=zones)
    assert store.head("main", zones=zones).instances == 39


def test_what_was_made_with_the_patient_is_listed_and_the_cohort_is_gone(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    prepared = prepare.prepare(commit(rows, pixels, zones), xray_recipe(), zones=zones)
    model = zones.pseudonymised / "models" / handle("mo", 1)
    model.mkdir(parents=True)
    (model / "model.json").write_text(f'{{"model": "{handle("mo", 1)}", "cohort": "{prepared.cohort}"}}')
    made = zones.synthetic / "cohorts" / handle("sy", 1)
    made.mkdir(parents=True)
    (made / "synthetic.json").write_text(f'{{"synthetic": "{handle("sy", 1)}", "model": "{handle("mo", 1)}"}}')
    version = zones.registry / "chest" / "1.0.0"
    version.mkdir(parents=True)
    text = f'{{"name": "chest", "version": "1.0.0", "evidence": {{"synthetic": "{handle("sy", 1)}"}}}}'
    (version / "manifest.json").write_text(text)
    learned = {1: rows["patient_key"][3:5], 2: rows["patient_key"][5:7], 3: None}  # the third kept no list
    for number, patients in learned.items():
        folder = zones.pseudonymised / "restorers" / handle("rs", number)
        folder.mkdir(parents=True)
        if patients is not None:
            (folder / layout.LEARNED_FROM).write_text(json.dumps(list(patients)))
    (zones.identified / "restored/main" / handle("rs", 1)).mkdir(parents=True)
    (zones.identified / "restored/main/.locks").mkdir()
    (zones.pseudonymised / "personal" / handle("ca", 1)).mkdir(parents=True)
    record = erase.erase("main", rows["patient_key"][3], zones=zones)
    assert set(record.restorers) == {handle("rs", 1), handle("rs", 3)}
    assert record.nameless == (f"personal/{handle('ca', 1)}", f"restored/main/{handle('rs', 1)}")
    assert record.cohorts == (prepared.cohort,)
    assert record.models == (handle("mo", 1),)
    assert record.synthetic == (handle("sy", 1),)
    assert record.releases == ("chest@1.0.0",)
    assert not cohorts.folder(prepared.cohort, zones=zones).exists()
    again = erase.erase("main", rows["patient_key"][3], zones=zones)
    assert again.releases == ("chest@1.0.0",)
    assert again.frames == 1


def test_a_broken_record_ends_an_erasure_in_a_sentence_before_anything_is_deleted(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    prepared = prepare.prepare(commit(rows, pixels, zones), xray_recipe(), zones=zones)
    table = cohorts.folder(prepared.cohort, zones=zones) / "table.parquet"
    model = zones.pseudonymised / "models" / handle("mo", 1) / "model.json"
    model.parent.mkdir(parents=True)
    model.write_text('{"model": "mo-1')
    with pytest.raises(IntegrityError, match="cannot be told"):
        erase.erase("main", rows["patient_key"][3], zones=zones)
    model.unlink()
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match="cannot be told"):
        erase.erase("main", rows["patient_key"][3], zones=zones)
    table.write_bytes(whole)
    assert store.head("main", zones=zones).instances == 40
    assert erase.erase("main", rows["patient_key"][3], zones=zones).cohorts == (prepared.cohort,)


def test_what_a_killed_preparation_left_goes_with_a_patient_and_a_living_one_is_waited_for(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    snapshot = commit(rows, pixels, zones)
    prepared = prepare.prepare(snapshot, xray_recipe(), zones=zones)
    home = cohorts.folder(prepared.cohort, zones=zones)
    left = [home.with_name(f".{home.name}.7.partial") / "images", home.with_name(f".{home.name}.npy.7.partial")]
    left[0].mkdir(parents=True)
    left[1].write_bytes(b"frames of patients")
    with durable.locked(home.parent / ".locks" / home.name), pytest.raises(Conflict):
        erase.erase("main", rows["patient_key"][3], zones=zones)
    assert erase.erase("main", rows["patient_key"][3], zones=zones).frames == 1
    assert [path.name for path in home.parent.iterdir() if path.name != ".locks"] == []


def test_a_clock_that_was_set_back_does_not_end_an_erasure_that_left_the_past(tmp_path, sample, monkeypatch):
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) - timedelta(days=1)

    pixels, rows = sample
    zones = Zones.under(tmp_path)
    commit(rows, pixels, zones)
    gone = rows["patient_key"][3]
    with monkeypatch.context() as killed:  # behind its commit, before the past went
        killed.setattr(store, "forget_history", lambda *_, **__: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            erase.erase("main", gone, zones=zones)
    with monkeypatch.context() as set_back:
        set_back.setattr(erase, "datetime", Yesterday)
        set_back.setattr(store, "datetime", Yesterday)
        with pytest.raises(StoreUnavailable, match="clock"):
            erase.erase("main", gone, zones=zones)
    assert erase.erase("main", gone, zones=zones).complete
    assert erase.verify_forgotten(store.head("main", zones=zones), gone, zones=zones)


def test_a_patient_who_is_in_nothing_leaves_everything_as_it_was(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    prepared = prepare.prepare(commit(rows, pixels, zones), xray_recipe(), zones=zones)
    record = erase.erase("main", handle("pt", 999), zones=zones)
    assert (record.frames, record.cohorts) == (0, ())
    assert cohorts.folder(prepared.cohort, zones=zones).exists()
    assert store.head("main", zones=zones).table_sha256 == prepared.collection_snapshot.partition("@")[2]


@pytest.mark.parametrize("stage", ["drop", "forget_history", "_delete_cohort"])
def test_an_erasure_that_was_cut_off_is_finished_by_the_next_one(stage, tmp_path, sample, monkeypatch):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    prepared = prepare.prepare(commit(rows, pixels, zones), xray_recipe(), zones=zones)
    where = store if stage == "forget_history" else erase
    with monkeypatch.context() as patch:
        patch.setattr(where, stage, cut_off)
        with pytest.raises(KeyboardInterrupt):
            erase.erase("main", rows["patient_key"][3], zones=zones)
    record = erase.erase("main", rows["patient_key"][3], zones=zones)
    assert record.complete
    assert record.cohorts == (prepared.cohort,)
    assert not cohorts.folder(prepared.cohort, zones=zones).exists()
    assert erase.verify_forgotten(store.head("main", zones=zones), rows["patient_key"][3], zones=zones)
    assert len(store.log("main", zones=zones)) == 1


def cut_off(*_, **__):
    raise KeyboardInterrupt


def test_the_next_night_does_not_bring_an_erased_patient_back(run, tmp_path, zones):
    files = [*phantom.phantom_study(patient=3, instances=2), *phantom.phantom_study(patient=4)]
    archive = write_zip(tmp_path / "a.zip", {f"{i}.dcm": data for i, data in enumerate(files)})
    first = run(archive)
    table = read.table(first.snapshot, zones=zones)
    (gone,) = set(table.loc[table["patient_key"].duplicated(), "patient_key"])
    erase.erase("main", gone, zones=zones)
    files += phantom.phantom_study(patient=3, study=2)
    second = run(write_zip(tmp_path / "b.zip", {f"{i}.dcm": data for i, data in enumerate(files)}))
    assert (second.received, second.known, second.withdrawn, second.stored) == (4, 1, 3, 0)
    assert second.snapshot.patients == 1
    *_, line = audit.entries(layout.audit("main", zones=zones))
    said = {key: value for key, value in line.items() if key not in ("previous", "digest")}
    assert said == {"source_sha256": sha256_hex(files[-1]), "outcome": "withdrawn"}


def with_a_cohort(sample, zones):
    pixels, rows = sample
    return prepare.prepare(commit(rows, pixels, zones), xray_recipe(), zones=zones), list(rows["patient_key"])


def test_a_training_under_way_is_waited_for_and_what_it_made_is_listed_for_every_patient_of_its_cohort(
    tmp_path, sample
):
    zones = Zones.under(tmp_path)
    prepared, patients = with_a_cohort(sample, zones)
    model = zones.pseudonymised / "models" / handle("mo", 1)
    names = (".state.safetensors.7.partial", "grids/.0001.png.7.partial", ".state.7.tmp", ".tmpAb3X9z")
    left = [model / name for name in names]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    with durable.locked(model.parent / ".locks" / model.name), pytest.raises(Conflict):
        erase.erase("main", patients[3], zones=zones)
    assert not cohorts.folder(prepared.cohort, zones=zones).exists()
    killed = erase.erase("main", patients[3], zones=zones)
    assert (killed.models, killed.nameless, killed.frames) == ((), (f"models/{model.name}",), 1)
    assert killed.snapshots_expired >= 1  # counted although a conflict came behind it
    assert not any(path.exists() for path in left)
    (model / "model.json").write_text(json.dumps({"model": model.name, "cohort": prepared.cohort}))
    adapted = model.with_name(handle("mo", 2))
    adapted.mkdir()
    (adapted / "model.json").write_text(json.dumps({"model": adapted.name, "cohort": handle("co", 2)}))
    (adapted / "config.json").write_text(json.dumps({"adapted": {"base": model.name}}))
    for patient in (patients[3], patients[5]):
        record = erase.erase("main", patient, zones=zones)
        assert (record.cohorts, record.models) == ((prepared.cohort,), tuple(sorted([model.name, adapted.name])))


def test_what_lies_there_without_a_lock_goes_too(tmp_path, sample):
    zones = Zones.under(tmp_path)
    _, patients = with_a_cohort(sample, zones)
    root = zones.pseudonymised / "cohorts"
    for name in (f".{handle('co', 8)}.npy.7.partial", f".{handle('co', 9)}.partial"):  # the second: half deleted
        (root / name).mkdir()
    erase.erase("main", patients[3], zones=zones)
    assert [path.name for path in root.iterdir()] == [".locks"]


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("pseudonymised/models/mo-1/model.json", '{"cohort": "x"}'),
        ("pseudonymised/models/mo-1/model.json", '{"model": "mo-1", "cohort": []}'),
        ("registry/a/1.0.0/manifest.json", '{"evidence": "x"}'),
        ("registry/a/1.0.0/manifest.json", "5"),
    ],
)
def test_a_record_of_another_form_is_told_in_a_sentence(place, content, tmp_path):
    zones = Zones.under(tmp_path)
    root, _, rest = place.partition("/")
    path = getattr(zones, root) / rest
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(IntegrityError, match="cannot be told"):
        erase.affected(handle("pt", 1), zones=zones, cohorts=["x"])
    path.unlink()
    path.symlink_to("/proc/self/mem")  # reading fails with EIO: no damage
    with pytest.raises(StoreUnavailable):
        erase.affected(handle("pt", 1), zones=zones)


@pytest.mark.parametrize("content", ["5", "null", "[" * 100_000])
def test_a_restorer_whose_list_is_broken_may_have_learned_from_anybody(content, tmp_path):
    zones = Zones.under(tmp_path)
    folder = zones.pseudonymised / "restorers" / handle("rs", 1)
    folder.mkdir(parents=True)
    (folder / layout.LEARNED_FROM).write_text(content)
    assert erase.affected(handle("pt", 1), zones=zones).restorers == (folder.name,)


ANN, BEN = handle("pt", 1), handle("pt", 2)


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def a_model(zones, number, *, cohort, base=None):
    home = zones.pseudonymised / "models" / handle("mo", number)
    written(home / "model.json", {"model": home.name, "cohort": handle("co", cohort)})
    written(home / "config.json", {"adapted": {"base": base}} if base else {})
    return home


def test_a_model_whose_cohort_went_without_a_list_may_hold_anybody(tmp_path):
    zones = Zones.under(tmp_path)
    model = a_model(zones, 1, cohort=1)
    written(zones.pseudonymised / "erasures" / "cohorts" / f"{handle('co', 2)}.json", [BEN])
    a_model(zones, 2, cohort=2)
    below = a_model(zones, 3, cohort=2, base=model.name)
    record = erase.affected(ANN, zones=zones)
    assert record.nameless == tuple(sorted([f"models/{model.name}", f"models/{below.name}"]))


@pytest.mark.parametrize("config", [None, ""], ids=["base gone", "no config"])
def test_a_model_whose_base_is_not_told_may_hold_anybody(config, tmp_path):
    zones = Zones.under(tmp_path)
    written(zones.pseudonymised / "erasures" / "cohorts" / f"{handle('co', 1)}.json", [BEN])
    model = a_model(zones, 1, cohort=1, base=handle("mo", 9))
    if config is not None:
        (model / "config.json").write_text(config)
    assert erase.affected(ANN, zones=zones).nameless == (f"models/{model.name}",)
    assert erase.affected(BEN, zones=zones).nameless == ()
    assert erase.affected(BEN, zones=zones).models == (model.name,)


def test_what_was_learning_from_others_leaves_the_list_when_its_record_tells(tmp_path):
    zones = Zones.under(tmp_path)
    restorer = zones.pseudonymised / "restorers" / handle("rs", 1)
    model = zones.pseudonymised / "models" / handle("mo", 1)
    restorer.mkdir(parents=True)
    model.mkdir(parents=True)
    begun = erase._begin(ANN, zones)
    assert (begun.restorers, begun.nameless) == ((restorer.name,), (f"models/{model.name}",))
    written(restorer / layout.LEARNED_FROM, [BEN])
    written(zones.pseudonymised / "erasures" / "cohorts" / f"{handle('co', 1)}.json", [BEN])
    a_model(zones, 1, cohort=1)
    done = erase._begin(ANN, zones)
    assert (done.restorers, done.models, done.nameless) == ((), (), ())


@pytest.mark.parametrize("listed", [False, True], ids=["not listed yet", "in its receipt"])
def test_whose_a_cohort_was_that_an_earlier_release_half_deleted_stays_known(listed, tmp_path, sample):
    zones = Zones.under(tmp_path)
    prepared, patients = with_a_cohort(sample, zones)
    home = cohorts.folder(prepared.cohort, zones=zones)
    if listed:
        erase._begin(patients[3], zones)
    home.rename(home.with_name(f".{home.name}.partial"))
    model = zones.pseudonymised / "models" / handle("mo", 1)
    written(model / "model.json", {"model": model.name, "cohort": prepared.cohort})
    for patient in (patients[3], patients[5]):
        record = erase.erase("main", patient, zones=zones)
        assert (record.cohorts, record.models, record.nameless) == ((prepared.cohort,), (model.name,), ())
    assert not list(home.parent.glob(".co-*"))


def test_a_busy_cohort_of_others_keeps_nobody_s_own(tmp_path, sample):
    zones = Zones.under(tmp_path)
    prepared, patients = with_a_cohort(sample, zones)
    home = cohorts.folder(prepared.cohort, zones=zones)
    with durable.locked(home.parent / ".locks" / "co-0"), pytest.raises(Conflict):
        erase.erase("main", patients[3], zones=zones)
    assert not home.exists()


def test_what_is_being_written_into_a_finished_model_is_left_alone(tmp_path):
    zones = Zones.under(tmp_path)
    written(a_model(zones, 1, cohort=1) / ".classifier.json.7.partial", "")
    erase._sweep_learners(zones)
    assert len(list(zones.pseudonymised.rglob("*.partial"))) == 1
