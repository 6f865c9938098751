"""Border types: frozen, closed, and one byte sequence a value."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from medgan import errors
from medgan.records import ArchiveRef, CohortRecipe, CohortSpec, Night, Record, TrainRequest, canonical_json
from medgan.records.release import VersionNumber

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def test_a_record_refuses_unknown_fields_and_changes():
    with pytest.raises(ValidationError):
        TrainRequest(recipe="xray_32_cpu", epochs=3)
    with pytest.raises(ValidationError):
        TrainRequest().seed = 5


@pytest.mark.parametrize("source", ["../etc/passwd", "/mnt/DOE_JANE.zip", "DOE^JANE", "", "a" * 64, "Jane Doe"])
def test_an_archive_reference_has_no_room_for_a_path_or_a_name(source):
    with pytest.raises(ValidationError):
        ArchiveRef(source=source)


@given(JSON)
def test_canonical_json_is_one_byte_sequence_a_value(value):
    again = json.loads(canonical_json(value))
    assert again == value
    assert canonical_json(again) == canonical_json(value)


def test_a_digest_follows_the_content_and_not_the_order_of_fields():
    one = TrainRequest.model_validate({"recipe": "a", "seed": 1})
    same = TrainRequest.model_validate({"seed": 1, "recipe": "a"})
    assert one.digest == same.digest != TrainRequest(recipe="a", seed=2).digest


def test_splits_that_do_not_fill_the_cohort_are_refused():
    with pytest.raises(ValidationError, match="must be 1"):
        CohortRecipe(name="a", modalities=("DX",), class_attribute="finding", train_fraction=0.9)


def test_two_nights_draw_different_images_and_one_night_the_same():
    first, second = (Night(dataset="d", number=n, started="2026-01-01T00:00:00Z") for n in (1, 2))
    assert first.seeded(CohortSpec()).seed != second.seeded(CohortSpec()).seed
    assert first.seeded(CohortSpec()) == first.seeded(CohortSpec())


def _all_records(base=Record):
    for child in base.__subclasses__():
        yield child
        yield from _all_records(child)


@pytest.mark.parametrize("record", sorted(set(_all_records()), key=lambda r: r.__name__))
def test_every_record_is_frozen_closed_and_versioned(record):
    assert record.model_config["frozen"]
    assert record.model_config["extra"] == "forbid"
    assert "schema_version" in record.model_fields


def _all_errors(base=errors.MedganError):
    for child in base.__subclasses__():
        if child.__module__ == "medgan.errors":
            yield child
            yield from _all_errors(child)


@pytest.mark.parametrize("error", sorted(set(_all_errors()), key=lambda e: e.__name__))
def test_every_error_is_drawn_in_the_tree_and_survives_a_trip_between_processes(error):
    assert f"- {error.__name__} " in errors.__doc__
    made = error("TRUNCATED") if error is errors.BadInstance else error("what happened")
    again = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own bytes
    assert type(again) is error
    assert str(again) == str(made)
    assert again.kind == made.kind


@pytest.mark.parametrize("version", ["1.00.0", "01.0.0", "1.0", "1.0.0-rc", "1.0.0\n", "-1.0.0"])
def test_a_version_number_is_written_in_one_way(version):
    number = TypeAdapter(VersionNumber)
    assert number.validate_python("10.0.3") == "10.0.3"
    with pytest.raises(ValidationError):
        number.validate_python(version)
