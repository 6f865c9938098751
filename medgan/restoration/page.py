"""The page beside restored images: before, after, and where to doubt, as people look at them."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgan.gan import grid
from medgan.gan.degrade import task
from medgan.gan.filled import GOOD
from medgan.gan.repair import Restored, Restorer
from medgan.records import RestorationReport

_SHOWN_PX = 320


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Three PNG files of one image and its numbers."""

    before: bytes
    after: bytes
    doubt: bytes
    inconsistency: float
    invented_share: float
    guessed_share: float


def picture(values_HW: NDArray[np.float64], made: Restored) -> Picture:
    """Windowed alike; doubt is black where the bound is 0 and white where it is a fifth of the window."""
    lo, hi = np.percentile(values_HW, (0.1, 99.9))
    span = max(float(hi - lo), 1e-9)

    def png(shown: NDArray[np.floating]) -> bytes:
        grey = np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
        step = max(1, -(-max(grey.shape) // _SHOWN_PX))
        return grid.png(np.ascontiguousarray(grey[::step, ::step]))

    return Picture(
        before=png((values_HW - lo) / span),
        after=png((made.image - lo) / span),
        doubt=png(made.uncertainty / (0.2 * span)),
        inconsistency=made.inconsistency,
        invented_share=made.invented_share,
        guessed_share=made.guessed_share,
    )


def render(report: RestorationReport, restorer: Restorer, pictures: list[Picture]) -> str:
    """One self-contained page; asks nobody for anything."""
    held_out, holes = restorer.held_out, report.task == "inpaint"
    counts = [("files received", report.received), ("restored", report.restored), ("left alone", report.untouched)]
    counts += [(f"quarantined: {reason}", count) for reason, count in report.quarantined.items()]
    table = "".join(f"<tr><th>{html.escape(name)}<td>{count:,}" for name, count in counts)
    done = task(report.task)
    differs = "contradicts what was seen by" if done.degradation.exact else "took for noise (rms):"
    shown = "".join(
        f"<figure>{''.join(_image(png, name) for name, png in _named(one))}<figcaption>{differs} "
        f"{one.inconsistency:.1e} of the window; the change has {100 * one.invented_share:.1f} % of the image's energy"
        f"{f'; {100 * one.guessed_share:.0f} % of its hole is a guess' if holes else ''}</figcaption></figure>"
        for one in pictures
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Restored images</title><style>'
        "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem}"
        "th{text-align:left;font-weight:400;padding-right:2rem}td{text-align:right}"
        "figure{margin:1.5rem 0}img{width:32%;background:#000;image-rendering:pixelated;margin-right:1%}"
        ".note{border-left:4px solid #b35c00;padding:.3rem 1rem;background:#fff6ec}</style>"
        f"<h1>{html.escape(done.title)}</h1>"
        '<p class="note">A neural network made part of these images. They are derived instances beside the originals, '
        "not in their place. The right-hand picture is a bound that 95 % of an image's errors in tissue kept below, in "
        "nine of ten images of held-out patients: black is certain, white is a fifth of the window or more.</p>"
        f"<table>{table}</table><p>On held-out patients of its training: {held_out['psnr_db']:.1f} dB PSNR, "
        f"{held_out['naive_psnr_db']:.1f} dB without the network ({held_out['images']:.0f} images). "
        f"{told(restorer)} Model {report.weights_sha256[:16]}.</p><h2>Before, after, doubt</h2>{shown}</html>"
    )


def told(restorer: Restorer) -> str:
    """What a model's held-out patients say of lesions, and of holes, in sentences."""
    lesions = _told_of_lesions(restorer.planted)
    return f"{lesions} {_told_of_holes(restorer.filled)}" if restorer.config.task == "inpaint" else lesions


def _told_of_lesions(planted: dict[str, float]) -> str:
    """How often lesions planted in held-out images were removed, and something was added, in two sentences."""
    removed, added, unannounced = (100 * planted[f"{what}_at_most"] for what in ("removed", "added", "unannounced"))
    patients = f"{planted['patients']:.0f} held-out patient{'s' if planted['patients'] > 1 else ''}"
    return (
        f"Of {planted['cases']:.0f} small lesions planted in images of {patients} it removed {planted['removed']:.0f}, "
        f"and it added something of that size to {planted['added']:.0f} images, to {planted['unannounced']:.0f} "
        f"of them by more than the bound there. In images of another patient these are with 95 % confidence at most "
        f"{removed:.1f}, {added:.1f} and {unannounced:.1f} %: the fewer were held out, the less is known of the next."
    )


def _told_of_holes(filled: dict[str, Any]) -> str:
    """How similar fillings were by their distance from the rim, and from where on they are a guess."""
    shells = zip(filled["depth_px"], filled["ssim"], filled["tissue"], strict=True)
    found = ", ".join(
        f"{depth} px {whole:.2f}" + (f" ({tissue:.2f} in tissue)" if tissue is not None else "")
        for depth, whole, tissue in shells
    )
    return (
        f"Structural similarity of what was filled in, by the distance to what was seen, up to {found or '0 px 1'}: "
        f"what lies deeper than {filled['trusted_px']} px is a guess (below {GOOD})."
    )


def _named(one: Picture) -> list[tuple[str, bytes]]:
    return [("before", one.before), ("after", one.after), ("where to doubt", one.doubt)]


def _image(png: bytes, name: str) -> str:
    return f'<img alt="{name}" title="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
