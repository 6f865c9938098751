"""Lines of text drawn on measured images, cheaply: pieces shaped like letters, side by side, that can be read.

Originals of CT, MR, PT and NM come by the thousand and hold metal, clips and hot spots that a text detector takes for
lines. So only what is drawn in one value, or stands out of the background, is looked at; it counts as text when
several neighbouring pieces of one height are no solid blobs, and a recogniser (rapidocr) reads letters there.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from medgan.deid import ocr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from medgan.archive.pixels import Decoded

Box = tuple[int, int, int, int]
"""Rows and columns, half open: (top, bottom, left, right)."""

MIN_INK_PIXELS = 40
MOST_GREYS = 1 << 16  # a histogram of more costs more than sorting
GREYS_BESIDE = 4  # occupied greys on each side: scales have gaps
OWN_GREYS = 3  # greys of their own looked at, the most frequent
TALLEST_SHARE, TALLEST_PIXELS = 0.25, 28  # a piece: of the rows, on small matrices pixels
SHORTEST_PIXELS, WIDEST = 6, 4.0  # a piece: pixels, heights (letters touch)
SOLID = 0.78  # of its box, what a disc fills; strokes fill less
SLIMMEST_PIXELS = 3  # a slimmer piece is a bar, and so are clips
GAP = 0.9  # of a piece's height, to the next of the line
MIN_PIECES, MIN_STROKES = 4, 3
SIMILAR = 0.55  # of the usual height: letters and digits of one line
MOST_FRAMES = 32
MOST_COLUMNS = 1000  # read at once: the recogniser shrinks what is longer than 2,000
MOST_LINES = 4  # read per instance, those with the most pieces
MIN_CHARACTERS, MIN_DIFFERENT, MIN_CONFIDENCE = 3, 2, 0.8


def lines(decoded: Decoded) -> list[Box]:
    """Boxes of lines that can be read on grey frames (F, H, W); tight, without duplicates.

    Of more than 32 frames, on their brightest and darkest projection and 30 of them: text is on most or in one view.
    """
    found: dict[Box, tuple[int, NDArray[np.bool_]]] = {}
    for frame in _looked_at(decoded.frames):
        for ink in _inks(frame):
            for box, pieces, crop in _lines(ink):
                found.setdefault(box, (pieces, crop))
    likely = sorted(found, key=lambda box: -found[box][0])[:MOST_LINES]
    return [box for box in likely if _is_text(found[box][1])]


def _looked_at(frames: NDArray[Any]) -> Iterator[NDArray[Any]]:
    if len(frames) <= MOST_FRAMES:
        yield from frames
        return
    yield frames.max(axis=0)
    yield frames.min(axis=0)
    yield from frames[np.linspace(0, len(frames) - 1, MOST_FRAMES - 2).round().astype(int)]


def _inks(frame: NDArray[Any]) -> Iterator[NDArray[np.bool_]]:
    """(H, W) bool: the ends of the scale, greys of their own, body, background, what stands out of the body."""
    greys, counts = _histogram(frame)
    if len(greys) < 2:  # noqa: PLR2004 - one value is no picture
        return
    summed = np.concatenate(([0], np.cumsum(np.pad(counts, GREYS_BESIDE))))
    around = summed[2 * GREYS_BESIDE + 1 :] - summed[: -2 * GREYS_BESIDE - 1]
    own = np.flatnonzero((counts >= MIN_INK_PIXELS) & (2 * counts > around))
    own = own[np.argsort(-counts[own])][:OWN_GREYS]
    for grey in sorted({0, len(greys) - 1, *own.tolist()}):
        if counts[grey] >= MIN_INK_PIXELS:
            yield frame == greys[grey]
    body = frame > (parting := _between(greys, counts))
    yield body
    yield ~body
    above = greys > parting
    if above.sum() > 1:
        yield frame > _between(greys[above], counts[above])


def _histogram(frame: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Occupied greys, ascending, and how many pixels have each."""
    low = int(frame.min())
    if int(frame.max()) - low >= MOST_GREYS:
        greys, counts = np.unique(frame, return_counts=True)
        return greys.astype(np.int64), counts
    counts = np.bincount(frame.ravel().astype(np.int64) - low)
    occupied = np.flatnonzero(counts)
    return occupied + low, counts[occupied]


def _between(greys: NDArray[np.int64], counts: NDArray[np.int64]) -> float:
    """The grey that parts background from what stands out: Otsu, IEEE Trans. SMC 9 (1979) 62-66."""
    below = np.cumsum(counts)[:-1].astype(float)
    weighted = np.cumsum(counts * greys.astype(float))
    mean = weighted[-1] / counts.sum()
    spread = (mean * below - weighted[:-1]) ** 2 / (below * (counts.sum() - below))
    return float(greys[int(np.argmax(spread))])


def _lines(ink: NDArray[np.bool_]) -> Iterator[tuple[Box, int, NDArray[np.bool_]]]:
    """Where pieces of `ink` of one height stand side by side: box, number of pieces, the ink in it."""
    import cv2  # rapidocr brings it; five times as fast as scipy's

    _, labels, found, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8), connectivity=8)
    lefts, tops, widths, heights, areas = found[1:].T
    piece = (heights >= SHORTEST_PIXELS) & (heights <= max(TALLEST_SHARE * len(ink), TALLEST_PIXELS))
    piece &= widths <= WIDEST * heights
    stroke = piece & (areas < SOLID * heights * widths) & (widths >= SLIMMEST_PIXELS)
    if piece.sum() < MIN_PIECES or stroke.sum() < MIN_STROKES:
        return
    rows = np.zeros(ink.shape, bool)
    for left, top, width, height in found[1:][piece, :4]:
        middle = slice(top + height // 4, top + height - height // 4)  # lines below each other stay apart
        rows[middle, left : left + width + int(GAP * height)] = True
    count, line_of = cv2.connectedComponents(rows.astype(np.uint8), connectivity=4)
    middles = line_of[tops + heights // 2, lefts]
    for line in range(1, count):
        members = piece & (middles == line)
        usual = np.median(heights[members])
        members &= (heights >= SIMILAR * usual) & (SIMILAR * heights <= usual)
        if members.sum() >= MIN_PIECES and (members & stroke).sum() >= MIN_STROKES:
            top, left = int(tops[members].min()), int(lefts[members].min())
            bottom, right = int((tops + heights)[members].max()), int((lefts + widths)[members].max())
            shown = np.isin(labels[top:bottom, left:right], 1 + np.flatnonzero(middles == line))
            yield (top, bottom, left, right), int(members.sum()), shown


def _is_text(ink: NDArray[np.bool_]) -> bool:
    """Whether the recogniser reads letters or digits, not one and the same, in a line of (H, W) ink."""
    starts = range(0, max(1, ink.shape[1] - MOST_COLUMNS // 4), MOST_COLUMNS * 3 // 4)
    return any(_reads(ink[:, start : start + MOST_COLUMNS]) for start in starts)


def _reads(ink: NDArray[np.bool_]) -> bool:
    margin = max(4, len(ink) // 3)
    shown = np.repeat(np.where(np.pad(ink, margin), np.uint8(0), np.uint8(255))[..., None], 3, axis=2)
    said = _recogniser()(shown)
    if said is None or not said.txts or said.scores[0] < MIN_CONFIDENCE:
        return False
    characters = [character for character in said.txts[0] if character.isalnum()]
    return len(characters) >= MIN_CHARACTERS and len(set(characters)) >= MIN_DIFFERENT


@functools.lru_cache(maxsize=1)
def _recogniser() -> ocr.Engine:
    return ocr.engine(finds=False, reads=True)
