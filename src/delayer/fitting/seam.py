"""The layer before a gap: what a block's last linear layer says, and what it should say so that the block stands for a later one.

For a block that ends in rest + M, with the states h behind it and h' behind a later block of the same network, M should be
Y = h' − h + M. A map T with M T ≈ Y folds into the layer: no module, no parameter more.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delayer.errors import DataError, ModelError, NotFiniteError
from delayer.network.calling import call, evaluating, seeded
from delayer.network.chain import Chain
from delayer.network.inside_block import Form, Run, form_of, running
from delayer.network.precision import multiplying
from delayer.observing.one_pass import device_of, watching
from delayer.observing.rows import Rows, chosen, positions, take

LEARNING_RATE, EPOCHS, BATCH = 1e-4, 10, 1024
"""Of ReplaceMe's cosine solver, as its released code has them."""


def foldable(block: nn.Module, form: Form) -> bool:
    """Whether a block ends in a sum with the answer of a Linear, so that a map of that answer folds into the layer."""
    return form.tail == "identity" and not form.norm and isinstance(block.get_submodule(form.last), nn.Linear)


@dataclass
class Seams:
    """What a block says, M, and should say to stand for block `target`, Y; each iteration runs the batches up to there.

    chain: the network that both are read in. rows: of real positions alone, whatever the policy.
    path: of the block's last linear layer, known once a batch was run.
    Raises ModelError where no map folds into the block, DataError where a block is not passed.
    """

    chain: Chain
    block: int
    target: int
    batches: Sequence[Any]
    rows: Rows = Rows()
    seed: int = 0
    path: str = ""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """M and Y [n, d] of each batch."""
        for batch in self.batches:
            yield self._read(batch.to(device_of(self.chain.model)))

    def _read(self, batch: Any) -> tuple[Tensor, Tensor]:
        run, after = _pass(self.chain, self.block, self.target, batch)
        form, block = form_of(run), self.chain.blocks[self.block]
        if not foldable(self.chain.module(self.block), form):
            raise ModelError(
                f"Block {block.path} does not end in a sum with the answer of a Linear (the last layer that ran is "
                f"{form.last or 'none'}), so no map folds into it. Use an operator in place of it, such as linear."
            )
        last, total = run.ending
        self.path, ids = last.path, torch.arange(batch.start, batch.start + len(batch))

        def real(hidden: Tensor) -> Tensor:
            states = positions(hidden, self.chain.axis, samples=block.samples, num=len(batch))
            mask = batch.mask_for(states.shape[1])
            return take(states, self.rows, mask, chosen(self.rows, ids, states.shape[1], mask, self.seed))

        answers = real(last.held)
        return answers, real(after) - real(total.reshape(after.shape)) + answers


def _pass(chain: Chain, block: int, target: int, batch: Any) -> tuple[Run, Tensor]:
    """What one block shows on a batch, and the state behind a later one."""
    runs: list[Run] = []
    behind: list[Tensor] = []
    at = chain.blocks[block]
    with (
        evaluating(chain.model),
        seeded(batch.start),
        running(chain.module(block), runs.append, takes=at.takes, gives=at.gives),
        watching(chain, [chain.blocks[target].outlet], lambda point, hidden: behind.append(hidden.clone())),
        multiplying(chain.model),
    ):
        call(chain.model, batch.inputs)
    if not runs or not behind:
        raise DataError(f"Block {block} or {target} was never passed; is it skipped in evaluation mode?")
    return runs[0], behind[0]


def least_squares_map(rows: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """T [d, d] with M T nearest to Y, by the normal equations in float64; the smallest one where M lacks directions."""
    xx = xy = torch.zeros(())
    for answers, wanted in rows:
        answers = answers.double()
        xx, xy = xx + answers.T @ answers, xy + answers.T @ wanted.double()
    if not xx.ndim:
        raise DataError("The data set is empty, so there is nothing to fit on. Give at least one batch.")
    if not (torch.isfinite(xx).all() and torch.isfinite(xy).all()):
        raise NotFiniteError("NaN or infinity in what a layer says or should say. Check the weights and the data.")
    return torch.linalg.pinv(xx, hermitian=True) @ xy


def cosine_map(rows: Iterable[tuple[Tensor, Tensor]], *, seed: int = 0) -> Tensor:
    """T [d, d] in float64 that makes the mean cosine of M T and Y large: Adam from the identity, rows shuffled by the seed."""
    kept = list(rows)
    if not kept:
        raise DataError("The data set is empty, so there is nothing to fit on. Give at least one batch.")
    answers, wanted = (torch.cat([pair[k].float() for pair in kept]) for k in (0, 1))
    if not (torch.isfinite(answers).all() and torch.isfinite(wanted).all()):
        raise NotFiniteError("NaN or infinity in what a layer says or should say. Check the weights and the data.")
    draw = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        map = torch.eye(answers.shape[1], device=answers.device, requires_grad=True)
        adam = torch.optim.Adam([map], lr=LEARNING_RATE)
        for _ in range(EPOCHS):
            for some in torch.randperm(len(answers), generator=draw).to(answers.device).split(BATCH):
                adam.zero_grad()
                (1 - F.cosine_similarity(answers[some] @ map, wanted[some], dim=1).mean()).backward()
                adam.step()
    return map.detach().double()


def fold_(layer: nn.Linear, map: Tensor) -> None:
    """The layer says T of what it said: W ← Tᵀ W and b ← Tᵀ b, worked out in float64."""
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor.copy_(map.T.to(tensor.device) @ tensor.double())
