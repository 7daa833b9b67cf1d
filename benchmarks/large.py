"""A decoder larger than the memory that its run takes: made at random, scored, two blocks cut, repaired, saved and reopened.

    python benchmarks/large.py [--config 0.3b --config 1.1b] [--plan 8b --plan 70b] [--folder DIR]

Prints a JSON line for what importing alone takes, one a run (a fresh process: peak memory, size of the weights, seconds,
versions, machine), what was estimated of it before, and what a larger one is estimated to take.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

CONFIGS = {
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2),
    "0.3b": dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=22, num_attention_heads=16, num_key_value_heads=4),
    "1.1b": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4),
    "8b": dict(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
    ),
    "70b": dict(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    ),
}
"""Shapes of TinyLlama 1.1 B, one of its depth and a quarter of its size, and of Llama 3 8 B and 70 B."""
SHARD_BYTES = 500_000_000
WINDOW = 128
TEXTS = Path(__file__).parents[1]


def peak() -> int:
    """The most memory that this process held at a time, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def configuration(name: str):
    from transformers import LlamaConfig

    ends = dict(bos_token_id=None, eos_token_id=None, pad_token_id=0)
    return LlamaConfig(**(dict(vocab_size=32000, max_position_embeddings=2048, dtype="bfloat16") | CONFIGS[name] | ends))


def make(name: str, folder: Path, seed: int = 0) -> None:
    """A random decoder in bfloat16, its shards, and a tokenizer trained on this repository's own pages."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    config = configuration(name)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in LlamaForCausalLM(config).state_dict().items()}
    shards: list[list[str]] = [[]]
    room = SHARD_BYTES
    for key, shape in shapes.items():
        if shards[-1] and 2 * shape.numel() > room:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(key)
        room -= 2 * shape.numel()
    generator, weight_map = torch.Generator().manual_seed(seed), {}
    for number, keys in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        tensors = {key: _values(key, shapes[key], generator) for key in keys}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(keys, file)
    size = sum(2 * shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    _tokenizer(config.vocab_size).save_pretrained(folder)


def _values(key: str, shape, generator):
    import torch

    if key.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.randn(shape, generator=generator).mul_(0.02).to(torch.bfloat16)


def _tokenizer(vocab_size: int):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    found = Tokenizer(models.BPE())
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    pages = [path.read_text() for path in sorted(TEXTS.glob("docs/*.md"))]
    letters = pre_tokenizers.ByteLevel.alphabet()
    found.train_from_iterator(
        pages,
        trainers.BpeTrainer(
            vocab_size=min(vocab_size, 4000), special_tokens=["<pad>"], initial_alphabet=letters, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=found, pad_token="<pad>")


def job(folder: Path, study: Path, tokens: int, by_block: str) -> None:
    """One run in this process: a JSON line a stage, with what the process held at most until then."""
    began = time.perf_counter()

    def done(stage: str, **more: object) -> None:
        print(
            json.dumps({"stage": stage, "seconds": round(time.perf_counter() - began, 1), "peak_mib": peak(), **more}), flush=True
        )

    import transformers  # noqa: F401  counted as what importing takes

    import delayer
    from delayer import stages
    from delayer.network.precision import precision_of
    from delayer.store import read_artefact
    from delayer.tasks import evaluate

    done("import")
    text = study.parent / "text.txt"
    text.write_text("\n".join(path.read_text() for path in sorted(TEXTS.glob("docs/*.md"))))
    sizes = delayer.TaskOptions(
        fit_tokens=tokens, validation_tokens=tokens // 2, test_tokens=tokens // 2, max_length=WINDOW, batch_size=8
    )
    work = stages.open_work(
        str(folder), [f"text:{text}"], out=study, load_options=delayer.LoadOptions(by_block=by_block), task_options=sizes
    )
    done("open", blocks=work.chain.num_blocks, precision=precision_of(work.model), notes=[n for n in work.notes if "GiB" in n])
    with work.study.lock():
        stages.write_study(work)
        done("hash")
        scores = stages.score_stage(work)
        done("score", least_needed=scores.ranking[:1])
        third = work.chain.num_blocks // 3
        spans = (f"{third}:{third + 1}", f"{2 * third}:{2 * third + 1}")
        asked = stages.PlanOptions(span=spans, operator="drop", repair="resolve", try_onnx=False)
        plan = stages.plan_stage(work, asked)
        done("repair", edits=[edit.label for edit in plan.edits][:6])
        small = stages.cut_stage(work, plan)
        done("save", files=len(list((study / "model").glob("*.safetensors"))))
    ordinary = read_artefact(study / "model").ordinary
    again = work.open(study / "model")
    kept = {}
    for name, model in (("cut", small), ("reopened", again)):
        kept[name] = evaluate(model, work.task, "validation", reference=work.reference, device=work.device)
    same = {name: (round(one.value, 4), round(one.kl or 0.0, 6)) for name, one in kept.items()}
    done("reopen", ordinary=ordinary, grades=same)


def estimated(name: str, tokens: int):
    """What `delayer.search.footprint` says of a configuration, from shapes alone."""
    import torch
    from transformers import LlamaForCausalLM

    from delayer.search.footprint import footprint

    with torch.device("meta"):
        model = LlamaForCausalLM(configuration(name)).to(torch.bfloat16)
    return footprint(model, list(model.model.layers), fit_tokens=tokens, validation_tokens=tokens // 2)


def plan_line(name: str, tokens: int, base: int, rates: dict[str, float] | None = None) -> dict[str, object]:
    """The estimate as a line of JSON. base: MiB that opening a small network takes. rates: multiply-adds a second."""
    found = estimated(name, tokens)
    line: dict[str, object] = {
        "estimate": name,
        "tokens": tokens,
        "weights_mib": found.weights >> 20,
        "block_mib": found.block >> 20,
    }
    line |= {f"{stage}_mib": getattr(found, stage) >> 20 for stage in ("resting", "opening", "scoring", "grading", "repair")}
    line |= {"peak_mib": base + (found.most >> 20), "reads": found.reads, "products": found.products, "fits": found.fits}
    return line | ({"seconds": round(found.seconds(**rates))} if rates else {})


def speeds() -> dict[str, float]:
    """Multiply-adds a second of this machine, in bfloat16 and in float64."""
    import torch

    found = {}
    for name, dtype in (("products", torch.bfloat16), ("fits", torch.float64)):
        x = torch.ones(1536, 1536, dtype=dtype)
        torch.mm(x, x)
        began = time.perf_counter()
        for _ in range(3):
            torch.mm(x, x)
        found[name] = 3 * 1536**3 / (time.perf_counter() - began)
    return found


def whole(given: argparse.Namespace) -> None:
    """Estimates and runs side by side."""
    import torch
    import transformers

    import delayer

    versions = {"delayer": delayer.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    rates = speeds()
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "mult_adds_per_second": rates}
    print(json.dumps(machine | versions), flush=True)
    given.folder.mkdir(parents=True, exist_ok=True)
    base = 0
    for name in ["tiny", *(given.config or [])]:
        decoder, study = given.folder / name, given.folder / f"study-{name}"
        if not decoder.exists():
            subprocess.run([sys.executable, __file__, "--make", name, str(decoder)], check=True)
        command = [sys.executable, __file__, "--job", str(decoder), str(study), "--tokens", str(given.tokens)]
        run = subprocess.run([*command, "--by-block", given.by_block], check=True, capture_output=True, text=True)
        stages = [json.loads(line) for line in run.stdout.splitlines()]
        base = base or stages[-1]["peak_mib"]
        print(json.dumps({"run": name, "weights_mib": estimated(name, given.tokens).weights >> 20, "stages": stages}), flush=True)
        print(json.dumps(plan_line(name, given.tokens, base, rates)), flush=True)
    for name in given.plan or []:
        print(json.dumps(plan_line(name, given.tokens, base, rates)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", action="append", choices=CONFIGS, help="decoders to make and run")
    parser.add_argument("--plan", action="append", choices=CONFIGS, help="decoders to estimate alone")
    parser.add_argument("--folder", type=Path, default=Path("large"), help="where decoders and studies are put")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens to fit on; half of them to choose on")
    parser.add_argument("--by-block", default="yes")
    parser.add_argument("--make", nargs=2, metavar=("CONFIG", "DIR"), help="only make a decoder")
    parser.add_argument("--job", nargs=2, metavar=("DIR", "STUDY"), help="only run, in this process")
    given = parser.parse_args()
    if given.make:
        make(given.make[0], Path(given.make[1]))
    elif given.job:
        job(Path(given.job[0]), Path(given.job[1]), given.tokens, given.by_block)
    else:
        whole(given)


if __name__ == "__main__":
    main()
