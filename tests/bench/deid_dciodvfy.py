"""dciodvfy (Debian's dicom3tools) on real files before and after: errors that only the output has.

`python -m tests.bench.deid_dciodvfy` needs the program `dciodvfy` and prints the new errors by kind.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

from medgan.deid import apply, profile
from medgan.errors import BadInstance
from tests.bench.deid_leaks import KEYRING, bases
from tests.unit.deid.dciodvfy import PROGRAM, new_errors

PROFILES = ("basic", "basic+modified-dates+patient-characteristics+clean-descriptors")


def main() -> int:
    """Compare and print; the exit status says whether there was a new error."""
    if shutil.which(PROGRAM) is None:
        sys.stdout.write("dciodvfy is not installed (apt-get install dicom3tools): nothing was compared\n")
        return 0
    new: Counter[str] = Counter()
    files = with_new = 0
    with tempfile.TemporaryDirectory(prefix="deid-dciodvfy-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in bases():
            for expression in PROFILES:
                try:
                    clean = apply.deidentify(data, profile=profile.load(expression), keyring=KEYRING).data
                except BadInstance:
                    continue
                more = new_errors(data, clean, Path(folder))
                files, with_new = files + 1, with_new + bool(more)
                new.update(f"{line}   e.g. {name}" for line in more)
    sys.stdout.write(f"{files} outputs, {with_new} with an error that the input did not have\n")
    kinds: Counter[str] = Counter()
    for line, count in new.items():
        kinds[line.split("   e.g. ")[0]] += count
    for line, count in kinds.most_common(40):
        sys.stdout.write(f"  {count:4} {line}\n")
    return int(with_new > 0)


if __name__ == "__main__":
    sys.exit(main())
