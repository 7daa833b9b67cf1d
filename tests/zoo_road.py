"""The road that every network of the zoo goes: found, ranked, planned, cut, saved, opened, exported, and written with.

    python tests/zoo_road.py

goes it with each of them and writes the table of docs/zoo.md, which test_zoo.py holds to what it finds.
"""

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from zoo import ROWS, Row

import delayer
from delayer.libraries import quiet
from delayer.network.calling import call, evaluating, example_of, first_tensor, output_of, seeded
from delayer.progress import Reporter

PAGE = Path(__file__).parent.parent / "docs" / "zoo.md"


@dataclass(frozen=True)
class Walked:
    """What became of a row on the road; a reason where something did not hold, else ""."""

    row: Row
    num_blocks: int
    found: str
    first: str
    exact: float
    alone: str
    reloaded: str
    ordinary: str
    note: str
    cache: bool | None
    """Whether a decoder writes the same text with and without its cache; None for other networks."""
    onnx: str | None
    """"" where the export agrees with torch, None where it was not asked for."""


def prepare_(model: nn.Module, row: Row) -> nn.Module:
    """Give a new network lively weights where it begins with none, and plant the block that changes nothing."""
    draw = torch.Generator().manual_seed(3)
    paths = [path for path, _ in model.named_modules() if re.fullmatch(row.blocks, path)]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=draw))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=draw))
                if not module.weight.any():  # so that each block begins as an identity
                    module.weight.fill_(1)
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
            elif 0 < parameter.abs().max() < 1e-2 and parameter.ndim == 1:  # scales of branches
                parameter.fill_(0.3)
        for number, path in enumerate(paths):
            block = model.get_submodule(path)
            inside = {id(p): p for m in _ending(block.named_modules(), row) for p in m.parameters(recurse=False)}
            inside |= {id(p): p for p in _ending(block.named_parameters(), row)}
            assert inside or number != row.k, f"{path} has none of {row.ends}"
            for parameter in inside.values():
                parameter.mul_(0 if number == row.k else 3)
    return model


def _ending(named, row: Row) -> list[Any]:
    return [found for path, found in named if any(path == end or path.endswith(f".{end}") for end in row.ends)]


def walk(row: Row, folder: Path, *, onnx: bool = False) -> Walked:
    """Find, rank, cut, plan, save, open and, for decoders, generate; what came of it."""
    torch.manual_seed(0)
    model = prepare_(row.make().eval(), row)
    example = row.example()
    chain = delayer.chain_of(model, example)
    paths = [block.path for block in chain.blocks]
    true = [path for path, _ in model.named_modules() if re.fullmatch(row.blocks, path)]
    planted = paths.index(true[row.k])
    third = len(first_tensor(example)) // 3
    parts = [_part(example, start, start + third) for start in (0, third, 2 * third)]
    task = delayer.task_of([parts[0]], [parts[1]], [parts[2]], model=model)
    [score] = delayer.score(chain, task.batches("fit"), ["block_influence"])
    can_go = [i for i, block in enumerate(chain.blocks) if block.removable]
    influence = {i: score.values[chain.blocks[i].inlet][chain.blocks[i].outlet] for i in can_go}
    least = min(can_go, key=influence.__getitem__)
    # Else a cut that its own library opens wins where so few samples cannot tell that it is worse.
    prefer = "ordinary" if row.opens == row.library else "accuracy"
    plan = delayer.plan(chain, task, remove="blocks=1", effort=4, prefer=prefer, reporter=Reporter(quiet=True))
    by_hand = delayer.plan_by_hand(chain, [str(planted)], operator="drop")
    small = delayer.apply(chain, by_hand)
    expected, found = (_answer(network, example) for network in (model, small))
    artefact = delayer.save(small, by_hand, chain, folder / "cut", example=example_of(example))
    proofs = delayer.check(small, folder / "cut", example_of(example))
    return Walked(
        row=row,
        num_blocks=len(paths),
        found="" if sorted(paths) == sorted(true) else f"{paths} where {true} are",
        first=""
        if least == planted
        else f"{paths[least]} ({influence[least]:.2g}, {paths[planted]} has {influence[planted]:.2g})",
        exact=float((found - expected).abs().max() / expected.abs().max().clamp_min(1)),
        alone="" if [edit.gone for edit in plan.edits] == [{planted}] else ", ".join(edit.label for edit in plan.edits),
        reloaded="; ".join(proof.note or str(proof.max_abs_difference) for proof in proofs if not proof.passed),
        ordinary=artefact.ordinary,
        note=artefact.ordinary_note,
        cache=_cached(model, small, example),
        onnx=_exported(small, example, folder / "cut.onnx") if onnx else None,
    )


def _part(example: Any, start: int, stop: int) -> Any:
    return example[start:stop] if isinstance(example, Tensor) else {name: x[start:stop] for name, x in example.items()}


def _answer(model: nn.Module, example: Any) -> Tensor:
    with evaluating(model), seeded():
        return output_of(call(model, example))


def _cached(model: nn.Module, small: nn.Module, example: Any) -> bool | None:
    """Whether the cut network writes what the whole one writes, with its cache and without."""
    writes = getattr(model, "can_generate", None)
    ids = {"input_ids": example} if isinstance(example, Tensor) else dict(example)
    if writes is None or not writes() or "input_ids" not in ids:
        return None
    start = {name: x[:3] for name, x in ids.items() if not name.startswith("decoder_")}
    options = {"max_new_tokens": 6, "do_sample": False}
    text = model.generate(**start, **options)
    return all(torch.equal(small.generate(**start, use_cache=cache, **options), text) for cache in (True, False))


def _exported(small: nn.Module, example: Any, file: Path) -> str:
    """Why the cut network has no ONNX graph that agrees with it; "" where it has one."""
    try:
        delayer.export_onnx(small, example_of(example), file)
    except delayer.DelayerError as error:
        return str(error).partition(f"{file.name}: ")[2] or str(error)
    return ""


# -- the page -----------------------------------------------------------------------------------------------------------

INTRODUCTION = """# A zoo of architectures

Each of these networks (tiny, with random weights) has one block that changes nothing. It goes the whole road: its blocks are
*found*, the planted one is ranked first and is all that `--remove blocks=1` takes, dropping it leaves the output as it was
(*exact*: within 1e-5), and the saved folder opens in a fresh process as what it was in memory. *Opens in* says what opens that
folder: where it is an ordinary checkpoint its own library does, proven there. *ONNX* is ticked where the exported graph runs and
agrees, *cache* where a decoder then writes the same text with its cache and without. Other architectures go the same ways; these
are those that tests hold.

`python tests/zoo_road.py` writes this page.

| Network | Library | Blocks | Found | Exact | Opens in | ONNX | Cache |
|---|---|---:|:-:|:-:|---|---|:-:|
"""


def cells_of(walked: Walked) -> list[str]:
    """The row of the page, cell by cell."""
    row, tick = walked.row, {True: "✓", False: "✗", None: ""}
    opens = f"{row.library} ✓, delayer ✓" if walked.ordinary else f"delayer ✓ ({_short(walked.note)})"
    graph = "not tried" if walked.onnx is None else "✓" if not walked.onnx else f"✗ {_short(walked.onnx)}"
    return [
        row.name,
        row.library,
        str(walked.num_blocks),
        tick[not (walked.found or walked.first or walked.alone)],
        tick[walked.exact < 1e-5 and not walked.reloaded],
        opens,
        graph,
        tick[walked.cache],
    ]


def _short(reason: str) -> str:
    """The first clause of a reason, without what a table cannot hold."""
    return re.sub(r"[|\n`<>*_]+", " ", reason).partition(". ")[0][:90].strip()


def stated() -> dict[str, list[str]]:
    """The cells of the page's rows, by network."""
    lines = [line.strip("|") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {cells[0]: cells for cells in rows[1:]}


def main() -> None:
    """Walk with every network and write the page."""
    import fresh
    import transformers

    delayer.store.proof.subprocess = SimpleNamespace(run=fresh.run)
    lines = []
    with quiet(transformers):
        for row in ROWS:
            with tempfile.TemporaryDirectory() as folder:
                lines.append(f"| {' | '.join(cells_of(walk(row, Path(folder), onnx=True)))} |")
            print(lines[-1], file=sys.stderr, flush=True)
    PAGE.write_text(INTRODUCTION + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
