"""Several splits of one source in one: which part is drawn from which, and their samples in a row."""

from collections.abc import Collection, Mapping

import torch

from delayer.errors import DataError
from delayer.tasks.sources import Samples

SPLITS = {
    "train": "fit",
    "training": "fit",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of splits, and what they are for."""
PARTS = ("fit", "validation", "test")


def drawn_from(found: Collection[str]) -> dict[str, str]:
    """For each part the one that it is drawn from: its own, or the nearest that there is."""
    order = [part for part in PARTS if part in found]
    drawn = {"fit": order[0]}
    drawn["test"] = "test" if "test" in found else order[-1]
    drawn["validation"] = "validation" if "validation" in found else drawn["fit"]
    return drawn


def joined(found: Mapping[str, Samples], names: Mapping[str, str], fingerprint: str) -> Samples:
    """Samples of several splits in a row, each part drawn from its own.

    found: for each part what its split holds, all labelled or none. names: what each is called, in notes.
    Raises DataError where the splits hold different things.
    """
    one = next(iter(found.values()))
    if len({(samples.content, samples.class_names is None) for samples in found.values()}) > 1:
        kinds = ", ".join(f"{names[part]} {samples.content}" for part, samples in found.items())
        raise DataError(f"Splits hold different data ({kinds}). Name one of them by #SPLIT.")
    classes = sorted({name for samples in found.values() for name in samples.class_names or ()})
    if all(samples.class_names == one.class_names for samples in found.values()):
        classes = list(one.class_names or ())  # in the order in which they are numbered
    index = {name: k for k, name in enumerate(classes)}
    rows: dict[str, range] = {}
    labels, notes, num = [], [], 0
    for part, samples in found.items():
        rows[part] = range(num, num := num + samples.num)
        if samples.labels is not None and samples.class_names is not None:
            labels.append(torch.tensor([index[name] for name in samples.class_names])[samples.labels])
            if missing := [name for name in classes if name not in samples.class_names]:
                notes.append(f"{names[part]} lacks {len(missing)} of {len(classes)} classes ({', '.join(missing[:3])}).")
        elif samples.labels is not None:
            labels.append(samples.labels)
        notes += [note for note in samples.notes if note not in notes]
    drawn, whole = drawn_from(found), list(found.values())
    starts = [rows[part].start for part in found]

    def at(i: int) -> tuple[Samples, int]:
        k = max(k for k, start in enumerate(starts) if start <= i)
        return whole[k], i - starts[k]

    return Samples(
        one.content,
        num,
        lambda i: at(i)[0].get(at(i)[1]),
        fingerprint,
        torch.cat(labels) if labels else None,
        tuple(classes) or None,
        name_of=lambda i: at(i)[0].name_of(at(i)[1]),
        notes=notes,
        pools={part: rows[drawn[part]] for part in PARTS},
        drawn={part: names[drawn[part]] for part in PARTS},
    )
