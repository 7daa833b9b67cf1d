"""The records of a saved network's folder: what it says of the original, of the stages that made it, and of its own files."""

from typing import Any, Literal

from delayer.study import Record


class Source(Record):
    """Where a network's definition comes from, enough to build its skeleton again."""

    kind: Literal["huggingface", "timm", "factory", "delayer"]
    name: str
    """Hub name or folder, timm's name, package.module:factory, or the folder of a network that was cut before."""
    model_class: str = ""
    """Hugging Face class."""
    config: dict[str, Any] = {}
    """Hugging Face configuration, the arguments of timm or the factory, or source, chain and plan of the first cut."""
    arguments: dict[str, Any] = {}
    """Further arguments of a Hugging Face class, such as add_pooling_layer."""


class Made(Record):
    """One stage that had a hand in a saved network."""

    stage: Literal["cut", "tune", "shrink"]
    key: str
    """Hash over the stage's options and inputs."""


class Artefact(Record):
    """delayer.json: what a cut network's folder says of the original, and the hashes that prove the folder intact."""

    format: Literal[1, 2] = 2
    """1 is what delayer 0.1 wrote, without hashes."""
    delayer: str
    source: Source
    chain: dict[str, Any]
    example: dict[str, tuple[tuple[int, ...], str]]
    """Shape and type of each input of a small batch; "" names a lone tensor."""
    ordinary: str = ""
    """The loader that opens the folder as an ordinary checkpoint; "" when only delayer.load does."""
    ordinary_note: str = ""
    notes: tuple[str, ...] = ()
    """What could not travel with the network, or not as it was."""
    lineage: tuple[Made, ...] = ()
    """The stages that made this network, in their order."""
    files: dict[str, str] = {}
    """SHA-256 of every file of the folder that decides what loads."""
    hash: str = ""
    """SHA-256 over the text of this file, with this field empty."""
