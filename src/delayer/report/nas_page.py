"""The page of an architecture search, and of strategies replayed on a table, from the folder alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delayer.errors import StudyError
from delayer.report.cards import Card
from delayer.report.figures import NEUTRAL, Figure, plain_layout, rounded
from delayer.report.formats import MISSING, count, in_unit, milliseconds, number, percent
from delayer.report.page import Plot, filled
from delayer.report.tables import Table
from delayer.study import NasResults, NasTable, NasTrial, read_record, write_atomically

_CHOSEN, _FRONT = "#d55e00", "#0f83c9"
_COSTS = {"redundancy (MSRS)": ("msrs", number), "parameters": ("params", count), "latency, ms": ("latency_ms", milliseconds)}


def render_nas(folder: str | Path) -> Path:
    """Write nas.html into the folder of a search or a replay and return its path. Raises StudyError without either."""
    folder = Path(folder)
    shown = []
    if (folder / "nas.json").exists():
        shown.append(_of_search(read_record(folder / "nas.json", NasResults)))
    if (folder / "nas_table.json").exists():
        shown.append(_of_table(read_record(folder / "nas_table.json", NasTable)))
    if not shown:
        raise StudyError(f"{folder} holds neither nas.json nor nas_table.json. Run `delayer nas` first.")
    page = filled("nas.html", {"headline": shown[0]["headline"], "parts": shown})
    write_atomically(folder / "nas.html", page)
    return folder / "nas.html"


def _of_search(results: NasResults) -> dict[str, Any]:
    trained = [trial for trial in results.trials if trial.state == "trained"]
    winner = next(trial for trial in results.trials if trial.slot == results.winner)
    low, high = results.grade.interval or (None, None)
    cards = [
        Card(
            "Winner on test data",
            in_unit(results.grade.value, results.grade.unit),
            note=f"{percent(low)} to {percent(high)}, {results.grade.num_samples:,} samples" if results.grade.interval else "",
        ),
        Card("Redundancy of the winner", number(winner.msrs), note=f"{percent(100 * (winner.msrs_share or 0))} of the most"),
        Card("Parameters", count(winner.params), note=f"{count(winner.macs)} multiply-adds"),
        Card("Latency", milliseconds(winner.latency_ms), note=results.latency),
    ]
    states = ", ".join(f"{sum(t.state == state for t in results.trials)} {state}" for state in ("trained", "dead", "failed"))
    reached = in_unit(results.grade.value, results.grade.unit)
    return {
        "headline": f"{results.strategy} found a network of {count(winner.params)} parameters: {reached} on test data",
        "title": "Candidates and their Pareto front",
        "lead": f"{len(results.trials)} candidates: {states}. The strategy "
        f"{results.rule}. Figures and choices are on validation data after the short training.",
        "cards": cards,
        "plot": Plot(
            {
                name: pareto_figure(trained, results, name)
                for name in _COSTS
                if all(getattr(t, _COSTS[name][0]) is not None for t in trained)
            },
            "Pareto front",
        ),
        "tables": [
            ("Pareto front", _trials([t for slot in results.front for t in trained if t.slot == slot], results.winner)),
            ("All trials", _trials(results.trials, results.winner)),
        ],
        "notes": [
            *results.notes,
            f"Latency: {results.latency}.",
            ", ".join(f"{name} {version}" for name, version in results.versions.items()),
        ],
    }


def pareto_figure(trained: Sequence[NasTrial], results: NasResults, name: str) -> Figure:
    """Accuracy against one cost: all trained candidates, those on the front over all costs, and the winner."""
    field, text = _COSTS[name]
    on_front = [t for t in trained if t.slot in results.front and t.slot != results.winner]
    groups = {
        "candidates": (
            [t for t in trained if t.slot not in results.front and t.slot != results.winner],
            {"size": 9, "color": NEUTRAL, "opacity": 0.75},
        ),
        "Pareto front": (on_front, {"size": 11, "color": _FRONT}),
        "winner": ([t for t in trained if t.slot == results.winner], {"size": 15, "symbol": "diamond", "color": _CHOSEN}),
    }
    layout = plain_layout(name, "validation accuracy, %")
    layout |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}}
    return {
        "layout": layout,
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "name": group,
                "marker": marker,
                "x": [rounded(getattr(t, field)) for t in which],
                "y": [rounded(t.accuracy) for t in which],
                "text": [f"<b>{percent(t.accuracy)}</b> at {text(getattr(t, field))}<br>{t.candidate}" for t in which],
                "hovertemplate": "%{text}<extra></extra>",
            }
            for group, (which, marker) in groups.items()
            if which
        ],
    }


def _trials(trials: Sequence[NasTrial], winner: int) -> Table:
    head = ("trial", "candidate", "validation accuracy", "MSRS", "share", "parameters", "multiply-adds", "latency", "state")
    rows = [
        (
            str(t.slot),
            t.candidate,
            percent(t.accuracy),
            number(t.msrs),
            MISSING if t.msrs_share is None else percent(100 * t.msrs_share),
            count(t.params),
            count(t.macs),
            milliseconds(t.latency_ms),
            t.state + (f": {t.error}" if t.error else ""),
        )
        for t in trials
    ]
    return Table(head, rows, frozenset(i for i, t in enumerate(trials) if t.slot == winner))


def _of_table(table: NasTable) -> dict[str, Any]:
    best = table.replays[0]
    layout = plain_layout("mean parameters of the network found", "mean test accuracy, %")
    layout |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}}

    def bar(value: float, ends: tuple[float, float]) -> Figure:
        return {"type": "data", "symmetric": False, "array": [ends[1] - value], "arrayminus": [value - ends[0]]}

    figure = {
        "layout": layout,
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "name": r.strategy,
                "x": [rounded(r.params)],
                "y": [rounded(r.accuracy)],
                "error_x": bar(r.params, r.params_interval),
                "error_y": bar(r.accuracy, r.accuracy_interval),
                "marker": {"size": 11},
                "hovertemplate": f"<b>{r.strategy}</b><br>%{{y:.2f}} % at %{{x:.3f}}<extra></extra>",
            }
            for r in table.replays
        ],
    }
    rows = [
        (
            r.strategy,
            f"{r.accuracy:.2f} ({r.accuracy_interval[0]:.2f} to {r.accuracy_interval[1]:.2f})",
            f"{r.params:.3f} ({r.params_interval[0]:.3f} to {r.params_interval[1]:.3f})",
            f"{r.behind:.2f} ({r.behind_interval[0]:.2f} to {r.behind_interval[1]:.2f})",
            r.rule,
        )
        for r in table.replays
    ]
    head = ("strategy", "test accuracy, %", "parameters", "behind the best, points", "rule")
    return {
        "headline": f"{best.strategy} finds the most accurate networks, {best.accuracy:.2f} %, in a budget of {table.num_trials}",
        "title": "Strategies replayed on a table",
        "cards": [],
        "lead": f"{table.num_candidates:,} candidates, {table.num_trials} short trainings a search, {table.num_seeds} seeds; "
        f"intervals are 95 %. Best possible: {table.best_possible:.2f} %. Redundancy: {table.redundancy}.",
        "plot": Plot({"": figure}, "Accuracy found against parameters"),
        "tables": [("Strategies", Table(head, rows))],
        "notes": list(table.verdict),
    }
