"""Depth pruning of a decoder, method against method: the same network, tokens, windows and grades for each.

    python benchmarks/head_to_head/language.py MODEL --fit TEXT --test TEXT --out ROWS.jsonl [--blocks 3 6 9] [--methods ours …]

MODEL: whatever `delayer.load` takes, such as gguf:PATH. TEXT: a .txt or .json file. Windows of 512 tokens, the first of them the
tokenizer's beginning of a sentence; those to fit on are drawn by the seed, those to test on are the text from its start.
Every method gets all fit windows and no others; `ours` keeps a share of them to choose by, and is fitted on all of them in the
end. `ours_healed` goes on from there with one pass of distillation over the same windows (its plan is made once for both).
A row a method and size, printed and appended to the file as it comes; a run that was killed goes on where it stood. Losses are in
nats. Passes multiply in bfloat16 for every method alike, in choosing, fitting and grading; --float32 for all three.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import delayer
from delayer.errors import DelayerError
from delayer.network.chain import Chain
from delayer.network.precision import multiply_in_
from delayer.search.methods import methods
from delayer.tasks import TaskOptions, task_of
from delayer.tasks.tokenising import TextReader
from delayer.tuning import tune_
from delayer.tuning.healing import STEP_TOKENS, healing

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from measuring import Original, graded, opens_with_transformers, peak_memory  # noqa: E402
from provenance import provenance  # noqa: E402

OWN = ("ours", "ours_healed")
METHODS = ("shortgpt", "uidl", "sleb", "replaceme", "replaceme_cosine", "linearpatch", "prunecomp", "ghosted", *OWN)
OURS = {"repair": "resolve"}
"""Options of `delayer.plan` for ours, unless others are given."""
PLANS: dict[int, delayer.Plan] = {}
"""Ours, by the number of blocks."""
Batches = list[dict[str, Tensor]]


def windows_of(path: Path, reader: TextReader) -> list[list[int]]:
    """A text as consecutive pieces of token numbers, for windows of the reader's length."""
    content = path.read_text("utf-8")
    if path.suffix == ".json":
        content = "\n\n".join(entry if isinstance(entry, str) else entry["text"] for entry in json.loads(content))
    return [piece for piece in reader.pieces(content) if len(piece) > 1]


def batched(windows: list[list[int]], reader: TextReader, size: int) -> Batches:
    """Batches of windows of one length each, so that nothing is padded."""
    batches: Batches = []
    for window in windows:
        if batches and len(batches[-1]) < size and len(batches[-1][0]) == len(window):
            batches[-1].append(window)
        else:
            batches.append([window])
    return [reader(batch) for batch in batches]


def tokens_of(given: argparse.Namespace, model: nn.Module) -> tuple[Batches, Batches, list[list[int]], TextReader]:
    """The batches to fit on and to test on, and the windows to fit on. Raises SystemExit where the text is too short."""
    reader = TextReader(model, TaskOptions(max_length=given.window, tokenizer=given.tokenizer))
    length = given.window - len(reader.first)
    whole = [window for window in windows_of(given.fit, reader) if len(window) == length]
    num = max(1, given.fit_tokens // given.window)
    if len(whole) < num:
        sys.exit(f"{given.fit} holds {len(whole)} windows of {given.window} tokens, and {num} were asked for.")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(given.seed))[:num].tolist()
    fit, test = [whole[k] for k in order], windows_of(given.test, reader)
    test = test if given.test_tokens is None else test[: max(1, given.test_tokens // given.window)]
    return batched(fit, reader, given.batch_size), batched(test, reader, given.batch_size), fit, reader


def planned(method: str, num: int, chain: Chain, fit: Batches, windows, reader, given: argparse.Namespace) -> delayer.Plan:
    """What a method cuts; of the fit windows ours keeps the last share to choose by."""
    if method not in OWN:
        task = task_of(fit, fit[:1], kind="causal-lm")
        return delayer.plan(chain, task, remove=f"blocks={num}", method=method, seed=given.seed)
    if num not in PLANS:
        PLANS[num] = delayer.plan(chain, parted(windows, reader, given), remove=f"blocks={num}", seed=given.seed, **given.ours)
    return PLANS[num]


def parted(windows, reader, given: argparse.Namespace) -> delayer.Task:
    """The fit windows as a task, the last share of them to choose by."""
    kept = max(1, round(given.share * len(windows)))
    parts = (batched(part, reader, given.batch_size) for part in (windows[:-kept], windows[-kept:]))
    return task_of(*parts, kind="causal-lm")


def measured(method: str, num: int, chain: Chain, original: Original, data: tuple, given: argparse.Namespace) -> dict[str, Any]:
    """One row: what was cut, its grades, and what that took."""
    fit, test, windows, reader = data
    with peak_memory() as memory:
        begin = time.perf_counter()
        plan = planned(method, num, chain, fit, windows, reader, given)
        between = time.perf_counter()
        small = delayer.apply(chain, plan, data=task_of(fit, kind="causal-lm").batches("fit"))
        if method == "ours_healed":  # batches from Python stay as they are, so those of a step are made here
            steps = argparse.Namespace(**vars(given) | {"batch_size": max(1, STEP_TOKENS // given.window)})
            tune_(small, parted(windows, reader, steps), chain.model, healing(given.fit_tokens), seed=given.seed)
        end = time.perf_counter()
    score = graded(small, original, test)
    removed = sorted(block for edit in plan.edits for span in edit.removed for block in range(span.start, span.stop))
    own = sum(p.numel() for block in removed for p in chain.module(block).parameters())
    with tempfile.TemporaryDirectory() as folder:
        delayer.save(small, plan, chain, Path(folder) / "small", example={k: v[:2] for k, v in fit[0].items()})
        opens = opens_with_transformers(Path(folder) / "small", small, fit[0])
    return {
        **grades(score),
        "removed": removed,
        "edits": [edit.label for edit in plan.edits],
        "choose_s": between - begin,
        "fit_s": end - between,
        **memory,
        "params": delayer.num_params(small),
        "added_params": delayer.num_params(small) - delayer.num_params(chain.model) + own,
        "opens_with_transformers": opens,
    }


def grades(score) -> dict[str, Any]:
    return {
        "loss": score.loss,
        "perplexity": math.exp(min(score.loss, 700.0)),
        "kl": score.kl,
        "agreement": score.agreement,
        "test_tokens": score.num_tokens,
    }


def rows(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every row that was asked for, in order; those of the file are taken from there, all others are appended to it."""
    known = {}
    if given.out.exists():
        lines = [json.loads(line) for line in given.out.read_text().splitlines() if line.strip()]
        known = {json.dumps(row["asked"], sort_keys=True): row for row in lines if not row.get("failed")}
    opened: list[Any] = []

    def subject() -> list[Any]:
        """The network and what is measured with it, opened when the first row needs it."""
        if not opened:
            model = delayer.load(given.model).to(given.device)
            data = tokens_of(given, model)
            chain = delayer.chain_of(model, {k: v.to(given.device) for k, v in data[0][0].items()})
            multiply_in_(chain.model, "bfloat16" if given.half else "float32")
            opened.extend([chain, Original(chain.model, data[1], half=given.half), data])
        return opened

    for method, num in [("original", 0), *((method, num) for num in given.blocks for method in given.methods)]:
        asked = asked_of(method, num, given)
        if (row := known.get(json.dumps(asked, sort_keys=True))) is None:
            chain, original, data = subject()
            row = {"asked": asked, "method": method, "blocks": num}
            try:
                if method == "original":
                    row |= grades(graded(chain.model, original, data[1])) | {"params": delayer.num_params(chain.model)}
                else:
                    row |= measured(method, num, chain, original, data, given)
            except DelayerError as error:
                row["failed"] = f"{type(error).__name__}: {error}"
            row |= provenance(given.seed, "transformers")
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        yield row


def asked_of(method: str, num: int, given: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on, by which a run that goes on knows it again."""
    plain = ("model", "window", "fit_tokens", "test_tokens", "seed", "half", "batch_size", "device")
    own = {"ours": given.ours, "share": given.share} if method in OWN else {}
    texts = {"fit": given.fit.name, "test": given.test.name}
    return {"method": method, "blocks": num} | texts | {name: getattr(given, name) for name in plain} | own


def line_of(row: dict[str, Any]) -> str:
    """A row for people."""
    name = f"{row['method']:17}{row['blocks']:3}"
    if "failed" in row:
        return f"{name}  {row['failed']}"
    text = f"{name}{row['perplexity']:10.2f}{row['loss']:8.4f}{row['kl']:8.4f}{100 * row['agreement']:7.1f}"
    if row["method"] == "original":
        return text
    opens = "transformers" if row["opens_with_transformers"] else "delayer"
    return (
        f"{text}{row['choose_s']:10.1f}{row['fit_s']:8.1f}{row['peak_mib']:9.0f}{row['added_params']:12,}  {opens:13}"
        f"{' '.join(map(str, row['removed']))}"
    )


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--fit", type=Path, required=True, help="text whose windows methods read")
    parser.add_argument("--test", type=Path, required=True, help="text that all are graded on")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, to which rows are appended")
    parser.add_argument("--blocks", type=int, nargs="+", default=[3, 6, 9])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=[*methods, *OWN])
    parser.add_argument("--fit-tokens", type=int, default=16384)
    parser.add_argument("--test-tokens", type=int, help="by default the whole text")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--tokenizer", help="where the model does not bring one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--float32", dest="half", action="store_false", help="multiply in float32 everywhere")
    parser.add_argument("--share", type=float, default=0.25, help="of the fit windows, by which ours chooses")
    parser.add_argument("--ours", nargs="*", default=[], metavar="NAME=VALUE", help="options of delayer.plan for ours, in JSON")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    given.ours = OURS | {name: _plain(value) for name, _, value in (one.partition("=") for one in given.ours)}
    return given


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(words: list[str] | None = None) -> None:
    given = arguments(words)
    print("#", json.dumps(provenance(given.seed, "transformers")))
    print(
        f"# {given.model}, {given.fit_tokens:,} tokens to fit, test {given.test.name}"
        f"{f' ({given.test_tokens:,} tokens)' if given.test_tokens else ''}, windows of {given.window}, graded in "
        f"{'bfloat16' if given.half else 'float32'}; loss and KL in nats, agreement in percent"
    )
    print(
        f"{'':20}{'ppl':>10}{'loss':>8}{'KL':>8}{'agree':>7}{'choose s':>10}{'fit s':>8}{'peak MiB':>9}{'added':>12}  opens with"
    )
    for row in rows(given):
        print(line_of(row), flush=True)


if __name__ == "__main__":
    main()
