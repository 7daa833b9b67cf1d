"""What a sentence encoder less some of its layers is worth, opened by the libraries that serve it, as JSON lines.

    python benchmarks/sentences.py FOLDER --data csv:texts.csv [--remove 2] [--samples 500]

Beside ours (the default plan, and with the layers that stay solved anew) stands the best set of layers that just go: all sets are
tried on validation, and the nearest by cosine to the original is taken. Each is saved; SentenceTransformer encodes the test texts
with the saved folder and with the original's, and AutoModel opens it. A line says the mean cosine to the original and its 95 %
interval, the rank correlation (Spearman) of the similarities of all pairs, how far norms are from 1, and max_seq_length.
Nothing is chosen on test data.
"""

import argparse
import json
import tempfile
import time
from itertools import combinations
from pathlib import Path

import torch
from provenance import provenance

import delayer
from delayer.network.calling import call, evaluating, example_of, output_of
from delayer.progress import Reporter
from delayer.search.ranking import rank_correlation
from delayer.tasks import TaskOptions, grade_of, predictions
from delayer.tasks.grading import mean_of

SEED = 0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("folder", help="of a sentence encoder (modules.json)")
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--remove", type=int, default=2)
    arguments.add_argument("--samples", type=int, default=500, help="for fit, and half as many for validation and test each")
    given = arguments.parse_args()

    import sentence_transformers

    model, half = delayer.load(given.folder), given.samples // 2
    options = TaskOptions(num_fit=given.samples, num_validation=half, num_test=half, seed=SEED, labels=False)
    task = delayer.open_task(given.data, model, options)
    chain = delayer.chain_of(model, example_of(task.batches("fit")[0].inputs))
    whole = sentence_transformers.SentenceTransformer(given.folder, device="cpu")
    texts = [
        text
        for batch in task.batches("test")
        for text in whole.tokenizer.batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)
    ]
    expected = torch.tensor(whole.encode(texts)).double()

    def row(way: str, plan: delayer.Plan, seconds: float) -> None:
        small = delayer.apply(chain, plan, data=task.batches("fit"))
        found = {"way": way, "gone": sorted({f"{span.start}:{span.stop}" for edit in plan.edits for span in edit.removed})}
        with tempfile.TemporaryDirectory() as folder:
            example = example_of(task.batches("fit")[0].inputs)
            artefact = delayer.save(small, plan, chain, Path(folder) / "cut", example=example)
            found |= {"opens_in": artefact.ordinary or artefact.ordinary_note}
            if artefact.ordinary:
                found |= opened(Path(folder) / "cut", small, example, texts, expected)
        print(json.dumps(found | {"seconds_of_planning": round(seconds, 1)}), flush=True)

    facts = {
        "network": Path(given.folder).name,
        "remove": given.remove,
        "texts": len(texts),
        "max_seq_length": whole.max_seq_length,
    }
    print(json.dumps(facts | provenance(SEED, "transformers", "sentence-transformers")), flush=True)
    began = time.perf_counter()
    row("the best set that just goes, of all", best_set(chain, task, given.remove), time.perf_counter() - began)
    for way, more in (("ours", {}), ("ours, solved anew", {"repair": "resolve"})):
        began = time.perf_counter()
        plan = delayer.plan(chain, task, remove=f"blocks={given.remove}", seed=SEED, reporter=Reporter(quiet=True), **more)
        row(way, plan, time.perf_counter() - began)


def best_set(chain: delayer.Chain, task: delayer.Task, num: int) -> delayer.Plan:
    """The set of so many layers without which validation answers are nearest to the original's."""
    validation = task.batches("validation")
    reference = predictions(chain.model, validation)
    removable = [i for i, block in enumerate(chain.blocks) if block.removable]
    plans = [
        delayer.plan_by_hand(chain, [str(block) for block in blocks], operator="drop") for blocks in combinations(removable, num)
    ]
    return max(plans, key=lambda plan: grade_of(predictions(delayer.apply(chain, plan), validation), reference, seed=SEED).value)


def opened(folder: Path, small: torch.nn.Module, example: dict, texts: list[str], expected: torch.Tensor) -> dict:
    """What the libraries that open a saved folder find in it."""
    import sentence_transformers
    import transformers

    encoder = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    vectors = torch.tensor(encoder.encode(texts)).double()
    cosines = torch.nn.functional.cosine_similarity(vectors, expected)
    mean, interval = mean_of(cosines, torch.arange(len(cosines)), SEED)
    pairs = torch.triu_indices(len(texts), len(texts), 1)
    similarities = [
        (torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(x, dim=1).T)[pairs[0], pairs[1]].tolist()
        for x in (vectors, expected)
    ]
    again = transformers.AutoModel.from_pretrained(folder).eval()
    with evaluating(small):
        ours = output_of(call(small, example))
    with evaluating(again):
        gap = float((output_of(call(again, example)) - ours).abs().max())
    return {
        "cosine": mean,
        "interval": interval,
        "pair_rank_correlation": rank_correlation(*similarities),
        "furthest_norm_from_1": float((vectors.norm(dim=1) - 1).abs().max()),
        "max_seq_length": encoder.max_seq_length,
        "AutoModel_layers": again.config.num_hidden_layers,
        "AutoModel_max_difference": gap,
    }


if __name__ == "__main__":
    main()
