"""Where a shrinking stands between two rounds, kept in a folder, so that a killed one goes on."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializeAsAny, field_validator
from torch import Tensor

from delayer.edits import Edit, edit_from
from delayer.errors import StudyError
from delayer.network.chain import Chain
from delayer.search.judging import drop_of
from delayer.shrinking.options import ShrinkOptions
from delayer.study import Grade, Index, Round, write_atomically
from delayer.tuning.checkpoint import put_back_, save_checkpoint
from delayer.tuning.training import Moments

FILE = "shrink.safetensors"
Masks = dict[str, Tensor]


class Place(BaseModel):
    """Where a shrinking stands between two rounds."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    asked: dict[str, str]
    original: Grade
    grade: Grade
    edits: list[SerializeAsAny[Edit]] = []
    rounds: list[Round] = []
    step: Index = 0
    """Most activations that the next round may remove; halved after a round that was rolled back."""
    retreats: Index = 0
    """How often training had to begin again at a third of the rate; later rounds begin at what was left."""
    note: str = ""
    """Why it is over; "" while it is not."""

    @field_validator("edits", mode="before")
    @classmethod
    def _edits(cls, value: Any) -> list[Edit]:
        if not isinstance(value, list | tuple):
            raise ValueError("the edits are a list")
        return [edit_from(item) for item in value]


def save_place(folder: Path, place: Place, chain: Chain, masks: Masks, warm: Moments | None) -> None:
    """Write the state and a JSON line a round, and clear the finished round's checkpoints away.

    chain: the network as it is by then. masks: weights that stay zero. warm: the optimiser's moments, None where not kept.
    """
    tensors = {f"now {name}": tensor for name, tensor in chain.model.state_dict().items()}
    tensors |= {f"mask {name}": mask.byte() for name, mask in masks.items()}
    tensors |= {f"warm {kind} {name}": t for name, state in (warm or {}).items() for kind, t in state.items()}
    save_checkpoint(folder / FILE, tensors, place)
    write_atomically(folder / "rounds.jsonl", "".join(f"{one.model_dump_json()}\n" for one in place.rounds))
    for file in folder.glob("round-*.safetensors"):
        file.unlink()


def resume_(chain: Chain, asked: dict[str, str], folder: Path, tensors: dict[str, Tensor], place: Place) -> tuple[Masks, Moments]:
    """Put a network back as it was, and get the masks and the optimiser's moments.

    chain: a copy of the original. asked: what this run was asked. Raises StudyError for the state of another run.
    """
    if other := sorted(name for name, value in asked.items() if place.asked.get(name) != value):
        raise StudyError(f"{folder} holds another shrinking: its {', '.join(other)} differ. Choose another folder.")
    for edit in place.edits:
        edit.apply_(chain)
    now = {name[4:]: t for name, t in tensors.items() if name.startswith("now ")}
    put_back_({name: t for name, t in chain.model.state_dict().items() if isinstance(t, Tensor)}, now, folder / FILE)
    warm: Moments = {}
    for key, tensor in tensors.items():
        if key.startswith("warm "):
            _, kind, name = key.split(" ", 2)
            warm.setdefault(name, {})[kind] = tensor
    return {name[5:]: t.bool() for name, t in tensors.items() if name.startswith("mask ")}, warm


def why_over(place: Place, after: Grade, options: ShrinkOptions) -> str:
    """The sentence that a shrinking ends with whose last round was rolled back."""
    fell = f"the validation {after.name} fell by {drop_of(place.original, after):.2f}, and {options.tolerance:g} are allowed"
    if not place.edits:
        return f"No activation can go: {fell}. This is the original network; allow more by --tolerance, or train longer."
    return f"The next round was rolled back: {fell}."
