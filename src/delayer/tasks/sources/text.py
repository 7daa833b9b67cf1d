"""`text:PATH`: a .txt file, or a .json list of texts or of objects with a text in each."""

import json

from torch import nn

from delayer.errors import DataError
from delayer.tasks.kinds import has_decoder_inputs, writes_text
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, fingerprint, no_part, read_text, sources
from delayer.tasks.sources._texts import TextColumns, from_columns
from delayer.tasks.sources.jsonl import from_objects
from delayer.tasks.tokenising import TextReader


@sources.register("text")
def text(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """A text a list entry, or a part of a .txt.

    That is cut into consecutive windows of `max_length` tokens for a network that writes text, full ones where there is one, and
    into lines for another.

    Raises DataError when the .json file holds neither a list of texts nor what `jsonl` reads.
    """
    content = read_text(path)
    if path.endswith(".json"):
        try:
            texts = json.loads(content)
        except ValueError as error:
            raise DataError(f"{path} is not valid JSON ({error}). Give a list of texts.") from error
        if not isinstance(texts, list) or any(isinstance(entry, dict) for entry in texts):
            return from_objects(content, path, part, options, model)
        if not all(isinstance(entry, str) for entry in texts):
            raise DataError(f'{path} should hold a list of texts, ["...", "..."], or of objects; found something else.')
        return from_columns(TextColumns("text"), {"text": texts}, None, path, options, model)
    no_part(part, path)
    if not writes_text(model) or has_decoder_inputs(model):
        return from_columns(TextColumns("text"), {"text": content.split("\n")}, None, path, options, model)
    reader = TextReader(model, options)
    pieces = reader.pieces(content)
    notes = []
    if len(pieces) > 1:
        rest = len(pieces[-1]) if len(pieces[-1]) < len(pieces[0]) else 0
        pieces = pieces[:-1] if rest else pieces
        left = f"; the last {rest} tokens, which fill none, are left out" if rest else ""
        notes = [f"{path} is cut into {len(pieces):,} windows of {reader.max_length} tokens{left}."]
    return Samples("tokens", len(pieces), pieces.__getitem__, fingerprint(content), notes=notes)
