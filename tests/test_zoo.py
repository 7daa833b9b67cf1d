"""Every network of the zoo goes the whole road, and the page says what became of it."""

import pytest
from zoo import ROWS
from zoo_road import cells_of, stated, walk

each = pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.name, marks=[] if row.quick else [pytest.mark.slow]) for row in ROWS]
)


@each
def test_the_block_that_changes_nothing_is_found_taken_alone_and_missed_by_nobody(row, tmp_path):
    walked = walk(row, tmp_path)
    assert not walked.found and not walked.first and not walked.alone
    assert walked.exact < 1e-5 and not walked.reloaded
    assert walked.cache is not False
    if row.opens == row.library:
        assert walked.ordinary, walked.note
    else:
        assert not walked.ordinary and row.opens in walked.note


def test_the_page_tells_of_each_network_and_of_no_other():
    assert list(stated()) == [row.name for row in ROWS]


def test_four_of_five_networks_that_were_exported_have_a_graph():
    """`python tests/zoo_road.py` exports all of them; `test_the_page_says_what_is_so` finds it again."""
    graphs = [cells[6] for cells in stated().values() if cells[6] != "not tried"]
    assert sum(graph == "✓" for graph in graphs) >= 0.8 * len(graphs)
    assert all(graph == "✓" or len(graph) > 10 for graph in graphs), "a refusal gives its reason"


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_page_says_what_is_so(row, tmp_path):
    cells = stated()[row.name]
    found = cells_of(walk(row, tmp_path, onnx=cells[6] != "not tried"))
    assert [*found[:6], found[6][:1], *found[7:]] == [*cells[:6], cells[6][:1], *cells[7:]]
