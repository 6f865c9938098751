from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset, Sequence

from medgan.archive import pixels
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


@pytest.mark.parametrize(("modality", "grey"), [("CT", 2000), ("MR", 700)])
def test_what_is_drawn_on_an_original_is_blanked(modality, grey, cleaning, keyring):
    """At the end of the scale, or in a grey of its own."""
    data, drawn, ink = burnt(ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], Modality=modality)
    if grey < drawn.max():
        dataset = read(data)
        drawn = np.where(ink, np.int16(grey), drawn)
        drawn[-1, -5:] = 2000
        dataset.PixelData = drawn.tobytes()
        data = write(dataset)
    clean = apply.deidentify(data, profile=cleaning, keyring=keyring)
    assert (pixels.decode(clean.dataset).frames[0][ink] == drawn.min()).mean() > 0.99


def test_an_original_on_which_nothing_is_drawn_is_not_looked_at(cleaning, keyring, monkeypatch):
    monkeypatch.setattr(burned_in, "detect", lambda _: pytest.fail("looked at"))
    data, _, ink = burnt(ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    dataset = read(data)
    plain = dataset.pixel_array.copy()
    plain[ink] = 0
    dataset.PixelData = plain.tobytes()
    apply.deidentify(write(dataset), profile=cleaning, keyring=keyring)


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
