"""An architecture search in a folder: workers share it, a kill leaves it able to go on, and it ends with a winner."""

import hashlib
import importlib.metadata
import platform
import time
from itertools import count
from pathlib import Path

from delayer.errors import NasError
from delayer.measure import latency
from delayer.nas.data import NasData, open_data
from delayer.nas.engines import engine
from delayer.nas.front import as_csv, pareto_front
from delayer.nas.options import NasTaskOptions, ProxyOptions, SearchOptions, Setup, SpaceOptions
from delayer.nas.proxy import PRIME, assess
from delayer.nas.storage import Trials, at_work
from delayer.nas.strategies import StrategyOptions, strategies
from delayer.nas.winner import save_winner
from delayer.nas.worker import EXHAUSTED, seen_of, weights_path
from delayer.network.calling import first_tensor
from delayer.progress import Reporter
from delayer.store.weights import fill_, read_weights
from delayer.study import NasResults, NasTrial, Study, read_bytes, read_record, write_atomically
from delayer.tasks import evaluate

IDLE_DEATHS = 2
"""Workers that may die in a row without having begun a trial before the search gives up."""


def search(
    data: str,
    *,
    out: str | Path,
    strategy: str = "redtest",
    test: str | None = None,
    space: SpaceOptions = SpaceOptions(),
    proxy: ProxyOptions = ProxyOptions(),
    task: NasTaskOptions = NasTaskOptions(),
    strategy_options: StrategyOptions = StrategyOptions(),
    options: SearchOptions = SearchOptions(),
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> NasResults:
    """Search for an architecture on labelled images, and get all trials, the Pareto front and the winner.

    The folder then holds nas.json, trials.csv, front.csv and winner/ (see `load_winner`). The same call goes on with a
    search that was killed: with one worker to the very result of an unbroken one; with several, what has finished when
    a candidate is asked for depends on the clock. Candidates are compared on validation data; of test data only the
    winner's grade is read, once, at the end.
    Raises NasError, DataError, StudyError, UnknownName, ModelError when optuna (or Ray) is not installed.
    """
    reporter, folder = reporter or Reporter(), Path(out).resolve()
    space.give()
    setup = Setup(
        data=data,
        test=test,
        strategy=strategies[strategy].name,
        space=space,
        proxy=proxy,
        task=task,
        strategy_options=strategy_options,
        seed=task.seed,
        device=device,
    )
    opened = open_data(data, space.open(), task, test=test)
    with Study(folder).lock():
        _keep_setup(folder, setup)
        with at_work(folder, alone=True):
            Trials.repair(folder)
            trials = Trials(folder)
            trials.release()
            trials.fill(options.trials)
        notes = _work_off(trials, folder, space.own, options, reporter)
        results = _conclude(trials, folder, setup, opened, options, notes, reporter)
    for note in results.notes:
        reporter.line(note)
    return results


def _keep_setup(folder: Path, setup: Setup) -> None:
    """Raises NasError when the folder's search is another one."""
    path = folder / "search.json"
    if not path.exists():
        write_atomically(path, setup.model_dump_json(indent=1))
        return
    before, now = (one.model_dump(exclude={"plugins"}) for one in (read_record(path, Setup, NasError), setup))
    flat = [
        {
            f"{part}.{name}": value
            for part, whole in each.items()
            for name, value in (whole if isinstance(whole, dict) else {part: whole}).items()
        }
        for each in (before, now)
    ]
    if other := [name.split(".")[1] for name in flat[0] if flat[0][name] != flat[1].get(name)]:
        raise NasError(
            f"{folder} holds a search with another {', '.join(other)}. Go on with the same options (only the "
            "number of trials, workers and what comes after them may change), or choose another --out."
        )


def _work_off(trials: Trials, folder: Path, own: str, options: SearchOptions, reporter: Reporter) -> list[str]:
    """Keep workers at work until no slot waits; what a dead worker was at goes back to the queue."""
    names, exhausted, idle_deaths, notes = (f"worker-{i}" for i in count()), False, 0, []
    num_workers = min(options.workers, trials.num_waiting())
    if not num_workers:
        return notes
    with engine(options.engine, folder, num_workers, options.threads, own) as team, reporter.step("Candidates") as tick:
        for _ in range(num_workers):
            team.start(next(names))
        while team.running:
            time.sleep(0.2)
            for name, (code, last_line) in team.ended().items():
                lost = trials.release(name, retries=options.retries)
                if code in (0, EXHAUSTED):
                    exhausted |= code == EXHAUSTED
                    continue
                notes.append(f"{name} died ({last_line or f'exit code {code}'}) with {lost} trial{'s' * (lost != 1)}.")
                reporter.line(notes[-1])
                idle_deaths = 0 if lost else idle_deaths + 1
                if idle_deaths > IDLE_DEATHS:
                    raise NasError(
                        f"Workers die before they begin: {last_line or f'exit code {code}'}. What was found so far "
                        "stays; see the folder `workers`, and run the same command again."
                    )
                if trials.num_waiting():
                    team.start(next(names))
            tick(min(trials.num_finished(), options.trials), options.trials)
    if exhausted:
        notes.append(f"The space held no further candidate after {trials.num_finished()} trials.")
    return notes


def _conclude(
    trials: Trials, folder: Path, setup: Setup, data: NasData, options: SearchOptions, notes: list[str], reporter: Reporter
) -> NasResults:
    finished = [trial for trial in trials.finished() if trial.slot < options.trials]
    if not any(trial.state == "trained" for trial in finished):
        errors = [trial.error for trial in finished if trial.error]
        why = errors[0] if errors else "all were dead"
        raise NasError(f"None of {len(finished)} candidates could be trained: {why}. Try --trials with more.")
    strategy, space = strategies[setup.strategy], setup.space.open()
    winner = strategy.pick(seen_of(finished), setup.strategy_options)
    timed = _timed(finished, space, data, options, setup.device)
    model = data.build(space, winner.candidate).to(setup.device)
    if options.final_epochs:
        with reporter.step("Winner"):
            model = assess(
                space,
                winner.candidate,
                data,
                None,
                setup.proxy.model_copy(update={"share": 1.0}),
                seed=setup.seed * PRIME + winner.slot,
                device=setup.device,
                epochs=options.final_epochs,
            )[1]
    else:
        path = weights_path(folder, winner.slot)
        found = hashlib.sha256(read_bytes(path, NasError, most=2**40)).hexdigest()
        if next(trial.weights for trial in finished if trial.slot == winner.slot) not in ("", found):
            raise NasError(
                f"{path} no longer holds the weights that trial {winner.slot} was trained to. Bring the file back, or "
                "train the winner from scratch by --final-epochs."
            )
        fill_(model, read_weights(path), name=str(path)).eval()
    save_winner(folder / "winner", model, setup.space, winner.candidate, data)
    trained = f"{options.final_epochs} epochs from scratch" if options.final_epochs else "its short training alone"
    results = NasResults(
        strategy=strategy.name,
        rule=strategy.rule.format(**setup.strategy_options.model_dump()),
        options=setup.model_dump(mode="json") | {"search": options.model_dump(mode="json")},
        trials=timed,
        front=tuple(trial.slot for trial in pareto_front(timed)),
        winner=winner.slot,
        grade=evaluate(model, data.task, "test", device=setup.device),
        num_failed=sum(t.state == "failed" for t in timed),
        latency=f"batch {options.latency_batch} on {setup.device}, median of {2 * options.latency_rounds} runs each, all "
        "candidates interleaved after the search",
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "optuna")},
        },
        notes=(*data.task.notes, *notes, f"The winner has the weights of {trained}."),
    )
    write_atomically(folder / "trials.csv", as_csv(timed))
    write_atomically(folder / "front.csv", as_csv(pareto_front(timed)))
    write_atomically(folder / "nas.json", results.model_dump_json(indent=1))
    return results


def _timed(finished: list[NasTrial], space, data: NasData, options: SearchOptions, device: str) -> tuple[NasTrial, ...]:
    """The trials by slot, the trained ones timed side by side, so that no worker disturbs them."""
    trained = {trial.candidate for trial in finished if trial.state == "trained"}
    x = first_tensor(data.task.batches("validation")[0].inputs)
    x = x[[i % len(x) for i in range(options.latency_batch)]]
    models = {candidate: data.build(space, candidate).eval() for candidate in sorted(trained)}
    reference = {"reference": data.build(space, sorted(trained)[0]).eval()}
    found = latency(reference | models, x, rounds=options.latency_rounds, warmup=1, device=device)
    return tuple(
        trial.model_copy(update={"latency_ms": found[trial.candidate].cut_ms}) if trial.state == "trained" else trial
        for trial in sorted(finished, key=lambda trial: trial.slot)
    )
