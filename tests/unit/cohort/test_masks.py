"""Masks of a synthetic cohort: one byte a pixel beside the images, told and sealed by the record."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from medgan.cohort import layout, masks, prepare, read, resample, synthetic
from medgan.collection import schema, store
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import CohortRecipe, CohortSnapshot, SyntheticCohort, ValidatedCohort
from medgan.settings import Zones
from tests.builders.cohort import commit, handle, lung_and_heart, outlined, radiographs, xray_recipe, xray_rows
from tests.builders.synthetic import synthetic_of

STRUCTURES = ("liver", "left lung")


@pytest.fixture
def zones(tmp_path) -> Zones:
    return Zones.under(tmp_path)


@pytest.fixture
def made(zones) -> tuple[SyntheticCohort, np.ndarray]:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 65536, (40, 16, 16), dtype=np.uint16)
    masks = rng.integers(0, 3, (40, 16, 16), dtype=np.uint8)
    classes = np.array(["a", "b"] * 20)
    return synthetic_of(images, classes, _cohort(), zones, masks=masks, structures=STRUCTURES), masks


def _cohort() -> ValidatedCohort:
    recipe = CohortRecipe(name="masked", modalities=("MR",), class_attribute="finding")
    snapshot = CohortSnapshot(
        cohort="co-" + "0" * 32,
        recipe=recipe,
        collection_snapshot="c@1",
        classes=("a", "b"),
        images=40,
        patients={"train": 20, "holdout-1": 10, "holdout-2": 10},
        size_px=16,
        content_sha256="0" * 64,
    )
    return ValidatedCohort(cohort=snapshot, suite_sha256="0" * 64, statistics_sha256="0" * 64, expectations=1)


def test_masks_are_read_with_their_images(zones, made):
    record, masks = made
    assert np.array_equal(synthetic.load(record, zones=zones).masks, masks)
    array = synthetic.open_masks(synthetic.folder(record.synthetic, zones=zones) / synthetic.IMAGES)
    assert (array.attrs["structures"], array.dtype, array.chunks, array.shards) == (
        list(STRUCTURES),
        np.uint8,
        (16, 16, 16),
        (1024, 16, 16),
    )


@pytest.mark.parametrize("value", [1, 3, 255])
def test_a_changed_mask_is_refused_whether_or_not_its_value_is_a_structure(zones, made, value):
    record, masks = made
    path = synthetic.folder(record.synthetic, zones=zones) / synthetic.IMAGES
    synthetic.open_masks(path, mode="r+")[7] = np.full_like(masks[7], value)
    with pytest.raises(IntegrityError):
        synthetic.load(record, zones=zones)


def test_names_that_are_not_the_records_are_refused(zones, made):
    record, _ = made
    path = synthetic.folder(record.synthetic, zones=zones) / synthetic.IMAGES
    synthetic.open_masks(path, mode="r+").attrs["structures"] = ["liver", "right lung"]
    with pytest.raises(IntegrityError, match="structures"):
        synthetic.load(record, zones=zones)


def test_a_cohort_has_structures_and_masks_or_neither(made):
    record, _ = made
    for change in ({"masks_sha256": None}, {"structures": ()}):
        with pytest.raises(ValidationError, match="neither"):
            SyntheticCohort.model_validate(record.model_dump() | change)


def test_records_without_masks_keep_the_bytes_of_old(made):
    record, _ = made
    assert b"structures" in record.canonical()
    plain = SyntheticCohort.model_validate(record.model_dump(exclude={"structures", "masks_sha256"}))
    assert not {b"structures", b"masks_sha256"} & set(plain.canonical().replace(b'"', b" ").split())
    assert b"structures" not in _cohort().canonical()


@pytest.mark.parametrize("asked", [{"structures": ("liver", "liver")}, {"structures": ("liver",), "volumes": True}])
def test_structures_that_no_mask_could_tell_are_refused(asked):
    with pytest.raises(ValidationError, match="structure"):
        CohortRecipe(name="a", modalities=("CT",), class_attribute="finding", **asked)


def outlined_cohort(zones, change=lambda rows: rows, **recipe):
    """A cohort of 40 radiographs at their own size, and what it was made of."""
    pixels, labels = radiographs(40)
    masks = lung_and_heart(pixels)
    rows, stored = outlined(xray_rows(pixels, labels), pixels, masks)
    snapshot = commit(change(rows), stored, zones)
    asked = xray_recipe(28, **({"structures": ("lung", "heart")} | recipe))
    return read.load(prepare.prepare(snapshot, asked, zones=zones), zones=zones), masks, pixels


def test_a_mask_lies_where_its_image_lies_and_the_later_structure_counts(zones):
    cohort, masks_of, _ = outlined_cohort(zones, structures=("heart", "lung"))
    source = {handle("in", i): i for i in range(40)}
    for row, mask in zip(cohort.table.itertuples(), cohort.masks, strict=True):
        heart, lung = (masks_of[name][source[row.instance_key]] for name in ("heart", "lung"))
        assert np.array_equal(mask, np.where(lung == 1, 2, heart))
    assert cohort.table["masked"].all()
    assert cohort.snapshot.masked == len(cohort.table)


def test_images_are_the_same_whether_or_not_masks_were_asked_for(zones):
    with_masks, _, _ = outlined_cohort(zones)
    snapshot = store.head("main", zones=zones)
    plain = read.load(prepare.prepare(snapshot, xray_recipe(28), zones=zones), zones=zones)
    assert np.array_equal(plain.images, with_masks.images)
    assert plain.masks is None
    assert plain.table.equals(with_masks.table.drop(columns="masked"))


def test_an_image_that_nobody_outlined_is_not_taken_for_one_that_shows_nothing(zones):
    missing = handle("in", 3)
    cohort, _, _ = outlined_cohort(zones, lambda rows: rows[~rows["outlines"].eq(missing)])
    row = cohort.table["instance_key"] == missing
    assert cohort.table.loc[row, "masked"].tolist() == [False]
    assert cohort.snapshot.masked == len(cohort.table) - 1


@pytest.mark.parametrize(
    "other",
    [
        {"patient_key": handle("pt", 999)},
        {"outlines_frame": 1},
        {"pack": "14x56-uint8"},
        {"position_x": 40.0},
        {"orientation": "0\\1\\0\\1\\0\\0"},
        {"spacing_column_mm": 0.5},
        {"structure": "unnamed"},
    ],
)
def test_a_mask_of_another_patient_frame_or_grid_is_left_out(zones, other):
    missing = handle("in", 3)

    def change(rows):
        rows = rows.assign(position_x=0.0, position_y=0.0, position_z=0.0, spacing_row_mm=1.0, spacing_column_mm=1.0)
        rows = rows.assign(orientation="1.000000\\0.000000\\-0.000000\\0.000000\\0.999999\\0.001000")
        rows.loc[rows["outlines"].eq(missing), list(other)] = list(other.values())
        return rows

    pixels, labels = radiographs(40)
    rows, _ = outlined(xray_rows(pixels, labels), pixels, lung_and_heart(pixels))
    changed, recipe = change(rows), xray_recipe(28, structures=("lung", "heart"))
    images = changed[changed["modality"] == "DX"].reset_index(drop=True)
    found, elsewhere = masks.outlines(changed, images, recipe)
    told = set(images.loc[found["row"], "instance_key"])
    assert missing not in told
    assert len(told) == len(images) - 1
    assert elsewhere == (0 if {"patient_key", "outlines_frame", "structure"} & other.keys() else 2)


@pytest.mark.parametrize(
    ("asked", "stored"), [("Heart", "heart structure"), ("heart structure", "heart"), ("heart", "structure of heart")]
)
def test_a_structure_is_asked_for_without_the_words_that_a_terminology_adds(zones, asked, stored):
    cohort, masks_of, _ = outlined_cohort(
        zones, lambda rows: rows.replace({"structure": {"heart": stored}}), structures=(asked,)
    )
    assert cohort.snapshot.recipe.structures == (asked,)
    assert cohort.masks.sum() == masks_of["heart"].sum()


@pytest.mark.parametrize(("asked", "place"), [(("spleen",), "1 of"), (("lung", "spleen"), "2 of")])
def test_a_structure_that_nobody_outlined_is_refused_with_what_there_is(zones, asked, place):
    with pytest.raises(InvalidRequest, match=f"mask of structure {place}.*: heart on 40, lung on 40") as refused:
        outlined_cohort(zones, structures=asked)
    assert "spleen" not in str(refused.value), "only the collection's words are told"


def test_masks_on_another_grid_are_counted_where_they_are_what_is_lacking(zones):
    with pytest.raises(InvalidRequest, match="not taken: 40"):
        outlined_cohort(
            zones, lambda rows: rows.assign(pack=rows["pack"].mask(rows["structure"] == "lung", "9x9-uint8")),
            structures=("lung",),
        )  # fmt: skip


def test_a_collection_without_masks_says_so(zones):
    with pytest.raises(InvalidRequest, match="with masks: none"):
        outlined_cohort(zones, lambda rows: rows[rows["outlines"] == ""])


def test_a_changed_mask_of_a_cohort_is_refused(zones):
    cohort, _, _ = outlined_cohort(zones)
    path = layout.folder(cohort.snapshot.cohort, zones=zones) / layout.IMAGES
    array = synthetic.open_masks(path, mode="r+")
    array[0] = 1 - np.minimum(array[0], 1)
    with pytest.raises(IntegrityError):
        read.load(cohort.snapshot, zones=zones)


def test_nearest_puts_a_mask_where_the_image_is_put():
    inside = np.zeros((40, 20), bool)
    inside[8:32, 5:15] = True
    image = resample.to_square(inside.astype(float), 32, spacing_mm=(1.0, 2.5))
    mask = resample.nearest(inside, 32, spacing_mm=(1.0, 2.5))
    assert np.array_equal(mask, image > 0.5)


def stack(count=6, step_mm=2.0):
    """Rows of one series' slices, and of a mask of each that names the series alone, a micrometre off."""
    flat = {"patient_key": handle("pt", 1), "orientation": "1\\0\\0\\0\\1\\0", "position_x": 0.0, "position_y": 0.0}
    flat |= {"spacing_row_mm": 1.0, "spacing_column_mm": 1.0, "pack": "8x8-uint8", "pack_index": 0}
    heights_mm = step_mm * np.arange(count)
    images = [
        flat | {"instance_key": handle("in", i), "series_key": handle("se", 1), "modality": "CT", "position_z": mm}
        for i, mm in enumerate(heights_mm)
    ]
    told = {"outlines": handle("se", 1), "structure": "liver", "inside_from": 1, "instance_key": handle("in", 99)}
    drawn = [
        flat
        | told
        | {"series_key": handle("se", 2), "frame": i, "outlines_frame": i, "modality": "SEG", "position_z": mm + 1e-3}
        for i, mm in enumerate(heights_mm[::-1])
    ]
    rows = pd.DataFrame(drawn + images)
    return schema.conform(rows.assign(slice_position_mm=rows["position_z"]))


def joined(table, kept=lambda images: images):
    """Instances that got a mask, with the mask's frame, and how many masks got no image."""
    images = kept(table[table["modality"] == "CT"]).reset_index(drop=True)
    table = table.assign(pack_index=table["frame"])
    found, left_out = masks.outlines(table, images, xray_recipe(28, structures=("liver",)))
    if found.empty:
        return {}, left_out
    return dict(zip(images.loc[found["row"], "instance_key"], found["pack_index"], strict=True)), left_out


def test_a_mask_that_names_a_series_is_of_the_image_in_its_very_place():
    table = stack()
    assert joined(table) == ({handle("in", i): 5 - i for i in range(6)}, 0)
    fewer, _ = joined(table, lambda images: images[images["position_z"] != 4.0])
    assert fewer.keys() == {handle("in", i) for i in (0, 1, 3, 4, 5)}


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: mask.assign(slice_position_mm=mask["slice_position_mm"] + 1.0, position_z=mask["position_z"] + 1),
        lambda mask: mask.assign(slice_position_mm=np.nan, position_z=np.nan),
        lambda mask: mask.assign(position_x=3.0),
        lambda mask: mask.assign(patient_key=handle("pt", 2)),
        lambda mask: mask.assign(orientation="0\\1\\0\\1\\0\\0"),
    ],
)
def test_a_mask_of_a_series_that_lies_where_no_image_of_its_patient_lies_is_left_out(change):
    table = stack()
    mask = table["modality"] == "SEG"
    assert joined(pd.concat([table[~mask], change(table[mask])], ignore_index=True)) == ({}, 6)


def test_where_several_images_of_a_series_lie_in_one_place_none_gets_its_mask():
    table = stack()
    first = table[table["instance_key"] == handle("in", 0)].assign(instance_key=handle("in", 7))
    found, left_out = joined(pd.concat([table, first], ignore_index=True))
    assert (found.keys(), left_out) == ({handle("in", i) for i in range(1, 6)}, 1)


def test_a_cohort_has_the_same_masks_whether_images_are_named_or_found_by_place(zones):
    def placed(rows):
        series = rows[rows["modality"] == "DX"].set_index("instance_key")["series_key"]
        told = rows["outlines"].map(series).fillna("")
        place = dict.fromkeys(("position_x", "position_y", "position_z", "slice_position_mm"), 0.0)
        return rows.assign(outlines=told, orientation="1\\0\\0\\0\\1\\0", **place)

    cohort, masks_of, _ = outlined_cohort(zones, placed)
    source = {handle("in", i): i for i in range(40)}
    for row, mask in zip(cohort.table.itertuples(), cohort.masks, strict=True):
        assert np.array_equal(mask == 2, masks_of["heart"][source[row.instance_key]] == 1)


def test_a_mask_that_names_no_frame_of_several_is_of_the_one_in_its_very_place():
    table = stack()
    image = table["modality"] == "CT"
    table.loc[image, "frame"] = np.arange(6)
    table.loc[image, "instance_key"] = table.loc[~image, "outlines"] = handle("in", 0)
    table.loc[~image, "outlines_frame"] = -1
    asked = xray_recipe(28, structures=("liver",))
    images = table[image].reset_index(drop=True)
    found, left_out = masks.outlines(table.assign(pack_index=table["frame"]), images, asked)
    assert (dict(zip(found["row"], found["pack_index"], strict=True)), left_out) == ({i: 5 - i for i in range(6)}, 0)
    nowhere = table.assign(slice_position_mm=np.nan, position_x=np.nan, position_y=np.nan, position_z=np.nan)
    found, left_out = masks.outlines(nowhere, images, asked)
    assert (len(found), left_out) == (0, 6)
