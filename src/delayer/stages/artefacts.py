"""Who wrote which file of a study, and whether it stands for what is asked now.

Each stage has a key, a hash over everything that decides its result. When it is done, its mark ties the key to the files that
it wrote and to those that it read. A stage whose key and files are all as they were is not done again; one that finds
anything else does its work again.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from delayer.network.precision import precision_of
from delayer.registry import origins
from delayer.stages.work import Work
from delayer.study import Record
from delayer.study.marks import Mark, file_hash, read_marks, write_mark
from delayer.study.version import __version__
from delayer.tasks import TaskOptions

READS_ALL = {"score": "metric", "sites": "site metric", "scan": "operator"}
"""Stages that ask every entry of a registry, so that a plug-in from outside makes theirs another result."""


def stage_key(work: Work, stage: str, *options: Any) -> str:
    """Hash over a stage's name, the network, its data, the seed, these options and delayer's version; 16 digits."""
    text = json.dumps(
        [
            stage,
            __version__,
            work.model_hash,
            work.task.hash,
            work.data,
            work.seed,
            *(() if precision_of(work.model) == "float32" else (precision_of(work.model),)),
            [o.model_dump(mode="json") if isinstance(o, Record | TaskOptions) else o for o in options],
            *sorted(one.name for one in origins() if one.kind == READS_ALL.get(stage)),
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_finished(work: Work, stage: str, key: str) -> bool:
    """Whether a stage stands finished in the folder for this very network, data and options; says so once.

    Also says which of its files, or of those that it was made from, are no longer what they were.
    """
    mark = read_marks(work.study).get(stage)
    if mark is None or mark.key != key:
        return False
    if other := changed(work, stage):
        work.reporter.line(f"{stage.capitalize()}: {', '.join(other)} changed since it was done, so it is done again.")
        return False
    work.say_finished(stage)
    return True


def changed(work: Work, stage: str) -> list[str]:
    """Files that a finished stage wrote or read and that are not what they were then."""
    mark = read_marks(work.study).get(stage)
    known = {} if mark is None else mark.reads | mark.files
    return sorted(path for path, then in known.items() if file_hash(work.study.path(path)) != then)


def finish(work: Work, stage: str, key: str, files: Iterable[str], reads: Iterable[str] = ()) -> None:
    """Remember that a stage is done, with the files that it wrote and read; all of them are on the disk by now."""
    work.reported.add(stage)
    files, reads = ({path: file_hash(work.study.path(path)) for path in paths} for paths in (files, reads))
    write_mark(
        work.study,
        stage,
        Mark(key=key, delayer=__version__, network=work.model_hash, data=work.task.hash, files=files, reads=reads),
    )
