"""What a file may name: nothing that could run code of its writer's.

A saved folder may name timm's architectures and transformers' own classes, with arguments from closed lists, and our own search
spaces. A function of the user's comes from the user: given to `load`, or typed in this process. See SECURITY.md.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from delayer.errors import ModelError
from delayer.store.artefact import Source
from delayer.store.given import give, given, is_name, remember

OURS = "delayer.nas:network"
"""The one factory that files may name: it builds our own search spaces, and looks at what they name itself."""
MAX_DEPTH = 8
"""Networks that were cut from a cut network, and so on, at most."""


@dataclass(frozen=True)
class Trust:
    """What the caller said: a factory of his, or that he trusts whatever the files name."""

    factory: str | Callable[..., Any] | None = None
    everything: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for the factory, typed by the caller."""


_ALLOWED: ContextVar[tuple[bool, bool]] = ContextVar("allowed", default=(False, False))


@contextmanager
def allowing(*, trust: bool = False, allow_changed: bool = False) -> Iterator[None]:
    """Inside: whatever is loaded is loaded with trust=, allow_changed=; for a command that was told so."""
    token = _ALLOWED.set((trust, allow_changed))
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def allowed() -> tuple[bool, bool]:
    """Whether everything is trusted, and whether changed files are opened."""
    return _ALLOWED.get()


def factory_for(source: Source, trust: Trust, where: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that builds a folder's original network, and its arguments.

    where: the folder, for the error. Raises ModelError where the caller gave none, and the folder's word alone would decide what
    is imported or called.
    """
    found = trust.factory
    if isinstance(found, str):
        found = give(found)
    if found is None:
        found = given(source.name) or (give(source.name) if trust.everything else None)
    if found is None:
        raise ModelError(not_given(source.name, where))
    remember(source.name, found)
    # A number names nothing; a text may be the name of a file or of a module, and only the caller knows his function.
    texts = {k: v for k, v in source.config.items() if k not in trust.arguments and not _plain(v)}
    if texts and not trust.everything:
        stated = ", ".join(f"{key}={value!r}"[:80] for key, value in texts.items())
        raise ModelError(
            f"{where} wants its factory called with {stated}; texts may name files, so they are not taken from a file. "
            "Give them yourself, load(FOLDER, factory=..., " + f"{next(iter(texts))}=...), or trust=True (--trust)."
        )
    return found, {**source.config, **trust.arguments}


def not_given(name: str, where: str) -> str:
    """What to say of a factory that a file names and nobody gave."""
    if not is_name(name):
        return f"{where} names the factory {name[:80]!r}, which is not spelled package.module:factory. Give yours: factory=..."
    return (
        f"{where} was made with {name[:200]}, a function of somebody's own, and a file's word is no reason to import it. If it "
        f"is yours, give it: load(FOLDER, factory=...), or --factory {name[:200]}; trust=True (--trust) imports what files name."
    )


def check_source(source: Source, trust: Trust, where: str) -> None:
    """Look at all that a source names before anything of it is built. Raises ModelError for what a file may not name."""
    from delayer.store.closed import check_huggingface, check_timm

    source = root(source, where)
    if source.kind == "timm":
        check_timm(source.name, source.config, where)
    elif source.kind == "huggingface":
        check_huggingface(source, where)
    elif source.name != OURS:
        factory_for(source, trust, where)


def root(source: Source, where: str) -> Source:
    """The source of the network that was cut first. Raises ModelError where there is no end to it."""
    for _ in range(MAX_DEPTH + 1):
        if source.kind != "delayer":
            return source
        source = nested(source, where)
    raise ModelError(f"{where} says that its network was cut more than {MAX_DEPTH} times over. Load and save it anew.")


def nested(source: Source, where: str) -> Source:
    """The source of the network that was cut before. Raises ModelError."""
    try:
        return Source.model_validate(source.config["source"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{where} does not say where the network that was cut came from. Restore its delayer.json.") from error


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, list | tuple) and all(map(_plain, value)))
