"""What a schedule sees when it chooses: the network as it is now, its sites, and ways to judge a choice."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from delayer.activations.counting import counting_batches, observe_sites
from delayer.activations.sites import Site
from delayer.activations.switches import Switches
from delayer.edits import Edit
from delayer.edits.linearise import Linearise, Mode
from delayer.edits.replace_span import ReplaceSpan
from delayer.fitting.evidence import Evidence
from delayer.fitting.operators.conv import Conv
from delayer.fitting.streams import Streams
from delayer.measure import macs_by_module
from delayer.network.calling import call, with_batch
from delayer.network.chain import Chain
from delayer.observing.one_pass import device_of
from delayer.registry.options import own_options
from delayer.search.judging import damage_of
from delayer.search.repair import forms_of
from delayer.shrinking.options import ShrinkOptions
from delayer.study import Grade, Record
from delayer.tasks import Task, evaluate, grade_of, predictions
from delayer.tasks.outputs import Outputs

R = TypeVar("R", bound=Record)
KERNEL = 3
"""Width of the convolution that stands for a block."""
WIDEST = 277
"""Channels up to which a block is tried: a convolution of 277 channels has 2,500 inputs, whose equations take seconds."""
FIT_SAMPLES, FINAL_SAMPLES = 256, 1024
"""Samples that it is fitted on while it is one of many, and when it is there to stay."""


class Look:
    """One round's view.

    chain, original: the network as it is now, and as it was given. sites: activations that are still there. touched: blocks
    that lack some already. masks: weights that pruning keeps at zero, by parameter name; a schedule may add to them. tune_:
    trains the network as it stands for some epochs of the round, with an optional penalty; what it trains is part of the
    round.
    """

    def __init__(
        self,
        chain: Chain,
        original: Chain,
        sites: Sequence[Site],
        task: Task,
        options: ShrinkOptions,
        *,
        number: int,
        seed: int,
        reference: Outputs,
        masks: dict[str, Tensor],
        tune_: Callable[..., object],
        touched: Collection[int] = (),
    ):
        self.chain, self.original, self.sites, self.task, self.options = chain, original, tuple(sites), task, options
        self.touched, self._made, self._samples = touched, {}, FIT_SAMPLES
        self.number, self.seed, self.reference, self.masks, self.tune_ = number, seed, reference, masks, tune_
        self.generator = torch.Generator().manual_seed(seed * 1_000_003 + number)

    @cached_property
    def stats(self) -> dict[str, Switches]:
        """Switch statistics of every site on the fit split, in one pass."""
        return observe_sites(self.chain, self.sites, self.task.batches("fit"))

    @cached_property
    def training_stats(self) -> dict[str, Switches]:
        """The same in training mode, each batch of the fit split a chunk; norms keep the statistics that they had."""
        model = self.chain.model
        buffers, mode = {name: t.clone() for name, t in model.named_buffers()}, model.training
        model.train()
        try:
            with torch.no_grad(), torch.random.fork_rng(), counting_batches(self.chain, self.sites) as stats:
                torch.manual_seed(self.seed)
                for batch in self.task.batches("fit"):
                    call(model, batch.to(device_of(model)).inputs)
        finally:
            model.train(mode)
            for name, t in model.named_buffers():
                t.copy_(buffers[name])
        return stats

    @property
    def evidence(self) -> Evidence:
        """What edits are fitted on: the switches of this round, and this network's stream beside the original's."""
        few = self.task.batches("fit").first(self._samples)
        streams = Streams(self.chain, self.original, few, seed=self.seed)
        return Evidence(activations=lambda site: self.stats[site], streams=streams)

    def own(self, kind: type[R]) -> R:
        """The options of a schedule, out of those that were given."""
        return own_options(kind, self.options.schedule_options)

    def edit(self, site: Site, mode: Mode) -> Linearise:
        """The edit that makes an activation linear in that way."""
        return Linearise(site=site.path, mode=mode, num_features=site.num_features, axis=site.axis)

    @cached_property
    def convolutions(self) -> list[ReplaceSpan]:
        """One convolution for a block of images, wherever that removes activations and saves multiply-adds.

        Only for blocks with all their activations, whose width stays, and that end in a sum, a layer or a ReLU.
        """
        if self.chain.axis != 1:
            return []
        batch = self.task.batches("fit")[0]
        macs, forms = macs_by_module(self.original.model, with_batch(batch.inputs, 1)), forms_of(self.original, batch)
        found = []
        for segment in self.chain.segments:
            for block in range(segment.start, segment.stop):
                tail = forms[block].tail
                if block in self.touched or tail is None or segment.width > WIDEST:
                    continue
                edit = ReplaceSpan(start=block, stop=block + 1, operator=Conv(kernel=KERNEL, tail=tail))
                if edit.silenced(self.sites) and edit.num_macs(self.chain) < macs.get(self.chain.blocks[block].path, 0):
                    found.append(edit)
        return found

    def made(self, edit: Edit) -> tuple[str, nn.Module]:
        """Where an edit puts something, and what; fitted once a round, on the network as it is now."""
        if edit not in self._made:
            path = edit.place(self.chain)
            before = self.chain.model.get_submodule(path)
            edit.apply_(self.chain, self.evidence)
            self._made[edit] = path, self.chain.model.get_submodule(path)
            put_(self.chain.model, path, before)
        return self._made[edit]

    def make_(self, edits: Sequence[Edit]) -> None:
        """Make edits for good, one after another, each fitted on the network as it is by then."""
        self._samples = FINAL_SAMPLES
        for edit in edits:
            edit.apply_(self.chain, self.evidence)

    @contextmanager
    def edited(self, edits: Sequence[Edit]) -> Iterator[None]:
        """Inside, some more activations are linear, untrained; afterwards the network is as it was."""
        made = [self.made(edit) for edit in edits]
        before = [(path, self.chain.model.get_submodule(path)) for path, _ in made]
        try:
            for path, module in made:
                put_(self.chain.model, path, module)
            yield
        finally:
            for path, module in before:
                put_(self.chain.model, path, module)

    def measure(self, edits: Sequence[Edit], samples: int | None = None) -> Grade:
        """The validation grade with some more activations linear, untrained."""
        with self.edited(edits):
            return self.grade(samples)

    def loss(self, edits: Sequence[Edit] = ()) -> float:
        """Mean cross-entropy on validation data, nats; without labels the divergence from the original."""
        with self.edited(edits):
            outputs = predictions(self.chain.model, self.task.batches("validation"))
        if outputs.nll is not None:
            return float(outputs.nll.double().mean())
        if outputs.truth is None:
            return damage_of(grade_of(outputs, self.reference))
        truth = outputs.truth[outputs.kept]
        return float(-outputs.values.double().log_softmax(-1).gather(1, truth[:, None].to(outputs.values.device)).mean())

    def grade(self, samples: int | None = None) -> Grade:
        """Of the network as it stands, on validation data."""
        return evaluate(self.chain.model, self.task, "validation", reference=self.reference, limit=samples, seed=self.seed)


def put_(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module
