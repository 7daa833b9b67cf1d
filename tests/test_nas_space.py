"""Search spaces: the network has the published size, dead cells are known, keys mean equal computation."""

import random
from itertools import permutations

import pytest
import torch
from torch import nn

from delayer.errors import NasError
from delayer.measure import num_params
from delayer.nas import CellSpace, DepthWidthSpace, SpaceOptions
from delayer.nas.cells import EDGES, OPERATIONS, cell_operations, cell_string

SPACE = CellSpace()
TINY = CellSpace(width=4, num_cells=1)
ALL = list(SPACE.every())
SOME = random.Random(0).sample(ALL, 6)
ONE_EACH = [cell_string(tuple(op if k == edge else "none" for k in range(6))) for edge in range(6) for op in OPERATIONS]


@pytest.mark.parametrize("num_classes, constant", [(10, 73306), (100, 79156)])
def test_parameters_are_as_published(num_classes, constant):
    """Every operation on every edge, and mixed cells: parameters add up over edges, so this speaks for all cells."""
    for cell in ONE_EACH[:: 1 if num_classes == 10 else 4] + SOME:
        expected = constant + 243_040 * cell.count("conv_3x3") + 28_000 * cell.count("conv_1x1")
        assert num_params(SPACE.build(cell, num_classes=num_classes)) == expected, cell


def test_there_are_15625_cells_of_which_341_are_dead():
    assert len(set(ALL)) == 15_625 and sum(map(SPACE.is_dead, ALL)) == 341
    assert len(set(map(SPACE.canonical, ALL))) == 5_260


def test_outputs_depend_on_the_input_exactly_where_a_cell_lives():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    dead = [cell for cell in ALL if SPACE.is_dead(cell)]
    for cell in random.Random(1).sample(dead, 8) + SOME + ONE_EACH[15:20]:
        logits = TINY.build(cell)(x)  # in training mode, where even a constant would be normalised away
        assert bool((logits.std(0) > 1e-6).any()) != SPACE.is_dead(cell), cell


def computation(cell: str) -> str:
    """The output as nested sums in which each convolution is itself: the least text over all numberings of them."""
    operations = dict(zip(EDGES, cell_operations(cell), strict=True))

    def terms(node: int, names: dict, used: set) -> list[str]:
        found = ["x"] if node == 0 else []
        for (source, to), op in operations.items():
            if to == node and op != "none" and (inner := terms(source, names, used)):
                used |= {(source, to)} if "conv" in op else set()
                found += inner if op == "skip_connect" else [f"{op}{names.get((source, to), '')}({inner})"]
        return sorted(found)

    # An edge of a node that does not reach the output is never met on the way back from node 3.
    terms(3, {}, used := set())
    return min(str(terms(3, dict(zip(sorted(used), numbers, strict=True)), set())) for numbers in permutations(range(len(used))))


def test_cells_share_a_key_exactly_when_they_compute_the_same():
    """Against a literal twin that tries all numberings of the convolutions."""
    few = random.Random(2).sample(ALL, 1200)
    twin = {cell: computation(cell) for cell in few}
    by_key, by_twin = (len(set(map(name, few))) for name in (SPACE.canonical, twin.get))
    both = len({(SPACE.canonical(cell), twin[cell]) for cell in few})
    assert by_key == by_twin == both and both < 1000


def test_weights_used_twice_are_not_two_sets_of_weights():
    twice = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|skip_connect~1|skip_connect~2|"
    two = "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|skip_connect~1|skip_connect~2|"
    assert SPACE.canonical(twice) != SPACE.canonical(two)


@pytest.mark.parametrize("space", [SPACE, DepthWidthSpace()], ids=["cells", "depth_width"])
def test_candidates_survive_decoding_and_a_mutation_changes_one_choice(space):
    rng = random.Random(0)
    for _ in range(50):
        one = space.draw(rng)
        assert space.encode(space.decode(one)) == one
        a, b = space.decode(one), space.decode(space.mutate(one, rng))
        assert sum(a[name] != b[name] for name in a) == 1


def test_an_unknown_operation_is_named_with_the_allowed_ones():
    with pytest.raises(NasError, match="unknown operation 'conv_7x7'.*Allowed are none, skip_connect, nor_conv_1x1, nor_"):
        SPACE.canonical("|conv_7x7~0|+|none~0|none~1|+|none~0|none~1|none~2|")


@pytest.mark.parametrize("cell", ["", "|none~0|", "|none~0|+|none~0|none~2|+|none~0|none~1|none~2|", ALL[0] + "|none~0|"])
def test_another_form_is_refused(cell):
    with pytest.raises(NasError, match="is no cell of this space. Write"):
        SPACE.decode(cell)


def test_a_depth_width_network_has_the_depth_and_width_asked_for():
    space = DepthWidthSpace(block="tests.nas_blocks:plain", depths=(1, 2), widths=(4, 8), num_stages=2)
    model = space.build("2x4-1x8", in_channels=1, num_classes=5)
    assert len(model.body) == 3 and model(torch.randn(2, 1, 9, 9)).shape == (2, 5)
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [4, 4, 4, 8]
    assert len(list(space.every())) == 16 and len(space.layers(model)) == 4


@pytest.mark.parametrize(
    "candidate, said",
    [("9x16-1x16-1x16", "depth of stage 0 = 9. Allowed are 1, 2, 3"), ("1x16", "Write DEPTHxWIDTH for each of 3 stages")],
)
def test_depth_and_width_outside_the_space_are_named(candidate, said):
    with pytest.raises(NasError, match=said):
        DepthWidthSpace().decode(candidate)


@pytest.mark.parametrize("name", ["tests.nas_blocks:nothing", "no.such.module:block", "residual"])
def test_a_block_factory_that_is_not_there(name):
    with pytest.raises(NasError, match=f"block factory '{name}' cannot be found .* package.module:factory"):
        DepthWidthSpace(block=name).build("1x16-1x16-1x16")


def test_a_space_of_ones_own_is_named_as_a_function():
    named = SpaceOptions(space="delayer.nas:CellSpace")
    named.give()
    assert isinstance(named.open(), CellSpace)
    with pytest.raises(NasError, match="search space 'cels' cannot be found .* or choose cells or depth_width"):
        SpaceOptions(space="cels").open()
