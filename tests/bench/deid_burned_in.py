"""Burns lines of text into real images and counts how much of it the option clean-pixel-data covers.

`python -m tests.bench.deid_burned_in [IMAGES]` prints coverage of text pixels, texts left uncovered, and how many
clean images are refused or lose a box. A quarantined image counts as covered. Contrast is at least 100 of 255.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread

from medgan.archive import pixels
from medgan.archive.pixels import Decoded
from medgan.deid import burned_in
from medgan.errors import BadInstance
from tests.bench.__main__ import machine
from tests.unit.deid.builders import vendor_files

SIZES_PX = (12, 14, 16, 18, 24, 36)
FONTS = (
    "",
    "DejaVuSans.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSansMono-Bold.ttf",
)
TEXTS = (
    *(
        "DOE^JANE",
        "MRN 48213377",
        "1961-07-23",
        "St Elsewhere",
        "J. DOE 61Y F",
        "ID:7731904",
        "Dr. M. Quimby",
        "12:41:07",
    ),
    *(
        "Acc# A0093127",
        "Ward 7 North",
        "Tel 555-0143",
        "Müller, Änne",
        "LOPEZ GARCIA MARIA",
        "DOB 03/11/1948",
        "F 092Y",
    ),
)
CLEAN_MODALITIES = ("CT", "MR", "CR", "DX", "NM", "OT", "PT", "MG", "US", "XA", "RTIMAGE", None)
# Real images that carry text or are text: not clean.
WITH_TEXT = ("Text", "palette", "US1", "examples_ybr", "examples_rgb", "color3d", "SC_", "gdcm-US", "OT-PAL", "vlut")
HIDES = 0.99  # a line counts as covered when so much of its ink is gone
SMALLEST, LARGEST = 64, 1100
TEXT_SIDE = 128  # a smaller image holds no line of 12 pixels


def clean_images(more: Path | None) -> list[tuple[str, Decoded]]:
    """Real images without burned-in text: one a series of pydicom's and pydicom-data's files and of `more`."""
    import data_store

    found, seen = [], set()
    folders = [Path(data_store.__file__).parent, *([more] if more else [])]
    paths = [*vendor_files(), *(path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())]
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = dcmread(path, stop_before_pixels=True)
                key = (header.get("SeriesInstanceUID"), header.get("Rows"), header.get("Columns"))
                if key in seen:
                    continue
                dataset = dcmread(path)
                decoded = pixels.decode(dataset)
        except Exception:  # noqa: BLE001, S112 - broken on purpose, or no DICOM
            continue
        sides = decoded.frames.shape[1:3]
        wrong = dataset.get("Modality") not in CLEAN_MODALITIES or any(part in str(path) for part in WITH_TEXT)
        if (
            wrong
            or key in seen
            or min(sides) < SMALLEST
            or max(sides) > LARGEST
            or decoded.frames.min() == decoded.frames.max()
        ):
            continue
        seen.add(key)
        found.append((path.name, decoded))
    return found


def folder_images(archive: Path, count: int) -> list[tuple[str, Decoded]]:
    """Every n-th picture of a zip of grey JPEG files, so that `count` are taken."""
    with zipfile.ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.lower().endswith((".jpeg", ".jpg", ".png")))
        chosen = names[:: max(1, len(names) // count)][:count]
        pictures = [np.asarray(Image.open(io.BytesIO(file.read(name))).convert("L")) for name in chosen]
    return [
        (name, Decoded(frames=picture[None], photometric="MONOCHROME2", bits_stored=8, signed=False))
        for name, picture in zip(chosen, pictures, strict=True)
    ]


def _font(name: str, size: int) -> Any:
    """A font by file name (matplotlib ships them), or Pillow's own."""
    import matplotlib as mpl

    if not name:
        return ImageFont.load_default(size=size)
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)


def burn(decoded: Decoded, seed: int) -> tuple[Decoded, list[np.ndarray]]:
    """The image with one to three lines of text in its first frame, and the ink of each line as (H, W) bool."""
    draw_random = random.Random(seed)  # noqa: S311 - not for keys
    frames = decoded.frames.copy()
    low, high = int(frames.min()), int(frames.max())
    inks = []
    for _ in range(draw_random.randint(1, 3)):
        rows, columns = frames.shape[1:3]
        ink = np.zeros((rows, columns), bool)
        text = draw_random.choice(TEXTS)
        font = _font(draw_random.choice(FONTS), draw_random.choice(SIZES_PX))
        canvas = Image.new("L", (columns, rows))
        _, _, right, bottom = font.getbbox(text)
        x, y = (
            draw_random.randint(2, max(3, int(columns - right - 2))),
            draw_random.randint(2, max(3, int(rows - bottom - 2))),
        )
        ImageDraw.Draw(canvas).text((x, y), text, fill=255, font=font)
        ink = np.asarray(canvas) > 127
        if any((ink & other).any() for other in inks) or not ink.any():
            continue
        around = frames[0][y : y + int(bottom), x : x + int(right)].mean()
        value = high if (around - low) < (high - low) * (155 / 255) else low
        if np.mean(abs(frames[0][ink].astype(float) - value) >= (high - low) * (100 / 255)) < HIDES:
            continue  # not the contrast that is promised
        frames[:, ink] = value
        inks.append(ink)
    return Decoded(
        frames=frames, photometric=decoded.photometric, bits_stored=decoded.bits_stored, signed=decoded.signed
    ), inks  # fmt: skip


def main() -> int:
    """Print the table; fails below 99 % coverage or above 10 % refused clean images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wanted", nargs="?", type=int, default=60, help="burned images")
    parser.add_argument("--first", type=int, default=0, help="number of the first burned image: parts of a long run")
    parser.add_argument("--more", type=Path, help="folder of further clean DICOM files")
    parser.add_argument("--zip", type=Path, help="zip of further clean grey pictures")
    parser.add_argument("--clean", type=int, default=10_000, help="clean images looked at")
    given = parser.parse_args()
    images = clean_images(given.more)
    looked_at = [*images, *(folder_images(given.zip, given.clean) if given.zip else [])][-given.clean :]
    looked_at = looked_at if given.clean else []
    started = time.process_time()
    refused_clean, boxed_clean = [], 0
    for name, decoded in looked_at:
        try:
            boxed_clean += bool(burned_in.text_boxes(decoded, known=[]))
        except BadInstance:
            refused_clean.append(name)
    large = [(name, decoded) for name, decoded in images if min(decoded.frames.shape[1:3]) >= TEXT_SIDE]
    covered = ink_total = lines = hidden = quarantined = 0
    missed = []
    for number in range(given.first, given.first + given.wanted):
        burnt, inks = burn(large[number % len(large)][1], number)
        mask = np.zeros(burnt.frames.shape[1:3], bool)
        try:
            for top, bottom, left, right in burned_in.text_boxes(burnt, known=[]):
                mask[top:bottom, left:right] = True
        except BadInstance:
            quarantined += 1
            mask[:] = True
        for ink in inks:
            share = (ink & mask).sum() / ink.sum()
            ink_total, covered = ink_total + int(ink.sum()), covered + int((ink & mask).sum())
            lines, hidden = lines + 1, hidden + (share >= HIDES)
            if share < HIDES:
                missed.append(f"{number}:{large[number % len(large)][0]}:{share:.2f}")
    spent = time.process_time() - started
    sys.stdout.write(
        f"machine: {machine()}\n{len(looked_at)} clean images: {len(refused_clean)} refused {refused_clean}, "
        f"{boxed_clean} lose a box\n"
        f"{given.wanted} images ({len(large)} different) with {lines} lines: {hidden} lines covered "
        f"({100 * hidden / max(lines, 1):.1f} %), {100 * covered / max(ink_total, 1):.2f} % of the ink, "
        f"{quarantined} images quarantined; missed {missed}\n"
        f"{spent / max(1, len(looked_at) + given.wanted):.2f} CPU-seconds an image\n"
    )
    return int(covered < 0.99 * ink_total or len(refused_clean) > 0.1 * len(looked_at))


if __name__ == "__main__":
    sys.exit(main())
