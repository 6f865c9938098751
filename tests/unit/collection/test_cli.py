import pandas as pd
import pytest
from typer.testing import CliRunner

from medgan import keys
from medgan.collection import read, store
from medgan.collection.cli import app
from medgan.deid import pseudonym
from medgan.errors import InvalidRequest
from tests.builders.cohort import commit, handle, lung_and_heart, outlined, radiographs, xray_rows


@pytest.fixture
def medgan(zones):
    def call(*arguments, **options):
        result = CliRunner().invoke(app, ["collection", *arguments, "--workspace", str(zones.keys.parent)], **options)
        if result.exception is not None:
            raise result.exception
        return result.output

    return call


@pytest.fixture
def filled(zones):
    pixels, labels = radiographs(20)
    rows = xray_rows(pixels, labels)
    keyring = keys.load(zones.pseudonym_key)
    rows.loc[0, "patient_key"] = pseudonym.patient(keyring, "CLINIC", "MRN-1").key
    return rows, commit(rows[:12], pixels, zones), commit(rows[12:].assign(sex="O"), pixels, zones)


def test_log_show_tag_and_diff_tell_the_story_of_a_collection(medgan, filled):
    _, first, second = filled
    medgan("tag", "main", first.snapshot_id, "first-night")
    lines = medgan("log", "main").splitlines()
    assert [line.split()[0] for line in lines] == [second.snapshot_id, first.snapshot_id]
    assert "first-night" in lines[1]
    assert "12 instances" in medgan("show", "main", "first-night")
    assert "20 instances" in medgan("show", "main")
    assert "8 frames came, 0 went" in medgan("diff", "main", "first-night", "head")


def test_show_lists_what_masks_outline_in_images(medgan, zones):
    pixels, labels = radiographs(20)
    masks = lung_and_heart(pixels)
    rows, stored = outlined(xray_rows(pixels, labels), pixels, masks)
    rows = pd.concat([rows, rows[rows["structure"] == "heart"].head(3).assign(instance_key=handle("in", 777))])
    commit(rows, stored, zones)
    lines = [line.split() for line in medgan("show", "main").splitlines()]
    assert [line[2:] for line in lines if line[:2] == ["masks", "of"]] == [
        ["heart", "20", "images"], ["lung", "20", "images"],
    ]  # fmt: skip


def test_diff_counts_changed_columns_of_frames_that_stayed(filled, zones):
    table = read.table(filled[2], zones=zones)
    changed = table.assign(label_finding=table["label_finding"].mask(table.index < 3, "other"))
    difference = read.difference(table, changed[1:])
    assert (difference.added, difference.removed, difference.changed) == (0, 1, {"label_finding": 2})


def test_an_erasure_of_nobody_is_refused(medgan, filled, zones):
    with pytest.raises(InvalidRequest, match="no patient"):
        medgan("erase", "main", input="CLINIC\t \n")
    assert not (zones.pseudonymised / "erasures").exists()


def test_a_patient_is_erased_by_the_original_id_from_standard_input(medgan, filled, zones):
    rows, _, _ = filled
    said = medgan("erase", "main", input="CLINIC\tMRN-1\n")
    assert "1 frames erased" in said
    assert "MRN" not in said
    assert store.head("main", zones=zones).patients == 19
    assert rows["patient_key"][0] not in set(read.table(store.head("main", zones=zones), zones=zones)["patient_key"])


def test_expire_keeps_the_newest_state_only(medgan, filled, zones):
    assert "1 states expired" in medgan("expire", "main", "--days", "0")
    assert [entry.snapshot for entry in store.log("main", zones=zones)] == [filled[2]]


def test_a_state_that_is_not_there_is_said_so(medgan, filled):
    with pytest.raises(Exception, match="no such state"):
        medgan("show", "main", "yesterday")
