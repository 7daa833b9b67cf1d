"""`delayer sites`: the activations of a network, and how much each switches."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from delayer import stages
from delayer.cli.app import DATA, JSON, MODEL, OUT, QUIET, app
from delayer.cli.opening import opened
from delayer.cli.options import with_options
from delayer.cli.tables import print_record, try_report
from delayer.study import Sites
from delayer.tasks import TaskOptions


@app.command("sites")
@with_options(load=stages.LoadOptions, task=TaskOptions, sites=stages.SitesOptions)
def sites_command(model: MODEL, data: DATA = None, out: OUT = Path("study"), json_: JSON = False, quiet: QUIET = False, *,
                  load, task, sites) -> None:
    """Every activation and how much it switches: EGP's, NEPENTHE's and EASIER's entropies, TLC's error, the best line's."""
    work = opened(model, data, out, load, task, None, quiet)
    with work.study.lock():
        stages.write_study(work)
        found = stages.sites_stage(work, sites)
        if json_:
            print_record(found, json_)
        else:
            _print(found)
        try_report(work.study.folder, json_)


def _print(found: Sites) -> None:
    console, by_path = Console(), {site.path: site for site in found.sites}
    order = {path: number for number, path in enumerate(by_path)}
    table = Table("rank", "no.", "activation", "kind", "norm", *(metric.name for metric in found.metrics),
                  title="Activations, least switching first by mean rank")
    for place, row in enumerate(found.ranking, 1):
        site = by_path[row["path"]]
        values = [site.values[metric.name] for metric in found.metrics]
        table.add_row(str(place), str(order[site.path]), site.path, site.kind, site.norm or "",
                      *("" if value is None else f"{value:.4f}" for value in values))
    console.print(table)
    for note in found.notes:
        console.print(note)
