"""The loop over rounds, which can be killed at any moment and goes on to the very same result."""

from collections.abc import Callable
from pathlib import Path

from delayer.edits import Edit
from delayer.network.calling import Inputs
from delayer.network.chain import Chain
from delayer.shrinking.options import ShrinkOptions
from delayer.shrinking.rounds import Rounds
from delayer.study import Round, Shrunk
from delayer.tasks import Task


def shrink(
    chain: Chain,
    task: Task,
    options: ShrinkOptions | None = None,
    *,
    example: Inputs,
    folder: str | Path | None = None,
    seed: int = 0,
    on_round: Callable[[Round, Chain], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Chain, tuple[Edit, ...], Shrunk]:
    """A copy of a chain whose activations were made linear, round after round, the edits, and what each round did.

    A round chooses by the schedule, makes the chosen activations linear, fine-tunes, and validates. It stays while the
    validation grade is within the tolerance; else the network is put back bit for bit, and the shrinking ends there or,
    where the schedule says so, tries half as many at once.
    example: inputs of a small batch. folder: where the state lies, so that a killed run goes on; None keeps no state.
    on_round: called after each round with the round and the chain as it is then.
    progress: called with (steps done, steps in all) of a round's training.
    Raises BudgetError for more activations than there are, ModelError without any or where a forward pass cannot be traced,
    UnknownName for the schedule, StudyError when the folder holds another run. The test split is not read.
    """
    run = Rounds(chain, task, options or ShrinkOptions(), example, Path(folder) if folder else None, seed, progress)
    while not run.place.note:
        if done := run.round_():
            if on_round:
                on_round(done, run.small)
            run.keep()
    run.keep()
    place = run.place
    return (
        run.small,
        tuple(place.edits),
        Shrunk(
            schedule=run.options.schedule,
            original=place.original,
            grade=place.grade,
            num_sites=len(run.sites),
            edits=tuple(edit.info() for edit in place.edits),
            rounds=tuple(place.rounds),
            note=place.note,
        ),
    )
