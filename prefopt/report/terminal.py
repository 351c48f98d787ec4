"""A report for the terminal and for other programs: the verdict as text, and all figures as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from prefopt.comparison.differences import Difference
from prefopt.comparison.results import Results
from prefopt.comparison.verdict import Verdict, verdict
from prefopt.report.files import summary
from prefopt.report.format import at, p_value, shown, spaced
from prefopt.report.further import sentences, size
from prefopt.report.headline import headline, notes


def as_text(results: Results) -> str:
    """The headline, what is compared, and what goes with it."""
    judged = verdict(results)
    parts = [headline(results), *([] if judged is None else [_table(results, judged)])]
    parts += ["\n".join(notes(results)), "\n".join(f"- {sentence}" for sentence in sentences(results)), size(results)]
    return "\n\n".join(part for part in parts if part)


def _table(results: Results, judged: Verdict) -> str:
    by_name = {d.name: d for d in judged.differences}
    against = results.suite.against
    lines = [("objective", spaced(judged.metric.name), f"difference from {against}", "seeds", "p")]
    for standing in judged.standings:
        d = by_name.get(standing.name)
        figures = ("-", "-") if d is None else (shown(d.estimate, "+"), p_value(d.p))
        name = f"{standing.name}{at(standing.setting)}"
        lines.append((name, shown(standing.estimate), figures[0], str(judged.seeds), figures[1]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(row.rstrip() for row in rows)


def as_json(results: Results) -> str:
    """verdict (null where nothing is measured), summary (the lines of summary.csv) and values (the results frame)."""
    judged = verdict(results)
    values = results.values.assign(setting=[dict(setting) for setting in results.values["setting"]])
    document = {
        "headline": headline(results),
        "notes": list(notes(results)),
        "verdict": None if judged is None else _verdict(judged),
        "summary": json.loads(summary(results).to_json(orient="records", double_precision=15)),
        "values": values.to_dict(orient="records"),
    }
    return json.dumps(_finite(document), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """The same with null in the place of numbers that are not finite, which JSON has no words for."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _verdict(judged: Verdict) -> dict[str, Any]:
    return {
        "metric": judged.metric.name,
        "better": judged.metric.better,
        "distance": judged.distance,
        "setting": dict(judged.setting),
        "best": judged.best,
        "seeds": judged.seeds,
        "seeds_to_tell": judged.enough_seeds,
        "standings": [
            {"objective": s.name, "setting": dict(s.setting), "mean": s.estimate.mean, "low": s.estimate.low}
            | {"high": s.estimate.high, "interval_over": s.estimate.over}
            for s in judged.standings
        ],
        "differences": list(map(_difference, judged.differences)),
        "from_first": list(map(_difference, judged.rivals)),
        "not_compared": dict(judged.missing),
    }


def _difference(d: Difference) -> dict[str, Any]:
    figures = {"mean": d.estimate.mean, "low": d.estimate.low, "high": d.estimate.high, "by_seed": list(d.by_seed)}
    tests = {"p_items": d.p_items, "p_signs": d.p_signs, "p_t": d.p_t, "p": d.p, "told": d.told}
    return {"objective": d.name, "against": d.against, **figures, **tests}
