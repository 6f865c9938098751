from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence

from medgan.archive import phantom, pixels
from medgan.deid import apply, dates, labels, profile, pseudonym, table
from medgan.errors import BadInstance, InvalidRequest
from medgan.keys import Keyring
from tests.unit.deid.builders import REAL, phantom_with, read, vendor_files

IMAGES = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
    "examples_jpeg2k.dcm",
    "liver_1frame.dcm",
)


@pytest.mark.parametrize("modality", ["CT", "MR", "DX"])
def test_nothing_planted_in_a_phantom_is_left(modality, keyring, basic):
    for patient in range(12):  # every script
        for data in phantom.phantom_study(patient=patient, modality=modality, instances=2):
            clean = apply.deidentify(data, profile=basic, keyring=keyring).data
            for needle in phantom.needles_of(patient):
                for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
                    assert needle.encode(encoding) not in clean


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("expression", ["basic", "basic+modified-dates+patient-characteristics+clean-descriptors"])
def test_the_image_survives_bit_for_bit(name, expression, keyring):
    data = (REAL / "test_files" / name).read_bytes()
    clean = apply.deidentify(data, profile=profile.load(expression), keyring=keyring)
    before, after = pixels.decode(read(data)), pixels.decode(clean.dataset)
    assert np.array_equal(before.frames, after.frames)
    assert before.photometric == after.photometric


def test_every_vendor_file_ends_as_output_or_with_a_reason(keyring, basic):
    done = 0
    for path in vendor_files():
        try:
            clean = apply.deidentify(path.read_bytes(), profile=basic, keyring=keyring)
        except BadInstance as refusal:
            said = str(refusal)
        else:
            said = ""
            assert clean.dataset.PatientIdentityRemoved == "YES"
            done += 1
        assert path.stem not in said
    assert done > 120


def test_the_output_says_how_it_was_made(keyring):
    chosen = profile.load("basic+modified-dates+patient-characteristics")
    clean = apply.deidentify(phantom_with(), profile=chosen, keyring=keyring).dataset
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.LongitudinalTemporalInformationModified == "MODIFIED"
    assert [item.CodeValue for item in clean.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]
    assert {item.CodingSchemeDesignator for item in clean.DeidentificationMethodCodeSequence} == {"DCM"}
    assert clean.preamble == bytes(128)


def test_two_patients_stay_apart_and_one_stays_one(keyring, basic):
    first = apply.deidentify(phantom_with(patient=1), profile=basic, keyring=keyring)
    again = apply.deidentify(phantom_with(patient=1, modality="MR"), profile=basic, keyring=keyring)
    other = apply.deidentify(phantom_with(patient=2), profile=basic, keyring=keyring)
    elsewhere = apply.deidentify(
        phantom_with(patient=1, IssuerOfPatientID="ANOTHER HOSPITAL"), profile=basic, keyring=keyring
    )
    assert first.patient_key == again.patient_key == first.dataset.PatientID
    assert len({first.patient_key, other.patient_key, elsewhere.patient_key}) == 3


def test_uids_agree_across_references(keyring, basic):
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5.6.7"
    data = phantom_with(ReferencedImageSequence=Sequence([reference]))
    clean = apply.deidentify(data, profile=basic, keyring=keyring)
    target = apply.deidentify(phantom_with(SOPInstanceUID="1.2.3.4.5.6.7"), profile=basic, keyring=keyring)
    assert clean.dataset.ReferencedImageSequence[0].ReferencedSOPInstanceUID == target.dataset.SOPInstanceUID
    assert clean.dataset.ReferencedImageSequence[0].ReferencedSOPClassUID == reference.ReferencedSOPClassUID
    assert target.dataset.file_meta.MediaStorageSOPInstanceUID == target.dataset.SOPInstanceUID


def test_another_process_gives_the_same_pseudonyms(keyring, basic):
    clean = apply.deidentify(phantom_with(), profile=basic, keyring=keyring)
    program = (
        "from medgan.archive import phantom; from medgan.deid import apply, profile; from medgan.keys import Keyring\n"
        "from tests.unit.deid.builders import phantom_with\n"
        "r = apply.deidentify(phantom_with(), profile=profile.load(), keyring=Keyring(secret=bytes(range(32))))\n"
        "import hashlib; print(r.patient_key, r.study_key, hashlib.sha256(r.data).hexdigest())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    import hashlib

    assert said == [clean.patient_key, clean.study_key, hashlib.sha256(clean.data).hexdigest()]


def test_another_key_shares_nothing(basic):
    outputs = [apply.deidentify(phantom_with(), profile=basic, keyring=Keyring(secret=bytes([n]) * 32)) for n in (1, 2)]
    assert outputs[0].patient_key != outputs[1].patient_key
    assert outputs[0].dataset.StudyInstanceUID != outputs[1].dataset.StudyInstanceUID


@given(st.dates(min_value=__import__("datetime").date(1900, 1, 1)), st.integers(0, 4000), st.integers(-3652, -365))
@settings(deadline=None, max_examples=60)
def test_every_interval_stays_exact(first, gap, days):
    import datetime as dt

    try:
        second = first + dt.timedelta(days=gap)
    except OverflowError:
        second = first
    moved = [dates.shift_date(day.strftime("%Y%m%d").encode(), days) for day in (first, second)]
    times = [dates.shift_datetime(day.strftime("%Y%m%d123456.789+0100").encode(), days) for day in (first, second)]
    parsed = [dt.datetime.strptime(day.decode(), "%Y%m%d").date() for day in moved]  # noqa: DTZ007 - dates only
    assert parsed[1] - parsed[0] == second - first
    assert [time[:8] for time in times] == moved
    assert all(time[8:] == b"123456.789+0100" for time in times)


def test_modified_dates_move_everywhere_alike(keyring):
    item = Dataset()
    item.FrameReferenceDateTime = "20200110101112.5"
    data = phantom_with(
        StudyDate="20200101", AcquisitionDateTime="20200103090000", FrameContentSequence=Sequence([item])
    )
    clean = apply.deidentify(data, profile=profile.load("basic+modified-dates"), keyring=keyring).dataset
    study = np.datetime64(f"{clean.StudyDate[:4]}-{clean.StudyDate[4:6]}-{clean.StudyDate[6:]}")
    moved = clean.AcquisitionDateTime
    assert np.datetime64(f"{moved[:4]}-{moved[4:6]}-{moved[6:8]}") - study == np.timedelta64(2, "D")
    nested = clean.FrameContentSequence[0].FrameReferenceDateTime
    assert np.datetime64(f"{nested[:4]}-{nested[4:6]}-{nested[6:8]}") - study == np.timedelta64(9, "D")
    assert study != np.datetime64("2020-01-01")


def test_no_published_value_predicts_another(keyring):
    patients = [pseudonym.patient(keyring, "HOSPITAL", f"MRN{number:06d}") for number in range(4000)]
    shifts = np.array([one.date_shift_days for one in patients], float)
    assert shifts.max() <= -365
    assert shifts.min() >= -3652
    assert len(np.unique(shifts)) > 2000
    uids = np.array([int(pseudonym.replacement_uid(keyring, f"1.2.{number}")[5:]) % 10**9 for number in range(4000)])
    published = [np.arange(4000), uids]
    published += [np.array([int(one.key[3 + at : 7 + at], 16) for one in patients]) for at in range(0, 29, 4)]
    for values in published:  # |r| of independent samples of 4,000 stays below 0.065 with p > 0.99996
        assert abs(np.corrcoef(values, shifts)[0, 1]) < 0.065


def test_a_leak_on_purpose_is_refused(keyring, basic, monkeypatch):
    from medgan.deid import actions

    rule = basic.rules[0x00080080]
    monkeypatch.setitem(basic.rules, 0x00080080, rule._replace(action=actions.KEEP))
    data = phantom_with(InstitutionName="Saint Elsewhere of Nowhereham")
    with pytest.raises(BadInstance) as refused:
        apply.deidentify(data, profile=basic, keyring=keyring)
    assert refused.value.reason == "RESIDUE"
    assert "Elsewhere" not in str(refused.value)


def test_an_instance_without_a_patient_is_refused(keyring, basic):
    with pytest.raises(BadInstance) as refused:
        apply.deidentify(phantom_with(PatientID="", PatientName=""), profile=basic, keyring=keyring)
    assert refused.value.reason == "NO_PATIENT"


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "full",
        "basic+dates",
        "modified-dates",
        "basic+full-dates+modified-dates",
    ],
)
def test_an_unknown_profile_is_refused(expression):
    with pytest.raises(InvalidRequest):
        profile.load(expression)


def test_a_profile_does_not_depend_on_the_order_of_its_options():
    first, second = profile.load("basic+uids+modified-dates"), profile.load("basic + modified-dates + uids")
    assert first.digest == second.digest != profile.load("basic").digest


def test_the_table_is_whole():
    rows = [row for row in table.rows() if row.pattern != table.PRIVATE_PATTERN]
    assert len(rows) == 655
    assert len({row.pattern for row in rows}) == 655
    assert not {row.pattern for row in rows} & {f"{row.tag:08x}" for row in table.allowed()}


def test_a_label_that_few_patients_have_is_no_name_of_theirs(keyring):
    given = {
        **{f"A-{number}": "covid" for number in range(3)},
        **{f"B-{number}": "Zuviqoraxe Jane" for number in range(2)},
        **{f"C-{number}": "Dr Miller" for number in range(4)},
        "D-1": "pleural effusion",
        "D-2": "grade 3",
        "D-3": "pT3bN2aM0",
        "D-4": "0.25",
    }
    rows = [{"PatientID": patient, "finding": finding} for patient, finding in given.items()]
    joined = labels.pseudonymise(rows, keyring=keyring, columns=("finding",))
    assert sorted(set(joined["label_finding"])) == ["", "0.25", "covid", "grade 3", "pT3bN2aM0", "pleural effusion"]
    assert (joined["label_finding"] == "").sum() == 6
    assert labels.left_out(rows, joined, keyring=keyring, columns=("finding", "sex")) == 6


def test_labels_join_by_the_same_patient(keyring, basic):
    clean = apply.deidentify(phantom_with(PatientID="AB-1234", IssuerOfPatientID=""), profile=basic, keyring=keyring)
    rows = [
        {"PatientID": "AB-1234", "finding": "pneumonia", "sex": "m", "age": "93", "ward": "7 North"},
        {"PatientID": "CD-5678", "finding": "Jane Doe, call 0171-555-1234", "sex": "?", "age": "-4"},
        {"PatientID": "", "finding": "normal", "sex": "F", "age": "30"},
    ]
    joined = labels.pseudonymise(rows, keyring=keyring, columns=("finding", "sex", "age"))
    assert list(joined.columns) == ["label_finding", "sex", "age_years"]
    assert joined.loc[clean.patient_key].tolist() == ["pneumonia", "M", 90.0]
    other = joined.drop(clean.patient_key).iloc[0]
    assert other["label_finding"] == other["sex"] == ""
    assert np.isnan(other["age_years"])
    assert len(joined) == 2
    assert labels.left_out(rows, joined, keyring=keyring, columns=("finding", "sex", "age")) == 3
