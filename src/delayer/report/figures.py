"""Plotly figures, as plain dicts, of what metrics say: by the shape of a score, never by a metric's name.

Bright means redundant everywhere. Text and grid have no colours here: the page follows the reader's scheme.
"""

from collections.abc import Sequence
from typing import Any

from delayer.report.cuts import Choice
from delayer.report.formats import missing
from delayer.study import Score

Figure = dict[str, Any]
NEUTRAL = "#8494a7"


def score_figure(score: Score, choice: Choice, limits: tuple[float, float] | None) -> Figure:
    """The figure of one score; `limits` is the range of values that its small multiples share."""
    draw = {"pairs": pairs_figure, "blocks": blocks_figure, "spans": spans_figure}[score.shape]
    return draw(score, choice, limits)


def limits_of(scores: Sequence[Score]) -> tuple[float, float] | None:
    """Least and greatest value of several scores; None when there is no finite value at all."""
    flat = [v for score in scores for row in score.values for v in (row if isinstance(row, (list, tuple)) else [row])]
    finite = [value for value in flat if not missing(value)]
    return (min(finite), max(finite)) if finite else None


def pairs_figure(score: Score, choice: Choice, limits: tuple[float, float] | None) -> Figure:
    """A heat map with points on both axes; squares on the diagonal outline the removed spans."""
    labels = distinct(score.labels)
    layout = matrix_layout("point", "point")
    for _, start, stop in choice.spans:
        first, last = points_of(start, stop, labels)
        layout["shapes"] += outline(first - 0.5, last + 0.5)
    hover = "point %{y} and point %{x}<br><b>%{z:.4~g}</b><extra></extra>"
    return {"data": [heat(score, score.values, labels, limits, hover)], "layout": layout}


def spans_figure(score: Score, choice: Choice, limits: tuple[float, float] | None) -> Figure:
    """A triangular heat map: a row is the point where a span begins, a column the point where it ends."""
    labels = distinct(score.labels)
    upper = [[v if j > i else None for j, v in enumerate(row)] for i, row in enumerate(score.values)]
    hover = "from point %{y} to point %{x}<br><b>%{z:.4~g}</b><extra></extra>"
    ends = [points_of(start, stop, labels) for _, start, stop in choice.spans]
    marks = rings([labels[last] for _, last in ends], [labels[first] for first, _ in ends])
    return {"data": [heat(score, upper, labels, limits, hover), *marks], "layout": matrix_layout("to point", "from point")}


def blocks_figure(score: Score, choice: Choice, limits: tuple[float, float] | None) -> Figure:
    """A bar a block; removed blocks stand before a band in the colour of the operator that replaced them."""
    bars = {
        "type": "bar",
        "x": [str(block) for block in range(len(score.values))],
        "y": [rounded(value) for value in score.values],
        "marker": {"color": NEUTRAL, "line": {"width": 0}},
        "hovertemplate": "block %{x}<br><b>%{y:.4~g}</b><extra></extra>",
    }
    layout = plain_layout("block", score.unit)
    layout["xaxis"] |= {"type": "category", "nticks": 13}
    layout["bargap"] = 0.25
    band = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "layer": "below", "opacity": 0.35, "line": {"width": 0}}
    layout["shapes"] = [
        band | {"x0": start - 0.5, "x1": stop - 0.5, "fillcolor": choice.colours[cut.operator]}
        for cut, start, stop in choice.spans
    ]
    if limits:
        low, high = min(limits[0], 0), max(limits[1], 0)
        room = 0.05 * (high - low or 1)
        layout["yaxis"]["range"] = [low - room * (low < 0), high + room * (high > 0)]
    return {"data": [bars], "layout": layout}


def heat(score: Score, values: Sequence, labels: list[str], limits: tuple[float, float] | None, hover: str) -> Figure:
    """A heat map of values [rows, columns] on one scale; limits: its ends, 0 to 1 by default."""
    low, high = limits or (0, 1)
    return {
        "type": "heatmap",
        "x": labels,
        "y": labels,
        "z": [[rounded(value) for value in row] for row in values],
        "zmin": low,
        "zmax": high,
        "colorscale": "Viridis",
        "reversescale": score.redundant == "low",
        "colorbar": colour_bar(),
        "hoverongaps": False,
        "hovertemplate": hover,
    }


def matrix_layout(x: str, y: str) -> Figure:
    """Square cells, the origin at the top left as in a matrix."""
    layout = plain_layout(x, y)
    axis = {"type": "category", "constrain": "domain", "showgrid": False, "nticks": 13}
    layout["xaxis"] |= axis
    layout["yaxis"] |= axis | {"autorange": "reversed", "scaleanchor": "x"}
    return layout


def plain_layout(x: str, y: str) -> Figure:
    """Axes with titles, and nothing else."""
    axis = {"automargin": True, "zeroline": False, "ticks": "", "showline": False}
    return {
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "xaxis": axis | {"title": {"text": x, "standoff": 8}},
        "yaxis": axis | {"title": {"text": y, "standoff": 8}},
        "showlegend": False,
        "shapes": [],
    }


def colour_bar(**more: Any) -> Figure:
    """The thin bar beside a heat map."""
    return {"thickness": 10, "outlinewidth": 0, "xpad": 4, "len": 0.9, **more}


def outline(low: float, high: float) -> list[Figure]:
    """A square on the diagonal, white within black so that it shows on every colour of the scale."""
    square = {"type": "rect", "x0": low, "x1": high, "y0": low, "y1": high}
    return [square | {"line": {"color": "#000", "width": 4}}, square | {"line": {"color": "#fff", "width": 2}}]


def rings(x: Sequence, y: Sequence) -> list[Figure]:
    """The same mark around single cells, of a size that shows in long networks too."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": list(x),
            "y": list(y),
            "hoverinfo": "skip",
            "marker": {"symbol": "circle-open", "size": 13, "color": colour, "line": {"width": width}},
        }
        for colour, width in (("#000", 4.5), ("#fff", 2))
        if x
    ]


def points_of(start: int, stop: int, labels: Sequence[str]) -> tuple[int, int]:
    """Numbers of the points before and after a span: block b ends in point b, a step after its inlet."""
    after = {label: i for i, label in enumerate(labels)}
    last = len(labels) - 1
    return min(after.get(str(start), start + 1) - 1, last), min(after.get(str(stop - 1), stop), last)


def distinct(labels: Sequence[str]) -> list[str]:
    """Labels fit for a category axis, which would draw equal ones on top of each other."""
    return [label if labels.count(label) == 1 else f"{label} ({i})" for i, label in enumerate(labels)]


def rounded(value: Any) -> float | None:
    """Six significant digits keep the page small; NaN and infinity are not JSON."""
    return None if missing(value) else float(f"{value:.6g}")
