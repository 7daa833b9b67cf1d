"""`text:PATH`: a .txt file, or a .json list of texts."""

import json

from torch import nn

from delayer.errors import DataError
from delayer.tasks.kinds import writes_text
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, fingerprint, no_part, read_text, sources
from delayer.tasks.sources._columns import from_texts
from delayer.tasks.tokenising import TextReader


@sources.register("text")
def text(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """A text a list entry, or a part of a .txt.

    That is cut into consecutive pieces of `max_length` tokens for a network that writes text, and into lines for another.

    Raises DataError when the .json file holds anything but a list of texts.
    """
    no_part(part, path)
    content = read_text(path)
    if path.endswith(".json"):
        try:
            texts = json.loads(content)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} is not valid JSON ({error}). Give a list of texts.") from error
        if not isinstance(texts, list) or not all(isinstance(entry, str) for entry in texts):
            raise DataError(f'{path} should hold a list of texts, ["...", "..."]; found something else.')
        return from_texts(texts, None, path)
    if not writes_text(model):
        return from_texts(content.split("\n"), None, path)
    pieces = TextReader(model, options).pieces(content)
    return Samples("tokens", len(pieces), pieces.__getitem__, fingerprint(content))
