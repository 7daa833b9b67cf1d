"""Optional libraries: imported when first needed, quiet, and heard in one sentence."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from delayer.errors import DataError, ModelError


def library(name: str, extra: str) -> Any:
    """A library that an extra of delayer's brings."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f"This needs {name}, which is not installed: pip install 'delayer[{extra}]'.") from error


def gguf_place(name: str) -> tuple[str, dict[str, str]]:
    """Folder and arguments by which transformers opens what a name stands for: `gguf:PATH` is one file of its folder."""
    if not name.startswith("gguf:"):
        return name, {}
    folder, _, file = name.removeprefix("gguf:").rpartition("/")
    return folder or ("/" if name.startswith("gguf:/") else "."), {"gguf_file": file}


EXTRAS = {
    "sklearn": ("scikit-learn", "data"),
    "datasets": ("datasets", "data"),
    "pandas": ("pandas", "data"),
    "pyarrow": ("pyarrow", "data"),
    "PIL": ("pillow", "vision"),
    "transformers": ("transformers", "text"),
}
"""The package that each module of a data source comes in, and the extra of delayer's that brings it."""


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Inside, a library of EXTRAS that is not there is a DataError of one sentence."""
    try:
        yield
    except ImportError as error:
        package, extra = EXTRAS.get((error.name or "").partition(".")[0], ("", ""))
        if not package:
            raise
        missing = isinstance(error, ModuleNotFoundError)
        lack = "which is not installed" if missing else f"which does not load ({first_line(error)})"
        raise DataError(f"{what} needs {package}, {lack}: pip install 'delayer[{extra}]'.") from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _no_kernel(*_: Any, **__: Any) -> Any:
    raise ImportError("delayer fetches no kernels from the hub while it builds a network")


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and no load reports inside: what is wrong with weights is said in one sentence.

    And no kernels from the hub, which RWKV, MRA and YOSO would fetch and run where there is a GPU; they do without.
    """
    logging = transformers.utils.logging
    hub: Any = importlib.import_module("transformers.integrations.hub_kernels")
    fetch, hub.get_kernel = getattr(hub, "get_kernel", None), _no_kernel
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.get_kernel = fetch
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
