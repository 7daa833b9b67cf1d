"""Networks in and out: by name, from a folder, with proof that a saved one reloads. No pickle anywhere."""

from delayer.store.folder import Artefact, example_of, load, load_ordinary, read_artefact, save
from delayer.store.originals import Source, source_of
from delayer.store.proof import reload_proof

__all__ = [
    "Artefact", "Source", "example_of", "load", "load_ordinary", "read_artefact", "reload_proof", "save", "source_of",
]  # fmt: skip
