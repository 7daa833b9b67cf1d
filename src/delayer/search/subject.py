"""A network and its data, with what is found out of them once and asked for often."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from delayer.activations.counting import SiteWatcher
from delayer.cutting import Plan, apply, edit_modules_
from delayer.edits import Edit
from delayer.errors import ModelError
from delayer.fitting.evidence import Evidence
from delayer.fitting.totals import Totals
from delayer.measure import macs_by_module, num_macs
from delayer.network.calling import Inputs, example_of
from delayer.network.chain import Chain
from delayer.network.hashing import model_hash
from delayer.network.mapped import is_mapped
from delayer.observing.one_pass import observe
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments, Stat
from delayer.progress import Reporter, Tick
from delayer.search.footprint import REPLAYED
from delayer.search.options import ScanOptions
from delayer.search.repair import resolvable
from delayer.search.replay import LARGEST, Replay
from delayer.search.scan import Scan, scan_subject
from delayer.search.scoring import score
from delayer.store import source_of
from delayer.store.shorter import Shortening
from delayer.study import Grade, Score
from delayer.tasks import Split, Task, predictions
from delayer.tasks.outputs import Outputs
from delayer.tasks.splits import shortened

MomentsKey = tuple[str, tuple[tuple[int, ...], ...], Rows, bool]
SCORED_TOKENS = 16_384
Remember = Callable[[str, Grade], None]


def first_changed(edits: Sequence[Edit]) -> int:
    """The first block that edits change; 0 where one of them may change any."""
    return min((min((span.start for span in edit.spans), default=0) for edit in edits), default=0)


@dataclass(kw_only=True)
class Subject:
    """A network and its data; what was computed of both is kept, so that it is computed once.

    A study's `Work` is one that also keeps it in a folder.
    """

    name: str
    chain: Chain
    task: Task
    device: torch.device
    seed: int = 0
    reporter: Reporter = field(default_factory=Reporter)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    announced: set[MomentsKey] = field(default_factory=set)
    """Moments that will be asked for: the next pass over their split gathers them too."""
    _moments: dict[MomentsKey, Moments] = field(default_factory=dict)
    _cuts: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """The network, in which edits are tried and from which they are taken back."""
        return self.chain.model

    @cached_property
    def model_hash(self) -> str:
        """Fingerprint of the network's weights."""
        return model_hash(self.model)

    @cached_property
    def example(self) -> Inputs:
        """Two samples of the fit split, as the network takes them."""
        return example_of(self.task.batches("fit")[0].inputs)

    @cached_property
    def macs(self) -> int | None:
        """Multiply-adds for one sample; None where they cannot be counted."""
        return num_macs(self.model, example_of(self.example, 1))

    @cached_property
    def block_macs(self) -> list[int]:
        """Multiply-adds of each block for one sample."""
        found = macs_by_module(self.model, example_of(self.example, 1))
        return [found.get(block.path, 0) for block in self.chain.blocks]

    @cached_property
    def reference(self) -> Outputs:
        """The original's answers on validation data."""
        with self.reporter.step("Original network on validation data") as tick:
            found = predictions(
                self.model, self.task.batches("validation"), device=self.device, progress=tick, around=self.replay.recording
            )
        self.warnings += found.notes
        return found

    @cached_property
    def replay(self) -> Replay:
        """What the original's blocks gave on validation data."""
        if not is_mapped(self.model):
            return Replay(self.chain, self.task.batches("validation"))
        share = sum(weight.nbytes for weight in self.model.parameters()) // REPLAYED
        return Replay(self.chain, self.task.batches("validation"), min(LARGEST, share))

    @cached_property
    def totals(self) -> Totals:
        """What the blocks of the original gave on the samples that quick repairs are fitted on; nothing where memory lacks."""
        return Totals(largest=0) if is_mapped(self.model) else Totals()

    def validation(self, limit: int | None = None) -> Split:
        """The validation split, or its first so many samples."""
        return self.task.batches("validation") if limit is None else self.task.batches("validation").first(limit)

    def judged(self, cut: Sequence[Edit], evidence: Evidence, limit: int | None = None) -> Outputs:
        """What the network answers on validation data, cut; run from the first change on. limit: only so many samples."""
        split, start = self.validation(limit), first_changed(cut)
        with self.chain.restored():
            edit_modules_(self.chain, cut, evidence)
            return predictions(self.model, split, device=self.device, around=lambda batch: self.replay.beginning(batch, start))

    @cached_property
    def resolvable(self) -> frozenset[int]:
        """Blocks that can be solved anew."""
        return frozenset(resolvable(self.chain, self.task.batches("fit")[0]))

    @cached_property
    def shortening(self) -> Shortening | str:
        """How the network's own library builds it with fewer blocks, or why nobody knows."""
        try:
            return Shortening(self.chain, source_of(self.model))
        except ModelError as unknown:
            return f"nothing says how it is built ({str(unknown).partition('. ')[0]})"

    def observe(self, title: str, split: str, stats: Sequence[Stat], sites: SiteWatcher | None = None) -> None:
        """Fill statistics in one pass over a split, and with them the moments that were announced for it.

        sites: what watches activations in the same pass, which is then one of its own copy of the network. Where neither
        it nor moments ask for all of a text, 16,384 tokens are enough for what scores compare.
        """
        batches = self.task.batches(split)
        if not self.announced and sites is None:
            batches = shortened(batches, batches.num_samples, SCORED_TOKENS)
        beside = {key: Moments(key[1], key[2], exact=key[3]) for key in self.announced if key[0] == split}
        with self.reporter.step(title) as tick:
            chain, watchers = (self.chain, []) if sites is None else (sites.chain, [sites])
            observe(chain, batches, [*stats, *beside.values()], watchers=watchers, seed=self.seed, progress=tick)
        self._moments |= beside
        self.announced -= beside.keys()

    def moments(self, split: str, groups: Sequence[tuple[int, ...]], rows: Rows, *, exact: bool = False) -> Moments:
        """Moments of a split, gathered once."""
        key = (split, tuple(groups), rows, exact)
        if key not in self._moments:
            self.announced.add(key)
            self.observe(f"Watching {split} data", split, [])
        return self._moments[key]

    def announce(self, split: str, groups: Sequence[tuple[int, ...]], rows: Rows) -> None:
        """Say that moments of a split will be asked for."""
        if (key := (split, tuple(groups), rows, False)) not in self._moments:
            self.announced.add(key)

    def applied(self, plan: Plan, tick: Tick | None = None) -> nn.Module:
        """A copy of the network, cut as planned and fitted on the fit split, until `keep` lets go of it."""
        key = plan.model_dump_json()
        if key not in self._cuts:
            self._cuts[key] = apply(self.chain, plan, data=self.task.batches("fit"), progress=tick)
        return self._cuts[key]

    def keep(self, plan: Plan | None, *others: tuple[Plan, nn.Module]) -> None:
        """Of the cut networks keep this one alone, for who asks again, and others that somebody has."""
        key = "" if plan is None else plan.model_dump_json()
        self._cuts = {mine: model for mine, model in self._cuts.items() if mine == key}
        self._cuts |= {other.model_dump_json(): model for other, model in others}

    def scored(self, name: str) -> Score:
        """What one metric says of the network on the fit split."""
        [found] = score(self.chain, self.task.batches("fit"), [name], seed=self.seed, model=self.name)
        return found

    def scanned(self, options: ScanOptions) -> Scan:
        """The held-out error of every operator on every span."""
        return scan_subject(self, options)

    def memory(self, *decides: Any) -> tuple[dict[str, Grade], Remember | None]:
        """Grades of cuts that are known already, and where new ones are noted; decides: what else than the cut they depend on."""
        return {}, None
