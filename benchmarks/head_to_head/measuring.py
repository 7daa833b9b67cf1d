"""What a comparison of language models measures: loss and distance from the original, peak memory, and what opens a folder."""

import resource
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delayer.libraries import library, quiet
from delayer.network.calling import call, evaluating, output_of

MOST_KEPT = 2 << 30
"""Bytes of the original's last hidden states that are kept between rows; beyond them the original runs again for each."""


def halved(wanted: bool, device: torch.device) -> AbstractContextManager:
    """Inside, products are taken in bfloat16 where that is wanted."""
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


class Original:
    """The original's logits on the batches of a test, from its last hidden states where they fit into memory."""

    def __init__(self, model: nn.Module, batches: Sequence[dict[str, Tensor]], *, half: bool):
        self.model, self.half, self.head = model, half, model.get_output_embeddings()
        self.device = next(model.parameters()).device
        self.kept: dict[int, Tensor] = {}
        num = sum(batch["input_ids"].numel() for batch in batches)
        self.keeps = self.head is not None and 4 * num * self.head.weight.shape[1] <= MOST_KEPT
        if self.keeps:
            self.keeps = torch.equal(
                self.logits(0, batches[0]), self.logits(0, batches[0])
            )  # the second is made of what was kept
            self.kept = self.kept if self.keeps else {}

    def logits(self, number: int, batch: dict[str, Tensor]) -> Tensor:
        """[samples, tokens, words] of one batch."""
        with evaluating(self.model), halved(self.half, self.device):
            if number in self.kept:
                return self.head(self.kept[number])
            hooks = []
            if self.keeps:
                note = lambda module, args: self.kept.__setitem__(number, args[0].detach())  # noqa: E731
                hooks.append(self.head.register_forward_pre_hook(note))
            try:
                return output_of(call(self.model, {name: value.to(self.device) for name, value in batch.items()}))
            finally:
                for hook in hooks:
                    hook.remove()


@dataclass(frozen=True)
class Score:
    """Of all predicted tokens: mean loss and mean KL(original || network) in nats, share of equal first choices."""

    loss: float
    kl: float
    agreement: float
    num_tokens: int


def graded(model: nn.Module, original: Original, batches: Sequence[dict[str, Tensor]]) -> Score:
    """How well a network predicts each next token, and how far it is from the original; sums in float64."""
    sums, num = torch.zeros(3, dtype=torch.float64), 0
    for number, batch in enumerate(batches):
        theirs = original.logits(number, batch)
        if model is original.model:
            mine = theirs
        else:
            with evaluating(model), halved(original.half, original.device):
                mine = output_of(call(model, {name: value.to(original.device) for name, value in batch.items()}))
        for k, ids in enumerate(batch["input_ids"].to(original.device)):  # sample by sample, since vocabularies are large
            p, q = (logits[k, :-1].float().log_softmax(-1) for logits in (theirs, mine))
            sums[0] += F.nll_loss(q, ids[1:], reduction="sum").double().cpu()
            sums[1] += F.kl_div(q, p, log_target=True, reduction="none").sum(-1).double().sum().cpu()
            sums[2] += (p.argmax(-1) == q.argmax(-1)).sum().cpu()
            num += len(ids) - 1
    loss, kl, agreement = (sums / num).tolist()
    return Score(loss, kl, agreement, num)


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Filled at the end with "begin_mib" and "peak_mib", resident memory before and at most inside (device memory on CUDA)."""
    found: dict[str, float] = {}
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        found["begin_mib"] = torch.cuda.memory_allocated() / 2**20
    else:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
        except OSError:  # then it is the peak of the whole process
            found["whole_process"] = 1.0
        found["begin_mib"] = _resident("VmRSS")
    yield found
    found["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20 if cuda else _resident("VmHWM")


def _resident(field: str) -> float:
    """A number of /proc/self/status, MiB; the process's peak where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def opens_with_transformers(folder: Path, model: nn.Module, batch: dict[str, Tensor]) -> bool:
    """Whether `AutoModelForCausalLM.from_pretrained` opens a folder as the network that was saved there."""
    transformers = library("transformers", "text")
    inputs = {name: value[:1] for name, value in batch.items()}
    device = next(model.parameters()).device
    try:
        with quiet(transformers):
            again = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
        with evaluating(again), evaluating(model):
            found, expected = (output_of(call(one, {k: v.to(device) for k, v in inputs.items()})) for one in (again, model))
    except Exception:  # whatever a library raises at a folder that it does not know
        return False
    return found.shape == expected.shape and bool((found - expected).abs().max() <= 1e-3 * expected.abs().max())
