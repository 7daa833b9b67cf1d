"""Columns of text as samples: one text, two of a pair, an input with what is to be written, or a chat."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from delayer.errors import DataError
from delayer.tasks.kinds import has_decoder_inputs, writes_text
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, fingerprint
from delayer.tasks.sources._labels import labels_of
from delayer.tasks.tokenising import TextReader

TEXT_NAMES = ("text", "sentence", "review", "content")
PAIRS = tuple(
    tuple(names.split("/"))
    for names in (
        "text/text_pair sentence1/sentence2 premise/hypothesis question1/question2 text1/text2 text_a/text_b "
        "sentence_a/sentence_b query/passage query/document query/text question/context question/sentence anchor/positive "
        "sentence/sentence2 text/text2"
    ).split()
)
"""Names of two columns that hold two texts about which one question is asked."""
TARGETS = tuple(
    tuple(names.split("/"))
    for names in (
        "input/target input/output inputs/targets input_text/target_text source/target src/tgt article/highlights "
        "article/summary document/summary dialogue/summary text/summary prompt/completion prompt/response instruction/output "
        "instruction/response question/answer text/target text/output"
    ).split()
)
"""Names of two columns of which one is read and the other written."""
CHATS = ("messages", "conversations", "conversation", "chat", "dialog")
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Other names of who speaks in a chat."""


@dataclass(frozen=True)
class TextColumns:
    """Which columns hold the text, the second text where there are two, and whether the text is a chat."""

    first: str
    second: str | None = None
    chat: bool = False

    def __contains__(self, column: Any) -> bool:
        return column in (self.first, self.second)


def by_names(columns: Collection[str]) -> dict[str, str]:
    """Columns by their names in lower case; one inside another (data.text) by its last part too, where that is its alone."""
    found = {str(name).lower(): str(name) for name in reversed(list(columns))}
    last = [(str(name).lower().rpartition(".")[2], str(name)) for name in columns if "." in str(name)]
    alone = {part: name for part, name in last if sum(other == part for other, _ in last) == 1}
    return alone | found


def text_columns(columns: Collection[str], options: TaskOptions, model: nn.Module, path: str) -> TextColumns | None:
    """The columns of text that were asked for or have a known name; None where there are none. Raises DataError."""
    for asked, what in ((options.text_column, "text"), (options.pair_column, "pair")):
        if asked is not None and asked not in columns:
            raise DataError(f"{path} has no column {asked!r}; found {', '.join(columns)}. Pass one of these as --{what}-column.")
    known, seconds = by_names(columns), has_decoder_inputs(model)
    plain = options.text_column or next((known[name] for name in TEXT_NAMES if name in known), None)
    if options.pair_column is not None:
        first = plain or next(
            (known[a] for a, b in (*PAIRS, *TARGETS) if a in known and known.get(b) == options.pair_column), None
        )
        if first is None:
            raise DataError(
                f"--pair-column {options.pair_column} names the second text of {path}. Name the first by --text-column."
            )
        return TextColumns(first, options.pair_column)
    if options.text_column is None and (not writes_text(model) or seconds or plain is None):
        for a, b in (*TARGETS, *PAIRS) if seconds or writes_text(model) else PAIRS:
            if a in known and b in known:
                return TextColumns(known[a], known[b])
    if plain is not None:
        return TextColumns(plain)
    chat = next((known[name] for name in CHATS if name in known), None)
    return None if chat is None else TextColumns(chat, chat=True)


def from_columns(
    found: TextColumns, columns: Mapping[str, Sequence[Any]], labels: Sequence[Any] | None, path: str, options: TaskOptions, model
) -> Samples:
    """Samples of the texts in some columns; labels as `labels_of` reads them. Empty texts are left out."""
    texts, notes = list(columns[found.first]), []
    if found.chat:
        texts, notes = _chats(texts, path, model, options)
    if found.second is not None:
        pairs, second = zip(texts, columns[found.second], strict=True), found.second
        if has_decoder_inputs(model):
            texts, notes = list(pairs), [f"The network reads {found.first} and writes {second} ({path})."]
        elif writes_text(model):
            texts = [f"{a}\n{b}" if _full(a) and _full(b) else "" for a, b in pairs]
            notes = [f"A text of {path} is {found.first}, a new line and {second}."]
        else:
            texts, notes = list(pairs), [f"Texts of {path} are pairs: {found.first} and {second}."]
    elif has_decoder_inputs(model):
        notes = [
            f"{path} has no second column of what is to be written, so the network reads each text and writes it again. "
            "Name one by --pair-column if there is one."
        ]
    samples = from_texts(texts, labels, path, options)
    samples.notes[:0] = notes
    return samples


def from_texts(texts: Sequence[Any], labels: Sequence[Any] | None, path: str, options: TaskOptions = TaskOptions()) -> Samples:
    """Samples of texts, pairs of texts, or token numbers. Empty ones are left out."""
    full = [i for i, text in enumerate(texts) if _full(text)]
    notes = [f"{len(texts) - len(full)} empty texts of {path} are left out."] if len(full) < len(texts) else []
    texts = [texts[i] for i in full]
    digest = fingerprint(*map(_written, texts), *(() if labels is None else map(str, labels)))
    found = None if labels is None else labels_of([labels[i] for i in full], path, options)
    return Samples(
        "texts",
        len(texts),
        texts.__getitem__,
        digest,
        found and found.values,
        found and found.names,
        notes=notes + (found.notes if found else []),
    )


def _full(text: Any) -> bool:
    if isinstance(text, tuple):
        return all(map(_full, text))
    return bool(text) if isinstance(text, list) else isinstance(text, str) and bool(text.strip())


def _written(text: Any) -> str:
    return text if isinstance(text, str) else "\0".join(map(str, text))


def _chats(cells: Sequence[Any], path: str, model: nn.Module, options: TaskOptions) -> tuple[list[Any], list[str]]:
    """Chats as token numbers by the tokenizer's template, or as texts where there is none, or where nothing is written."""
    chats = [_turns(cell, i, path) for i, cell in enumerate(cells)]
    plain = ["\n".join(turn["content"] for turn in chat) for chat in chats]
    if not writes_text(model):
        return plain, [f"Chats of {path} are read as their turns, one a line."]
    reader = TextReader(model, options)
    if not getattr(reader.tokenizer, "chat_template", None):
        texts = ["\n".join(f"{turn['role']}: {turn['content']}" for turn in chat) for chat in chats]
        return texts, [
            f"The tokenizer has no chat template: a turn of {path} is a line, such as {texts[0].splitlines()[0][:60]!r}."
        ]
    try:
        return [reader.chat(chat) for chat in chats], [f"Chats of {path} are written out by the tokenizer's chat template."]
    except Exception as error:  # whatever a template raises for roles or an order that it does not know
        raise DataError(f"The tokenizer's chat template refuses a chat of {path} ({error}). Give chats of its form.") from error


def _turns(cell: Any, number: int, path: str) -> list[dict[str, str]]:
    """One chat as turns of role and content."""
    turns = []
    for turn in cell if isinstance(cell, list | tuple) else [None]:
        given = turn if isinstance(turn, Mapping) else {}
        role, content = given.get("role", given.get("from")), given.get("content", given.get("value"))
        if isinstance(content, list):  # of parts, of which those of text count
            content = "\n".join(
                part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)
            )
        if not isinstance(role, str) or not isinstance(content, str | None):
            raise DataError(
                f'Chat {number} of {path} is no list of turns {{"role": ..., "content": ...}}; found {str(turn)[:60]}. '
                "Write it so, or name the column of texts by --text-column."
            )
        turns.append({"role": ROLES.get(role, role), "content": content or ""})
    return turns
