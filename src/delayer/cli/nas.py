"""`delayer nas`: an architecture search on real data, or its strategies replayed on a table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from delayer.cli.app import JSON, QUIET, TEST, app
from delayer.cli.options import with_options
from delayer.errors import DelayerError, NasError, StudyError
from delayer.nas.options import NasTaskOptions, ProxyOptions, SearchOptions, SpaceOptions
from delayer.nas.strategies import StrategyOptions
from delayer.nas.tabular import TableOptions
from delayer.progress import Reporter
from delayer.report import render_nas
from delayer.stages.work import pick_device
from delayer.study import NasResults, NasTable, write_atomically


@app.command("nas")
@with_options(
    networks=SpaceOptions,
    proxy=ProxyOptions,
    task=NasTaskOptions,
    search=SearchOptions,
    rule=StrategyOptions,
    columns=TableOptions,
)
def nas_command(
    data: Annotated[str | None, typer.Option("--data", help="Labelled images, such as npz:PATH or imagefolder:PATH.")] = None,
    test: TEST = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            help="redtest (by default), random_search, evolution or short_training; on a table several may be "
            "named, by default all are compared.",
        ),
    ] = None,
    table: Annotated[Path | None, typer.Option("--table", help="CSV file of results to replay strategies on.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How often each strategy is replayed on a table.")] = 200,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; a search that was killed goes on there.")] = Path("nas"),
    device: Annotated[str, typer.Option("--device", help="Where candidates are trained: auto, cpu, cuda.")] = "auto",
    json_: JSON = False,
    quiet: QUIET = False,
    *,
    networks,
    proxy,
    task,
    search,
    rule,
    columns,
) -> None:
    """Redundancy-aware architecture search. The result is OUT/winner, OUT/nas.html, trials.csv and front.csv."""
    if (data is None) == (table is None):
        raise DelayerError("Which data? Give either --data, such as npz:PATH, or --table FILE.csv.")
    from delayer import nas

    reporter = Reporter(quiet=quiet)
    if data is None:
        assert table is not None  # one of the two is given
        with reporter.step("Seeds") as tick:
            found = nas.replay(
                table,
                names=strategy or (),
                num_trials=search.trials,
                num_seeds=seeds,
                columns=columns,
                options=rule,
                seed=task.seed,
                progress=tick,
            )
        write_atomically(out / "nas_table.json", found.model_dump_json(indent=1))
    else:
        if strategy and len(strategy) > 1:
            raise NasError(f"A search has one strategy; found {', '.join(strategy)}. Name one, or compare them by --table.")
        found = nas.search(
            data,
            out=out,
            strategy=(strategy or ["redtest"])[0],
            test=test,
            space=networks,
            proxy=proxy,
            task=task,
            strategy_options=rule,
            options=search,
            device=pick_device(device),
            reporter=reporter,
        )
    try:
        page = render_nas(out)
    except StudyError as error:
        reporter.line(str(error))
        page = None
    if json_:
        print(found.model_dump_json(indent=1))
        return
    console = Console()
    if isinstance(found, NasTable):
        console.print(_strategies(found))
        for text in found.verdict:
            console.print(text)
        console.print(f"Redundancy: {found.redundancy}.")
    else:
        console.print(_front(found))
        console.print(f"{found.strategy} {found.rule}.")
        console.print(f"Winner on test data: {found.grade.value:.2f}{found.grade.unit}", style="bold")
    console.print(f"Folder: {out}" + (f", page: {page}" if page else ""), highlight=False)


def _front(found: NasResults) -> Table:
    trials = {trial.slot: trial for trial in found.trials}
    shown = [*found.front, *([] if found.winner in found.front else [found.winner])]
    table = Table(
        "",
        Column("candidate", overflow="fold"),
        "validation",
        "MSRS",
        "parameters",
        "latency",
        title="Pareto front (* the winner)",
    )
    for trial in map(trials.__getitem__, shown):
        table.add_row(
            "*" * (trial.slot == found.winner),
            trial.candidate,
            "–" if trial.accuracy is None else f"{trial.accuracy:.2f} %",
            "–" if trial.msrs is None else f"{trial.msrs:.2f}",
            "–" if trial.params is None else f"{trial.params:,}",
            "–" if trial.latency_ms is None else f"{trial.latency_ms:.2f} ms",
        )
    return table


def _strategies(found: NasTable) -> Table:
    table = Table(
        "strategy",
        "test accuracy",
        "parameters",
        "behind the best",
        title=f"{found.num_seeds} seeds, {found.num_trials} trials each; mean and 95 % interval",
    )
    for r in found.replays:
        table.add_row(
            r.strategy,
            f"{r.accuracy:.2f} ({r.accuracy_interval[0]:.2f}–{r.accuracy_interval[1]:.2f})",
            f"{r.params:.3f} ({r.params_interval[0]:.3f}–{r.params_interval[1]:.3f})",
            f"{r.behind:.2f} ({r.behind_interval[0]:.2f}–{r.behind_interval[1]:.2f})",
        )
    return table
