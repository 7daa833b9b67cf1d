"""Figures of the scan: every operator's held-out error on every span, who wins, and what length costs."""

from math import log10

from delayer.report.cuts import Choice, blocks_text, errors_of
from delayer.report.figures import NEUTRAL, Figure, colour_bar, matrix_layout, plain_layout, rings, rounded
from delayer.report.formats import count, error, number
from delayer.study import Scan, SpanDamage

_FLOOR, _CEILING = 1e-5, 1.0
"""Errors are drawn on a log scale between these; at 1 an operator explains no more than the mean does."""


def error_maps(scan: Scan, choice: Choice, num_blocks: int) -> dict[str, Figure]:
    """A triangular heat map an operator, on one colour scale, after a map of which operator wins."""
    errors = errors_of(scan)
    levels = [log10(_drawn(d.residual)) for mine in errors.values() for d in mine.values()]
    low, high = min(levels), max(*levels, min(levels) + 0.1)
    ticks = _ticks(low, high)
    bar = colour_bar(tickvals=[log10(t) for t in ticks], ticktext=[_percent(t) for t in ticks])
    scale = {"zmin": low, "zmax": high, "colorscale": "Viridis", "reversescale": True, "colorbar": bar}
    maps = {"best operator": winner_map(errors, choice, num_blocks)}
    for operator, mine in errors.items():
        values = {span: rounded(log10(_drawn(d.residual))) for span, d in mine.items()}
        maps[operator] = _triangle(values, {span: _hover(d) for span, d in mine.items()}, choice, num_blocks, **scale)
    return maps


def winner_map(errors: dict[str, dict[tuple[int, int], SpanDamage]], choice: Choice, num_blocks: int) -> Figure:
    """The colour of the operator of least error in each cell; hovering lists them all."""
    operators = list(errors)
    winners, text = {}, {}
    for span in dict.fromkeys(span for mine in errors.values() for span in mine):
        each = {name: mine[span].residual for name, mine in errors.items() if span in mine}
        winners[span] = operators.index(min(each, key=each.__getitem__))
        text[span] = "<br>".join([f"<b>{blocks_text(*span)}</b>", *(f"{n} {error(e)}" for n, e in each.items())])
    steps = [[(i + end) / len(operators), choice.colours[n]] for i, n in enumerate(operators) for end in (0, 1)]
    scale = {"zmin": -0.5, "zmax": len(operators) - 0.5, "colorscale": steps, "showscale": False}
    gap = 1 if num_blocks <= 48 else 0
    return _triangle(winners, text, choice, num_blocks, xgap=gap, ygap=gap, **scale)


def length_figure(scan: Scan, choice: Choice) -> Figure:
    """Least error against the number of blocks removed, while below 100 %; diamonds are the chosen spans."""
    data = []
    for operator, mine in errors_of(scan).items():
        best: dict[int, SpanDamage] = {}
        for damage in mine.values():
            length = damage.stop - damage.start
            best[length] = min(best.get(length, damage), damage, key=lambda d: d.residual)
        drawn = [best[length] for length in sorted(best) if best[length].residual < _CEILING]
        style = {"line": {"color": choice.colours[operator], "width": 2}, "marker": {"size": 6}}
        data.append(_by_length(drawn, name=operator, mode="lines+markers", **style))
    chosen = [(cut, cut.damage) for cut in choice.cuts if cut.damage]
    marker = {
        "symbol": "diamond",
        "size": 12,
        "color": [choice.colours[cut.operator] for cut, _ in chosen],
        "line": {"color": NEUTRAL, "width": 1.5},
    }
    if chosen:
        data.append(_by_length([damage for _, damage in chosen], name="chosen", mode="markers", marker=marker))
    layout = plain_layout("blocks removed by one span", "least error")
    layout["xaxis"] |= {"tickformat": "d"}
    heights = [log10(y) for line in data for y in line["y"]] or [0.0]
    ticks = _ticks(min(heights), max(heights))
    layout["yaxis"] |= {"type": "log", "tickvals": ticks, "ticktext": [_percent(t) for t in ticks]}
    layout |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}}
    return {"data": data, "layout": layout}


def _by_length(damages: list[SpanDamage], **style) -> Figure:
    return {
        "type": "scatter",
        "x": [d.stop - d.start for d in damages],
        "y": [rounded(_drawn(d.residual)) for d in damages],
        "text": [_hover(d) for d in damages],
        "hovertemplate": "%{text}<extra></extra>",
        **style,
    }


def _triangle(values: dict, text: dict, choice: Choice, num_blocks: int, **scale) -> Figure:
    """Cells by the first and last block of a span; rings around the chosen ones."""
    names = [str(block) for block in range(num_blocks)]
    z = [[None] * num_blocks for _ in names]
    texts = [[""] * num_blocks for _ in names]
    for start, stop in values:
        z[start][stop - 1], texts[start][stop - 1] = values[start, stop], text[start, stop]
    heat = {"type": "heatmap", "x": names, "y": names, "z": z, "text": texts, "hoverongaps": False}
    marks = rings([str(stop - 1) for _, _, stop in choice.spans], [str(start) for _, start, _ in choice.spans])
    return {
        "data": [heat | {"hovertemplate": "%{text}<extra></extra>"} | scale, *marks],
        "layout": matrix_layout("last block", "first block"),
    }


def _drawn(residual: float) -> float:
    return min(max(residual, _FLOOR), _CEILING)


def _ticks(low: float, high: float) -> list[float]:
    """Round errors between two powers of ten: each 1, 2, 5, or only each 1 where those are too many."""
    tens = [10.0**power for power in range(-5, 1)]
    found = [digit * ten for ten in tens for digit in (1, 2, 5) if low <= log10(digit * ten) <= high]
    return found if len(found) <= 8 else [tick for tick in found if tick in tens]


def _percent(tick: float) -> str:
    return f"{'≥ ' if tick == _CEILING else ''}{100 * tick:.3g} %"


def _hover(damage: SpanDamage) -> str:
    what = f"{blocks_text(damage.start, damage.stop)}, {damage.title}"
    options = "".join(f", {name} {number(value, 2)}" for name, value in damage.options.items() if isinstance(value, float))
    fit = f"{error(damage.residual_fit)} on the fitted rows{options}"
    return f"<b>{what}: {error(damage.residual)}</b><br>{fit}<br>saves {count(damage.params_saved)} parameters"
