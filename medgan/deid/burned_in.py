"""Text burned into pixels: found offline, blanked, and what stays doubtful is refused for a human to look at.

Known regions first: what lies outside the calibrated regions of an ultrasound screen is blanked unseen
(PS3.3 C.8.5.5). Then a text detector (rapidocr, model in its wheel) looks at the brightest and the darkest value
of each pixel over all frames, because burned-in text stands still. Boxes are dilated and set to the background; every
other stored value stays. A second look at the result must find nothing. Measured originals are searched only where
`drawn` reads a line, and blanked only where nothing measured is lost.
"""

from __future__ import annotations

import functools
import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from medgan.archive import pixels, references
from medgan.deid import drawn, ocr
from medgan.errors import BadInstance

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset

    from medgan.archive.pixels import Decoded
    from medgan.deid.drawn import Box

# Modalities whose images are measured and not drawn, and come by the thousand: looked at where text is drawn on them.
# Those of every other modality, known or not, are looked at: screens are stored as images, consoles draw text.
MEASURED_MODALITIES = frozenset(("CT", "MR", "PT", "NM"))
# Labels, doses and tiles at the end of their scale are no drawing, and nothing draws on them.
CALCULATED_MODALITIES = frozenset(("SM", "SEG", "RTDOSE"))
RISK_IMAGE_TYPES = frozenset(("DERIVED", "SECONDARY", "OVERVIEW", "THUMBNAIL"))
SLIDE_LABEL = "LABEL"  # PS3.3 C.8.12.4.1.1: the picture of a label, written by hand or as a bar code, is nothing else
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MIN_SIDE_PIXELS = 48  # smaller images cannot hold a legible line
TEXT_SCORE = 0.35  # low on purpose: a box too many costs some background, a box too few a name
MAX_LINE_SHARE, SMALL_LINE_SHARE, LINE_PIXELS = 0.12, 0.2, 28  # a line of text is no taller; what is, is anatomy
MAX_BLANKED = 0.4  # of the image; beyond that it is a screen of text, not an image
DILATION = 0.5  # of a box's height; the detector's boxes cut ascenders and descenders
MIN_DILATION_PIXELS = 5
HUGE_LINE_SHARE, HUGE_LINE_ASPECT = 0.25, 1.5  # taller lines than that may be a headline or an organ: doubt
MIN_INK_PIXELS, MAX_INK_SHARE = 40, 0.1
LOOKS = 5
DETECTOR_SIDE_PIXELS = 960  # smaller images are enlarged, so that lines of 14 pixels are found


def at_risk(dataset: Dataset) -> bool:
    """Whether an instance is looked at: by modality, kind of image, class or its own words."""
    return (
        str(dataset.get("Modality") or "") not in MEASURED_MODALITIES | CALCULATED_MODALITIES
        or bool(RISK_IMAGE_TYPES & _kinds(dataset))
        or str(dataset.get("SOPClassUID") or "").startswith(SECONDARY_CAPTURE)
        or dataset.get("BurnedInAnnotation") == "YES"
        or dataset.get("SpecimenLabelInImage") == "YES"
    )


def _kinds(dataset: Dataset) -> set[str]:
    kinds = dataset.get("ImageType") or ()
    found = set(map(str, [kinds] if isinstance(kinds, str) else kinds))
    # every segmentation has to say so (PS3.3 C.8.20.2), and a mask of small lesions looks like text
    return found - {"DERIVED"} if dataset.get("SOPClassUID") == references.SEGMENTATION else found


def clean(data: bytes, dataset: Dataset, *, reviewed: bool = False) -> bytes:
    """Part 10 bytes whose pixels hold no text that the detector finds; `data` itself where there was none.

    With `reviewed` somebody looked at the picture and found nothing: it passes as it is. Raises `BadInstance`
    with BURNED_IN where text cannot be told from image, and the decoder's reasons where it cannot be decoded.
    """
    if "PixelData" not in dataset or reviewed:
        return data
    if dataset.get("Modality") == "SM" and SLIDE_LABEL in _kinds(dataset):
        raise BadInstance("BURNED_IN", "the picture of a label: somebody has to look at it")
    risky = at_risk(dataset)
    if not risky and dataset.get("Modality") in CALCULATED_MODALITIES:
        return data
    decoded = pixels.decode(dataset)
    if min(decoded.frames.shape[1:3]) < MIN_SIDE_PIXELS:
        return data
    if risky or decoded.frames.ndim == 4:  # noqa: PLR2004 - in colour: whatever it says, that is not measured
        boxes = text_boxes(decoded, known=known_regions(dataset, decoded.frames.shape[1:3]))
    else:
        boxes = drawn_boxes(decoded)
    return blank(dataset, decoded, boxes) if boxes else data


def drawn_boxes(decoded: Decoded) -> list[Box]:
    """Boxes to blank of an image that should be measured only, none where nothing is drawn that can be read.

    Raises `BadInstance` BURNED_IN unless blanking loses nothing: beside text of one value there is background only.
    """
    read = [_dilate(box, decoded.frames.shape[1:3]) for box in drawn.lines(decoded)]
    boxes = text_boxes(decoded, known=read) if read else []
    empty = _background(decoded)
    for top, bottom, left, right in boxes:
        values = np.unique(decoded.frames[:, top:bottom, left:right])
        if len(values) > 2 or empty not in values:  # noqa: PLR2004 - ink and background
            raise BadInstance("BURNED_IN", "text is drawn on a measured image: somebody has to look at it")
    return boxes


def text_boxes(decoded: Decoded, *, known: list[Box]) -> list[Box]:
    """Boxes to blank, `known` among them; `BadInstance` BURNED_IN where doubt remains."""
    views = [view.copy() for view in projections(decoded.frames)]
    boxes = list(known)
    for view in views:
        _fill(view, known)
        for _ in range(LOOKS):
            grown = [_dilate(box, view.shape) for box in detect(view)]
            if not grown:
                break
            boxes += grown
            _fill(view, grown)
        else:
            raise BadInstance("BURNED_IN", "there may be text in the image: somebody has to look at it")
    found_only = boxes[len(known) :]
    mask = np.zeros(views[0].shape[:2], bool)
    for top, bottom, left, right in found_only:
        mask[top:bottom, left:right] = True
    if mask.mean() > MAX_BLANKED:
        raise BadInstance("BURNED_IN", "the image is mostly text")
    return boxes


def projections(frames: NDArray[Any]) -> list[NDArray[np.uint8]]:
    """Views to search, (H, W, 3) uint8: brightest and darkest over (F, H, W[, 3]) frames, and the extremes alone."""
    bright = frames.max(axis=0)
    dark = frames.min(axis=0)
    views = [_render(bright)] if len(frames) == 1 else [_render(bright), _render(dark)]
    # text is drawn at the end of the scale: alone there, it is legible over bone and over air
    for extreme in (bright == bright.max(), dark == dark.min()):
        ink = extreme.all(axis=2) if extreme.ndim == 3 else extreme  # noqa: PLR2004 - colour
        if MIN_INK_PIXELS <= ink.sum() <= MAX_INK_SHARE * ink.size:
            views.append(_render(ink))
    return views


def _render(view: NDArray[Any]) -> NDArray[np.uint8]:
    values = view.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    scaled = ((values - low) * (255 / max(high - low, 1))).astype(np.uint8)
    return np.repeat(scaled[..., None], 3, axis=2) if scaled.ndim == 2 else scaled  # noqa: PLR2004 - grey


@functools.lru_cache(maxsize=1)
def _detector() -> ocr.Engine:
    sharp = {"Det.box_thresh": TEXT_SCORE, "Det.limit_side_len": DETECTOR_SIDE_PIXELS}
    return ocr.engine(finds=True, reads=False, settings=sharp)


def detect(view: NDArray[np.uint8]) -> list[Box]:
    """Boxes of lines of text in an (H, W, 3) uint8 picture."""
    said = _detector()(view)
    if said is None or said.boxes is None:
        return []
    tallest = max(MAX_LINE_SHARE * view.shape[0], min(LINE_PIXELS, SMALL_LINE_SHARE * view.shape[0]))
    found = []
    for corners in said.boxes:
        left, top = np.floor(corners.min(axis=0)).astype(int)
        right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
        box = (max(int(top), 0), int(bottom), max(int(left), 0), int(right))
        height, width = box[1] - box[0], box[3] - box[2]
        if height <= tallest:
            found.append(box)
        elif height <= HUGE_LINE_SHARE * view.shape[0] and width >= HUGE_LINE_ASPECT * height:
            raise BadInstance(
                "BURNED_IN", "something in the image is as large as a headline: somebody has to look at it"
            )
    return found


def _dilate(box: Box, shape: tuple[int, ...]) -> Box:
    top, bottom, left, right = box
    margin = max(MIN_DILATION_PIXELS, round(DILATION * (bottom - top)))
    return max(top - margin, 0), min(bottom + margin, shape[0]), max(left - margin, 0), min(right + margin, shape[1])


def _fill(view: NDArray[Any], boxes: list[Box]) -> None:
    for top, bottom, left, right in boxes:
        view[top:bottom, left:right] = view.min()


def known_regions(dataset: Dataset, shape: tuple[int, ...]) -> list[Box]:
    """The screen around the calibrated regions of an ultrasound image; nothing where there are none."""
    regions = dataset.get("SequenceOfUltrasoundRegions") or ()
    try:
        inside = [
            (
                int(r.RegionLocationMinY0),
                int(r.RegionLocationMaxY1) + 1,
                int(r.RegionLocationMinX0),
                int(r.RegionLocationMaxX1) + 1,
            )
            for r in regions
        ]
    except (AttributeError, TypeError, ValueError):
        return []
    if not inside:
        return []
    rows, columns = shape
    top, bottom = max(min(r[0] for r in inside), 0), min(max(r[1] for r in inside), rows)
    left, right = max(min(r[2] for r in inside), 0), min(max(r[3] for r in inside), columns)
    around = [(0, top, 0, columns), (bottom, rows, 0, columns), (top, bottom, 0, left), (top, bottom, right, columns)]
    return [box for box in around if box[0] < box[1] and box[2] < box[3]]


def blank(dataset: Dataset, decoded: Decoded, boxes: list[Box]) -> bytes:
    """The instance with `boxes` of every frame at the background; all other values stay as they were decoded."""
    if "ModalityLUTSequence" in dataset:
        raise BadInstance("BURNED_IN", "text stands in an image whose values pass a table: it cannot be blanked alone")
    values = np.array(decoded.frames)
    background = _background(decoded)
    for top, bottom, left, right in boxes:
        values[:, top:bottom, left:right] = background
    dataset.BurnedInAnnotation = "NO"
    return rewrite(dataset, decoded, values)


def _background(decoded: Decoded) -> int:
    return int(decoded.frames.max() if decoded.photometric == "MONOCHROME1" else decoded.frames.min())


def rewrite(dataset: Dataset, decoded: Decoded, values: NDArray[Any]) -> bytes:
    """The instance with `values`, shaped and typed as `decoded.frames`, as native pixel data."""
    from pydicom.uid import ExplicitVRLittleEndian

    bits = 8 * values.dtype.itemsize
    dataset.PixelData = (
        values.astype(values.dtype.newbyteorder("<")).tobytes().ljust(values.nbytes + values.nbytes % 2, b"\0")
    )
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"  # noqa: PLR2004 - PS3.5 8.1.1
    dataset["PixelData"].is_undefined_length = False
    dataset.PhotometricInterpretation = decoded.photometric
    dataset.SamplesPerPixel = values.shape[3] if values.ndim == 4 else 1  # noqa: PLR2004 - colour
    if dataset.SamplesPerPixel > 1:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, decoded.bits_stored, decoded.bits_stored - 1
    dataset.PixelRepresentation = int(decoded.signed)
    for keyword in [e.keyword for e in dataset if "PaletteColorLookupTable" in e.keyword or "OffsetTable" in e.keyword]:
        delattr(dataset, keyword)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def picture(data: bytes) -> bytes:
    """PNG of the views that the detector searched, one below the other; `data` is the refused instance.

    It shows what burned-in text says, so it is for a human in the identified zone only. Raises `BadInstance`.
    """
    from PIL import Image

    from medgan.archive import instance

    views = np.concatenate(projections(pixels.decode(instance.parse(data)).frames))
    out = io.BytesIO()
    Image.fromarray(views).save(out, "PNG")
    return out.getvalue()
