"""Networks in and out: by name, from a folder, with proof that a saved one is intact and reloads.

No pickle anywhere, and nothing is imported or called because a file says so: see SECURITY.md.
"""

from delayer.store.artefact import Artefact, Made, Source
from delayer.store.folder import load, recover_, save
from delayer.store.integrity import digest_of, read_artefact
from delayer.store.ordinary import load_ordinary
from delayer.store.originals import source_of
from delayer.store.proof import reload_proof
from delayer.store.trust import allowing

__all__ = [
    "Artefact",
    "Made",
    "Source",
    "allowing",
    "digest_of",
    "load",
    "load_ordinary",
    "read_artefact",
    "recover_",
    "reload_proof",
    "save",
    "source_of",
]
