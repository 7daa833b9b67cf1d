"""A file of tiny networks, each with a block planted as an identity, the whole road through: what holds for how many of them.

    python benchmarks/zoo.py networks.py [--only NAME ...] [--no-onnx] [--out FILE]

networks.py defines CASES, by name: objects with `make` and `example` (functions), `blocks` (a regular expression for the paths of
the true blocks), `zero` (ends of paths inside a block that are zero where it is to change nothing; empty where there is no such
thing), `k` (which block) and `lib` ("hf", "timm" or anything else for a function). A line a network: found and in order, planted
block ranked first, dropped exactly, alone the answer to blocks=1, reopened by delayer, by what library, ONNX, cache; "" where
that holds, else the reason, null where nothing has to hold. Networks without anything to plant only have to be cut or refused in
one sentence. The road itself is that of tests/zoo_road.py.
"""

import argparse
import atexit
import importlib.util
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

import fresh  # noqa: E402
import zoo_road  # noqa: E402
from provenance import provenance  # noqa: E402
from zoo import Row  # noqa: E402

import delayer  # noqa: E402
from delayer.libraries import quiet  # noqa: E402

MAKERS = "zoo_makers"
LIBRARIES = {"hf": "transformers", "timm": "timm"}
HELD = ("found", "first", "exact", "alone", "reloaded", "ordinary", "onnx", "cache")


def row_of(name: str, case) -> Row:
    """A case as a row of the tests' zoo; where no library made its network, a function does that any process can import."""
    library = LIBRARIES.get(case.lib, "")
    make = case.make if library else lambda: delayer.load(f"{MAKERS}:{name}")
    return Row(name, make, case.example, case.blocks, tuple(case.zero), k=case.k, library=library, opens=library or "delayer")


def cases_of(file: Path) -> dict:
    """The cases of a file, and a module with a function for each that a fresh process can import too."""
    folder = tempfile.mkdtemp(prefix="zoo_makers_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    found = importlib.util.spec_from_file_location("zoo_given", file)
    given = importlib.util.module_from_spec(found)
    sys.modules[given.__name__] = given
    found.loader.exec_module(given)
    head = f"import importlib.util, sys\nfound = importlib.util.spec_from_file_location('zoo_given', {str(file.resolve())!r})\n"
    head += "given = importlib.util.module_from_spec(found)\nsys.modules['zoo_given'] = given\nfound.loader.exec_module(given)\n"
    functions = "".join(f"def {name}(): return given.CASES[{name!r}].make().eval()\n" for name in given.CASES)
    (Path(folder) / f"{MAKERS}.py").write_text(head + functions)
    sys.path.append(folder)
    return given.CASES


def without_a_plant(case) -> str:
    """What becomes of a network in which no block can be an identity: what can be cut, or the refusal."""
    model, example = case.make().eval(), case.example()
    try:
        return repr(delayer.chain_of(model, example))
    except delayer.DelayerError as refused:
        return f"refused: {refused}"


def line_of(row: Row, *, onnx: bool) -> dict:
    """What holds for a network, a reason where something does not."""
    with tempfile.TemporaryDirectory() as folder:
        walked = zoo_road.walk(row, Path(folder), onnx=onnx)
    held = {
        "found": walked.found,
        "first": walked.first,
        "exact": "" if walked.exact < 1e-5 else f"{walked.exact:.1e}",
        "alone": walked.alone,
        "reloaded": walked.reloaded,
        "ordinary": "" if walked.ordinary else walked.note,
        "onnx": walked.onnx,
        "cache": None if walked.cache is None else "" if walked.cache else "writes another text",
    }
    return {"blocks": walked.num_blocks, "opens": walked.ordinary} | held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--no-onnx", dest="onnx", action="store_false")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    cases = cases_of(asked.file)
    delayer.store.proof.subprocess = SimpleNamespace(run=fresh.run)  # one warm process opens all folders

    import transformers

    lines = []

    def write(line: dict) -> None:
        lines.append(line)
        print(json.dumps(line, ensure_ascii=False), flush=True)

    write(provenance(0, "transformers", "timm", "torchvision"))
    with quiet(transformers):
        for name, case in cases.items():
            if asked.only and name not in asked.only:
                continue
            start = time.perf_counter()
            try:
                if case.zero and case.blocks != "never":
                    line = line_of(row_of(name, case), onnx=asked.onnx)
                else:
                    line = {"nothing to plant": without_a_plant(case)}
            except Exception as error:  # a line says what became of a network
                line = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
            write({"name": name} | line | {"seconds": round(time.perf_counter() - start, 1)})
    walked = [line for line in lines if "found" in line]
    counts = {key: f"{sum(one[key] == '' for one in walked)} of {sum(one[key] is not None for one in walked)}" for key in HELD}
    failed = [line["name"] for line in lines if "failed" in line]
    write({"networks": len(lines) - 1, "with a plant": len(walked) + len(failed), "failed": failed, **counts})
    if asked.out:
        asked.out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")


if __name__ == "__main__":
    main()
