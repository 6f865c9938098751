"""The report of a personalised training as one page that stands alone: curves as inline SVG, tables, no script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

from medgan.cohort.outlines import legend
from medgan.personal.segment import Judge
from medgan.records import ArmScore, PersonalReport

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 320, 56, 40, 12
_COLOURS = ("#68758a", "#1f6feb", "#946200", "#8250df", "#c2410c")
_STYLE = (
    ":root{color-scheme:light dark;--line:#8884}body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;"
    "margin:2rem auto;padding:0 1rem}table{border-collapse:collapse;width:100%;"
    "font-size:.9rem;font-variant-numeric:tabular-nums}"
    "td,th{text-align:left;padding:.3rem .5rem;border-bottom:1px solid var(--line)}svg{width:100%;height:auto;"
    "font:12px system-ui,sans-serif}svg text{fill:currentColor}.gain{color:#1a7f37;font-weight:600}"
    ".loss{color:#c62828;font-weight:600}.note{border-left:4px solid #1f6feb;padding:.3rem 1rem}"
)


def render(report: PersonalReport, *, masks: Judge | None = None, names: Sequence[str] = ()) -> str:
    """The page; it names the release, the handle of the cases and numbers, nothing else.

    Of segmentation it shows Dice of each structure, by the team's `names`, and outlines on a few test images.
    """
    arms = list(dict.fromkeys(one.arm for one in report.scores))
    gains = "".join(
        f"<tr><td>{escape(one.over)}<td>{one.shots}<td>{one.mean:+.3f}<td>{one.low:+.3f} to {one.high:+.3f}"
        f'<td class="{one.verdict.split()[0]}">{one.verdict}'
        for one in report.gains
    )
    rows = "".join(
        f"<tr><td>{escape(one.arm)}<td>{one.shots}<td>{one.mean:.3f}<td>{one.low:.3f} to {one.high:.3f}"
        for one in report.scores
    )
    matched = "".join(f"<tr><td>{one.shots}<td>{escape(one.how)}<td>{one.seeds}" for one in report.matching)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Personalised training</title>'
        f"<style>{_STYLE}</style>"
        f"<h1>What {escape(report.release)} brings these cases</h1>"
        f'<p class="note">{escape(report.headline)}</p>'
        f"<p>{report.metric} on {report.test_images:,} real test images of {report.test_patients:,} other patients; "
        "means and 95 % intervals over seeds. Every seed draws other training cases, as far as there are others; "
        "the test patients are the same, so intervals say nothing of how others would differ.</p>"
        f"{_curves(report.scores, arms, report.metric)}"
        "<h2>Personalised synthetic cases against</h2>"
        f"<table><tr><th>another way<th>real cases<th>difference<th>95 % interval<th>verdict</tr>{gains}</table>"
        f"<h2>Each way alone</h2><table><tr><th>way<th>real cases<th>{report.metric}<th>95 % interval</tr>"
        f"{rows}</table>"
        f"{_outlines(masks, names) if masks is not None else ''}"
        "<h2>What was taken of the release</h2><p>Each set of real cases asks its own patients, in turn left out, "
        "whether synthetic cases matched to the others come nearer to them than the whole release does.</p>"
        f"<table><tr><th>real cases<th>what was taken<th>seeds</tr>{matched}</table>"
        "<p>A difference counts as gain or loss only where its interval leaves out 0. Real cases beside synthetic ones "
        "are augmented as in <i>real + augmentation</i>.</p></html>"
    )


def _outlines(masks: Judge, names: Sequence[str]) -> str:
    """Dice a structure, and test images with the outlines of the team and of each way."""
    rows = []
    for arm, by_count in masks.dice.items():
        for count, seeds in by_count.items():
            known = [[found for found in of if found is not None] for of in zip(*seeds, strict=True)]
            cells = "".join(f"<td>{np.mean(of):.3f}" if of else "<td>not shown" for of in known)
            rows.append(f"<tr><td>{escape(arm)}<td>{count}{cells}")
    heads = "".join(f"<th>{escape(name)}" for name in names)
    lines = ", ".join(["as the team outlined them", *masks.drawn])
    picture = base64.b64encode(masks.picture()).decode()
    return (
        f"<h2>Each structure</h2><table><tr><th>way<th>real cases{heads}</tr>{''.join(rows)}</table>"
        f'<figure style="margin:1rem 0"><img alt="Test images with outlines" style="width:100%;height:auto" '
        f'src="data:image/png;base64,{picture}"><figcaption>Test images, fewest real cases; lines from above: '
        f"{escape(lines)}. {legend(names)}</figcaption></figure>"
    )


def _curves(scores: tuple[ArmScore, ...], arms: list[str], metric: str) -> str:
    shots = sorted({one.shots for one in scores})
    bounds = [value for one in scores for value in (one.low, one.high, one.mean) if np.isfinite(value)]
    low, high = max(min(bounds), min(one.mean for one in scores) - 0.25), max(bounds)
    high = high if high > low else low + 0.1

    def x(count: int) -> float:
        place = shots.index(count) / max(len(shots) - 1, 1)
        return _LEFT + 30 + place * (_WIDTH - _LEFT - 280)

    def y(value: float) -> float:
        kept = min(max(value, low), high)
        return _TOP + (1 - (kept - low) / (high - low)) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in np.linspace(low, high, 5):
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 230}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#8884"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>')
    parts += [f'<text x="{x(n):.0f}" y="{_HEIGHT - 14}" text-anchor="middle">{n}</text>' for n in shots]
    for number, arm in enumerate(arms):
        colour, shift = _COLOURS[number % len(_COLOURS)], 5 * (number - 2)
        points = [one for one in scores if one.arm == arm]
        line = " ".join(f"{x(one.shots) + shift:.1f},{y(one.mean):.1f}" for one in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for one in points:
            if np.isfinite(one.low):
                parts.append(
                    f'<line x1="{x(one.shots) + shift:.1f}" x2="{x(one.shots) + shift:.1f}" y1="{y(one.low):.1f}" '
                    f'y2="{y(one.high):.1f}" stroke="{colour}" stroke-width="1.5"/>'
                )
            parts.append(f'<circle cx="{x(one.shots) + shift:.1f}" cy="{y(one.mean):.1f}" r="3.5" fill="{colour}"/>')
        top = _TOP + 16 + 20 * number
        parts.append(f'<rect x="{_WIDTH - 220}" y="{top - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{_WIDTH - 204}" y="{top}">{escape(arm)}</text>')
    return (
        f'<figure style="margin:0"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{metric} by cases">'
        f"{''.join(parts)}</svg><figcaption>{metric} against the number of real training cases.</figcaption></figure>"
    )
