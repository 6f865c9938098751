"""Instances per CPU-second of the full engine, beside bare pydicom and, when asked, the Python tools of the field.

`python -m tests.bench.deid_speed [--tools]` works on 512 x 512 x 16 CT instances of 291 elements (183 of them
private, nested identifiers) and on small, deeply nested headers. `--tools` makes a virtual environment of its own
with dicom-anonymizer, dicognito and deid and runs them on the same bytes, one process each.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import Dataset, Sequence, dcmread

from medgan.archive import phantom
from medgan.deid import apply, audit, profile
from medgan.keys import Keyring
from tests.bench.__main__ import machine

ROUNDS = 5
PROFILES = ("basic", "basic+modified-dates+patient-characteristics+clean-descriptors+safe-private")
TOOLS = {
    "dicom-anonymizer 2.1.0": (
        "dicom-anonymizer==2.1.0",
        "from dicomanonymizer import anonymize_dataset\ndef work(ds):\n    anonymize_dataset(ds)\n",
    ),
    "dicognito 0.19": (
        "dicognito==0.19.0",
        "from dicognito.anonymizer import Anonymizer\na = Anonymizer()\ndef work(ds):\n    a.anonymize(ds)\n",
    ),
}
# deid works on files and keeps their names: it reads and writes in its own way, one call for all.
DEID = "deid==0.4.13"
DEID_DRIVER = """
import io, json, sys, time, warnings, logging
warnings.simplefilter("ignore"); logging.disable(50)
from pathlib import Path
from deid.config import DeidRecipe
from deid.dicom import get_identifiers, replace_identifiers
files = [str(path) for path in sorted(Path(sys.argv[1]).iterdir())]
started = time.process_time()
found = get_identifiers(files, expand_sequences=False)
replace_identifiers(dicom_files=files, deid=DeidRecipe(), ids=found, save=True, overwrite=True,
                    output_folder=sys.argv[2], remove_private=True)
spent = time.process_time() - started
assert len(list(Path(sys.argv[2]).rglob("*.dcm"))) == len(files)
print(json.dumps(len(files) / spent))
"""
DRIVER = """
import io, json, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from pydicom import dcmread
{body}
files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
started = time.process_time()
for data in files:
    ds = dcmread(io.BytesIO(data))
    work(ds)
    ds.save_as(io.BytesIO())
print(json.dumps(len(files) / (time.process_time() - started)))
"""


def ct_instances(count: int) -> list[bytes]:
    """CT phantoms of 512 x 512 with 183 private elements and a nested block of identifiers."""
    noise = np.random.default_rng(0)
    files = []
    for number in range(count):
        dataset = dcmread(io.BytesIO(phantom.phantom_study(patient=number, rows=512, columns=512)[0]))
        dataset.PixelData = noise.integers(-1000, 2000, (512, 512)).astype("<i2").tobytes()
        block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
        for element in range(182):
            vr, value = (("DS", "0.6347"), ("LO", f"scan {element}"), ("IS", "73"), ("SH", "H30s"))[element % 4]
            block.add_new(element, vr, value)
        item = Dataset()
        item.PatientName, item.PatientID = str(dataset.PatientName).split("=")[0], dataset.PatientID
        dataset.OtherPatientIDsSequence = Sequence([item])
        out = io.BytesIO()
        dataset.save_as(out)
        files.append(out.getvalue())
    return files


def nested_instances(count: int) -> list[bytes]:
    """MR phantoms of 64 x 64 with about 540 elements, most of them in nested sequences of undefined length."""
    files = []
    for number in range(count):
        dataset = dcmread(io.BytesIO(phantom.phantom_study(patient=number, modality="MR", rows=64, columns=64)[0]))
        block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        for at in range(6):
            items = []
            for _ in range(10):
                item = Dataset()
                item.ImagePositionPatient, item.SliceThickness = [1.0, 2.0, 3.5], "2.5"
                item.ReferencedSOPInstanceUID = f"1.3.46.670589.11.{number}.{at}"
                item.PerformedProcedureStepDescription, item.StudyDate = "Brain routine", "20140425"
                items.append(item)
            block.add_new(0x40 + at, "SQ", Sequence(items))
        dataset.ReferencedImageSequence = Sequence(items)
        out = io.BytesIO()
        dataset.save_as(out)
        files.append(out.getvalue())
    return files


def rate(work: Callable[[bytes], object], files: list[bytes]) -> float:
    """Median over rounds of instances per CPU-second."""
    rates = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for data in files:
            work(data)
        rates.append(len(files) / (time.process_time() - started))
    return statistics.median(rates)


def audited(data: bytes, chosen: profile.Profile, keyring: Keyring, log: audit.Log) -> None:
    """One instance with all that a run does to it: rules, marks, verification, and its line in the chained log."""
    log.add(apply.audit_line(apply.deidentify(data, profile=chosen, keyring=keyring)))


def bare_pydicom(data: bytes) -> None:
    dcmread(io.BytesIO(data)).save_as(io.BytesIO())


def tool_rates(files: list[bytes]) -> dict[str, float]:
    """Rates of the field's tools, in an environment of their own."""
    rates = {}
    with tempfile.TemporaryDirectory(prefix="deid-speed-") as folder:
        where = Path(folder)
        (where / "files").mkdir()
        for number, data in enumerate(files):
            (where / "files" / f"{number:04d}.dcm").write_bytes(data)
        venv.create(where / "venv", with_pip=True)
        python = where / "venv" / "bin" / "python"
        requirements = [*(requirement for requirement, _ in TOOLS.values()), DEID]
        subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True)
        for name, (_, body) in TOOLS.items():
            driver = [python, "-c", DRIVER.format(body=body), where / "files"]
            said = subprocess.run(driver, capture_output=True, text=True, check=False)
            rates[name] = json.loads(said.stdout.splitlines()[-1]) if said.returncode == 0 else float("nan")
        (where / "deid").mkdir()
        driver = [python, "-c", DEID_DRIVER, where / "files", where / "deid"]
        said = subprocess.run(driver, capture_output=True, text=True, check=False)
        rates["deid 0.4.13"] = json.loads(said.stdout.splitlines()[-1]) if said.returncode == 0 else float("nan")
    return rates


def main() -> None:
    """Print one table a kind of instance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tools", action="store_true", help="also run dicom-anonymizer, dicognito and deid")
    given = parser.parse_args()
    keyring = Keyring(secret=bytes(range(32)))
    sys.stdout.write(f"machine: {machine()}\n")
    for name, files in (("CT 512x512, 183 private elements", ct_instances(60)), ("nested MR", nested_instances(100))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            base = rate(bare_pydicom, files)
        sys.stdout.write(f"\n{name}, {len(files[0])} bytes: instances per CPU-second, ratio to bare pydicom\n")
        rows = {"bare pydicom read and write": base}
        for expression in PROFILES:
            chosen = profile.load(expression)
            with tempfile.TemporaryDirectory(prefix="deid-speed-") as folder, audit.Log(Path(folder)) as log:
                rows[f"medgan {expression}"] = rate(
                    lambda data, chosen=chosen, log=log: audited(data, chosen, keyring, log), files
                )
        if given.tools:
            rows |= tool_rates(files)
        for row, value in rows.items():
            sys.stdout.write(f"  {row:90} {value:7.0f} {value / base:6.2f}\n")


if __name__ == "__main__":
    main()
