"""Hostile values for files that we read, and a watch over what comes of them."""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

MODULE = "hostile_module"
CODE = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n\n\ndef run(*_, **__):\n    raise SystemExit\n"
NAMED = (
    f"{MODULE}:run",
    "os:system",
    "subprocess:getoutput",
    f"{MODULE}.run",
    f"timm:local-dir:{MODULE}",
    {"kind": "factory", "name": f"{MODULE}:run", "config": {}},
    {"auto_map": {"AutoModel": f"{MODULE}.run"}},
)
"""What would run somebody's code, were it believed."""
ODD = ("", "../../../etc/passwd", "x" * 100_000, 10**18, -1, 1e308, None, True, [], {}, [[[[[["deep"]]]]]] * 3)
NEW_KEYS = {
    "trust_remote_code": True,
    "auto_map": {"AutoConfig": f"{MODULE}.run"},
    "checkpoint_path": f"{MODULE}.pth",
    "quantization_config": {"quant_method": MODULE},
    "_attn_implementation": f"evil/{MODULE}",
    "pretrained": True,
    "__class__": f"{MODULE}:run",
}

_seen: list[str] = []
_watching = [False]


def _hook(event: str, arguments: tuple) -> None:
    if not _watching[0]:
        return
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pickle.find_class"):
        _seen.append(f"{event} {arguments[:2]}")
    if event == "import" and MODULE in str(arguments[0]):
        _seen.append(f"import of {arguments[0]}")


sys.addaudithook(_hook)


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Inside, a hostile module can be imported from the current folder; the list holds what was imported, begun or called."""
    (folder / f"{MODULE}.py").write_text(CODE)
    (folder / f"{MODULE}.ran").unlink(missing_ok=True)
    sys.path.insert(0, str(folder))
    _seen.clear()
    _watching[0] = True
    try:
        yield _seen
    finally:
        _watching[0] = False
        sys.path.remove(str(folder))
        if MODULE in sys.modules or (folder / f"{MODULE}.ran").exists():
            _seen.append(f"{MODULE} ran")
            sys.modules.pop(MODULE, None)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every place inside plain data."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def mutants(text: str, *, most: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Descriptions and texts of a JSON file with one value replaced, or one key added, by what is hostile.

    Each of the first `most` places, drawn by the seed, gets one name that would run code and one odd value.
    """
    whole, draw = json.loads(text), random.Random(seed)
    whole.pop("seal", None)  # a record without one is taken as it is; somebody hostile would write a new one
    found = sorted(places(whole), key=len)
    top, deep = [p for p in found if len(p) <= 2], [p for p in found if len(p) > 2]
    draw.shuffle(top)
    draw.shuffle(deep)
    for number, path in enumerate((*top[: most * 2 // 3], *deep)[:most]):
        for value in (NAMED[number % len(NAMED)], draw.choice(ODD)):
            yield f"{path} = {str(value)[:60]}", json.dumps(_with(whole, path, value))
    for key, value in NEW_KEYS.items():
        for path in [()] + [p for p in found if p[-1] in ("config", "arguments", "model_args", "options", "asked")]:
            if isinstance(_at(whole, path), dict):
                yield f"{path} + {key}", json.dumps(_with(whole, (*path, key), value))


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(whole: Any, path: tuple, value: Any) -> Any:
    changed = deepcopy(whole)
    _at(changed, path[:-1])[path[-1]] = value
    return changed
