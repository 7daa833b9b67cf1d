"""The report: figures say what the records say, the drawing shows what went, and any study gives a page."""

import ast
import math
import random
import re
from itertools import combinations, islice
from pathlib import Path
from types import SimpleNamespace

import planted_studies
import pytest

import delayer.report
from delayer.errors import StudyError
from delayer.report import formats, render
from delayer.report.cards import latency_card, proof_card
from delayer.report.cuts import Choice, Cut, choice_of, errors_of
from delayer.report.drawing import drawing, rows_of
from delayer.report.figures import limits_of, points_of, score_figure
from delayer.report.measured_figures import front
from delayer.report.page import context
from delayer.report.scan_figures import error_maps
from delayer.report.shrinking import (
    comparison_figure,
    comparison_headline,
    comparison_table,
    merges_table,
    rounds_figure,
    rounds_table,
)
from delayer.study import EditInfo, Measured, Score, Study

STUDIES = {"vit": planted_studies.vit, "resnet": planted_studies.resnet, "long": planted_studies.long}


def records(study: Study) -> SimpleNamespace:
    return SimpleNamespace(**{name: study.read_or_none(name) for name in Study.FILES})


def chosen(*spans: tuple[int, int]) -> Choice:
    """Spans that were dropped."""
    edits = [EditInfo(edit="drop_span", label="drop", spans=(span,)) for span in spans]
    return Choice(tuple(Cut(chr(65 + i), e, "drop", True, None) for i, e in enumerate(edits)), {"drop": "#000"})


def score_of(shape: str, values: list, labels: list[str], redundant: str = "high") -> Score:
    """From a metric that nobody has heard of."""
    return Score(
        name="brand_new",
        title="Brand new",
        shape=shape,
        values=values,
        labels=labels,
        redundant=redundant,
        unit="",
        source="",
        rows="each",
        num_samples=1,
        seed=0,
        data="digits",
    )


@pytest.mark.parametrize(
    "text, expected",
    [
        (formats.count(5_717_416), "5.72 M"),
        (formats.count(1_258_000_000), "1.26 G"),
        (formats.count(999_600), "1.00 M"),
        (formats.count(12), "12"),
        (formats.count(None), "–"),
        (formats.size(22_900_000), "22.9 MB"),
        (formats.percent(78.26), "78.3 %"),
        (formats.percent(100.0), "100 %"),
        (formats.number(0.00019999, 2), "2.0 × 10⁻⁴"),
        (formats.number(float("nan")), "–"),
        (formats.number(0.0), "0"),
        (formats.milliseconds(9.6124), "9.61 ms"),
        (formats.milliseconds(1234.0), "1.23 s"),
        (formats.error(0.0414), "4.14 %"),
        (formats.error(1e-9), "< 0.01 %"),
        (formats.error(31.2), "31 ×"),
        (formats.change(5.0, 4.0), "−20.0 %"),
        (formats.change(5.0, 5.0), "unchanged"),
        (formats.difference(75.3, 74.1, "%"), "−1.2 points"),
        (formats.difference(4.05, 4.55, ""), "+0.500"),
        (formats.source("imagefolder:/data/images/train"), "imagefolder:…/train"),
        (formats.source("hf:stanfordnlp/sst2"), "hf:stanfordnlp/sst2"),
    ],
)
def test_numbers_read_as_people_write_them(text, expected):
    assert text.replace("\u00a0", " ") == expected


def test_a_new_metric_is_drawn_by_its_shape_alone():
    labels, none = ["in", "0", "1", "2"], chosen()
    pairs = [[1 / (1 + abs(i - j)) for j in range(4)] for i in range(4)]
    [heat] = score_figure(score_of("pairs", pairs, labels), none, (0, 1))["data"]
    assert heat["type"] == "heatmap" and heat["z"][1][3] == pytest.approx(pairs[1][3], rel=1e-5)
    assert heat["x"] == heat["y"] == labels

    [spans] = score_figure(score_of("spans", pairs, labels, "low"), none, None)["data"]
    assert all((value is None) == (j <= i) for i, row in enumerate(spans["z"]) for j, value in enumerate(row))
    assert spans["reversescale"] is True and heat["reversescale"] is False, "bright must mean redundant"

    [bars] = score_figure(score_of("blocks", [0.5, math.nan, None], labels), none, None)["data"]
    assert bars["type"] == "bar" and bars["x"] == ["0", "1", "2"] and bars["y"] == [0.5, None, None]


def test_outlines_hold_the_points_of_the_removed_span():
    plain = ["in", "0", "1", "2", "3"]
    assert points_of(1, 3, plain) == (1, 3)  # blocks 1 and 2 take the point after block 0 to that after block 2
    assert points_of(0, 1, plain) == (0, 1)
    assert points_of(2, 4, ["in", "0", "1", "in 2", "2", "3"]) == (3, 5)  # block 2 reads a point of its own
    layout = score_figure(score_of("pairs", [[0] * 5] * 5, plain), chosen((1, 3)), None)["layout"]
    assert {(s["x0"], s["x1"], s["y0"], s["y1"]) for s in layout["shapes"]} == {(0.5, 3.5, 0.5, 3.5)}
    triangle = score_figure(score_of("spans", [[0] * 5] * 5, plain), chosen((1, 3)), None)["data"]
    assert [(mark["x"], mark["y"]) for mark in triangle[1:]] == [(["2"], ["0"])] * 2


def test_small_multiples_share_their_limits():
    one, two = (score_of("pairs", [[0, v], [v, None]], ["in", "0"]) for v in (3, -2))
    assert limits_of([one, two]) == (-2, 3)
    assert limits_of([score_of("blocks", [None], ["0"])]) is None


def test_the_best_operator_of_every_span_is_the_one_of_least_error(tmp_path):
    scan = planted_studies.resnet(tmp_path).read("scan")
    maps = error_maps(scan, choice_of(scan, None, None), 28)
    names = list(maps)[1:]
    assert names == ["drop", "diagonal", "low rank", "affine"]
    for start, stop in {(d.start, d.stop) for d in scan.spans}:
        here = [d for d in scan.spans if (d.start, d.stop) == (start, stop)]
        least = min(here, key=lambda d: d.residual)
        assert names[maps["best operator"]["data"][0]["z"][start][stop - 1]] == least.operator.replace("_", " ")
        for name in names:
            error = min(d.residual for d in here if d.operator.replace("_", " ") == name)
            drawn = maps[name]["data"][0]["z"][start][stop - 1]
            assert drawn == pytest.approx(math.log10(min(error, 1)), abs=1e-4)
    assert maps["drop"]["data"][0]["z"][9] == [None] * 28  # no span begins at a block that changes the width


def test_an_edit_is_known_by_its_label_and_rank(tmp_path):
    read = records(planted_studies.resnet(tmp_path))
    cuts = choice_of(read.scan, read.candidates, read.results).cuts
    assert [(c.letter, c.operator, c.removes) for c in cuts] == [
        ("A", "affine", True),
        ("B", "low rank", True),
        ("C", "affine", True),
        ("D", "linearise", False),
    ]
    assert cuts[1].damage.options["rank"] == 32 and errors_of(read.scan)["low rank"][12, 14].options["rank"] == 64
    assert choice_of(read.scan, read.candidates, None).cuts == cuts  # the chosen candidate, before any result
    assert choice_of(read.scan, None, None).cuts == ()


def test_the_front_holds_what_nothing_cheaper_equals():
    random.seed(0)
    for higher in (True, False):
        measured = [
            Measured(
                edits=(), predicted=0, kl=None, agreement=0, grade=random.randrange(9), macs=None, params=random.randrange(9)
            )
            for _ in range(30)
        ]
        best = {(m.params, m.grade) for m in front(measured, "params", higher)}
        sign = 1 if higher else -1
        for m in measured:
            beaten = any(
                o.params <= m.params and sign * o.grade >= sign * m.grade and (o.params, o.grade) != (m.params, m.grade)
                for o in measured
            )
            assert ((m.params, m.grade) in best) is not beaten


def test_rows_of_the_drawing_tear_no_removed_span():
    random.seed(0)
    for _ in range(300):
        num_blocks, per_row = random.randint(1, 100), random.randint(1, 40)
        ends = sorted(random.sample(range(num_blocks + 1), 2 * random.randint(0, (num_blocks + 1) // 4)))
        spans = list(zip(ends[::2], ends[1::2], strict=True))
        rows = rows_of(num_blocks, chosen(*spans), per_row)
        assert [b for start, stop in rows for b in range(start, stop)] == list(range(num_blocks))
        assert not any(start < first < stop for first, _ in rows for start, stop in spans)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "long")) for name in STUDIES])
def test_the_drawing_shows_every_block_before_and_what_is_left_after(tmp_path, name):
    read = records(STUDIES[name](tmp_path))
    choice = choice_of(read.scan, read.candidates, read.results)
    num_blocks, gone = len(read.study.chain.blocks), sum(stop - start for _, start, stop in choice.spans)
    for width, per_row in ((1120, 32), (350, 12)):
        svg = drawing(read.study.chain, choice, width=width, per_row=per_row)
        assert svg.count('class="ghost"') == gone
        assert svg.count('class="block"') == 2 * (num_blocks - gone)
        assert svg.count('class="standin"') == len(choice.spans)
        assert svg.count('class="tag"') == len(choice.cuts)
        assert float(re.search(r'width="(\d+)"', svg)[1]) <= width


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name == "long" else []) for name in STUDIES])
def test_plotly_knows_every_property_of_every_figure(tmp_path, name):
    from plotly.graph_objects import Figure

    page = context(records(STUDIES[name](tmp_path, data=("imagenette", "cifar10"))))
    plots = [*page["plots"].values(), *(plot for row in page["score_rows"] for _, plot in row)]
    assert len(plots) == 7 + 6
    for plot in plots:
        for figure in plot.figures.values():
            Figure(figure)  # raises ValueError for a property that plotly lacks


def test_the_page_says_what_the_records_say(tmp_path):
    text = render(planted_studies.vit(tmp_path).folder).read_text().replace("\u00a0", " ")
    for expected in (
        "3 of 12 blocks of deit_tiny_patch16_224 removed",
        "its interval holds 1",
        "75.3 %",
        "74.1 %",
        "−1.2 points",
        "6.59 M",
        "5.07 M",
        "1.29 × faster (1.26 to 1.32)",
        "at most 2.0 × 10⁻⁷ apart",
        "95.1 %",
        "9:11 → affine map",
        "disagree about the blocks",
        "a1a1a1a1",
    ):
        assert expected in text, expected
    assert "0.00019" not in text.split("<script>")[0]
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".json") == ["report.html"]


def test_rounds_that_were_rolled_back_are_no_part_of_the_line(tmp_path):
    study = planted_studies.vit(tmp_path).read("shrink")
    trained, untrained, undone = rounds_figure(study)["data"]
    assert trained["x"] == [0, 2, 4] and trained["y"] == [75.3, 74.3, 71.3]
    assert untrained["x"] == [2, 4] and untrained["y"] == [67.0, 59.0]
    assert undone["x"] == [6] and undone["y"] == [66.3]
    assert [row[5] for row in rounds_table(study).rows] == ["kept", "kept", "rolled back"]
    assert [(row[2], row[3], row[4], row[6]) for row in merges_table(study).rows] == [
        ("merged", "2.00× (1.90 to 2.10)", "3e-15", ""),
        ("stays", "", "", "its border would be wrong"),
    ]


def test_schedules_are_means_over_seeds_best_first(tmp_path):
    comparison = planted_studies.vit(tmp_path).read("compare")
    easier, ours = comparison_figure(comparison)["data"]
    assert easier["x"] == [0, 2, 4] and easier["y"] == pytest.approx([75.3, 70.8, 66.8])
    assert ours["error_y"]["array"] == pytest.approx([0, 0.5, 0.5])
    assert [(row[0], row[1], row[2], row[4]) for row in comparison_table(comparison).rows] == [
        ("ours", "2", "4", "2.00"),
        ("easier", "2", "4", "2.00"),
    ]
    assert comparison_headline(comparison).replace("\u00a0", " ") == (
        "Without 4 of 24 activations ours has 72.8 %, easier has 66.8 %; the original has 75.3 % (top-1 accuracy, test)."
    )


def test_cards_do_not_flatter(tmp_path):
    results = planted_studies.vit(tmp_path).read("results")

    def tone_of(speedup_interval):
        info = results.latency[0].model_copy(update={"speedup_interval": speedup_interval})
        return latency_card(info).tone

    assert [tone_of(interval) for interval in ((1.1, 1.2), (0.9, 1.2), (0.8, 0.9))] == ["good", "", "bad"]
    failed = results.proofs[0].model_copy(update={"passed": False, "max_abs_difference": 0.25})
    card = proof_card((*results.proofs, failed))
    assert (card.value, card.tone) == ("failed", "bad") and "at most 0.25 apart" in card.note


def test_networks_stand_in_one_picture_and_one_table_with_their_intervals(tmp_path):
    study = planted_studies.vit(tmp_path)
    [(score, plot, table, texts)] = context(records(study))["networks"]
    [dots] = plot.figures[""]["data"]
    assert score.title == "MSRS" and dots["y"] == ["deeper_network", "deit_tiny_patch16_224", "shallow_network"]
    assert dots["x"] == [0.52, 0.31, 0.1] and dots["error_x"]["array"] == pytest.approx([0.03, 0.06, 0])
    assert dots["error_x"]["arrayminus"] == pytest.approx([0.03, 0.06, 0])
    assert plot.figures[""]["layout"]["xaxis"]["title"]["text"] == "share of all pairs"
    colours = dots["marker"]["color"]
    assert colours[0] == colours[2] != colours[1]  # the study's own stands out
    assert table.head == ("network", "data", "share", "low", "high", "score", "maximum")
    assert table.rows[2][2:] == ("0.1000", "–", "–", "1.500", "15")
    assert texts == ("shallow_network: Read from one batch, so it has no interval.",)
    page = render(study.folder).read_text()
    assert '<section id="redundancy">' in page and texts[0] in page and "interval over batches" in page


@pytest.mark.parametrize("size, step", [(1, 1), (2, 5), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_a_study_may_hold_only_some_stages(tmp_path, size, step):
    sections = {"study": "network", "scores": "similarity", "scan": "errors", "candidates": "candidates", "results": "proof"}
    for only in islice(combinations(Study.FILES, size), None, None, step):
        text = render(planted_studies.vit(tmp_path / "-".join(only), only=only).folder).read_text()
        for name, section in sections.items():
            shown = name in only or (name == "scan" and "spans" in only)  # spans by hand stand in for a scan of all
            assert (f'<section id="{section}">' in text) == shown, (only, section)


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(StudyError, match="holds none of study.json, scores.json.*Run `delayer run` first"):
        render(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_cannot_break_out_of_the_page(tmp_path):
    study = planted_studies.vit(tmp_path)
    scripts = render(study.folder).read_text().count("<script")
    evil = "</script><script>boom()</script>"
    for path in tmp_path.glob("*.json"):
        text = path.read_text()
        for name in ("deit_tiny_patch16_224", "imagenette", "blocks.3", "Linear CKA", "9:11 → affine map", "delayer.load"):
            text = text.replace(name, evil)
        path.write_text(re.sub(r'"seal": ?"\w*"', '"seal": ""', text))
    page = render(study.folder).read_text()
    assert page.count("<script") == scripts and "boom()" in page


def test_the_report_sees_a_study_folder_only():
    allowed = {"delayer.study", "delayer.study.marks", "delayer.errors"}
    for path in Path(delayer.report.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        ours = {m for m in modules if m.startswith("delayer") and not m.startswith("delayer.report")}
        assert ours <= allowed, path
        at_once = {
            n.module if isinstance(n, ast.ImportFrom) else n.names[0].name
            for n in tree.body
            if isinstance(n, (ast.Import, ast.ImportFrom))
        }
        assert not {m for m in at_once if m.startswith(("plotly", "jinja2"))}, f"{path} makes `import delayer` heavy"
