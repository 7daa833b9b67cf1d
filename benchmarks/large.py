"""A decoder larger than the memory that its run takes: made at random, scored, two blocks cut, repaired, saved and reopened.

    python benchmarks/large.py [--config 0.3b --config 1.1b] [--plan 8b --plan 70b] [--folder DIR]

Prints a JSON line for what importing alone takes, one a run (a fresh process: peak memory, size of the weights, seconds,
versions, machine), what was estimated of it before, and what a larger one is estimated to take.
"""

import argparse
import json
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
TEXTS = Path(__file__).parents[1]


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--make", nargs=2)
    given = parser.parse_args()
    if given.make:
        make(given.make[0], Path(given.make[1]))


if __name__ == "__main__":
    main()
