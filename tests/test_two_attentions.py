"""A decoder of twelve blocks with sliding and full attention: planted blocks go, and it writes the same beyond its window."""

import pytest
import torch

import delayer

transformers = pytest.importorskip("transformers")
WINDOW, PLANTED = 8, (4, 8)
KINDS = ["full_attention" if layer % 4 == 3 else "sliding_attention" for layer in range(12)]


def decoder(kind: str) -> torch.nn.Module:
    """Random, with two blocks that hand on what they read."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=67, hidden_size=32, intermediate_size=48, num_hidden_layers=12, num_attention_heads=4)
    more = dict(num_key_value_heads=2, head_dim=8, max_position_embeddings=128, sliding_window=WINDOW, layer_types=KINDS)
    if kind.startswith("Qwen"):
        more["use_sliding_window"] = True
    config = getattr(transformers, f"{kind}Config")(**sizes, **more, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config._attn_implementation = "eager"
    name = {"Gemma3Text": "Gemma3ForCausalLM"}.get(kind, f"{kind}ForCausalLM")
    model = getattr(transformers, name)(config).eval()
    for block in PLANTED:
        layer = model.model.layers[block]
        if kind == "Gemma3Text":  # its norms stand behind attention and MLP, with a gain of 1 + weight
            for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
                torch.nn.init.constant_(norm.weight, -1)
        else:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Qwen3", "Gemma3Text", "Qwen2"])
def test_planted_blocks_of_two_kinds_of_attention_go(kind, tmp_path):
    model = decoder(kind)
    ids = [torch.randint(3, 67, (4, 3 * WINDOW), generator=torch.Generator().manual_seed(k)) for k in range(3)]
    batches = [{"input_ids": x} for x in ids]
    task = delayer.task_of(batches[:1], batches[1:2], batches[2:], kind="causal-lm")
    chain = delayer.chain_of(model, batches[0])
    assert chain.num_blocks == 12
    plan = delayer.plan(chain, task, remove="blocks=2", effort=2)
    gone = sorted(b for edit in plan.edits for span in edit.removed for b in range(span.start, span.stop))
    assert gone == list(PLANTED)
    small = delayer.apply(chain, plan, data=task.batches("fit"))
    with torch.no_grad():
        gap = (small(**batches[2]).logits - model(**batches[2]).logits).abs().max()
    assert gap < 1e-4
    delayer.save(small, plan, chain, tmp_path / "small", example=batches[0])
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    assert opened.config.layer_types == [each for block, each in enumerate(KINDS) if block not in PLANTED]
    prompt = ids[2][:2, : WINDOW + 3]
    for network in (small, opened):
        for cache in (True, False):
            written = network.generate(prompt, max_new_tokens=2 * WINDOW, do_sample=False, use_cache=cache)
            assert torch.equal(written, model.generate(prompt, max_new_tokens=2 * WINDOW, do_sample=False, use_cache=True))


def test_what_is_cut_and_solved_anew_writes_alike_with_its_cache(tmp_path):
    """A span that ends at the last block, repaired: the cache of what is left is its own."""
    model = decoder("Qwen3")
    batches = [{"input_ids": torch.randint(3, 67, (4, 3 * WINDOW))} for _ in range(3)]
    task = delayer.task_of(batches[:1], batches[1:2], batches[2:], kind="causal-lm")
    chain = delayer.chain_of(model, batches[0])
    plan = delayer.plan(chain, task, spans=["10:12"], operator="drop", repair="resolve")
    small = delayer.apply(chain, plan, data=task.batches("fit"))
    assert delayer.num_params(small) < delayer.num_params(model)
    delayer.save(small, plan, chain, tmp_path / "small", example=batches[0])
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    prompt = batches[2]["input_ids"][:2, : WINDOW + 3]
    written = [
        network.generate(prompt, max_new_tokens=WINDOW, do_sample=False, use_cache=cache)
        for network in (small, opened)
        for cache in (True, False)
    ]
    assert all(torch.equal(each, written[0]) for each in written)


def test_ragged_padded_batches_equal_unpadded_ones():
    """Of the cut and repaired network, wherever a row is no padding."""
    model = decoder("Qwen3")
    batches = [{"input_ids": torch.randint(3, 67, (4, 3 * WINDOW))} for _ in range(2)]
    task = delayer.task_of(batches[:1], batches[1:], kind="causal-lm")
    chain = delayer.chain_of(model, batches[0])
    plan = delayer.plan(chain, task, spans=["4:5", "10:12"], operator="drop", repair="resolve")
    small = delayer.apply(chain, plan, data=task.batches("fit"))
    row = batches[0]["input_ids"][:1, : 2 * WINDOW]
    padded = torch.cat([row, torch.zeros_like(row)], 1)
    mask = torch.cat([torch.ones_like(row), torch.zeros_like(row)], 1)
    with torch.no_grad():
        alone = small(input_ids=row).logits
        beside = small(input_ids=padded, attention_mask=mask).logits[:, : row.shape[1]]
    assert torch.allclose(alone, beside, atol=1e-4)
