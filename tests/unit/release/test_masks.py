"""A cohort with masks becomes a version with masks: verified like its images, told in its documents."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import zarr
from PIL import Image
from pydantic import ValidationError

from medgan.cohort.outlines import COLOURS, outlined
from medgan.errors import IntegrityError
from medgan.records import CohortRecipe, Manifest
from medgan.release import publish, retract, rotate, sign
from medgan.release.catalogue import preview
from tests.builders import release as build

STRUCTURES = ("lung", "bone")


def night(zones, number, **changes):
    """Publish a cohort of 40 images as the given night."""
    built = build.synthetic_cohort(zones, **{"count": 40, "structures": STRUCTURES} | changes)
    created = f"2026-11-{20 + number}T22:00:00Z"
    return built, publish.publish(built.cleared, build.request(night=number, created=created), zones=zones)


def folder_of(zones, release):
    return zones.registry / release.name / release.version


def test_masks_are_a_second_array_that_the_manifest_lists_and_plain_zarr_opens(zones):
    built, release = night(zones, 1)
    folder = folder_of(zones, release)
    group = zarr.open_group(folder / "images.zarr", mode="r")
    assert np.array_equal(group["images"][:], built.images)
    assert np.array_equal(group["masks"][:], built.masks)
    assert group["masks"].attrs["structures"] == ["lung", "bone"]
    assert (group["masks"].chunks, group["masks"].shards) == (group["images"].chunks, group["images"].shards)
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    shards = [file.path for file in manifest.files if file.pixel_sha256]
    assert shards == ["images.zarr/images/c/0/0/0", "images.zarr/masks/c/0/0/0"]


def test_documents_tell_the_structures_and_their_counts(zones):
    built, release = night(zones, 1)
    folder = folder_of(zones, release)
    shown = int((built.masks == 2).any((1, 2)).sum())
    assert f"| 2 | bone | {shown} |" in (folder / "DATASHEET.md").read_text()
    assert "Nobody corrected them" in (folder / "DATASHEET.md").read_text()
    page = (folder / "index.html").read_text()
    assert 'src="preview/structures.webp"' in page
    with Image.open(folder / "preview" / "structures.webp") as picture:
        assert picture.mode == "RGB"
    croissant = json.loads((folder / "croissant.json").read_bytes())
    assert "1 lung, 2 bone" in croissant["rai:dataAnnotationProtocol"][0]
    assert "images.zarr/masks/c/0/0/0" in [file["contentUrl"] for file in croissant["distribution"]]


def test_a_release_without_masks_says_nothing_of_them(published):
    for name in ("DATASHEET.md", "croissant.json", "index.html", "manifest.json", "images.zarr/zarr.json"):
        assert "mask" not in (published.folder / name).read_text().lower()


@pytest.mark.parametrize("harm", ["pixel", "value", "gone", "names", "shape"])
def test_masks_that_are_not_those_of_the_record_are_refused(zones, harm):
    built = build.synthetic_cohort(zones, count=40, structures=STRUCTURES)
    masks, names = built.masks.copy(), STRUCTURES
    if harm == "pixel":
        masks[5, 3, 3] = 1 - min(masks[5, 3, 3], 1)
    if harm == "value":
        masks[5, 3, 3] = 3
    if harm == "names":
        names = STRUCTURES[::-1]
    if harm == "shape":
        masks = masks[:, :-1]
    build.write_images(built.folder / "images.zarr", built.images, None if harm == "gone" else masks, names)
    with pytest.raises(IntegrityError, match="masks"):
        publish.publish(built.cleared, build.request(), zones=zones)
    assert not zones.published.exists()


def test_a_pointer_to_other_masks_is_refused(zones):
    built = build.synthetic_cohort(zones, count=40, structures=STRUCTURES)
    about = built.cleared.synthetic.model_copy(update={"masks_sha256": "0" * 64})
    with pytest.raises(IntegrityError, match="other masks"):
        publish.publish(built.cleared.model_copy(update={"synthetic": about}), build.request(), zones=zones)


@pytest.mark.parametrize("name", ["quality-record.json", "privacy-record.json"])
def test_a_report_that_is_not_about_these_masks_is_refused(zones, name):
    built = build.synthetic_cohort(zones, count=40, structures=STRUCTURES)
    record = json.loads((built.folder / name).read_bytes())
    del record["masks_sha256"]
    (built.folder / name).write_text(json.dumps(record))
    with pytest.raises(IntegrityError, match="other masks"):
        publish.publish(built.cleared, build.request(), zones=zones)


def test_records_of_reports_without_masks_keep_the_bytes_of_old(zones):
    built = build.synthetic_cohort(zones, count=40)
    for name in ("quality-record.json", "privacy-record.json"):
        assert b"masks" not in (built.folder / name).read_bytes()


@pytest.mark.parametrize("name", ["", "b" * 201, "lung\n", "\x1b[2J", "\ud800"])
def test_no_structure_is_named_in_a_way_that_clients_refuse(name):
    recipe = {"name": "x", "modalities": ("CT",), "class_attribute": "finding"}
    with pytest.raises(ValidationError, match="structures"):
        CohortRecipe.model_validate(recipe | {"structures": ("lung", name)})


def test_outlines_of_large_images_stay_a_small_part_of_the_page():
    noise = np.random.default_rng(0).integers(0, 65536, (16, 512, 512)).astype(np.uint16)
    body = preview.outlines(noise, (noise > 60000).astype(np.uint8), {})
    with Image.open(io.BytesIO(body)) as picture:
        assert max(picture.size) <= 8 * 160


def test_the_next_number_follows_from_masks_too(zones):
    assert night(zones, 1)[1].version == "1.0.0"
    assert night(zones, 2)[1].version == "1.0.1"
    assert night(zones, 3, count=60)[1].version == "1.1.0"
    assert night(zones, 4, count=60, structures=("lung", "rib"))[1].version == "2.0.0"
    found = json.loads((zones.registry / "chest-demo/2.0.0/reports/diff-from-1.1.0.json").read_bytes())
    assert found["changed"]["structures"] == ["lung, bone", "lung, rib"]
    assert night(zones, 5, count=60, structures=())[1].version == "3.0.0"
    assert night(zones, 6, count=60)[1].version == "4.0.0"


def test_a_version_with_masks_is_promoted_signed_anew_and_withdrawn_like_any_other(zones, tmp_path):
    _, release = night(zones, 1)
    retract.promote("chest-demo@1.0.0", "stable", zones=zones)
    old = tmp_path / "old.pub"
    old.write_bytes(sign.public_pem(sign.load_key(zones.signing_key)))
    zones.signing_key.unlink()
    rotate.resign(old, zones=zones)
    retract.renew(zones=zones)
    assert retract.withdraw("chest-demo@1.0.0", "masks were wrong", zones=zones, erase=True).version == "1.0.0"
    assert not folder_of(zones, release).exists()


def test_outlines_are_the_rims_of_structures_in_their_colours():
    masks = np.zeros((1, 96, 96), np.uint8)
    masks[0, 10:20, 10:20], masks[0, 0:5, 90:96] = 1, 2
    picture = outlined(np.full((1, 96, 96), 100, np.uint8), masks)[0]
    assert (picture[10, 10:20] == COLOURS[0]).all()
    assert (picture[11:19, 11:19] == 100).all()
    assert (picture[0:5, 95] == COLOURS[1]).all()
    assert (picture[50] == 100).all()
    assert outlined(np.zeros((1, 28, 28), np.uint8), np.zeros((1, 28, 28), np.uint8)).shape == (1, 112, 112, 3)
