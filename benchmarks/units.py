"""What hidden units of removed blocks are worth in the blocks that stay, as JSON lines.

    python benchmarks/units.py NETWORK --data DATA --blocks 3,14,17,21,25,26 [--fit-tokens 16384] [--compute bfloat16]

The named blocks go. Beside the bare cut stand the closed-form repairs, all fitted on the same data and graded on the same other
samples of validation: the blocks right before removed ones solved anew (`resolve_block`), all that the cut reaches, and all with
units of the removed ones (`adopt_units`). Nothing here reads test data, and nothing is chosen.
"""

import argparse
import json
import time

from provenance import provenance

import delayer
from delayer.cutting import fit_edits_
from delayer.edits.drop_span import DropSpan
from delayer.network.calling import example_of
from delayer.network.precision import multiply_in_
from delayer.search.repair import resolved
from delayer.tasks import TaskOptions, grade_of, predictions

SEED = 0
WAYS = {"seams": {"seams_only": True}, "all blocks": {}, "all blocks, units of removed ones": {"units": True}}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("network")
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--weights")
    arguments.add_argument("--blocks", required=True)
    arguments.add_argument("--fit-tokens", type=int, default=16384)
    arguments.add_argument("--validation-tokens", type=int, default=16384)
    arguments.add_argument("--samples", type=int, default=512, help="of what is no text, for fit and validation each")
    arguments.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    given = arguments.parse_args()

    model = delayer.load(given.network, weights=given.weights)
    options = TaskOptions(
        fit_tokens=given.fit_tokens,
        validation_tokens=given.validation_tokens,
        num_fit=given.samples,
        num_validation=given.samples,
        seed=SEED,
    )
    task = delayer.open_task(given.data, model, options)
    fit, validation = task.batches("fit"), task.batches("validation")
    chain = delayer.chain_of(model, example_of(fit[0].inputs))
    multiply_in_(model, given.compute)
    reference = predictions(model, validation)
    facts = {"network": given.network, "blocks": given.blocks, "fit_samples": fit.num_samples, "compute": given.compute}
    drops = tuple(DropSpan(start=block, stop=block + 1) for block in map(int, given.blocks.split(",")))

    def row(way: str, network, seconds: float) -> None:
        grade = grade_of(predictions(network, validation), reference, seed=SEED)
        found = {"way": way, grade.name: grade.value, "interval": grade.interval, "kl": grade.kl, "seconds_of_fitting": seconds}
        print(json.dumps(found | {"samples": grade.num_samples}), flush=True)

    print(json.dumps(facts | provenance(SEED, "transformers", "timm")), flush=True)
    row("original", model, 0.0)
    row("dropped", delayer.apply(chain, plan_of(chain, drops)), 0.0)
    for way, how in WAYS.items():
        began, small = time.perf_counter(), chain.copy()
        fit_edits_(small, resolved(chain, drops, fit[0], **how), fit, original=chain, seed=SEED)
        row(way, small.model, time.perf_counter() - began)


def plan_of(chain: delayer.Chain, edits: tuple) -> delayer.Plan:
    return delayer.Plan(model="", model_hash="", num_blocks=chain.num_blocks, edits=edits)


if __name__ == "__main__":
    main()
