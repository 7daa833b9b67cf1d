"""What is said of a pickle, which delayer never opens: the lines of Python that turn its weights into a safetensors file.

Checkpoints of trainings hold their weights under a name, beside the optimizer and the options; the lines look for them where the
common trainers put them. They open the file in torch's closed way (`weights_only=True`), in which no code of its writer's runs.
"""

from pathlib import Path

from delayer.errors import WeightsError

KEYS = ("ema", "model_ema", "state_dict_ema", "state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
"""Names under which trainers put a network's weights; averaged ones first, since those are what is evaluated."""


def recipe(path: str | Path, out: str = "weights.safetensors") -> str:
    """Lines of Python that write the weights of a torch.save file as safetensors."""
    keys = f"({', '.join(map(repr, KEYS))})"
    return f"""
import argparse, torch
from safetensors.torch import save_file
torch.serialization.add_safe_globals([argparse.Namespace])
w = torch.load({str(path)!r}, map_location="cpu", weights_only=True)
for _ in range(3): w = next((w[k] for k in {keys} if isinstance(w.get(k), dict)), w)

save_file({{k: v.detach().clone().contiguous() for k, v in w.items() if torch.is_tensor(v)}}, {out!r})
"""


def refuse_pickle(path: Path) -> WeightsError:
    """The error for a pickle in the place of a safetensors file."""
    return WeightsError(
        f"{path} is a pickle (a torch.save file), which can run code when opened; delayer reads safetensors only. "
        f"Convert it in Python, and give weights.safetensors:\n{recipe(path)}\n"
        "If torch refuses a class in it, the file holds more than weights: open it with the code that wrote it, where you trust "
        "it, and save the network's state_dict() so."
    )


def how_to_convert(name: str | None) -> str:
    """The end of a sentence about a folder without safetensors: the lines that convert its one pickle, where it has one."""
    found = sorted(file for end in ("bin", "pth", "pt", "ckpt") for file in Path(name).glob(f"*.{end}")) if name else []
    if len(found) != 1:
        return "."
    return f", in Python:\n{recipe(found[0], str(found[0].with_name('model.safetensors')))}"
