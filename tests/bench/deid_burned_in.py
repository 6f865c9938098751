"""Burns lines of text into real images and counts how much of it the option clean-pixel-data covers.

`python -m tests.bench.deid_burned_in [IMAGES]` prints coverage of text pixels, texts left uncovered, and how many
clean images are refused or lose a box. A quarantined image counts as covered. Contrast is at least 100 of 255.
"""

from __future__ import annotations

import random
import sys
import time
import warnings

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread

from medgan.archive import pixels
from medgan.archive.pixels import Decoded
from medgan.deid import burned_in
from medgan.errors import BadInstance
from tests.bench.__main__ import machine
from tests.unit.deid.builders import vendor_files

SIZES_PX = (14, 18, 24)
CLEAN_MODALITIES = ("CT", "MR", "CR", "DX", "NM", "OT", None)
HIDES = 0.99  # a line counts as covered when so much of its ink is gone


def clean_images() -> list[tuple[str, Decoded]]:
    """Real images without burned-in text, of at least 128 pixels a side."""
    found, seen = [], set()
    for path in vendor_files():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = dcmread(path)
                decoded = pixels.decode(dataset)
        except Exception:  # noqa: BLE001, S112 - broken on purpose
            continue
        key = (dataset.get("SeriesInstanceUID"), decoded.frames.shape)
        wrong = dataset.get("Modality") not in CLEAN_MODALITIES or "Text" in path.name or "palette" in path.name
        if wrong or key in seen or min(decoded.frames.shape[1:3]) < 128 or max(decoded.frames.shape[1:3]) > 1100:
            continue
        seen.add(key)
        found.append((path.name, decoded))
    return found


def burn(decoded: Decoded, seed: int) -> tuple[Decoded, list[np.ndarray]]:
    """The image with one to three lines of text in its first frame, and the ink of each line as (H, W) bool."""
    draw_random = random.Random(seed)  # noqa: S311 - not for keys
    frames = decoded.frames.copy()
    low, high = int(frames.min()), int(frames.max())
    inks = []
    for _ in range(draw_random.randint(1, 3)):
        rows, columns = frames.shape[1:3]
        ink = np.zeros((rows, columns), bool)
        text = draw_random.choice(
            ("DOE^JANE", "MRN 48213377", "1961-07-23", "St Elsewhere", "J. DOE 61Y F", "ID:7731904")
        )
        font = ImageFont.load_default(size=draw_random.choice(SIZES_PX))
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
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    images = clean_images()
    started = time.process_time()
    refused_clean = boxed_clean = 0
    for _, decoded in images:
        try:
            boxed_clean += bool(burned_in.text_boxes(decoded, known=[]))
        except BadInstance:
            refused_clean += 1
    covered = ink_total = lines = hidden = quarantined = 0
    for number in range(wanted):
        burnt, inks = burn(images[number % len(images)][1], number)
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
    spent = time.process_time() - started
    sys.stdout.write(
        f"machine: {machine()}\n{len(images)} clean images: {refused_clean} refused, {boxed_clean} lose a box\n"
        f"{wanted} images with {lines} lines: {hidden} lines covered ({100 * hidden / lines:.1f} %), "
        f"{100 * covered / ink_total:.2f} % of the ink, {quarantined} images quarantined\n"
        f"{spent / (len(images) + wanted):.2f} CPU-seconds an image\n"
    )
    return int(covered / ink_total < 0.99 or refused_clean > 0.1 * len(images))


if __name__ == "__main__":
    sys.exit(main())
