from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset, Sequence

from medgan.archive import pixels, references
from medgan.deid import apply, burned_in, profile
from medgan.errors import BadInstance
from tests.unit.deid.builders import phantom_with, read, write


def burnt(**values) -> tuple[bytes, np.ndarray, np.ndarray]:
    """A secondary capture, unless `values` say otherwise, with a line of text: file, pixels and ink."""
    dataset = read(phantom_with(**{"ImageType": ["DERIVED", "SECONDARY"], **values}))
    rows, columns = 160, 240
    y, x = np.mgrid[:rows, :columns]
    plain = (300 + x + 2 * y).astype(np.int16)
    canvas = Image.new("L", (columns, rows))
    ImageDraw.Draw(canvas).text((20, 30), "DOE^JANE 48213377", fill=255, font=ImageFont.load_default(size=18))
    ink = np.asarray(canvas) > 127
    drawn = np.where(ink, np.int16(2000), plain)
    dataset.Rows, dataset.Columns, dataset.PixelData = rows, columns, drawn.tobytes()
    return write(dataset), drawn, ink


@pytest.fixture(scope="module")
def cleaning():
    return profile.load("basic+clean-pixel-data")


def test_text_is_blanked_and_the_rest_stays_equal(cleaning, keyring):
    data, drawn, ink = burnt()
    clean = apply.deidentify(data, profile=cleaning, keyring=keyring)
    after = pixels.decode(clean.dataset).frames[0]
    assert (after[ink] == drawn.min()).mean() > 0.99
    changed = after != drawn
    top, bottom = np.flatnonzero(ink.any(axis=1))[[0, -1]]
    assert not changed[: top - 25].any()
    assert not changed[bottom + 25 :].any()
    assert np.array_equal(after[~changed], drawn[~changed])
    assert clean.dataset.BurnedInAnnotation == "NO"
    assert "113101" in [item.CodeValue for item in clean.dataset.DeidentificationMethodCodeSequence]


def test_what_nobody_asked_to_clean_is_not_touched(basic, keyring):
    data, drawn, _ = burnt()
    clean = apply.deidentify(data, profile=basic, keyring=keyring)
    assert np.array_equal(pixels.decode(clean.dataset).frames[0], drawn)


def test_original_images_of_safe_modalities_are_not_looked_at(cleaning, keyring, monkeypatch):
    monkeypatch.setattr(burned_in, "detect", lambda _: pytest.fail("looked at"))
    data = phantom_with("CT")
    apply.deidentify(data, profile=cleaning, keyring=keyring)


def original(pixels_HW: np.ndarray, modality: str = "CT") -> bytes:
    """An original image of `modality` with these pixels, -2048 to 2047."""
    dataset = read(phantom_with(Modality=modality, ImageType=["ORIGINAL", "PRIMARY"]))
    dataset.Rows, dataset.Columns = pixels_HW.shape
    dataset.PixelData = pixels_HW.astype(np.int16).tobytes()
    return write(dataset)


def body() -> np.ndarray:
    """(240, 240) int16: an ellipse of noisy tissue in air that is clipped at -1024."""
    y, x = np.mgrid[:240, :240]
    noise = np.random.default_rng(1).normal(0, 15, (240, 240))
    return np.where(((x - 120) / 95) ** 2 + ((y - 130) / 75) ** 2 < 1, 40 + noise, -1024).astype(np.int16)


def letters(at: tuple[int, int]) -> np.ndarray:
    canvas = Image.new("L", (240, 240))
    ImageDraw.Draw(canvas).text(at, "DOE^JANE 4821", fill=255, font=ImageFont.load_default(size=16))
    return np.asarray(canvas) > 127


@pytest.mark.parametrize("grey", [2047, 700, 40])
def test_text_in_the_empty_background_of_an_original_is_blanked_and_nothing_else(grey, cleaning, keyring):
    """At the end of the scale, in a grey of its own, in a grey of the tissue."""
    ink = letters((50, 8))
    clean = apply.deidentify(original(np.where(ink, grey, body())), profile=cleaning, keyring=keyring)
    assert np.array_equal(pixels.decode(clean.dataset).frames[0], body())


@pytest.mark.parametrize("grey", [2047, -1024])
def test_text_over_the_anatomy_of_an_original_waits_for_somebody(grey, cleaning, keyring):
    data = original(np.where(letters((65, 120)), grey, body()))
    with pytest.raises(BadInstance) as refused:
        apply.deidentify(data, profile=cleaning, keyring=keyring)
    assert refused.value.reason == "BURNED_IN"


@pytest.mark.parametrize("ink", [(255, 255, 0), (0, 255, 0), (255, 255, 255)])
def test_an_original_in_colour_is_searched_as_any_picture_is(ink, cleaning, keyring):
    canvas = Image.new("RGB", (256, 256), (60, 60, 60))
    ImageDraw.Draw(canvas).text((20, 30), "MILLER ANNA", fill=ink, font=ImageFont.load_default(size=20))
    dataset = read(phantom_with(Modality="NM", ImageType=["ORIGINAL", "PRIMARY"]))
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "RGB", 3, 0
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 256, 256, 8, 8, 7
    dataset.PixelRepresentation, dataset.PixelData = 0, canvas.tobytes()
    clean = apply.deidentify(write(dataset), profile=cleaning, keyring=keyring)
    assert len(np.unique(pixels.decode(clean.dataset).frames.reshape(-1, 3), axis=0)) <= 2


def test_letters_as_large_as_a_headline_are_found_on_a_small_matrix(cleaning, keyring):
    canvas = Image.new("L", (128, 128))
    ImageDraw.Draw(canvas).text((8, 40), "MILLER", fill=255, font=ImageFont.load_default(size=24))
    counts = np.random.default_rng(0).poisson(20, (128, 128))
    data = original(np.where(np.asarray(canvas) > 127, 400, counts), "NM")
    with pytest.raises(BadInstance, match="somebody has to look"):
        apply.deidentify(data, profile=cleaning, keyring=keyring)


def test_a_long_thin_line_is_read_in_parts(cleaning, keyring):
    row = np.zeros((40, 3200), np.int16)
    row[12:20, 100:3100:12] = row[12:14, 100:3100] = 2047  # a ruler
    clean = apply.deidentify(original(row), profile=cleaning, keyring=keyring)
    assert np.array_equal(pixels.decode(clean.dataset).frames[0], row)


def with_metal(height: int, width: int, gap: int) -> np.ndarray:
    values = body()
    for number in range(8):
        left = 60 + number * (width + gap)
        values[110 + number % 2 : 110 + number % 2 + height, left : left + width] = 2047
    return values


@pytest.mark.parametrize(
    ("values", "modality"),
    [
        pytest.param(with_metal(10, 9, 6), "CT", id="fillings"),
        pytest.param(with_metal(12, 4, 5), "CT", id="clips"),
        pytest.param((body() + 1024) // 64 * 64, "MR", id="a scale with gaps"),
        pytest.param(np.where(letters((50, 8)), 255, 0), "SEG", id="labels"),
    ],
)
def test_an_original_on_which_nothing_is_drawn_stays_and_costs_no_search(
    values, modality, cleaning, keyring, monkeypatch
):
    monkeypatch.setattr(burned_in, "detect", lambda _: pytest.fail("looked at"))
    clean = apply.deidentify(original(values, modality), profile=cleaning, keyring=keyring)
    assert np.array_equal(pixels.decode(clean.dataset).frames[0], values)


def test_a_label_of_an_image_that_is_no_slide_is_no_picture_of_one(cleaning, keyring):
    """Arterial spin labelling says LABEL and CONTROL."""
    data = phantom_with("MR", ImageType=["ORIGINAL", "PRIMARY", "ASL", "LABEL"])
    assert apply.deidentify(data, profile=cleaning, keyring=keyring)


def test_the_picture_of_a_slides_label_waits_for_somebody(cleaning, keyring):
    data = phantom_with(Modality="SM", ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"])
    with pytest.raises(BadInstance) as refused:
        apply.deidentify(data, profile=cleaning, keyring=keyring)
    assert refused.value.reason == "BURNED_IN"
    assert apply.deidentify(data, profile=cleaning, keyring=keyring, reviewed=["BURNED_IN"])


def test_doubt_is_a_refusal_until_somebody_looked(cleaning, keyring, monkeypatch):
    data, drawn, _ = burnt()
    monkeypatch.setattr(burned_in, "detect", lambda _: [(0, 10, 0, 10)])  # never satisfied
    with pytest.raises(BadInstance) as refused:
        apply.deidentify(data, profile=cleaning, keyring=keyring)
    assert refused.value.reason == "BURNED_IN"
    passed = apply.deidentify(data, profile=cleaning, keyring=keyring, reviewed=True)
    assert np.array_equal(pixels.decode(passed.dataset).frames[0], drawn)


def test_the_screen_around_an_ultrasound_image_is_blanked_unseen():
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 10, 20
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 59, 69
    dataset = Dataset()
    dataset.SequenceOfUltrasoundRegions = Sequence([region])
    mask = np.zeros((100, 80), bool)
    for top, bottom, left, right in burned_in.known_regions(dataset, mask.shape):
        mask[top:bottom, left:right] = True
    assert not mask[20:70, 10:60].any()
    assert mask.sum() == 100 * 80 - 50 * 50


def test_burned_in_screens_are_at_risk_whatever_they_say():
    screens = ({"Modality": modality} for modality in ("US", "DX", "OPV", "BMD", "ANYTHING", ""))
    kinds = ({"Modality": "CT", "ImageType": [*kind]} for kind in (("DERIVED", "SECONDARY"), ("ORIGINAL", "OVERVIEW")))
    for values in (*screens, *kinds, {"Modality": "SM", "SpecimenLabelInImage": "YES"}):
        dataset = Dataset()
        dataset.BurnedInAnnotation = "NO"
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        assert burned_in.at_risk(dataset)


def test_a_mask_keeps_every_pixel_though_small_lesions_look_like_text(cleaning, keyring, monkeypatch):
    monkeypatch.setattr(burned_in, "detect", lambda _: pytest.fail("looked at"))
    mask = read(original(np.where(letters((50, 8)), 1, 0), "SEG"))
    mask.SOPClassUID = mask.file_meta.MediaStorageSOPClassUID = references.SEGMENTATION
    mask.ImageType = ["DERIVED", "PRIMARY"]
    clean = apply.deidentify(write(mask), profile=cleaning, keyring=keyring)
    assert np.array_equal(pixels.decode(clean.dataset).frames, pixels.decode(mask).frames)
