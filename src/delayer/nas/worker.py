"""One worker of a search: claims a slot, asks the strategy, trains, writes the result, until no slot waits."""

import hashlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save

from delayer.errors import DelayerError
from delayer.libraries import first_line
from delayer.nas.data import NasData, open_data
from delayer.nas.options import Setup
from delayer.nas.proxy import PRIME, assess
from delayer.nas.space import Seen
from delayer.nas.storage import Trials, at_work
from delayer.nas.strategies import strategies
from delayer.registry.outside import import_again
from delayer.store.given import give
from delayer.store.weights import distinct_weights
from delayer.study import NasTrial, read_record, write_atomically

EXHAUSTED = 3
"""Exit code of a worker whose space held no further candidate."""


def seen_of(results: Sequence[NasTrial]) -> list[Seen]:
    """What a strategy may know of results; failed trials are not among them."""
    return [
        Seen(r.slot, r.candidate, r.accuracy, float("inf") if r.msrs is None else r.msrs, r.params, r.state == "dead")
        for r in results
        if r.state != "failed" and r.accuracy is not None and r.params is not None
    ]


def work(folder: str, name: str, own: str = "", imports: Sequence[str] = ()) -> int:
    """Work on the search in a folder until no slot waits. Gives 0, or EXHAUSTED.

    own: the function that the user named for the search's blocks or space, and imports: the modules of plug-ins, both from
    whoever started the search; what the folder names is not imported.
    """
    import_again(imports)
    if own:
        give(own)
    setup = read_record(Path(folder) / "search.json", Setup)
    with at_work(folder):
        data = open_data(setup.data, setup.space.open(), setup.task, test=setup.test)
        fit = data.fit(setup.proxy.share, setup.seed)
        trials = Trials(folder)
        while (claimed := trials.claim(name)) is not None:
            trial_id, known = claimed
            candidate = known.get("candidate") or _asked(trials, setup, known["slot"])
            if candidate is None:
                trials.drop(trial_id)
                return EXHAUSTED
            about = {"candidate": candidate, "key": setup.space.open().canonical(candidate)}
            trials.note(trial_id, **about)
            about |= {"slot": known["slot"], "attempts": known["attempts"]}
            trials.finish(trial_id, NasTrial(**about, **_tried(folder, setup, data, fit, candidate, known["slot"])))
    return 0


def _asked(trials: Trials, setup: Setup, slot: int) -> str | None:
    """The strategy's next candidate; a resumed search asks with the same random numbers."""
    results = trials.finished()
    taken = {result.key for result in results} | trials.running_keys()
    return strategies[setup.strategy].ask(
        setup.space.open(), seen_of(results), taken, Random(f"{setup.seed} {slot}"), setup.strategy_options
    )


def _tried(folder: str, setup: Setup, data: NasData, fit: tuple, candidate: str, slot: int) -> dict[str, Any]:
    """What the short training showed; its weights are in the folder then."""
    try:
        facts, model = assess(
            setup.space.open(), candidate, data, fit, setup.proxy, seed=setup.seed * PRIME + slot, device=setup.device
        )
    except Exception as error:  # a block of the user's may raise anything
        return {"state": "failed", "error": f"{type(error).__name__}: {first_line(error)}"}
    if facts["state"] == "trained":
        weights = save(distinct_weights(model))
        write_atomically(weights_path(folder, slot), weights)
        facts |= {"weights": hashlib.sha256(weights).hexdigest()}
    return facts


def weights_path(folder: str | Path, slot: int) -> Path:
    """Where the weights of a slot's short training lie."""
    return Path(folder) / "trials" / f"{slot}.safetensors"


def main() -> None:
    """Work as the command line says; ends at once when whoever started it is gone."""
    folder, name, threads, own, *imports = sys.argv[1:]
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(int(threads))
    try:
        sys.exit(work(folder, name, own, imports))
    except DelayerError as error:
        sys.exit(f"delayer: {error}")
