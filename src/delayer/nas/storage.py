"""The queue and the record of a search, shared by several processes: an optuna study in a journal file.

A slot is a place in the search. Each slot waits in the queue until a worker claims it; a claim writes the candidate
first and the result last, so that after a crash it is known what was being tried.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delayer.errors import NasError
from delayer.libraries import library
from delayer.study import NasTrial, checksum, read_bytes, record_in, shortened

MOST_BYTES = 2**30


@contextmanager
def at_work(folder: str | Path, *, alone: bool = False) -> Iterator[None]:
    """Inside: one of the processes at work on a search; alone: the only one, after waiting for all others to end.

    After a kill, workers notice within a second that whoever started them is gone; until then they may still write.
    """
    with open(Path(folder) / ".at_work", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def journal_of(path: Path) -> Any:
    """Optuna's journal in a file, whose every line carries its checksum, so that a changed one is found.

    Lines without one, of a version that wrote none, are taken as they are.
    """

    class Checked(library("optuna", "nas").storages.journal.JournalFileBackend):
        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            super().append_logs([log | {"crc": checksum(_plain(log))} for log in logs])

        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
            for number, log in enumerate(super().read_logs(log_number_from), log_number_from + 1):
                crc = log.pop("crc", None)
                if crc is not None and crc != checksum(log):
                    raise NasError(f"Line {number} of {path} was changed. Bring it back, or choose another --out.")
                yield log

    return Checked(str(path))


def _plain(log: dict[str, Any]) -> dict[str, Any]:
    """As it is read again."""
    return json.loads(json.dumps(log))


class Trials:
    """The trials in a folder. Every method may be called from any process."""

    def __init__(self, folder: str | Path):
        optuna = library("optuna", "nas")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path, self.state = Path(folder) / "trials.journal", optuna.trial.TrialState
        try:
            if os.path.lexists(self.path):
                read_bytes(self.path, NasError, most=MOST_BYTES)  # an ordinary file, of a size that can be read
            self.storage = optuna.storages.JournalStorage(journal_of(self.path))
            self.study = optuna.create_study(study_name="nas", storage=self.storage, direction="maximize", load_if_exists=True)
            self.id = self.storage.get_study_id_from_name("nas")
            self._check()
        except NasError:
            raise
        except Exception as error:  # whatever a library raises on a journal that somebody has changed
            why = f"{type(error).__name__}: {shortened(str(error), 120)}"
            raise NasError(f"{self.path} is damaged ({why}). Bring it back, or choose another --out.") from error

    def _check(self) -> None:
        """Raises NasError where trials do not say what this version needs to know of them."""
        slots: list[int] = []
        for trial in self._all():
            known = trial.user_attrs
            if not all(type(known.get(name)) is int and 0 <= known[name] < 100_000 for name in ("slot", "attempts")):
                raise NasError(f"{self.path} holds a trial without its slot. Bring it back, or choose another --out.")
            done = trial.state in (self.state.COMPLETE, self.state.FAIL)
            slots += [known["slot"]] if "result" in known or not done else []
        if len(set(slots)) < len(slots):
            raise NasError(f"{self.path} holds a slot twice. Bring it back, or choose another --out.")
        self.finished()

    @staticmethod
    def repair(folder: str | Path) -> None:
        """Cut off a line that a crash left unfinished, and a lock whose holder is gone; nobody else may be at work."""
        path = Path(folder) / "trials.journal"
        for left in path.parent.glob(path.name + "*.lock*"):
            left.unlink()
        if os.path.lexists(path) and not (text := read_bytes(path, NasError, most=MOST_BYTES)).endswith(b"\n"):
            os.truncate(path, text.rfind(b"\n") + 1)

    def _all(self, *states: Any) -> list[Any]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _number_id(self, trial: Any) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.id, trial.number)

    def fill(self, num_trials: int) -> None:
        """Put slots into the queue until there are so many; those beyond, asked for earlier, stay waiting."""
        known = {trial.user_attrs["slot"] for trial in self._all()}
        for slot in range(num_trials):
            if slot not in known:
                self.study.enqueue_trial({}, user_attrs={"slot": slot, "attempts": 1})
        self.study.set_user_attr("num_trials", num_trials)

    def _waiting(self) -> list[Any]:
        num_trials = self.study.user_attrs["num_trials"]
        waiting = [trial for trial in self._all(self.state.WAITING) if trial.user_attrs["slot"] < num_trials]
        return sorted(waiting, key=lambda trial: trial.user_attrs["slot"])

    def num_waiting(self) -> int:
        """Trials that nobody took yet."""
        return len(self._waiting())

    def num_finished(self) -> int:
        """Trials that have a result."""
        return sum("result" in trial.user_attrs for trial in self._all(self.state.COMPLETE, self.state.FAIL))

    def claim(self, worker: str) -> tuple[int, dict[str, Any]] | None:
        """The next waiting slot, for this worker alone: its id and what is known of it. None when no slot waits."""
        for trial in self._waiting():
            trial_id = self._number_id(trial)
            if self.storage.set_trial_state_values(trial_id, self.state.RUNNING):
                self.note(trial_id, worker=worker)
                return trial_id, trial.user_attrs
        return None

    def note(self, trial_id: int, **facts: Any) -> None:
        """Write facts beside a trial."""
        for name, value in facts.items():
            self.storage.set_trial_user_attr(trial_id, name, value)

    def finish(self, trial_id: int, result: NasTrial) -> None:
        """Write a result; a slot is done then."""
        self.note(trial_id, result=result.model_dump())
        state = self.state.FAIL if result.state == "failed" else self.state.COMPLETE
        self.storage.set_trial_state_values(trial_id, state, None if result.state == "failed" else [result.accuracy])

    def drop(self, trial_id: int) -> None:
        """Give a slot up without a result."""
        self.storage.set_trial_state_values(trial_id, self.state.FAIL)

    def release(self, worker: str | None = None, *, retries: int | None = None) -> int:
        """Put what a dead worker (None: every one) was at back into the queue, and get how many there were.

        The candidate stays the same. A slot that was tried more than `retries` times again is marked failed.
        """
        lost = [trial for trial in self._all(self.state.RUNNING) if worker in (None, trial.user_attrs.get("worker"))]
        for trial in lost:
            known, trial_id = trial.user_attrs, self._number_id(trial)
            if retries is not None and known["attempts"] > retries and "candidate" in known:
                self.finish(
                    trial_id,
                    NasTrial(
                        slot=known["slot"],
                        candidate=known["candidate"],
                        key=known["key"],
                        state="failed",
                        attempts=known["attempts"],
                        error="the worker died each time that it was tried",
                    ),
                )
                continue
            self.drop(trial_id)
            again = {name: known[name] for name in ("slot", "candidate", "key") if name in known}
            # After a kill of the whole search no candidate is to blame, so that attempt does not count.
            self.study.enqueue_trial({}, user_attrs=again | {"attempts": known["attempts"] + (retries is not None)})
        return len(lost)

    def finished(self) -> list[NasTrial]:
        """All results, in the order in which they came."""
        done = [trial for trial in self._all(self.state.COMPLETE, self.state.FAIL) if "result" in trial.user_attrs]
        done.sort(key=lambda trial: (trial.datetime_complete, trial.number))
        try:
            return [record_in(json.dumps(trial.user_attrs["result"]), str(self.path), NasTrial, NasError) for trial in done]
        except (NasError, TypeError) as error:
            raise NasError(f"{self.path} holds a trial that this version cannot read. Choose another --out.") from error

    def running_keys(self) -> set[str]:
        """Keys of the candidates that workers train now."""
        return {trial.user_attrs["key"] for trial in self._all(self.state.RUNNING) if "key" in trial.user_attrs}
