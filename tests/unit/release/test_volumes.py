from __future__ import annotations

import gzip

import numpy as np
import pydicom
import pytest

import medgan
from medgan.client import loader
from medgan.release import publish
from medgan.settings import Zones
from tests.builders import release as build
from tests.builders.volumes import fading


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A published version of 20 volumes, and what was published."""
    zones = Zones.under(tmp_path_factory.mktemp("volumes"))
    images, labels = fading(20)
    classes = ["pneumonia" if label else "normal" for label in labels]
    built = build.synthetic_cohort(zones, count=20, images=images, classes=classes)
    release = publish.publish(built.cleared, build.request("volumes"), zones=zones)
    return medgan.open_folder(zones.registry / release.name / release.version), images


def test_a_version_of_volumes_is_read_as_it_was_cleared(published):
    version, images = published
    assert version.reader is not None
    assert np.array_equal(version.images, images)
    assert np.array_equal(version[7][0], images[7])
    assert np.array_equal(version.materialise().images, images)
    batches = list(version.loader(batch=8, order="sequential"))
    assert isinstance(batches[0], loader.Batch)
    assert np.array_equal(np.concatenate([batch.images for batch in batches]), images)
    assert version.torch()[3][0].shape == (1, 14, 28, 28)


def test_its_page_and_documents_speak_of_voxels_and_show_middle_slices(published):
    version, _ = published
    assert "28 voxels" in (version.folder / "index.html").read_text()
    assert "20 volumes of 14 x 28 x 28 voxels" in (version.folder / "DATASHEET.md").read_text()
    assert version.montage(rows=2, columns=3).shape == (56, 84)


def test_published_volumes_are_exported_with_their_slices_in_order(published, tmp_path):
    version, images = published
    nifti, dicom = version.export(tmp_path / "nifti", "nifti"), version.export(tmp_path / "dicom", "dicom")
    for row, volume in enumerate(images):
        body = gzip.decompress((nifti / "images" / f"{row:07d}.nii.gz").read_bytes())
        assert np.array_equal(np.frombuffer(body, "<u2", offset=352).reshape(volume.shape), volume)
        slices = [pydicom.dcmread(path) for path in (dicom / "images" / f"{row:07d}").iterdir()]
        slices.sort(key=lambda one: int(one.InstanceNumber))
        assert np.array_equal(np.stack([one.pixel_array for one in slices]), volume)
