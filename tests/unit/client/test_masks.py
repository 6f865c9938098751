"""Masks of a version: read beside its images on every path, exported with them, and believed no more than they."""

from __future__ import annotations

import csv
import gzip
import json
import shutil

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

import medgan
from medgan.client import diff, loader, materialise, registry, report
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import Manifest
from medgan.release import images as packing
from medgan.release import publish
from medgan.settings import Zones
from tests.builders import release as build
from tests.builders import web

STRUCTURES = ("lung", "bone")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with one published version of 1,060 images with masks, and what was published."""
    zones = Zones.under(tmp_path_factory.mktemp("masks"))
    built = build.synthetic_cohort(zones, count=1060, structures=STRUCTURES)
    release = publish.publish(built.cleared, build.request(), zones=zones)
    return zones, built, zones.registry / release.name / release.version


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the version, as a client has pulled it."""
    monkeypatch.setenv("MEDGAN_HOME", str(tmp_path / "home"))
    return shutil.copytree(made[2], tmp_path / "1.0.0")


def test_masks_and_their_structures_are_read_beside_the_images(made, folder):
    version = medgan.open_folder(folder)
    assert version.structures == STRUCTURES
    assert np.array_equal(version.mask(1050), made[1].masks[1050])
    assert "masks" not in version.__dict__, "one mask is read alone"
    assert np.array_equal(version.masks, made[1].masks)
    image, mask, label = version.torch(masks=True)[7]
    assert (image.shape, image.dtype, label) == ((1, 28, 28), torch.float32, version.class_index[7])
    assert mask.dtype == torch.int64
    assert np.array_equal(mask.numpy(), made[1].masks[7])
    assert len(version.torch()[7]) == 2


def test_a_version_without_masks_says_so(published):
    version = medgan.open_folder(published.folder)
    assert version.structures == ()
    for asked in (lambda: version.masks, lambda: version.mask(0), lambda: version.torch(masks=True),
                  lambda: version.loader(masks=True), lambda: version.stream(masks=True)):  # fmt: skip
        with pytest.raises(InvalidRequest, match="has no masks"):
            asked()


@pytest.mark.parametrize("tier", ["packed", "materialised"])
@pytest.mark.parametrize("order", loader.ORDERS)
def test_every_batch_has_the_masks_of_its_images_and_a_state_goes_on_with_both(made, folder, tier, order):
    version = medgan.open_folder(folder)
    if tier == "materialised":
        version.materialise()
        assert isinstance(version.mask_reader, materialise.CheckedReader)
    walk = version.loader(masks=True, batch=50, order=order, seed=3, pool_rows=256)
    seen = []
    for batch in walk:
        assert np.array_equal(batch.masks, made[1].masks[batch.rows])
        assert np.array_equal(batch.images, made[1].images[batch.rows])
        seen += batch.rows.tolist()
        if len(seen) == 200:
            break
    again = version.loader(masks=True, batch=50, order=order, seed=3, pool_rows=256)
    again.restore(walk.state())
    for batch in again:
        assert np.array_equal(batch.masks, made[1].masks[batch.rows])
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(1060))
    assert next(iter(version.loader(batch=8))).masks is None


def test_a_stream_gives_images_masks_and_labels(made, folder):
    batches = list(medgan.open_folder(folder).stream(masks=True, batch=53, order="sequential"))
    assert [len(batch) for batch in batches] == [3] * 20
    assert np.array_equal(torch.cat([masks for _, masks, _ in batches]).numpy(), made[1].masks)


def test_the_tier_of_a_client_that_knew_no_masks_is_written_anew(made, folder):
    version = medgan.open_folder(folder).materialise()
    checks = materialise.place(folder) / "checks.json"
    held = json.loads(checks.read_bytes())
    del held["masks_crc32c"]
    checks.write_text(json.dumps(held))
    again = medgan.open_folder(folder)
    assert isinstance(again.reader, materialise.CheckedReader)
    assert not isinstance(again.mask_reader, materialise.CheckedReader)
    assert isinstance(again.materialise().mask_reader, materialise.CheckedReader)
    assert np.array_equal(again.masks, version.masks)


@pytest.mark.parametrize("tier", ["packed", "materialised"])
def test_a_flipped_bit_in_a_mask_is_found(folder, tier):
    if tier == "materialised":
        medgan.open_folder(folder).materialise()
    home = folder if tier == "packed" else materialise.place(folder)
    shard = home / "images.zarr/masks/c/0/0/0"
    shard.chmod(0o644)
    body = bytearray(shard.read_bytes())
    body[40] ^= 1
    shard.write_bytes(bytes(body))
    with pytest.raises(IntegrityError):
        medgan.open_folder(folder).mask(0)


def test_lazy_reading_fetches_masks_when_they_are_touched_and_refuses_forged_ones(made, tmp_path, monkeypatch):
    zones, built, _ = made
    monkeypatch.setenv("MEDGAN_HOME", str(tmp_path / "home"))
    with web.serving(zones.registry) as server:
        version = medgan.load("chest-demo", registry=server.address, trust=zones.keys / "pipeline.pub", lazy=True)
        assert version.structures == STRUCTURES
        assert not [path for path, _ in server.seen if "/c/" in path]
        assert np.array_equal(version.mask(1059), built.masks[1059])
        asked = [path.partition("images.zarr/")[2] for path, _ in server.seen if "/c/" in path]
        assert asked == ["masks/c/1/0/0"]
        assert report.structures("chest-demo", registry=server.address) == STRUCTURES
        server.harm["/masks/c/0/0/0"] = lambda handler, body: handler.answer(200, body[:-1] + bytes([body[-1] ^ 1]))
        with pytest.raises(IntegrityError):
            version.mask(0)


def repacked(folder, masks, attributes, **changes):
    """What a publisher who lies about masks could sign: another array, or another description of it."""
    for path in (folder / "images.zarr", folder / "images.zarr" / "zarr.json"):
        path.chmod(0o755)
    images = zarr.open_group(folder / "images.zarr", mode="r")["images"]
    pixels, about = images[:], dict(images.attrs)
    shutil.rmtree(folder / "images.zarr")
    packing.write(folder / "images.zarr", {"images": (pixels, about), "masks": (masks, attributes)})
    group = folder / "images.zarr" / "zarr.json"
    described = folder / "images.zarr" / "masks" / "zarr.json"
    said, above = json.loads(described.read_bytes()), json.loads(group.read_bytes())
    for name, value in changes.items():
        said[name] = value
    above["consolidated_metadata"]["metadata"]["masks"] = said
    described.write_text(json.dumps(said))
    group.write_text(json.dumps(above))


NAMES = {"structures": list(STRUCTURES)}
BOMB = {"name": "regular", "configuration": {"chunk_shape": [1024, 10**6, 10**6]}}
LIES = {
    "fewer": lambda masks: (masks[:-1], NAMES, {}),
    "smaller": lambda masks: (masks[:, :-1], NAMES, {}),
    "wide": lambda masks: (masks.astype(np.uint16), NAMES, {}),
    "beyond": lambda masks: (np.where(masks == 2, 3, masks).astype(np.uint8), NAMES, {}),
    "no names": lambda masks: (masks, {}, {}),
    "a text": lambda masks: (masks, {"structures": "lung"}, {}),
    "numbers": lambda masks: (masks, {"structures": [1, 2]}, {}),
    "twice": lambda masks: (masks, {"structures": ["lung", "lung"]}, {}),
    "many": lambda masks: (masks, {"structures": [str(n) for n in range(300)]}, {}),
    "a long name": lambda masks: (masks, {"structures": ["lung", "b" * 10**6]}, {}),
    "bomb": lambda masks: (masks, NAMES, {"shape": [1060, 10**6, 10**6], "chunk_grid": BOMB}),
    "more": lambda masks: (masks, NAMES, {"shape": [10**12, 28, 28]}),
    "codec": lambda masks: (masks, NAMES, {"codecs": [{"name": "rm"}]}),
    "fill": lambda masks: (masks, NAMES, {"fill_value": "NaN"}),
    "beyond a byte": lambda masks: (masks, NAMES, {"fill_value": 300}),
    "steering": lambda masks: (masks, {"structures": ["lung\x1b[2J", "bone"]}, {}),
    "half a character": lambda masks: (masks, {"structures": ["lung", "\ud800"]}, {}),
    "kind": lambda masks: (masks, NAMES, {"data_type": "int8"}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_signed_lie_about_masks_ends_in_a_sentence_and_images_stay_readable(made, folder, lie):
    masks, attributes, changes = LIES[lie](made[1].masks)
    repacked(folder, masks, attributes, **changes)
    for read in (
        lambda it: it.masks,
        lambda it: [it.mask(index) for index in range(0, 1060, 53)],
        lambda it: list(it.loader(masks=True, batch=64, order="sequential")),
        lambda it: it.torch(masks=True)[int(np.flatnonzero((made[1].masks == 2).any((1, 2)))[0])],
    ):
        with pytest.raises((IntegrityError, InvalidRequest)):
            _ = read(medgan.open_folder(folder)), medgan.open_folder(folder).structures
    assert np.array_equal(medgan.open_folder(folder).images, made[1].images)
    assert len(medgan.open_folder(folder).torch()[0]) == 2, "who asks for no masks is not refused for them"


@pytest.mark.parametrize("array", ["images", "masks"])
def test_a_tier_of_absurd_size_is_refused_before_memory_is_taken(folder, array):
    described = folder / "images.zarr" / array / "zarr.json"
    said = json.loads(described.read_bytes())
    said["shape"][1:] = [20_000, 20_000]
    said["chunk_grid"]["configuration"]["chunk_shape"][1:] = [20_000, 20_000]
    said["codecs"][0]["configuration"]["chunk_shape"][1:] = [20_000, 20_000]
    described.chmod(0o644)
    described.write_text(json.dumps(said))
    with pytest.raises(IntegrityError, match="does not fit its manifest"):
        materialise.materialise(folder)


def test_structures_are_those_of_the_array_itself_whatever_its_group_repeats(folder):
    group = folder / "images.zarr" / "zarr.json"
    said = json.loads(group.read_bytes())
    said["consolidated_metadata"]["metadata"]["masks"]["attributes"]["structures"] = list(STRUCTURES[::-1])
    group.chmod(0o644)
    group.write_text(json.dumps(said))
    version = medgan.open_folder(folder)
    assert version.structures == tuple(version.mask_reader.layout.attributes["structures"]) == STRUCTURES


def test_a_report_that_the_manifest_does_not_list_is_not_read(made):
    manifest = Manifest.model_validate_json((made[2] / "manifest.json").read_bytes())
    fewer = tuple(file for file in manifest.files if not file.path.startswith("reports/"))
    source = registry.FolderSource(made[0].registry)
    with pytest.raises(IntegrityError, match="lists no such report"):
        diff.told(source, manifest.model_copy(update={"files": fewer}))


def test_masks_of_another_layout_are_read_whole_and_never_left_out_of_batches_in_silence(made, folder):
    for path in (folder / "images.zarr", folder / "images.zarr" / "zarr.json"):
        path.chmod(0o755)
    shutil.rmtree(folder / "images.zarr" / "masks")
    (folder / "images.zarr" / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))
    array = zarr.create_array(folder / "images.zarr" / "masks", data=made[1].masks, chunks=(64, 28, 28), zarr_format=3)
    array.update_attributes(NAMES)
    version = medgan.open_folder(folder)
    assert np.array_equal(version.masks, made[1].masks)
    assert np.array_equal(version.torch(masks=True)[5][1].numpy(), made[1].masks[5])
    for ask in (version.loader, version.stream):
        with pytest.raises(InvalidRequest, match="another layout"):
            ask(masks=True)
    assert next(iter(version.loader(batch=8))).masks is None


@pytest.mark.parametrize("part", ["images.zarr/masks/zarr.json", "images.zarr/masks/c/0/0/0"])
def test_a_listed_part_of_masks_that_is_missing_is_an_integrity_error(folder, part):
    (folder / part).unlink()
    with pytest.raises(IntegrityError):
        _ = medgan.open_folder(folder).masks
    shutil.rmtree(folder / "images.zarr" / "masks")
    (folder / "images.zarr" / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))
    with pytest.raises(IntegrityError):
        _ = medgan.open_folder(folder).structures


def test_deep_json_about_masks_is_malformed_and_no_crash(folder):
    (folder / "images.zarr" / "masks" / "zarr.json").write_bytes(b"[" * 100_000)
    with pytest.raises(IntegrityError):
        _ = medgan.open_folder(folder).masks


@pytest.fixture
def few(folder):
    """Its first 20 images: what an export does with them takes no time."""
    version = medgan.open_folder(folder)
    version.__dict__ |= {"labels": version.labels.iloc[:20].reset_index(drop=True), "rows": version.rows[:20]}
    return version


def test_png_export_has_a_label_map_beside_each_image(made, few, tmp_path):
    out = few.export(tmp_path / "out", "png")
    rows = list(csv.DictReader((out / "metadata.csv").read_text().splitlines()))
    assert [row["mask_file_name"] for row in rows] == [f"masks/{row:07d}.png" for row in range(20)]
    for row, mask in enumerate(made[1].masks[:20]):
        with Image.open(out / rows[row]["mask_file_name"]) as picture:
            assert np.array_equal(np.asarray(picture), mask)
    assert json.loads((out / "README.json").read_bytes())["structures"] == {"1": "lung", "2": "bone"}


def test_nifti_export_has_the_masks_as_another_file(made, folder, tmp_path):
    out = medgan.open_folder(folder).export(tmp_path / "out", "nifti")
    body = gzip.decompress((out / "masks.nii.gz").read_bytes())
    assert np.frombuffer(body, "<i2", 2, 70).tolist() == [2, 8]
    assert np.frombuffer(body, "<f4", 2, 112).tolist() == [1, 0]
    assert np.array_equal(np.frombuffer(body, np.uint8, offset=352).reshape(1060, 28, 28), made[1].masks)


def test_huggingface_export_has_a_column_of_masks(made, few, tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    out = few.export(tmp_path / "hub", "huggingface")
    assert '{"1": "lung", "2": "bone"}' in (out / "README.md").read_text()
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))["train"]
    for row in (0, 19):
        assert np.array_equal(np.asarray(rows[row]["mask"]), made[1].masks[row])


def test_the_manifest_of_a_version_with_masks_is_one_that_clients_of_before_can_read(made):
    """They refuse a manifest with a field that they do not know."""
    assert "structures" not in Manifest.model_fields
    assert "masks_sha256" not in (made[2] / "manifest.json").read_text()
