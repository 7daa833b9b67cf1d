"""How much each activation switches: a bar an activation for each metric, and a table, the least switching first."""

from delayer.report.figures import Figure, plain_layout, rounded
from delayer.report.formats import missing, number
from delayer.report.tables import Cell, Table
from delayer.study import SiteMetricInfo, Sites

_BAR, _NORMED = "#8aa0b8", "#0f83c9"


def sites_figures(sites: Sites) -> dict[str, Figure]:
    """One picture for each metric, the activations in the order in which they run."""
    return {metric.title: sites_figure(sites, metric) for metric in sites.metrics}


def sites_figure(sites: Sites, metric: SiteMetricInfo) -> Figure:
    """A bar an activation; those that a batch norm feeds directly stand out."""
    layout = plain_layout("activation, in the order of execution", metric.unit or "value")
    layout["yaxis"] |= {"rangemode": "tozero"}
    bars = {
        "type": "bar",
        "x": list(range(len(sites.sites))),
        "y": [rounded(site.values.get(metric.name)) for site in sites.sites],
        "marker": {"color": [_NORMED if site.norm else _BAR for site in sites.sites]},
        "text": [
            f"<b>{site.path}</b><br>{site.kind}, {number(site.values.get(metric.name), 4)} {metric.unit}"
            + (f"<br>fed by {site.norm}" if site.norm else "")
            for site in sites.sites
        ],
        "textposition": "none",
        "hovertemplate": "%{text}<extra></extra>",
    }
    return {"data": [bars], "layout": layout}


def sites_table(sites: Sites) -> Table:
    """A row an activation by mean rank; strongly tinted cells rank low in switching."""
    places = {site.path: (place, site) for place, site in enumerate(sites.sites)}
    rows = []
    for row in sites.ranking:
        place, site = places[row["path"]]
        cells = []
        for metric in sites.metrics:
            value, rank = site.values.get(metric.name), row["ranks"].get(metric.name)
            heat = 0.0 if rank is None or len(places) < 2 else 1 - (rank - 1) / (len(places) - 1)
            cells.append(Cell("" if missing(value) else number(value, 4), heat=heat))
        rows.append((str(place), site.path, site.kind, site.norm or "", *cells))
    head = ("no.", "activation", "kind", "batch norm", *(metric.title for metric in sites.metrics))
    return Table(head, rows, note=" ".join(sites.notes))
