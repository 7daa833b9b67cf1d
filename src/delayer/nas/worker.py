"""One worker of a search: claims a slot, asks the strategy, trains, writes the result, until no slot waits."""

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save

from delayer.errors import DelayerError
from delayer.libraries import first_line
from delayer.nas.data import open_data
from delayer.nas.options import Setup
from delayer.nas.proxy import PRIME, assess
from delayer.nas.space import Seen
from delayer.nas.storage import Trials
from delayer.nas.strategies import strategies
from delayer.nas_records import NasTrial
from delayer.store.weights import distinct_weights
from delayer.study import read_record, write_atomically

EXHAUSTED = 3
"""Exit code of a worker whose space held no further candidate."""


def seen_of(results: Sequence[NasTrial]) -> list[Seen]:
    """What a strategy may know of results; failed trials are not among them."""
    return [Seen(r.slot, r.candidate, r.accuracy, float("inf") if r.msrs is None else r.msrs, r.params, r.state == "dead")
            for r in results if r.state != "failed"]


def work(folder: str, name: str) -> int:
    """Work on the search in a folder until no slot waits. Gives 0, or EXHAUSTED."""
    setup = read_record(Path(folder) / "search.json", Setup)
    space, strategy = setup.space.open(), strategies[setup.strategy]
    data = open_data(setup.data, space, setup.task, test=setup.test)
    fit = data.fit(setup.proxy.share, setup.seed)
    trials = Trials(folder)
    while (claimed := trials.claim(name)) is not None:
        trial_id, known = claimed
        slot, candidate = known["slot"], known.get("candidate")
        if candidate is None:
            results = trials.finished()
            taken = {result.key for result in results} | trials.running_keys()
            rng = Random(f"{setup.seed} {slot}")  # a resumed search asks with the same random numbers
            candidate = strategy.ask(space, seen_of(results), taken, rng, setup.strategy_options)
            if candidate is None:
                trials.drop(trial_id)
                return EXHAUSTED
            trials.note(trial_id, candidate=candidate, key=space.canonical(candidate))
        about = {"slot": slot, "candidate": candidate, "key": space.canonical(candidate), "attempts": known["attempts"]}
        try:
            facts, model = assess(space, candidate, data, fit, setup.proxy, seed=setup.seed * PRIME + slot,
                                  device=setup.device)
            if facts["state"] == "trained":
                write_atomically(weights_path(folder, slot), save(distinct_weights(model)))
        except Exception as error:  # a block of the user's may raise anything
            facts = {"state": "failed", "error": f"{type(error).__name__}: {first_line(error)}"}
        trials.finish(trial_id, NasTrial(**about, **facts))
    return 0


def weights_path(folder: str | Path, slot: int) -> Path:
    """Where the weights of a slot's short training lie."""
    return Path(folder) / "trials" / f"{slot}.safetensors"


def main() -> None:
    """Work as the command line says; ends at once when whoever started it is gone."""
    folder, name, threads = sys.argv[1:]
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(int(threads))
    try:
        sys.exit(work(folder, name))
    except DelayerError as error:
        sys.exit(f"delayer: {error}")
