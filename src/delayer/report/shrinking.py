"""How activations were made linear: the grade round by round, and schedules side by side."""

from collections.abc import Sequence
from statistics import fmean

from delayer.report.figures import NEUTRAL, Figure, plain_layout
from delayer.report.formats import count, in_unit, milliseconds, number
from delayer.report.tables import Table, text_of
from delayer.study import Compared, Comparison, Shrunk

_TRAINED, _UNTRAINED = "#0f83c9", "#d55e00"
_COLOURS = ("#d55e00", "#0f83c9", "#12a37c", "#8d5fd3", "#c98a0f", "#c2417c", "#5b6b7a", "#7a8b2a")


def rounds_figure(shrunk: Shrunk) -> Figure:
    """The validation grade against activations removed, before and after each round's training."""
    kept = [one for one in shrunk.rounds if one.kept]
    removed = [shrunk.num_sites - one.left for one in kept]
    undone = [one for one in shrunk.rounds if not one.kept]
    layout = plain_layout("activations removed", f"{shrunk.original.name} {shrunk.original.unit}, validation".strip())
    layout["showlegend"] = True

    def line(name: str, x: Sequence, y: Sequence, **style) -> Figure:
        return {"type": "scatter", "mode": "lines+markers", "name": name, "x": list(x), "y": list(y), **style}

    start = shrunk.original.value
    data = [
        line("trained", [0, *removed], [start, *(one.after.value for one in kept)], line={"color": _TRAINED, "width": 2.5}),
        line(
            "before its training",
            removed,
            [one.before.value for one in kept],
            mode="markers",
            marker={"color": _UNTRAINED, "symbol": "circle-open", "size": 9},
        ),
    ]
    if undone:
        data.append(
            line(
                "rolled back",
                [shrunk.num_sites - one.left + len(one.sites) for one in undone],
                [one.after.value for one in undone],
                mode="markers",
                marker={"color": NEUTRAL, "symbol": "x", "size": 10},
            )
        )
    return {"data": data, "layout": layout}


def rounds_table(shrunk: Shrunk) -> Table:
    """A row a round: which activations became linear, why, and what it cost."""
    rows = [
        (
            str(one.number),
            ", ".join(one.sites),
            one.why,
            in_unit(one.before.value, one.before.unit),
            in_unit(one.after.value, one.after.unit),
            "kept" if one.kept else "rolled back",
            str(one.epochs),
            f"{one.seconds:.0f} s",
        )
        for one in shrunk.rounds
    ]
    return Table(("round", "activations", "read", "before training", "after", "", "epochs", "time"), rows, note=shrunk.note)


def merges_table(shrunk: Shrunk) -> Table:
    """Every pair of linear neighbours: merged with its proof and its speed, or why not."""
    rows = []
    for one in sorted(shrunk.merges, key=lambda one: (not one.merged, one.speedup is None)):
        low, high = one.speedup_interval or (None, None)
        speed = f"{one.speedup:.2f}× ({low:.2f} to {high:.2f})" if one.speedup is not None else ""
        rows.append(
            (
                one.path or "the network",
                ", ".join(one.layers),
                "merged" if one.merged else "stays",
                speed,
                "" if one.error is None else f"{one.error:.0e}",
                one.repair,
                one.note,
            )
        )
    return Table(("in", "layers", "", "these layers alone", "difference in float64", "repair", "why"), rows)


def grouped(comparison: Comparison) -> dict[str, dict[int, list[Compared]]]:
    """Rows of each schedule by activations removed, one a seed."""
    groups: dict[str, dict[int, list[Compared]]] = {}
    for row in comparison.rows:
        groups.setdefault(row.schedule, {}).setdefault(row.num_removed, []).append(row)
    return groups


def comparison_figure(comparison: Comparison) -> Figure:
    """Mean test grade over seeds against activations removed, a line a schedule; bars reach from least to most."""
    layout = plain_layout("activations removed", f"{comparison.original.name} {comparison.original.unit}, test".strip())
    layout["showlegend"] = True
    data = []
    for (schedule, points), colour in zip(grouped(comparison).items(), _COLOURS * 4, strict=False):
        places = sorted(points)
        values = [[row.grade.value for row in points[place]] for place in places]
        means = [fmean(v) for v in values]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": schedule,
                "x": [0, *places],
                "y": [comparison.original.value, *means],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "thickness": 1.2,
                    "width": 3,
                    "array": [0, *(max(v) - m for v, m in zip(values, means, strict=True))],
                    "arrayminus": [0, *(m - min(v) for v, m in zip(values, means, strict=True))],
                },
                "line": {"color": colour, "width": 3.5 if schedule == "ours" else 1.8},
                "marker": {"size": 7},
            }
        )
    return {"data": data, "layout": layout}


def comparison_headline(comparison: Comparison) -> str:
    """What the best schedules have left where the most is gone."""
    rows = comparison_table(comparison).rows
    removed = [int(text_of(row[2])) for row in rows]
    most = max(removed)
    best = [(text_of(row[0]), text_of(row[3])) for row, num in zip(rows, removed, strict=True) if num == most][:3]
    grade = comparison.original
    return (
        f"Without {most} of {comparison.num_sites} activations {', '.join(f'{name} has {left}' for name, left in best)}; "
        f"the original has {in_unit(grade.value, grade.unit)} ({grade.name}, test)."
    )


def comparison_table(comparison: Comparison) -> Table:
    """The last point of each schedule, means over seeds, best grade first."""
    rows = []
    for schedule, points in grouped(comparison).items():
        last = points[max(points)]
        speeds = [row.speedup for row in last if row.speedup is not None]
        macs = [row.macs for row in last if row.macs]
        times = [row.latency_ms for row in last if row.latency_ms is not None]
        rows.append(
            (
                fmean(row.grade.value for row in last),
                (
                    schedule,
                    str(len(last)),
                    str(last[0].num_removed),
                    in_unit(fmean(r.grade.value for r in last), last[0].grade.unit),
                    number(fmean(r.num_merged for r in last)),
                    count(fmean(r.params for r in last)),
                    count(fmean(macs)) if len(macs) == len(last) else "",
                    milliseconds(fmean(times)) if times else "",
                    f"{fmean(speeds):.2f}×" if speeds else "",
                    number(fmean(r.num_epochs for r in last)),
                    f"{fmean(r.seconds for r in last):.0f} s",
                ),
            )
        )
    rows.sort(key=lambda row: -row[0] if comparison.original.higher_is_better else row[0])
    return Table(
        (
            "schedule",
            "seeds",
            "removed",
            "grade",
            "merged",
            "parameters",
            "multiply-adds",
            "latency",
            "speed-up",
            "epochs",
            "time",
        ),
        [row for _, row in rows],
    )
