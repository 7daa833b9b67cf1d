"""Texts as a network reads them: token ids, padded to the right, with the mask that says what is real.

An encoder-decoder gets two: what it reads, and what it writes, after its first token, so that each token is predicted.
"""

import inspect
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from delayer.errors import DataError
from delayer.libraries import gguf_place
from delayer.tasks.kinds import has_decoder_inputs, writes_text
from delayer.tasks.options import TaskOptions
from delayer.tasks.positions import check_length, stated_positions, table_positions
from delayer.tasks.preprocessing import source_of

MAX_LENGTH = 512
"""No text is longer by default, whatever the network takes: attention's cost grows with the square."""

ONE_AT_A_TIME = Lock()
"""Fast tokenizers refuse two threads at once."""


class TextReader:
    """Turns texts, pairs of texts, or lists of token ids, into {"input_ids", "attention_mask", ...}, each [n, longest].

    For an encoder-decoder the second of a pair (or the text itself, where it is alone) becomes {"decoder_input_ids",
    "decoder_attention_mask"}: the token that decoders begin with, then all that is to be written.

    For a network that writes text the beginning-of-sequence token comes first if the tokenizer has one and
    does not add it by itself; else special tokens are what the tokenizer adds.
    notes: what is to be known of texts of that length.
    Raises DataError when there is no tokenizer, when the network has no way to be told about padding, or fewer positions than
    were asked for.
    """

    def __init__(self, model: nn.Module, options: TaskOptions):
        self.tokenizer = _tokenizer_of(model, options)
        config = getattr(model, "config", None)
        stated = [stated_positions(model), table_positions(model), self.tokenizer.model_max_length]
        self.max_length = options.max_length or min(MAX_LENGTH, *(int(most) for most in stated if most))
        self.notes = [note] if (note := check_length(model, self.max_length)) else []
        bare = self.tokenizer("a").input_ids
        self.start = _start_of(model, self.tokenizer) if has_decoder_inputs(model) else None
        bos = self.tokenizer.bos_token_id if writes_text(model) and self.start is None else None
        self.begin = [] if bos is None or bare[:1] == [bos] else [bos]
        # Pieces of a long text are tokenised without special tokens, so they always need it.
        self.first = [] if bos is None else [bos]
        pads = getattr(config, "pad_token_id", None), self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        self.pad = next((pad for pad in pads if pad is not None and pad >= 0), 0)
        forward = inspect.signature(model.forward).parameters
        self.takes = set(forward)
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in forward.values()):
            self.takes |= {"input_ids", "attention_mask"}
        self._lock = ONE_AT_A_TIME

    def pieces(self, text: str) -> list[list[int]]:
        """One long text as consecutive pieces of `max_length` tokens, the first token of each included."""
        with self._lock:
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        length = self.max_length - len(self.first)
        return [ids[k : k + length] for k in range(0, len(ids), length)]

    def __call__(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """Texts, or lists of token numbers, as one padded batch: input_ids [batch, tokens] and what goes with them."""
        if self.start is not None:
            both = [sample if isinstance(sample, tuple) else (sample, sample) for sample in samples]
            read = self._padded(self._tokens([first for first, _ in both]))
            return read | self._written([second for _, second in both], self.start, read["input_ids"].shape[1])
        if isinstance(samples[0], list):
            return self._padded({"input_ids": [self.first + ids for ids in samples]})
        pairs = isinstance(samples[0], tuple)
        return self._padded(self._tokens(*(map(list, zip(*samples, strict=True)) if pairs else [list(samples)])))

    def chat(self, turns: Sequence[dict[str, str]]) -> list[int]:
        """A chat as the tokenizer's template writes it, without the first token where that is put in front anyway."""
        with self._lock:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
            ids = list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        ids = ids[len(self.first) :] if self.first and ids[: len(self.first)] == self.first else ids
        return ids[: self.max_length - len(self.first)]

    def _tokens(self, *texts: list[str], written: bool = False, room: int = 0) -> dict[str, list[list[int]]]:
        """Columns of token numbers, with what else the tokenizer gives."""
        length = self.max_length - len(self.begin) - room
        given = {"text_target": texts[0]} if written else dict(zip(("text", "text_pair"), texts, strict=False))
        with self._lock:
            columns = dict(self.tokenizer(**given, truncation=True, max_length=length, verbose=False))
        columns["input_ids"] = [self.begin + ids for ids in columns["input_ids"]]
        return columns

    def _written(self, texts: list[str], start: int, num_read: int) -> dict[str, Tensor]:
        """What the decoder is given, never as wide as what is read, so that their masks are told apart."""
        rows = [[start, *ids] for ids in self._tokens(texts, written=True, room=1)["input_ids"]]
        widest = max(map(len, rows))
        widest += widest == num_read
        inputs = {
            "decoder_input_ids": torch.tensor([(row + [self.pad] * widest)[:widest] for row in rows]),
            "decoder_attention_mask": torch.tensor([([1] * len(row) + [0] * widest)[:widest] for row in rows]),
        }
        return {name: value for name, value in inputs.items() if name in self.takes}

    def _padded(self, columns: dict[str, list[list[int]]]) -> dict[str, Tensor]:
        columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
        widest = max(1, max(map(len, columns["input_ids"])))
        inputs = {}
        for name, rows in columns.items():
            if name not in self.takes:
                continue
            fill = self.pad if name == "input_ids" else 0
            # Others, such as token_type_ids, lack the token that was put in front.
            front = [] if name in ("input_ids", "attention_mask") else [0] * len(self.begin)
            inputs[name] = torch.tensor([(front + row + [fill] * widest)[:widest] for row in rows])
        if "input_ids" not in inputs:
            raise DataError("Texts are given as the argument input_ids, which the network's forward lacks. Name it so.")
        if "attention_mask" not in inputs and any(len(ids) < widest for ids in columns["input_ids"]):
            raise DataError(
                "Texts of a batch differ in length, and the network's forward takes no attention_mask, so it "
                "is not told what is padding. Add that argument, or pass --batch-size 1."
            )
        return inputs


def _start_of(model: nn.Module, tokenizer: Any) -> int:
    """The token that a decoder begins with. Raises DataError where nothing states it."""
    config: Any = getattr(model, "config", None)
    inner = getattr(config, "decoder", None)
    stated = [getattr(one, name, None) for one in (config, inner) for name in ("decoder_start_token_id", "bos_token_id")]
    found = next((token for token in [*stated, tokenizer.bos_token_id, tokenizer.pad_token_id] if token is not None), None)
    if found is None:
        raise DataError(
            f"Nothing states the token that the decoder of {type(model).__name__} begins with. Set decoder_start_token_id in its "
            "configuration."
        )
    return int(found)


def _tokenizer_of(model: nn.Module, options: TaskOptions) -> Any:
    import transformers  # noqa: F401  (an ImportError of its own, not of a tokenizer that does not load)

    name = options.tokenizer or source_of(model)
    if not name:
        raise DataError(f"Texts need a tokenizer, and {type(model).__name__} does not name one. Pass --tokenizer NAME.")
    try:
        return _unpacked(name, Path(name[5:]).stat().st_mtime_ns) if name.startswith("gguf:") else _pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{name!r} holds no tokenizer that loads ({reason}). Pass --tokenizer NAME.") from error


def _pretrained(name: str) -> Any:
    from transformers import AutoTokenizer

    place, more = gguf_place(name)
    return AutoTokenizer.from_pretrained(place, **more, trust_remote_code=False)


@lru_cache(maxsize=1)
def _unpacked(name: str, changed: int) -> Any:
    """The tokenizer in a GGUF file, which takes seconds to read; once for each file as it is now."""
    return _pretrained(name)
