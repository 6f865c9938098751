"""MR instances of real pixels: small grey images under a real vendor's header."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

from tests.builders.cohort import radiographs


@cache
def phantoms(count):
    """`count` real images (40, 40) in [-1, 1]."""
    pixels, _ = radiographs(count)
    return [(np.pad(one, 6, mode="edge") / 127.5 - 1).astype(np.float32) for one in pixels]


def instance(image, *, number=0, **attributes):
    """One MR slice with `image` as 12-bit pixels in the header of pydicom's real MR file."""
    dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    stored = np.rint((image + 1) * 1500).clip(0, 4095).astype("<i2")
    dataset.Rows, dataset.Columns = stored.shape
    dataset.PixelData = stored.tobytes()
    dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit, dataset.BitsAllocated = 1, 16, 15, 16
    dataset.PixelSpacing = ["2.0", "2.0"]
    dataset.PatientID, dataset.PatientName = "RESTORE-1", "Doe^Jane"
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.77.{number + 1}"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.77.100"
    dataset.InstanceNumber = number + 1
    dataset.ImagePositionPatient = ["-40.0", "-40.0", f"{number * 3.0:.1f}"]
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
