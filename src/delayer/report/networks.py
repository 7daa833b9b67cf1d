"""What scores of whole networks say: a dot a network with its interval, and a table, the most redundant first."""

from collections.abc import Sequence

from delayer.report.figures import NEUTRAL, Figure, distinct, plain_layout, rounded
from delayer.report.formats import number, present, source
from delayer.report.tables import Table
from delayer.study import Score

_OWN = "#0f83c9"


def grouped(networks: Sequence[Score]) -> dict[str, list[Score]]:
    """The networks' scores by metric."""
    groups: dict[str, list[Score]] = {}
    for one in networks:
        groups.setdefault(one.name, []).append(one)
    return groups


def networks_figure(scores: Sequence[Score], own: str) -> Figure:
    """One metric of several networks, a row each; the study's own stands out."""
    compared = scores[0].labels[0]
    several = len({one.data for one in scores}) > 1
    names = [f"{one.model} on {source(one.data)}" if several else one.model for one in scores]
    values = [rounded(one.values[0]) for one in scores]
    ends = [(one.named.get("low"), one.named.get("high")) for one in scores]
    layout = plain_layout(f"{compared} {scores[0].unit}".strip(), "")
    layout["yaxis"] |= {"type": "category", "autorange": "reversed", "showgrid": False}
    layout["xaxis"] |= {"rangemode": "tozero"}
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": values,
        "y": distinct(names),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [_above(value, high) for value, (_, high) in zip(values, ends, strict=True)],
            "arrayminus": [_above(low, value) for value, (low, _) in zip(values, ends, strict=True)],
            "color": NEUTRAL,
            "thickness": 2,
            "width": 5,
        },
        "marker": {"size": 11, "color": [_OWN if one.model == own else NEUTRAL for one in scores]},
        "text": [_hover(one) for one in scores],
        "hovertemplate": "%{text}<extra></extra>",
    }
    return {"data": [dots], "layout": layout}


def _above(low: float | None, high: float | None) -> float:
    return high - low if present(low) and present(high) else 0


def _shown(value: float | None) -> str:
    return f"{value:,}" if isinstance(value, int) else number(value, 4)


def _hover(one: Score) -> str:
    return f"<b>{one.model}</b><br>" + "<br>".join(f"{name} {_shown(value)}" for name, value in one.named.items())


def networks_table(scores: Sequence[Score]) -> Table:
    """All named numbers of one metric, a row a network."""
    labels = list(dict.fromkeys(label for one in scores for label in one.labels))
    rows = [(one.model, source(one.data), *(_shown(one.named.get(label)) for label in labels)) for one in scores]
    return Table(("network", "data", *labels), rows)
