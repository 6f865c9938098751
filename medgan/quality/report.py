"""The quality report as one HTML page that stands alone: tables, curves as inline SVG, a grid of synthetic images."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

from medgan.cohort.outlines import legend
from medgan.records import Measure

TITLES = {
    "frechet": "Fréchet distance, in-domain encoder",
    "kid": "Kernel distance (KID)",
    "kid_photographs": "Kernel distance, EfficientNet-Lite0 of photographs",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "label_fidelity": "Label recognised by the in-domain classifier (share)",
    "spectrum_db": "Power spectrum, mean gap (dB)",
    "spectrum_high_db": "Power spectrum, upper half (dB)",
    "intensity_wasserstein": "Intensity, Wasserstein (physical units)",
    "sliced_wasserstein": "Sliced Wasserstein",
    "ms_ssim_pairs": "MS-SSIM between pairs (diversity)",
    "tstr_auc": "Train on synthetic, test on real: AUC",
    "tstr_balanced_accuracy": "Train on synthetic, test on real: balanced accuracy",
    "nearest_is_train": "Nearest real image is a training image (share)",
    "nearest_mask_is_train": "Nearest real mask is a training mask (share)",
    "real_plus_synthetic_auc": "Real + synthetic: AUC",
}
SMALL_CELL = 11
"""Real pixels that a bin of a published curve must hold to be shown."""

_AXES = {
    "spectrum_db": ("Radial power spectrum", "cycles an image", "dB"),
    "intensity_share": ("Intensity", "physical units", "share of pixels"),
}
_STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#6a7078;--line:#d8dce0;--page:#fff;
--a:#b3541e;--b:#2f6fab;--c:#4b8b3b}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa2ab;--line:#3a4046;--page:#16181b;
--a:#f0955c;--b:#7db7ec;--c:#93cc83}}
body{margin:2rem auto;max-width:60rem;padding:0 1rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.soft{color:var(--soft)}.plots{display:flex;flex-wrap:wrap;gap:1rem}
svg{flex:1 1 26rem;max-width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}
.frame{stroke:var(--line);fill:none}
.synthetic{stroke:var(--a)}.train{stroke:var(--b)}.holdout{stroke:var(--c)}
path{fill:none;stroke-width:1.6}text.synthetic,text.train,text.holdout{stroke:none}
text.synthetic{fill:var(--a)}text.train{fill:var(--b)}text.holdout{fill:var(--c)}
img{image-rendering:pixelated;width:100%;max-width:48rem}
"""


def title_of(name: str) -> str:
    """A measure's name for people, with its unit; an unknown one with its underscores opened."""
    return TITLES.get(name, name.replace("_", " ").capitalize())


def page(
    measures: tuple[Measure, ...],
    curves: dict[str, Any],
    facts: dict[str, Any],
    grid_png: bytes,
    outlined_png: bytes | None = None,
) -> str:
    """HTML of a report. `facts` are said at the end; both pictures must show synthetic images only."""
    rows = "".join(_row(measure) for measure in measures)
    plots = "".join(_plot(curves[name], *_AXES[name]) for name in _AXES if name in curves)
    said = "".join(f"<tr><td>{escape(title_of(k))}</td><td>{escape(_in_words(v))}</td></tr>" for k, v in facts.items())
    pictures = _picture("Synthetic images", grid_png)
    if outlined_png is not None:
        pictures += _picture("Some of them with what their masks outline", outlined_png)
        pictures += f"<p>{legend(facts['structures'])}</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Quality of a synthetic cohort</title><style>{_STYLE}</style></head><body>"
        "<h1>Quality of a synthetic cohort</h1>"
        '<p class="soft">Each number stands beside its floor: what real train images score against real holdout '
        "images, or what a model trained on real images reaches.</p>"
        '<table><thead><tr><th>Measure</th><th class="n">Synthetic</th><th class="n">Reference</th>'
        '<th>Reference is</th><th>Better</th><th class="n">Images</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        f'<h2>Curves</h2><div class="plots">{plots}</div>'
        f"{pictures}"
        f"<h2>What was compared</h2><table><tbody>{said}</tbody></table></body></html>\n"
    )


def _in_words(fact: Any) -> str:
    """A fact for people: lists and counts without brackets."""
    if isinstance(fact, dict):
        return ", ".join(f"{name} {_in_words(value)}" for name, value in fact.items())
    if isinstance(fact, list | tuple):
        return ", ".join(map(_in_words, fact))
    return f"{fact:,}" if isinstance(fact, int) else str(fact)


def _picture(title: str, png: bytes) -> str:
    text = base64.b64encode(png).decode()
    return f'<h2>{escape(title)}</h2><img alt="Grid of synthetic images" src="data:image/png;base64,{text}">'


def _row(measure: Measure) -> str:
    reference = "" if measure.reference is None else f"{measure.reference:.4g}"
    return (
        f"<tr><td>{escape(title_of(measure.name))}</td><td class='n'>{measure.value:.4g}</td>"
        f"<td class='n'>{reference}</td><td>{escape(measure.reference_name)}</td><td>{measure.better}</td>"
        f"<td class='n'>{measure.count:,}</td></tr>"
    )


def _plot(curve: dict[str, list[float]], title: str, x_label: str, y_label: str) -> str:
    """Curves over `x` as an SVG of 420 x 260."""
    left, top, width, height = 64, 30, 340, 180
    names = [name for name in curve if name != "x"]
    low = min(min(curve[name]) for name in names)
    high = max(max(curve[name]) for name in names)
    x_low, x_high = curve["x"][0], curve["x"][-1]

    def place(x: float, y: float) -> str:
        across = left + width * (x - x_low) / ((x_high - x_low) or 1)
        down = top + height * (1 - (y - low) / ((high - low) or 1))
        return f"{across:.1f} {down:.1f}"

    lines = "".join(
        f'<path class="{name}" d="M{" L".join(place(x, y) for x, y in zip(curve["x"], curve[name], strict=True))}"/>'
        for name in reversed(names)
    )
    legend = "".join(
        f'<text class="{name}" x="{left + width - 62 * place_from_right}" y="18" text-anchor="end">{name}</text>'
        for place_from_right, name in enumerate(reversed(names))
    )
    bottom = top + height
    return (
        f'<svg viewBox="0 0 420 260" role="img" aria-label="{escape(title)}">'
        f'<text x="{left}" y="18">{escape(title)}, {escape(y_label)}</text>'
        f'<rect class="frame" x="{left}" y="{top}" width="{width}" height="{height}"/>{lines}{legend}'
        f'<text x="{left - 6}" y="{top + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{left - 6}" y="{bottom}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{left}" y="{bottom + 18}">{x_low:.3g}</text>'
        f'<text x="{left + width}" y="{bottom + 18}" text-anchor="end">{x_high:.3g}</text>'
        f'<text x="{left + width / 2}" y="{bottom + 34}" text-anchor="middle">{escape(x_label)}</text></svg>'
    )
