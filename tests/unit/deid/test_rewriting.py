"""What stands around values is written anew: no head, time or odd encoding of an element carries anything out."""

from __future__ import annotations

import struct

import pytest
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from medgan.deid import apply, dates, profile
from tests.unit.deid.builders import REAL, phantom_with, read

PIXEL_DATA, STUDY_UID, DIFFUSION = (struct.pack("<HH", *tag) for tag in ((0x7FE0, 16), (0x20, 13), (0x18, 0x9117)))


def insert(data: bytes, element: bytes) -> bytes:
    """`data` with an element of a group before 0020."""
    at = data.index(STUDY_UID)
    return data[:at] + element + data[at:]


def as_unknown(tag: bytes, value: bytes) -> bytes:
    return tag + struct.pack("<2sHL", b"UN", 0, len(value)) + value


@pytest.mark.parametrize("name", ["native", "fragments", "text"])
def test_the_bytes_that_a_head_reserves_say_nothing(name, basic, keyring):
    text = struct.pack("<HH2s2sL", 0x18, 0x990F, b"UT", b"Zv", 4) + b"HEAD"
    data = {
        "native": phantom_with(),
        "fragments": (REAL / "test_files" / "SC_rgb_jpeg_dcmtk.dcm").read_bytes(),
        "text": insert(phantom_with(), text),
    }[name]
    at = data.index(text if name == "text" else PIXEL_DATA) + 6
    clean = apply.deidentify(data[:at] + b"Zv" + data[at + 2 :], profile=basic, keyring=keyring)
    assert b"Zv" not in clean.data[: clean.data.index(PIXEL_DATA) + 8]
    assert clean.data == apply.deidentify(data[:at] + b"\0\0" + data[at + 2 :], profile=basic, keyring=keyring).data


def test_a_sequence_that_was_sent_as_unknown_is_written_like_the_rest_of_the_file(basic, keyring):
    """Inside of UN elements are implicit (PS3.5 6.2.2); as they stand no other parser could read them in a sequence."""
    inner = Dataset()
    inner.DiffusionDirectionality, inner.DiffusionBValue = "DIRECTIONAL", 1.5
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, True
    write_dataset(out, inner)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(out.getvalue())) + out.getvalue()
    clean = apply.deidentify(insert(phantom_with(), as_unknown(DIFFUSION, item)), profile=basic, keyring=keyring)
    assert clean.dataset.MRDiffusionSequence[0] == inner
    assert b"\x18\0\x75\x90CS\x0c\0DIRECTIONAL \x18\0\x87\x90FD\x08\0" in clean.data


def test_a_list_too_long_for_its_representation_stays_unknown(basic, keyring):
    """PS3.5 6.2.2: 64 KiB of a DS are sent as UN."""
    numbers = b"\\".join([b"1.5"] * 20_000)
    clean = apply.deidentify(
        insert(phantom_with(), as_unknown(b"\x08\0\x30\x21", numbers + b" ")), profile=basic, keyring=keyring
    )
    assert numbers in clean.data


@pytest.mark.filterwarnings("ignore:Invalid value for VR TM")
@pytest.mark.parametrize("value", [b"471108", b"471108.150012", b"126081", b"095991", b"994711", b"47:11:08"])
def test_a_record_number_is_no_time_of_a_day(value, keyring):
    dataset = read(phantom_with())
    dataset.add_new(0x00080031, "TM", value.decode())
    assert dates.keep_time(value, 0) is None
    assert dates.shift_datetime(b"20190412" + value.replace(b":", b""), 3) is None
    for kept in (b"", b"08", b"0815", b"235960", b"12:15:30", b"081530.471108"):
        assert dates.keep_time(kept, 0) == kept
    assert dates.shift_datetime(b"20190412+4711", 3) is None
    assert dates.shift_datetime(b"20190412081530.5-1130", 3) == b"20190415081530.5-1130"
    for expression in ("basic+modified-dates", "basic+full-dates"):
        clean = apply.deidentify(
            phantom_with(SeriesTime=value.decode()), profile=profile.load(expression), keyring=keyring
        )
        assert value not in clean.data
