"""What a schedule sees when it chooses: the network as it is now, its sites, and ways to judge a choice."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from delayer.calling import call
from delayer.chain import Chain
from delayer.edits.linearise import Linearise
from delayer.observe import device_of
from delayer.planner import damage_of
from delayer.shrink.options import ShrinkOptions
from delayer.sites import Site
from delayer.stats.switches import Switches
from delayer.study import Grade
from delayer.tasks import Task, evaluate, grade_of, predictions
from delayer.tasks.outputs import Outputs
from delayer.watch_sites import counting_batches, observe_sites


class Look:
    """One round's view.

    sites: activations that are still there. masks: weights that pruning keeps at zero, by parameter name; a schedule
    may add to them. tune_: trains the network as it stands for some epochs of the round, with an optional penalty;
    what it trains is part of the round.
    """

    def __init__(self, chain: Chain, sites: Sequence[Site], task: Task, options: ShrinkOptions, *, number: int, seed: int,
                 reference: Outputs, masks: dict[str, Tensor], tune_: Callable[..., None]):
        self.chain, self.sites, self.task, self.options = chain, tuple(sites), task, options
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

    def switches(self, site: str) -> Switches:
        """Those of one site, as edits ask for them."""
        return self.stats[site]

    def edit(self, site: Site, mode: str) -> Linearise:
        return Linearise(site=site.path, mode=mode, num_features=site.num_features, axis=site.axis)

    @contextmanager
    def edited(self, edits: Sequence[Linearise]) -> Iterator[None]:
        """Inside, some more activations are linear, untrained; afterwards the network is as it was."""
        held = [(edit, self.chain.model.get_submodule(edit.site)) for edit in edits]
        try:
            for edit in edits:
                edit.apply_(self.chain, self)
            yield
        finally:
            for edit, module in held:
                put_(self.chain.model, edit.site, module)

    def measure(self, edits: Sequence[Linearise], samples: int | None = None) -> Grade:
        """The validation grade with some more activations linear, untrained."""
        with self.edited(edits):
            return self.grade(samples)

    def loss(self, edits: Sequence[Linearise] = ()) -> float:
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
