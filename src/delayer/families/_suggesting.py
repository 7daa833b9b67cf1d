"""Why no blocks were found in a network, and regular expressions that would match what may be some."""

import re
from collections import defaultdict
from collections.abc import Sequence

from torch import nn

from delayer.families._probe import BY_HAND
from delayer.families._runs import LISTS, Runs, has_parts


def pattern_of(paths: Sequence[str]) -> str:
    """A regular expression that matches whole paths like these: numbers may be any, and names in one place may go on."""
    patterns = list(dict.fromkeys(_any_number(path) for path in paths))
    holders: dict[str, list[str]] = defaultdict(list)
    for pattern in patterns:
        holder, dot, name = pattern.rpartition(r"\.")
        holders[holder + dot].append(name)
    return "|".join(holder + _any_name(names) for holder, names in holders.items())


def _any_number(path: str) -> str:
    return re.sub(r"\d+", lambda found: r"\d+", re.escape(path))


def _any_name(names: list[str]) -> str:
    """One expression for the last names of paths: themselves, or what they begin with."""
    if len(names) == 1:
        return names[0]
    first = names[0]
    start = next(first[:k] for k in range(len(first), -1, -1) if all(name.startswith(first[:k]) for name in names)).rstrip("\\")
    return rf"{start}\w+" if start else f"({'|'.join(names)})"


def likeliest(model: nn.Module, runs: Runs) -> tuple[str, list[str], str] | None:
    """The repeated class with the most parameters whose modules run on hidden states: its name, their paths, and a pattern.

    Those of which some keep their shape come first. None where no class with parts of its own repeats.
    """
    kinds: dict[type, list[str]] = defaultdict(list)
    for path, run in runs.items():
        module = model.get_submodule(path)
        if path and run.once and has_parts(model, path) and not isinstance(module, nn.Sequential):
            kinds[type(module)].append(path)
    repeated = {
        kind: paths
        for kind, paths in kinds.items()
        if len(paths) > 1 and len({runs[path].listed for path in paths}) == 1 and not _inside_itself(paths)
    }
    if not repeated:
        return None

    def size(kind: type) -> tuple[int, int]:
        each = [(runs[path].keeps, sum(p.numel() for p in model.get_submodule(path).parameters())) for path in repeated[kind]]
        return sum(number for keeps, number in each if keeps), sum(number for _, number in each)

    kind = max(repeated, key=size)
    return kind.__name__, repeated[kind], pattern_of(repeated[kind])


def _inside_itself(paths: list[str]) -> bool:
    """Whether one of the paths lies inside another."""
    return any(one != other and one.startswith(f"{other}.") for one in paths for other in paths)


def why_none(model: nn.Module, runs: Runs) -> str:
    """What stands against cutting a network without blocks, and a pattern that would match, where there is one."""
    for path, module in model.named_modules():
        children = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
        if isinstance(module, LISTS) and (often := next((c for c in children if c in runs and runs[c].times > 1), None)):
            return f"{often} runs {runs[often].times} times, and a block that is used in several places cannot be cut."
        if isinstance(module, LISTS) and len(children) > 1 and not any(child in runs for child in children):
            inside = next((run for run in runs if run.startswith(f"{children[0]}.")), None)
            if inside is not None:
                return (
                    f"{children[0]} is never called as a module, though its {inside.removeprefix(f'{children[0]}.')} is: its "
                    "parent calls .forward() past all hooks. Let the parent call the module itself."
                )
    found = likeliest(model, runs)
    if found is None:
        return f"No class of modules with parts of their own repeats either. {BY_HAND}"
    kind, paths, pattern = found
    if not any(runs[path].keeps for path in paths):
        return (
            f"Its {len(paths)} {kind} (--blocks '{pattern}') each change the shape of what they get, so that none of them can "
            "be dropped."
        )
    return f"{BY_HAND} A pattern that would match: '{pattern}', its {len(paths)} {kind}."
