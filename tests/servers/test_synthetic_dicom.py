"""Exported DICOM beside real programs: dciodvfy finds no error, Orthanc takes it over C-STORE and shows it."""

from __future__ import annotations

import io
import subprocess
import urllib.request

import numpy as np
import pytest
from PIL import Image

from medgan.release import dicom
from tests.builders import pacs

SHAPE = (64, 48)
HU = {"rescale_slope": 4095 / 65535, "rescale_intercept": -1024.0, "units": "HU", "spacing_mm": [1.5, 0.75]}


def picture() -> np.ndarray:
    """A ramp with a bright square: a wrong byte order, window or row length shows."""
    row, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = (row * 400 + column * 300 + 5000).astype(np.uint16)
    image[10:20, 30:40] = 60000
    return image


@pytest.fixture(scope="module", params=dicom.MODALITIES)
def written(request, tmp_path_factory):
    """One instance of each kind on disk."""
    attrs = {"intensity_range": [0, 65535], "rescale_slope": 1 / 65535, "rescale_intercept": 0.0, "units": "1"}
    source = dicom.Source(
        name="chest-xray",
        version="1.0.0",
        title="Röntgen, 合成",
        digest="c" * 64,
        date="20261125",
        modality=request.param,
        attrs=attrs | HU if request.param in {"CT", "MR"} else attrs,
    )
    labels = {"class": "normal", "sex": "F", "age_band": "60-69", "view": "PA"}
    made = dicom.instance(picture(), source, dicom.MODALITIES.index(request.param), labels)
    path = tmp_path_factory.mktemp("dicom") / f"{request.param}.dcm"
    made.save_as(path, enforce_file_format=True)
    return request.param, path, made


def test_dciodvfy_finds_no_error(written, tool):
    said = subprocess.run([tool("dciodvfy"), written[1]], capture_output=True, text=True, check=False)
    lines = (said.stdout + said.stderr).splitlines()
    assert any("Image" in line for line in lines)
    assert [line for line in lines if line.startswith("Error")] == []
    assert "Unrecognized tag" not in said.stderr


def test_orthanc_takes_all_kinds_over_c_store_and_shows_them(written, tool, servers, tmp_path):
    _, path, made = written
    storescu, binary = tool("storescu"), tool("Orthanc")
    with pacs.own_network():
        orthanc = pacs.Orthanc(tmp_path / "orthanc", servers, binary)
        orthanc.start()
        command = [storescu, "-aet", "MEDGAN", "-aec", pacs.AET, "127.0.0.1", str(pacs.DICOM_PORT), path]
        sent = subprocess.run(command, capture_output=True, text=True, check=False)
        assert sent.returncode == 0, sent.stderr
        (instance,) = orthanc.ask("/instances")
        tags = orthanc.ask(f"/instances/{instance}/simplified-tags")
        assert tags["SOPInstanceUID"] == made.SOPInstanceUID
        assert "SYNTHETIC" in tags["ImageType"]
        with urllib.request.urlopen(f"http://127.0.0.1:{pacs.HTTP_PORT}/instances/{instance}/preview") as answer:
            shown = np.asarray(Image.open(io.BytesIO(answer.read())), dtype=float)
        servers.kill("orthanc")
    assert shown.shape == SHAPE
    assert np.corrcoef(shown.ravel(), picture().ravel())[0, 1] > 0.99
    assert shown[15, 35] - shown[5, 5] > 100
