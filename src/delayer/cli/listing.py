"""`delayer list`: what is registered."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from delayer.cli.app import app
from delayer.errors import DelayerError
from delayer.registry import Registry


@app.command("list")
def list_command(
    what: Annotated[
        str,
        typer.Argument(
            help="metrics, site-metrics, methods, edits, families, sources, schedules, strategies or operators; all by default."
        ),
    ] = "",
) -> None:
    """What delayer knows: metrics of blocks and of activations, published methods, edits, families, data sources, operators."""
    from delayer.edits import edits
    from delayer.families import families
    from delayer.fitting.operators import operators, scanned_operators
    from delayer.metrics.activations import site_metrics
    from delayer.metrics.blocks import metrics
    from delayer.nas.strategies import StrategyOptions, strategies
    from delayer.search.methods import methods
    from delayer.search.options import PlanOptions
    from delayer.shrinking import schedules
    from delayer.tasks.sources import sources

    def sourced(table: Registry[Any]) -> list[tuple[str, str]]:
        return [(name, f"{one.title}. {one.source}") for name, one in table.items()]

    numbers = StrategyOptions().model_dump()
    tables = {
        "metrics": metrics,
        "site-metrics": site_metrics,
        "methods": methods,
        "edits": edits,
        "families": families,
        "sources": sources,
        "schedules": schedules,
        "strategies": strategies,
        "operators": operators,
    }
    known: dict[str, list[tuple[str, str]]] = {
        "metrics": sourced(metrics),
        "site-metrics": sourced(site_metrics),
        "methods": [(f"{PlanOptions().method} (default)", "Searched, and measured on validation data."), *sourced(methods)],
        "edits": [(name, _first_line(e.__doc__)) for name, e in edits.items()],
        "families": [(name, f.blocks) for name, f in families.items()],
        "sources": [(name, _first_line(s.__doc__)) for name, s in sources.items()],
        "schedules": [(name, f"{s.source}.") for name, s in schedules.items()],
        "strategies": [(name, f"{s.rule.format(**numbers)}. {s.source}") for name, s in strategies.items()],
        "operators": [
            (f"{name} (default)" if name in scanned_operators() else name, f"{_first_line(o.__doc__)} Source: {o.source}.")
            for name, o in operators.items()
        ],
    }
    if what and what not in known:
        raise DelayerError(f"There is no list of {what!r}. Ask for {', '.join(known)}.")
    for kind, rows in known.items():
        if what in ("", kind):
            outside = {name: origin.whose for name, _ in rows if (origin := tables[kind].origin(name.partition(" ")[0]))}
            table = Table("name", "what", *(["package"] if outside else []), title=kind, title_justify="left")
            for name, text in rows:
                table.add_row(name, text, *([outside.get(name, "delayer")] if outside else []))
            Console().print(table)


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]
