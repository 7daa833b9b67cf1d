"""Stage: what was lost and what was won, with proof."""

import importlib.util
from collections.abc import Sequence

import torch
from torch import nn

from delayer.cutting import Plan
from delayer.errors import ExportError
from delayer.measure import compare_latency, num_macs, num_params, peak_memory_mib, size_bytes
from delayer.measure.harness import compare_on_tasks, tokenizer_for
from delayer.measure.writing import can_write, compare_writing
from delayer.network.calling import Inputs, example_of
from delayer.network.hashing import model_hash
from delayer.network.precision import precision_of
from delayer.stages.artefacts import finish, is_finished, stage_key
from delayer.stages.options import CheckOptions
from delayer.stages.standing import check_made_on
from delayer.stages.work import Work
from delayer.store import read_artefact
from delayer.store.proof import check
from delayer.study import HarnessInfo, LatencyInfo, Measures, OnnxInfo, Proof, Results
from delayer.study.marks import MODEL
from delayer.tasks import evaluate, grade_of, predictions
from delayer.tasks.splits import shortened
from delayer.tuning.readout import linear_readout

TIMED_TOKENS = 128
"""Of texts whose reading is timed."""
FEW_TOKENS = 4096
"""Of test text that grades are held against float32 on."""


def check_stage(work: Work, small: nn.Module, plan: Plan, options: CheckOptions = CheckOptions()) -> Results:
    """results.json: grades on test data, costs, paired latency, reload proof and ONNX."""
    key = stage_key(work, "check", plan.model_dump(mode="json"), options, work.task_options, model_hash(small))
    if is_finished(work, "check", key):
        return work.study.read("results")
    check_made_on(work, plan)
    folder, warnings = work.study.path("model"), list(work.warnings)
    measures = {}
    test = work.task.batches("test")
    with work.reporter.step("Original network on test data") as tick:
        reference = predictions(work.model, test, device=work.device, progress=tick)
    warnings += reference.notes
    for name, model in (("original", work.model), ("cut", small)):
        with work.reporter.step(f"Grading the {name} network on test data") as tick:
            if options.readout == "linear":
                grade = linear_readout(model, work.task, device=work.device, progress=tick).test
            elif model is work.model:
                grade = grade_of(reference, reference, seed=work.seed)
            else:
                grade = evaluate(model, work.task, "test", reference=reference, device=work.device, seed=work.seed, progress=tick)
        measures[name] = Measures(
            params=num_params(model),
            size_bytes=size_bytes(model),
            macs=num_macs(model, example_of(work.example, 1)),
            peak_memory_mib=peak_memory_mib(model, work.example, work.device),
            num_blocks=work.chain.num_blocks - (sum(len(s) for e in plan.edits for s in e.removed) if model is small else 0),
            grade=grade,
        )
    notes = [*work.notes, *_in_float32(work, small, measures)]
    if timed(work.example) is not work.example:
        notes.append(f"Latency is that of texts of {TIMED_TOKENS} tokens.")
    with work.reporter.step("Comparing latency"):
        times = compare_latency(
            work.model,
            small,
            timed(work.example),
            options.batch_sizes,
            seconds=options.seconds,
            device=work.device,
            seed=work.seed,
        )
        if can_write(work.model, work.example):
            times += compare_writing(work.model, small, work.example, seconds=options.seconds, device=work.device, seed=work.seed)
    tasks = _on_tasks(work, small, options)
    with work.reporter.step("Reloading in a fresh process"):
        proofs = check(small.cpu(), folder, _to_cpu(work.example))
        small.to(work.device)
    onnx, more = _onnx(work, small, options, warnings)
    results = Results(
        headline=headline(work.name, measures["original"], measures["cut"], plan, times, proofs),
        original=measures["original"],
        cut=measures["cut"],
        edits=tuple(e.info() for e in plan.edits),
        latency=(*times, *more),
        tasks=tasks,
        proofs=proofs,
        onnx=onnx,
        warnings=tuple(dict.fromkeys(warnings)),
        notes=(*notes, *read_artefact(folder).notes),
        provenance=work.provenance(),
    )
    work.study.write("results", results)
    finish(work, "check", key, ["results.json"], [MODEL])
    return results


def timed(inputs: Inputs) -> Inputs:
    """What is timed: of texts their first 128 tokens, since rounds of long ones in float32 would take many minutes."""
    ids = None if isinstance(inputs, torch.Tensor) else inputs.get("input_ids")
    if ids is None or ids.shape[1] <= TIMED_TOKENS:
        return inputs
    assert not isinstance(inputs, torch.Tensor)
    return {name: value[:, :TIMED_TOKENS] if value.shape == ids.shape else value for name, value in inputs.items()}


def _on_tasks(work: Work, small: nn.Module, options: CheckOptions) -> tuple[HarnessInfo, ...]:
    """Both networks on tasks of lm-evaluation-harness, where such are named."""
    names = [name.strip() for name in options.lm_eval.split(",") if name.strip()]
    if not names:
        return ()
    with work.reporter.step(f"lm-eval: {', '.join(names)}"):
        tokenizer = tokenizer_for(work.study.path("model"))
        return tuple(compare_on_tasks(work.model, small, tokenizer, names, limit=options.lm_eval_limit, seed=work.seed))


def _in_float32(work: Work, small: nn.Module, measures: dict[str, Measures]) -> list[str]:
    """Where grades were taken in bfloat16: what both networks give on a few samples in the precision of their weights."""
    if precision_of(work.model) == "float32" or any(one.grade.kl is None for one in measures.values()):
        return []
    few = shortened(work.task.batches("test"), 32, FEW_TOKENS)
    found = {}
    with work.reporter.step("Grading a few samples in float32"):
        for exact in (True, False):
            original = predictions(work.model, few, device=work.device, exact=exact)
            cut = predictions(small, few, device=work.device, exact=exact)
            found[exact] = grade_of(original, original, seed=work.seed), grade_of(cut, original, seed=work.seed)
    grades = {
        exact: f"{one.name} {one.value:.2f} → {two.value:.2f}, divergence {two.kl:.4f}" for exact, (one, two) in found.items()
    }
    return [f"On the first {few.num_samples} test samples in float32: {grades[True]}; in bfloat16: {grades[False]}."]


def _to_cpu(inputs: Inputs) -> Inputs:
    return inputs.cpu() if isinstance(inputs, torch.Tensor) else {k: v.cpu() for k, v in inputs.items()}


def _onnx(work: Work, small: nn.Module, options: CheckOptions, warnings: list[str]) -> tuple[OnnxInfo | None, list[LatencyInfo]]:
    """The exported graph and its latency, where ONNX is wanted and installed; a failure is a warning."""
    if not options.onnx or any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        return None, []
    try:
        info = export_stage(work, small)
        with work.reporter.step("Comparing latency on ONNX Runtime"):
            times = compare_latency(
                work.model,
                small,
                work.example,
                options.batch_sizes[:1],
                engine="onnxruntime",
                seconds=options.seconds,
                seed=work.seed,
            )
        return info, list(times)
    except ExportError as error:
        warnings.append(str(error))
        return None, []


def export_stage(work: Work, small: nn.Module) -> OnnxInfo:
    """model/model.onnx, checked against torch. Raises ExportError with the reason when it cannot be."""
    from delayer.measure.onnx import export_onnx

    with work.reporter.step("Exporting to ONNX"):
        info = export_onnx(small, work.example, work.study.path("model") / "model.onnx")
    return info.model_copy(update={"path": "model/model.onnx"})


def headline(
    name: str, original: Measures, cut: Measures, plan: Plan, times: Sequence[LatencyInfo], proofs: Sequence[Proof]
) -> str:
    """What came out, in one line."""
    grade, after = original.grade, cut.grade
    unit = " %" if grade.unit == "%" else f" {grade.unit}".rstrip()
    went = original.num_blocks - cut.num_blocks
    linear, merged = (sum(edit.edit == kind for edit in plan.edits) for kind in ("linearise", "fuse"))
    gone = [f"{went} of {original.num_blocks} blocks"] * bool(went or not linear) + [f"{linear} activations"] * bool(linear)
    also = f", {merged} pairs of layers merged" if merged else ""
    pairs = after.pair_correlation
    parts = [
        f"{' and '.join(gone)} of {name} removed{also}: {grade.name} {grade.value:.2f} → {after.value:.2f}{unit}",
        *([] if pairs is None else [f"rank correlation of pair similarities {pairs:.3f}"]),
        f"{100 * (1 - cut.params / original.params):.1f} % fewer parameters",
    ]
    if original.macs and cut.macs:
        parts.append(f"{100 * (1 - cut.macs / original.macs):.1f} % fewer multiply-adds")
    if times:
        low, high = times[0].speedup_interval
        sure = "" if low > 1 or high < 1 else " (within the noise)"
        parts.append(f"{times[0].speedup:.2f}× as fast at batch {times[0].batch_size}{sure}")
    if proofs:
        parts.append("reload proven" if all(p.passed for p in proofs) else "RELOAD FAILED")
    return ", ".join(parts) + "."
