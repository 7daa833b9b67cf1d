"""Figures of what was measured: every candidate's grade against its cost, and speed-ups with intervals."""

from collections.abc import Sequence

from delayer.report.figures import NEUTRAL, Figure, distinct, plain_layout
from delayer.report.formats import count, difference, in_unit, milliseconds, missing, number
from delayer.study import Candidates, LatencyInfo, Measured

_CHOSEN, _ORIGINAL = "#d55e00", "#0f83c9"
_FASTER, _SLOWER = "#12a37c", "#d55e00"


def candidate_figures(candidates: Candidates, params: int | None, macs: int | None) -> dict[str, Figure]:
    """One scatter for each cost that was counted; `params` and `macs` are the original's."""
    costs = {
        "parameters": ("params", params, count),
        "multiply-adds": ("macs", macs, count),
        "latency": ("latency_ms", None, milliseconds),
    }
    return {
        name: candidate_figure(candidates, name, *cost)
        for name, cost in costs.items()
        if any(not missing(getattr(m, cost[0])) for m in candidates.measured)
    }


def candidate_figure(candidates: Candidates, name: str, field: str, original: float | None, written) -> Figure:
    """Grade against one cost: every measured set of edits, the best at each cost joined by a line."""
    kept = [m for m in candidates.measured if not missing(getattr(m, field)) and not missing(m.grade)]

    def points(which: Sequence[Measured], title: str, **style) -> Figure:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": title,
            "x": [getattr(m, field) for m in which],
            "y": [m.grade for m in which],
            "text": [_hover(m, candidates, written(getattr(m, field))) for m in which],
            "hovertemplate": "%{text}<extra></extra>",
            **style,
        }

    best = front(kept, field, candidates.higher_is_better)
    line = points(best, "best at its cost", mode="lines", hoverinfo="skip", line={"color": NEUTRAL, "width": 1.5})
    del line["hovertemplate"]
    chosen = [m for m in kept if m.chosen]
    data = [
        line,
        points([m for m in kept if not m.chosen], "measured", marker={"size": 9, "color": NEUTRAL, "opacity": 0.75}),
        points(chosen, "chosen", marker={"size": 15, "symbol": "diamond", "color": _CHOSEN}),
    ]
    level = candidates.original_grade
    if not missing(original):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "original",
                "x": [original],
                "y": [level],
                "text": [f"<b>original</b><br>{in_unit(level, candidates.grade_unit)} at {written(original)}"],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"size": 17, "symbol": "star", "color": _ORIGINAL},
            }
        )
    unit = f", {candidates.grade_unit}" if candidates.grade_unit else ""
    layout = plain_layout("latency, ms" if field == "latency_ms" else name, f"{candidates.grade_name}{unit}")
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level}
    layout["shapes"] = [line | {"line": {"color": _ORIGINAL, "width": 1, "dash": "dot"}}]
    layout |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}}
    if field != "latency_ms":
        layout["xaxis"]["tickformat"] = "~s"
    return {"data": [trace for trace in data if trace["x"]], "layout": layout}


def front(measured: Sequence[Measured], field: str, higher_is_better: bool) -> list[Measured]:
    """Those that nothing cheaper equals, cheapest first."""
    sign = 1 if higher_is_better else -1
    worth = {id(m): sign * m.grade for m in measured if m.grade is not None}
    best: list[Measured] = []
    for m in sorted((m for m in measured if id(m) in worth), key=lambda m: (getattr(m, field), -worth[id(m)])):
        if not best or worth[id(m)] > worth[id(best[-1])]:
            best.append(m)
    return best


def latency_figure(latency: Sequence[LatencyInfo]) -> Figure:
    """Speed-up with its 95 % interval, a row a setting; left of 1 the cut network would be slower."""
    layout = plain_layout("speed-up, original over cut", "")
    layout["yaxis"] |= {"type": "category", "autorange": "reversed", "showgrid": False}
    layout["xaxis"] |= {"ticksuffix": "×"}
    even = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": 1, "x1": 1}
    layout["shapes"] = [even | {"line": {"color": NEUTRAL, "width": 1.5, "dash": "dot"}}]
    bars = {
        "type": "scatter",
        "mode": "markers",
        "x": [info.speedup for info in latency],
        "y": distinct([setting(info) for info in latency]),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [info.speedup_interval[1] - info.speedup for info in latency],
            "arrayminus": [info.speedup - info.speedup_interval[0] for info in latency],
            "color": NEUTRAL,
            "thickness": 2,
            "width": 5,
        },
        "marker": {"size": 11, "color": [_verdict(*info.speedup_interval) for info in latency]},
        "text": [f"<b>{number(i.speedup)} ×</b><br>{milliseconds(i.original_ms)} → {milliseconds(i.cut_ms)}" for i in latency],
        "hovertemplate": "%{text}<extra></extra>",
    }
    return {"data": [bars], "layout": layout}


def _verdict(low: float, high: float) -> str:
    return _FASTER if low > 1 else _SLOWER if high < 1 else NEUTRAL


def setting(info: LatencyInfo) -> str:
    """Engine and batch size of a measured latency."""
    return f"{info.engine}, batch {info.batch_size}"


def _hover(m: Measured, candidates: Candidates, cost: str) -> str:
    edits = "<br>".join(edit.label for edit in m.edits[:8]) + ("<br>…" if len(m.edits) > 8 else "")
    moved = difference(candidates.original_grade, m.grade, candidates.grade_unit)
    return f"<b>{in_unit(m.grade, candidates.grade_unit)}</b> ({moved}) at {cost}<br>{edits or 'nothing cut'}"
