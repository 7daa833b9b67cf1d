"""Reload proof: a fresh process loads a saved network and compares its outputs with those of the one in memory."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from delayer.errors import ModelError
from delayer.libraries import first_line
from delayer.network.calling import Inputs, call, evaluating, output_of, seeded
from delayer.network.mapped import is_mapped
from delayer.registry import imports
from delayer.registry.outside import import_again
from delayer.store.artefact import Source
from delayer.store.given import give, given_names, remember
from delayer.store.integrity import RECORD, read_artefact, verified
from delayer.store.probes import beyond_windows, continuation, written_by
from delayer.store.shorter.torchvision_program import PROGRAM
from delayer.study import Proof

TOLERANCE = 1e-5


def check(model: nn.Module, folder: str | Path, inputs: Inputs, *, factory: str | None = None) -> tuple[Proof, ...]:
    """Whether a saved network opens, in a fresh process, as the one that is in memory.

    By delayer.load and, where the folder says that it is an ordinary checkpoint, by its library's own loader; see
    `reload_proof`. Raises ModelError where the folder holds no saved network.
    """
    saved = read_artefact(Path(folder))
    proofs = [reload_proof(model, folder, inputs, factory=factory)]
    if saved.ordinary and saved.source.kind != "factory":  # whose program was run when it was written, and is not run again
        proofs.append(reload_proof(model, folder, inputs, ordinary=True, factory=factory))
    return tuple(proofs)


def reload_proof(
    model: nn.Module,
    folder: str | Path,
    inputs: Inputs,
    *,
    ordinary: bool | Source = False,
    factory: str | None = None,
    program: Path | None = None,
) -> Proof:
    """The largest output difference between a network and its saved copy, found by a fresh process.

    A network whose weights lie in files is opened so there, too.
    ordinary: open the folder with its library's own loader instead of delayer.load; a `Source` where no record says yet
    whose network it is. factory: package.module:factory of the original network; by default the fresh process is given what
    this one was given. program: a file of ours, written just now, whose `model()` opens the folder.
    Passed when the difference is at most 1e-5 of the largest output (1e-5 where outputs are smaller than 1), on these inputs
    and, for a network that looks back through a window, on tokens that do not fit into it; and when one that generates writes
    the same after them. Raises ModelError where the library's own loader is asked for and there is none.
    """
    if ordinary is True:
        _check_ordinary(Path(folder))
    probes = {"": inputs} | ({"longer:": longer} if (longer := beyond_windows(model, inputs)) is not None else {})
    tensors, expected = {}, {}
    for name, given in probes.items():
        with evaluating(model), seeded():
            expected[name] = output_of(call(model, given))
        tensors |= {f"{name}input:{k}": v for k, v in ({"": given} if isinstance(given, Tensor) else given).items()}
        tensors |= {f"{name}expected": expected[name]}
    if (written := continuation(model, inputs)) is not None:
        tensors |= {"written": written}
    loader = "the library's own loader" if ordinary else "delayer.load"
    kind = ordinary.model_dump_json() if isinstance(ordinary, Source) else "ordinary" if ordinary else ""
    largest = float(expected[""].abs().max())
    with tempfile.TemporaryDirectory() as temporary:
        probe = Path(temporary) / "probe.safetensors"
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, str(probe))
        # As many threads as here: more add in another order, which would hide behind what a wrong weight does.
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "MKL_NUM_THREADS": str(torch.get_num_threads())}
        # Safe path: a module that lies in the current folder must not stand in for one of Python's.
        paths = {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONSAFEPATH": "1",
            "PYTHONWARNINGS": "ignore",
        }
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "delayer.store.proof",
                str(folder),
                str(probe),
                kind,
                json.dumps(_named_in(Path(folder))),
                factory or "",
                str(program or ""),
                "by block" if is_mapped(model) else "",
                *imports(),
            ],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | threads | paths,
        )
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or ["no message"])[-1]
        found: dict[str, Any] = {"broken": f"a fresh process could not load it: {reason}"}
    else:
        found = json.loads(run.stdout.strip().splitlines()[-1])
    if broken := found.get("broken"):
        return Proof(
            max_abs_difference=float("inf"),
            max_abs_output=largest,
            num_inputs=len(expected[""]),
            loader=loader,
            passed=False,
            note=broken,
        )
    gaps = found["max_abs_differences"]
    passed = all(gap <= TOLERANCE * max(1.0, float(expected[name].abs().max())) for name, gap in gaps.items())
    return Proof(
        max_abs_difference=max(gaps.values()),
        max_abs_output=largest,
        num_inputs=len(expected[""]),
        num_written=0 if written is None or found["writing"] else written.numel(),
        loader=loader,
        passed=passed and not found["writing"],
        note=found["writing"],
    )


def _check_ordinary(folder: Path) -> None:
    """Raises ModelError for a folder that no library's own loader opens."""
    saved, again = read_artefact(folder), "Prove it by delayer.load: leave ordinary= out."
    if (folder / PROGRAM).exists():
        raise ModelError(
            f"{folder} is opened by {PROGRAM} in it, which was proven when it was written, and by no loader: no file of a folder "
            f"is run again. {again}"
        )
    if not saved.ordinary:
        raise ModelError(f"{folder} is no ordinary checkpoint: {saved.ordinary_note or 'no record says so'}. {again}")


def _named_in(folder: Path) -> dict[str, str]:
    """The user's own functions that a folder refers to: of the names that were given in this process, those in its record."""
    text = (folder / RECORD).read_text("utf-8") if (folder / RECORD).exists() else ""
    return {name: spelling for name, spelling in given_names().items() if json.dumps(name) in text}


def _main(folder: str, probe: str, kind: str, names: str, factory: str, program: str, mapped: str, *modules: str) -> None:
    import runpy

    from delayer.store.folder import load
    from delayer.store.ordinary import load_ordinary

    import_again(modules)
    for name, spelling in json.loads(names).items():
        remember(name, give(spelling))
    if program:
        model = runpy.run_path(program)["model"]()
    elif not kind:
        by_block = "yes" if mapped and read_artefact(Path(folder)).ordinary else "no"
        model = load(folder, factory=factory or None, by_block=by_block)
    else:
        source = verified(Path(folder)).source if kind == "ordinary" else Source.model_validate_json(kind)
        model = load_ordinary(Path(folder), source, by_block=bool(mapped))
    try:
        found = _compared(model, load_file(probe))
    except Exception as error:  # whatever a network raises that was opened and does not run
        found = {"broken": f"a fresh process opens it, but it does not run there ({type(error).__name__}: {first_line(error)})"}
    print(json.dumps(found))


def _compared(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The largest differences from the answers of the other process, and what is wrong with what it writes."""
    gaps, writing = {}, ""
    for probed in ("", "longer:"):
        given = {k.removeprefix(f"{probed}input:"): v for k, v in tensors.items() if k.startswith(f"{probed}input:")}
        if given:
            with evaluating(model), seeded():
                found = output_of(call(model, given.get("", given)))
            gaps[probed] = float((found - tensors[f"{probed}expected"]).abs().max())
            if not probed and "written" in tensors:
                written = written_by(model, given.get("", given))
                if isinstance(written, str):
                    writing = f"in a fresh process its library does not generate with it, as the network does ({written})"
                elif not torch.equal(written, tensors["written"]):
                    writing = "a fresh process generates another text with it"
    return {"max_abs_differences": gaps, "writing": writing}


if __name__ == "__main__":
    _main(*sys.argv[1:])
