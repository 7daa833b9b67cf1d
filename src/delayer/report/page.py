"""The page: what a study folder holds, put into the template as one file that needs no network."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from delayer.errors import StudyError
from delayer.report.cards import cards_of
from delayer.report.cuts import Choice, choice_of, errors_of
from delayer.report.drawing import drawing
from delayer.report.figures import Figure, limits_of, score_figure
from delayer.report.formats import source
from delayer.report.measured_figures import candidate_figures, latency_figure
from delayer.report.measured_tables import candidates_table, latency_table, measures_table, proofs_table, tasks_table
from delayer.report.networks import grouped, networks_figure, networks_table
from delayer.report.reading import leave_out_, readable
from delayer.report.scan_figures import error_maps, length_figure
from delayer.report.shrinking import (
    comparison_figure,
    comparison_headline,
    comparison_table,
    merges_table,
    rounds_figure,
    rounds_table,
)
from delayer.report.sites import sites_figures, sites_table
from delayer.report.tables import Table, correlation_table, cuts_table, ranking_table, spans_table
from delayer.study import Provenance, Score, Study, StudyInfo, write_atomically
from delayer.study.marks import MODEL

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Plot:
    """A place on the page with one figure, or several to switch between by name."""

    figures: dict[str, Figure]
    label: str
    kind: str = "wide"

    @property
    def json(self) -> str:
        """For a script element: no "<" may end it early."""
        return json.dumps(_finite(self.figures), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """A figure with null for what is not finite, of which JSON knows nothing."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def render(folder: str | Path) -> Path:
    """Write report.html into a study folder, from what the folder holds, and return its path.

    The file is self-contained: no request leaves it. A record that is damaged, or that contradicts the network of the
    study, is left out, and the page says so. Raises StudyError when the folder holds no stage that can be read, when
    study.json is damaged, or when plotly or jinja2 is not installed.
    """
    study = Study(folder)
    records, left_out = readable(study)
    doubted = leave_out_(records, study)
    if not any(records.values()):
        files = ", ".join(file for file, _, _ in Study.FILES.values())
        raise StudyError(f"{study.folder} is no study folder: it holds none of {files}. Run `delayer run` first.")
    shown = SimpleNamespace(**records, has_model=study.path(MODEL).exists())
    page = filled("template.html", context(shown, [*left_out, *doubted]))
    path = study.path("report.html")
    write_atomically(path, page)
    return path


def filled(template: str, shown: dict[str, Any]) -> str:
    """A page of the report's folder with plotly inside. Raises StudyError when plotly or jinja2 is not installed."""
    try:
        import jinja2  # noqa: F401
        from plotly.offline import get_plotlyjs
    except ImportError as problem:
        raise StudyError(
            f"The report needs plotly and jinja2, and {problem.name} is not installed. "
            "Install them: pip install 'delayer[report]'."
        ) from problem
    script = (HERE / "figures.js").read_text("utf-8")
    return _templates().get_template(template).render(plotly=get_plotlyjs(), script=script, **shown)


@cache
def _templates() -> Any:
    """The templates of this folder, which keep what they were compiled to."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["source"] = source
    return environment


def context(records: SimpleNamespace, doubted: Sequence[str] = ()) -> dict[str, Any]:
    """All that the template shows, from the study's records by name; a part whose record is None is empty.

    doubted: what records do not belong to the rest, in sentences.
    """
    study, scores, candidates, results = records.study, records.scores, records.candidates, records.results
    choice = choice_of(records.scan, candidates, results)
    return {
        **vars(records),
        "choice": choice,
        "doubted": doubted,
        "headline": headline(records),
        "cards": cards_of(study, scores, candidates, results),
        "drawings": drawings(study, choice) if study else {},
        "score_rows": score_plots(scores.scores, choice) if scores else [],
        "networks": list(network_parts(scores.networks, study)) if scores else [],
        "plots": dict(plots(records, choice)),
        "tables": dict(all_tables(records, choice)),
        "provenance": provenance(study, results),
    }


def drawings(study: StudyInfo, choice: Choice) -> dict[str, str]:
    """The network for wide and for narrow screens; the style sheet shows one of them."""
    return {
        "wide": drawing(study.chain, choice, width=1120, per_row=32),
        "narrow": drawing(study.chain, choice, width=350, per_row=12),
    }


def plots(records: SimpleNamespace, choice: Choice) -> Iterator[tuple[str, Plot]]:
    """Every figure that the study's records allow, by name."""
    study, scan, candidates, results = records.study, records.scan, records.candidates, records.results
    if records.sites:
        yield "sites", Plot(sites_figures(records.sites), "How much each activation switches")
    if errors_of(scan):
        num_blocks = len(study.chain.blocks) if study else max(damage.stop for damage in scan.spans)
        maps = error_maps(scan, choice, num_blocks)
        yield "errors", Plot(maps, "Held-out error of every span, by operator", "square")
        yield "lengths", Plot({"": length_figure(scan, choice)}, "Least error by span length", "square")
    if candidates and candidates.measured:
        costs = (study.params, study.macs) if study else (None, None)
        yield "candidates", Plot(candidate_figures(candidates, *costs), f"{candidates.grade_name} by cost")
    if (shrink := records.shrink) and shrink.rounds:
        yield "rounds", Plot({"": rounds_figure(shrink)}, f"{shrink.original.name} round by round")
    if (compare := records.compare) and compare.rows:
        yield "compare", Plot({"": comparison_figure(compare)}, f"{compare.original.name} by schedule")
    if results and results.latency:
        yield "latency", Plot({"": latency_figure(results.latency)}, "Speed-up with its interval", "flat")


def all_tables(records: SimpleNamespace, choice: Choice) -> Iterator[tuple[str, Table]]:
    """Every table that the study's records allow, by name."""
    scores, scan, candidates, results = records.scores, records.scan, records.candidates, records.results
    if choice.cuts:
        yield "cuts", cuts_table(choice, scan)
    if scores and scores.ranking:
        yield "ranking", ranking_table(scores, choice)
    if scores and scores.correlations:
        yield "correlations", correlation_table(scores)
    if records.sites:
        yield "sites", sites_table(records.sites)
    if errors_of(scan):
        yield "spans", spans_table(scan, choice)
    if candidates and candidates.measured:
        yield "candidates", candidates_table(candidates, results)
    if records.shrink and records.shrink.rounds:
        yield "rounds", rounds_table(records.shrink)
    if records.shrink and records.shrink.merges:
        yield "merges", merges_table(records.shrink)
    if records.compare and records.compare.rows:
        yield "compare", comparison_table(records.compare)
    if results:
        yield "measures", measures_table(results)
    if results and results.latency:
        yield "latency", latency_table(results)
    if results and results.tasks:
        yield "tasks", tasks_table(results)
    if results and (results.proofs or results.onnx):
        yield "proofs", proofs_table(results)


def score_plots(scores: tuple[Score, ...], choice: Choice) -> list[list[tuple[Score, Plot]]]:
    """Rows of scores with their plots: all in one, or a row a metric when there are several data sets.

    One metric on several data sets shares its range of colours.
    """
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(score.name, []).append(score)

    def plot(score: Score) -> Plot:
        figure = score_figure(score, choice, limits_of(groups[score.name]))
        return Plot({"": figure}, f"{score.title} on {source(score.data)}", "square")

    rows = [[(score, plot(score)) for score in group] for group in groups.values()]
    return rows if max(map(len, rows), default=0) > 1 else [[item for row in rows for item in row]]


def network_parts(networks: tuple[Score, ...], study: StudyInfo | None) -> Iterator[tuple[Score, Plot, Table, tuple[str, ...]]]:
    """For each metric of whole networks its facts, a picture of all networks, their numbers, and what to beware of."""
    own = study.asked.model if study else ""
    for scores in grouped(networks).values():
        plot = Plot({"": networks_figure(scores, own)}, f"{scores[0].title} of each network", "flat")
        texts = [f"{one.model}: {text}" if len(scores) > 1 else text for one in scores for text in one.warnings]
        yield scores[0], plot, networks_table(scores), tuple(dict.fromkeys(texts))


def headline(records: SimpleNamespace) -> str:
    """What was asked and what came out, numbers not torn from their units; else how far the study got."""
    study, scores, candidates = records.study, records.scores, records.candidates
    if records.results or records.compare:
        came_out = records.results.headline if records.results else comparison_headline(records.compare)
        return re.sub(r"(?<=\d) (?=%|×|[kMGT]\b|ms\b)", "\u00a0", came_out)
    done = [f"scored by {len({s.name for s in scores.scores})} metrics"] if scores else []
    done += [f"{len(candidates.measured):,} cuts measured"] if candidates else []
    network = f"{study.asked.model} has {len(study.chain.blocks)} blocks" if study else "An unfinished study"
    state = "what was cut has not been checked yet" if getattr(records, "has_model", False) else "nothing has been cut yet"
    return f"{', '.join([network, *done])}; {state}."


def provenance(study: StudyInfo | None, results) -> list[tuple[str, dict[str, str]]]:
    """Titled lists of facts: what was asked, and where the numbers of each stage come from."""
    parts: list[tuple[str, dict[str, str]]] = []
    if study:
        asked = {"model": study.asked.model, "data": ", ".join(study.asked.data), **study.asked.options}
        parts.append(("Asked", {key: _plain(value) for key, value in asked.items()}))
        parts.append(("Observed", _facts(study.provenance)))
    if results:
        parts.append(("Measured", _facts(results.provenance)))
        if results.notes:
            parts.append(("On the way", {str(number): note for number, note in enumerate(results.notes, 1)}))
    return parts


def _facts(source: Provenance) -> dict[str, str]:
    facts = {key.replace("_", " "): _plain(value) for key, value in source if key != "versions"}
    return facts | {"versions": ", ".join(f"{name} {version}" for name, version in source.versions.items())}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
