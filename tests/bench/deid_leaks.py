"""Plants at least 20,000 unique needles on real files and phantoms, de-identifies, and counts what is left.

`python -m tests.bench.deid_leaks [ROUNDS]` prints, for a no-op pipeline (the scanner must find everything) and
for each profile: needles left, refused files, and the verdicts by MIDI-B action.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

from medgan.archive import phantom
from medgan.deid import apply, profile
from medgan.errors import BadInstance
from medgan.keys import Keyring
from tests.bench import _deid_planting as planting
from tests.bench.__main__ import machine
from tests.unit.deid.builders import vendor_files

KEYRING = Keyring(secret=bytes(range(32)))
OPTIONS = "basic+modified-dates+patient-characteristics+clean-descriptors+safe-private"
BROKEN = ("truncated", "badVR", "no_meta", "meta_missing", "NoMeta", "empty_charset")
REFUSED_BY_KIND = ("waveform", "DICOMDIR")  # nothing is written of them (docs/adr/0047), so nothing can be checked
MIN_NEEDLES = 20_000


def bases() -> Iterator[tuple[str, bytes]]:
    """Real files of pydicom that are whole, and one phantom a modality."""
    for path in vendor_files():
        if not any(part in path.name for part in BROKEN + REFUSED_BY_KIND):
            yield path.name, path.read_bytes()
    for modality in ("CT", "MR", "DX"):
        yield f"phantom {modality}", phantom.phantom_study(modality=modality)[0]


def planted_files(rounds: int = 2, step: int = 1) -> Iterator[planting.Planted]:
    """Every `step`-th base, planted `rounds` times with other needles and another script."""
    every = list(bases())[::step]
    for number in range(rounds * len(every)):
        name, data = every[number % len(every)]
        try:
            yield planting.plant(data, name, number)
        except (AttributeError, ValueError, NotImplementedError):
            continue  # pydicom cannot write this base back, so nothing can be planted in it


def run(files: list[planting.Planted], pipeline: Callable[[bytes], bytes]) -> dict[str, Counter[str]]:
    """Needles left by surface, verdicts by action, refusals by reason."""
    left: Counter[str] = Counter()
    total: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for planted in files:
        try:
            output: bytes | None = pipeline(planted.data)
        except BadInstance as refusal:
            output = None
            refused[refusal.reason] += 1
        if output is not None:
            inflated = planting.inflate(output)
            left.update(surface for surface, needle in planted.needles if planting.is_found(needle, output, inflated))
        for action, verdicts in planting.checks(planted, output).items():
            total[action] += len(verdicts)
            passed[action] += sum(verdicts)
    return {"left": left, "total": total, "passed": passed, "refused": refused}


def deidentifier(expression: str) -> Callable[[bytes], bytes]:
    chosen = profile.load(expression)
    return lambda data: apply.deidentify(data, profile=chosen, keyring=KEYRING).data


def main() -> int:
    """Run the three pipelines; fails when a needle is left or the scanner is blind."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = list(planted_files(rounds))
    needles = sum(len(planted.needles) for planted in files)
    surfaces = {surface for planted in files for surface, _ in planted.needles}
    sys.stdout.write(f"machine: {machine()}\n{len(files)} files, {needles} needles on {len(surfaces)} surfaces\n")
    failed = needles < MIN_NEEDLES
    for name, pipeline in (
        ("no-op", bytes),
        ("basic", deidentifier("basic")),
        (OPTIONS, deidentifier(OPTIONS)),
    ):
        started = time.process_time()
        result = run(files, pipeline)
        found = sum(result["left"].values())
        sys.stdout.write(f"\n{name}: {found} of {needles} needles left, refused {dict(result['refused'])}, ")
        sys.stdout.write(f"{time.process_time() - started:.0f} s\n")
        failed |= (found != needles) if name == "no-op" else (found > 0)
        if name == OPTIONS:
            every, good = sum(result["total"].values()), sum(result["passed"].values())
            for action in sorted(result["total"]):
                sys.stdout.write(f"  {action:18} {result['passed'][action]:6} of {result['total'][action]:6}\n")
            sys.stdout.write(f"  {'all actions':18} {good:6} of {every:6} = {100 * good / every:.3f} %\n")
        elif found and name != "no-op":
            sys.stdout.write(f"  {dict(result['left'])}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
