"""The privacy report as one page that stands alone: numbers, curves as inline SVG, no image, no script."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from medgan.privacy.evidence import Evidence, Scores
from medgan.privacy.tail import Tail
from medgan.records import GateTest

_BINS = 48
_LEAST_IN_A_BIN = 11
_WIDTH, _HEIGHT, _PAD = 420, 180, 34

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--paper:#fff;--soft:#68758a;--line:#d8dee8;--a:#1f6feb;--b:#c2570c;
--good:#1a7f37;--bad:#c62828;--open:#946200}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf2;--paper:#12161d;--soft:#98a5b8;--line:#2d3644;--a:#6cb0ff;
--b:#ffa657;--good:#56d364;--bad:#ff8a80;--open:#e3b341}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{text-align:left;padding:.3rem .5rem;border-bottom:1px solid var(--line);vertical-align:top}
td.n{font-variant-numeric:tabular-nums;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}.soft{color:var(--soft)}
.plots{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;flex:1 1 24rem;max-width:29rem}
figcaption{font-size:.85rem;color:var(--soft)}
svg{width:100%;height:auto;font:11px system-ui,sans-serif}svg text{fill:var(--soft)}
.axis{stroke:var(--line);fill:none}.a{stroke:var(--a);fill:none;stroke-width:1.8}.b{stroke:var(--b);fill:none;stroke-width:1.8}
.limit{stroke:var(--bad);stroke-dasharray:4 3}.bar{fill:var(--a)}.key-a{fill:var(--a)!important}
.key-b{fill:var(--b)!important}
"""


def curves(evidence: Evidence, scale: Tail, scores: npt.NDArray[np.float64]) -> dict[str, Any]:
    """What the page draws: shares a bin (cells of fewer than 11 images hidden), ROC points, the threshold.

    `scores` (Q,) are the synthetic images' on the scale of the tail.
    """
    drawn: dict[str, Any] = {"distributions": {}, "roc": {}, "threshold": round(scale.threshold, 4)}
    for name in evidence.synthetic.bands:
        drawn["distributions"][name] = _distribution(evidence.synthetic.bands[name], evidence.calibration.bands[name])
    drawn["distributions"]["tail score"] = _distribution(scores, scale.own)
    for name, members in evidence.members.items():
        drawn["roc"][name] = _roc(members, evidence.others[name])
    return drawn


def _distribution(synthetic: Scores, fresh: Scores) -> dict[str, Any]:
    edges = np.linspace(min(synthetic.min(), fresh.min()) - 1e-6, max(synthetic.max(), fresh.max()) + 1e-6, _BINS + 1)

    def shares(scores: Scores) -> list[float]:
        counts = np.histogram(scores, edges)[0]
        return [round(count / len(scores), 5) if count >= _LEAST_IN_A_BIN else 0.0 for count in counts.tolist()]

    return {"edges": np.round(edges, 4).tolist(), "synthetic": shares(synthetic), "fresh": shares(fresh)}


def _roc(members: Scores, others: Scores) -> dict[str, list[float]]:
    rates = np.unique(np.concatenate([np.geomspace(1e-3, 1, 40), np.linspace(0, 1, 41)]))
    thresholds = np.quantile(others, 1 - rates)
    true = [(members >= threshold).mean() for threshold in thresholds]
    return {"false": np.round(rates, 5).tolist(), "true": np.round(true, 5).tolist()}


def render(report: dict[str, Any]) -> str:
    """The page of a report as read from `privacy.json`."""
    policy, verdict = report["policy"], report["verdict"]
    tone = {"cleared": "good", "refused": "bad"}.get(verdict, "open")
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Privacy report</title><style>{_STYLE}</style>",
        f"<h1>Privacy report: <span class={tone}>{escape(verdict)}</span></h1>",
        f"<p>Policy <b>{escape(policy['name'])}</b>, version {policy['version']}: {escape(policy['purpose'])}<br>",
        f"<span class=soft>Cohort {escape(report['synthetic'])}, pixels {escape(report['pixel_sha256'][:16])}</span>",
        _test_table(sorted(report["tests"], key=lambda test: str(test["test"]))),
        "<h2>How near the images come to the train split</h2><div class=plots>",
        *(_figure(name, drawn, report) for name, drawn in report["curves"]["distributions"].items()),
        "</div><h2>Membership attacks</h2><div class=plots>",
        *(_roc_figures(report["curves"]["roc"])),
        "</div><h2>Self-test: what this gate finds of changed train images, planted in this cohort</h2>",
        _planted_table(report["planted"]),
        *_record(report.get("record", {})),
        "<h2>What was counted</h2>",
        _counts(report),
        "<h2>What was not tested</h2><ul>",
        *(f"<li>{escape(reason)}" for reason in report["not_tested"]),
        "</ul><p class=soft>A verdict is a measured statement about these bytes under this policy.",
        "It is not a proof that nobody can be recognised.</p></html>",
    ]
    return "\n".join(parts)


def _test_table(tests: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(test['test'])}<td>{escape(test['title'])}<div class=soft>{escape(test['detail'])}</div>"
        f"<td class=n>{test['value']:.4g}<td class=n>{test['limit']:.4g}<td class={_tone(test)}>{_word(test)}"
        for test in tests
    )
    return f"<table><tr><th>Test<th>What<th>Value<th>Limit<th>Result{rows}</table>"


def _word(test: dict[str, Any]) -> str:
    if test["passed"] or test["conclusive"]:
        return "passed" if test["passed"] else "failed"
    return "not decidable, leans to a leak" if GateTest.model_validate(test).adverse else "not decidable"


def _tone(test: dict[str, Any]) -> str:
    return "good" if test["passed"] else "bad" if test["conclusive"] else "open"


def _figure(name: str, drawn: dict[str, Any], report: dict[str, Any]) -> str:
    edges = np.asarray(drawn["edges"])
    middle = (edges[:-1] + edges[1:]) / 2
    top = max(*drawn["synthetic"], *drawn["fresh"], 1e-9)
    limit = report["curves"]["threshold"] if name == "tail score" else None
    axes = _Axes(x=(float(edges[0]), float(edges[-1])), y=(0.0, top))
    body = axes.line(middle, drawn["fresh"], "b") + axes.line(middle, drawn["synthetic"], "a")
    body += axes.vertical(limit) if limit is not None else ""
    captions = {
        "E1": "E1, coarse form: how much nearer the nearest train image is than the fifth patient's (log)",
        "E2": "E2, detail: how much nearer the nearest train image is than the fifth patient's (log)",
        "pixels": "Pixels: correlation r with the nearest train image after fine registration, as -log(1 - r)",
        "E3": "E3, the same person: similarity of the nearest train image",
        "tail score": "The largest of all on the scale of strangers like it; beyond the dashed threshold lies the tail",
    }
    return axes.figure(body, captions[name], ("synthetic", "fresh real"))


def _roc_figures(roc: dict[str, dict[str, list[float]]]) -> list[str]:
    names = {"nearest": "nearest synthetic image", "ratio": "density ratio"}
    whole, low = _Axes(x=(0, 1), y=(0, 1)), _Axes(x=(-3, 0), y=(0, 0.1))
    chance = np.linspace(-3, -1, 33)
    bodies = [whole.line([0, 1], [0, 1], "axis"), low.line(chance, 10**chance, "axis")]
    for points, kind in zip((roc["nearest"], roc["ratio"]), "ab", strict=True):
        false, true = np.asarray(points["false"]), np.asarray(points["true"])
        bodies[0] += whole.line(false, true, kind)
        positive = (false > 0) & (true <= 0.1)  # noqa: PLR2004 - the zoom's own upper edge
        bodies[1] += low.line(np.log10(false[positive]), true[positive], kind)
    keys = (names["nearest"], names["ratio"])
    return [
        whole.figure(bodies[0], "True against false positive rate; the diagonal is guessing", keys),
        low.figure(bodies[1], "The same at low false positive rates (power of ten); grey is guessing", keys),
    ]


class _Axes:
    """A frame of plot coordinates; everything it returns is SVG text."""

    def __init__(self, *, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = x, y

    def _place(self, x: Any, y: Any) -> npt.NDArray[np.float64]:
        across = _PAD + (np.asarray(x, float) - self.x[0]) / (self.x[1] - self.x[0]) * (_WIDTH - 2 * _PAD)
        down = _HEIGHT - _PAD - (np.asarray(y, float) - self.y[0]) / (self.y[1] - self.y[0]) * (_HEIGHT - 2 * _PAD)
        return np.stack([across, down], axis=-1).round(1)

    def line(self, x: Any, y: Any, kind: str) -> str:
        points = " ".join(f"{across:g},{down:g}" for across, down in self._place(x, y).tolist())
        return f'<polyline class="{kind}" points="{points}"/>'

    def vertical(self, x: float) -> str:
        (across, low), (_, high) = self._place([x, x], self.y).tolist()
        return f'<line class="limit" x1="{across:g}" x2="{across:g}" y1="{low:g}" y2="{high:g}"/>'

    def figure(self, body: str, caption: str, keys: tuple[str, str]) -> str:
        left, right, bottom = _PAD, _WIDTH - _PAD, _HEIGHT - _PAD
        frame = f'<path class="axis" fill="none" d="M{left},{_PAD}V{bottom}H{right}"/>'
        ticks = "".join(
            f'<text x="{across:g}" y="{bottom + 14}" text-anchor="middle">{value:.3g}</text>'
            for value, (across, _) in zip(
                np.linspace(*self.x, 5), self._place(np.linspace(*self.x, 5), [self.y[0]] * 5).tolist(), strict=True
            )
        )
        top = f'<text x="{left - 4}" y="{_PAD + 4}" text-anchor="end">{self.y[1]:.2g}</text>'
        legend = (
            f'<text class="key-a" x="{right}" y="14" text-anchor="end">{escape(keys[0])}</text>'
            f'<text class="key-b" x="{right}" y="28" text-anchor="end">{escape(keys[1])}</text>'
        )
        return (
            f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(caption)}">{frame}{ticks}'
            f"{top}{legend}{body}</svg><figcaption>{escape(caption)}</figcaption></figure>"
        )


def _planted_table(planted: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(item['change'])}<td class=n>{item['found']} of {item['count']}"
        f'<td><svg viewBox="0 0 100 8" style="max-width:10rem"><rect class=bar height=8 '
        f'width="{100 * item["found"] / item["count"]:.0f}"/></svg>'
        f"<td class=n>{item['planted']}"
        f"<td class={'good' if item['refused'] else 'bad'}>{'refused' if item['refused'] else 'not refused'}"
        for item in planted
    )
    return f"<table><tr><th>Change<th>Found<th><th>Planted<th>The gate{rows}</table>"


def _record(record: dict[str, dict[str, float]]) -> list[str]:
    """What decides nothing and should be known."""
    if not record:
        return []
    items = "".join(
        f"<li>{escape(attack)}: AUC {found['auc']:.3f}, true positives at 0.1 % false ones "
        f"{found['true positives at 0.1 % false ones']:.2%} "
        f"({found['members']:,.0f} members, {found['others']:,.0f} others)"
        for attack, found in record.items()
    )
    return [
        "<h2>For the record</h2><p>What an attacker inside the pseudonymised zone could do; it decides nothing.</p>",
        f"<ul>{items}</ul>",
    ]


def _counts(report: dict[str, Any]) -> str:
    control = report["control"]
    items = [f"{escape(name)}: {value:,}" for name, value in sorted(report["counts"].items())]
    made = report["counts"]["synthetic"]
    items.append(f"the bound that could be reached: nothing found in {made:,} images bounds a rate at {3 / made:.2%}")
    items.append(f"false alarms in holdout-2: {control['hits']} of {control['images']:,}")
    return "<ul>" + "".join(f"<li>{item}" for item in items) + "</ul>"
