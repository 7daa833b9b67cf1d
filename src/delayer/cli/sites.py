"""`delayer sites`: the activations of a network, and how much each switches."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from delayer import stages
from delayer.cli.app import DATA, JSON, MODEL, OUT, QUIET, app
from delayer.cli.config import takes_config
from delayer.cli.opening import opened, opens_networks
from delayer.cli.options import with_options
from delayer.cli.tables import print_record, try_report
from delayer.study import Sites
from delayer.tasks import TaskOptions


@app.command("sites")
@takes_config
@opens_networks
@with_options(load=stages.LoadOptions, task=TaskOptions, sites=stages.SitesOptions)
def sites_command(
    model: MODEL, data: DATA = None, out: OUT = Path("study"), json_: JSON = False, quiet: QUIET = False, *, load, task, sites
) -> None:
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
    console, places = Console(), {site.path: (place, site) for place, site in enumerate(found.sites)}
    table = Table(title="Activations, least switching first by mean rank", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("no.")
    table.add_column("activation", overflow="fold", min_width=min(26, max(len(path) for path in places)))
    for metric in found.metrics:
        table.add_column(metric.name.replace("_", "\n"))
    for row in found.ranking:
        place, site = places[row["path"]]
        values = [site.values[metric.name] for metric in found.metrics]
        table.add_row(str(place), site.path, *("" if value is None else f"{value:.3f}" for value in values))
    console.print(table)
    for note in found.notes:
        console.print(note)
