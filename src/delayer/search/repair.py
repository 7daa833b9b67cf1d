"""The same cut without the loss: closed-form repair of the blocks that stay, added to a plan as further edits.

cut = resolved(chain, plan.edits, batches[0])         which blocks to solve anew, and for which original block
small = apply(chain, plan.model_copy(update={"edits": cut}), data=batches)
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from delayer.edits import Edit
from delayer.edits.adopt_units import AdoptUnits
from delayer.edits.resolve_block import ResolveBlock
from delayer.errors import ModelError
from delayer.fitting.batch_norm import whole
from delayer.fitting.block_runs import BlockRuns
from delayer.fitting.units import Wider
from delayer.network.calling import call, each_tensor, evaluating, example_of
from delayer.network.chain import Chain
from delayer.network.inside_block import Form, Run, Tail, check_form, form_of, running_each
from delayer.observing.one_pass import device_of

Layers = Literal["last", "all"]
MOST_UNITS = 8192
"""Hidden units that one block chooses from: their products, and the inverse, take 8 bytes for each pair several times over."""


def forms_of(chain: Chain, batch: Any) -> list[Form]:
    """The form of every block, seen in one forward pass of the first two samples of a batch.

    Raises ModelError for a block that is not passed.
    """
    found: dict[nn.Module, Form] = {}
    watched = {chain.module(index): block for index, block in enumerate(chain.blocks)}

    def noting(module: nn.Module) -> Callable[[Run], None]:
        return lambda run: found.__setitem__(module, form_of(run))

    few = each_tensor(lambda x: x.to(device_of(chain.model)), example_of(batch.inputs))
    with (
        evaluating(chain.model),
        running_each([(module, noting(module), block.takes, block.gives) for module, block in watched.items()]),
    ):
        call(chain.model, few)
    for index, block in enumerate(chain.blocks):
        if chain.module(index) not in found:
            raise ModelError(f"Block {block.path} was never passed, so its form is not known; is it skipped in evaluation mode?")
    return [found[chain.module(index)] for index in range(chain.num_blocks)]


def resolvable(chain: Chain, batch: Any) -> set[int]:
    """Blocks that end in shortcut + linear layer, with nothing or a ReLU behind, so that they can be solved anew."""
    return {
        i
        for i, form in enumerate(forms_of(chain, batch))
        if form.tail is not None and whole(chain.module(i).get_submodule(form.last))
    }


def resolved(
    chain: Chain,
    edits: Sequence[Edit],
    batch: Any,
    *,
    can: Collection[int] | None = None,
    layers: Layers = "last",
    ridge: float | None = None,
    sweeps: int = 1,
    seams_only: bool = False,
    units: bool = False,
) -> tuple[Edit, ...]:
    """The edits of a cut, and one more for each kept block that the cut reaches: it is solved anew.

    A block right before removed ones takes over their part (it aims at the last of them); a block before a map, or
    further on, aims at its own total in the original. Blocks before the first cut read what they always read and stay.
    batch: a small one, to find which blocks have the form that solving needs; others stay as they are.
    can: what `resolvable` found, where that is known.
    layers: the last linear layer of each block, or all. ridge: chosen on held-out samples where None.
    sweeps: how often each is solved; a second time lets go of what a ReLU hides.
    seams_only: only the blocks right before removed ones.
    units: these choose their hidden units among their own and those of the removed ones, where they have such.
    Raises ModelError when no block that stays can be solved.
    """
    dropped = {b for edit in edits if edit.edit == "drop_span" for span in edit.spans for b in range(span.start, span.stop)}
    touched = {b for edit in edits for span in edit.spans for b in range(span.start, span.stop)}
    can = resolvable(chain, batch) if can is None else can
    found, reached, eligible = [], False, 0
    for block in range(chain.num_blocks):
        if block in touched:
            reached = True
            continue
        target = chain.reach(block, dropped)
        if target == block and (seams_only or not reached):
            continue
        eligible += 1
        if block in can:
            aim = target if target > block else None
            donors = _donors(chain, block, range(block + 1, target + 1), batch) if units and aim else ()
            if donors:
                found.append(AdoptUnits(block=block, target=aim, donors=donors, ridge=ridge))
            else:
                found.append(ResolveBlock(block=block, target=aim, layers=layers, ridge=ridge, sweeps=sweeps))
        reached = True
    if eligible and not found:
        raise ModelError(
            f"None of the {eligible} blocks of {type(chain.model).__name__} that this cut reaches ends in shortcut + linear "
            "layer with nothing or a ReLU behind, so none can be solved anew. Use --repair none, or fine-tune."
        )
    return (*edits, *found)


def _donors(chain: Chain, block: int, removed: Sequence[int], batch: Any) -> tuple[int, ...]:
    """Those of the removed blocks whose hidden units can stand in a block, the nearest first; tried on two samples."""
    runs, few = BlockRuns(chain), replace(batch, inputs=example_of(batch.inputs), labels=None).to(device_of(chain.model))
    try:
        run = runs.run(block, few)
        near = tuple(removed[: max(MOST_UNITS // run.ending[0].read.shape[-1] - 1, 0)])
        if near:
            wide = Wider(chain.module(block), [chain.module(donor) for donor in near], run)
            with wide.standing():
                wide.check(runs.run(block, few))
    except ModelError:
        return ()
    return near


def tail_of(chain: Chain, index: int, batch: Any) -> Tail:
    """What a block ends in, "identity" or "relu". Raises ModelError for anything else."""
    tail = check_form(forms_of(chain, batch)[index], chain.blocks[index].path).tail
    assert tail is not None  # which is what is checked
    return tail
