"""Published depth pruning of decoders: each method against a slow literal twin on a small random Llama with padded texts."""

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from planted import BY_NAME, answer, enliven_
from torch import Tensor, nn
from torch.nn import functional as F

import delayer
from delayer.cutting import apply
from delayer.edits.drop_span import DropSpan
from delayer.edits.replace_span import ReplaceSpan
from delayer.errors import BudgetError
from delayer.fitting.operators.ghosted import Ghosted
from delayer.network.chain import Chain
from delayer.search.methods import methods
from delayer.search.methods._influence import token_influence
from delayer.tasks import Task, task_of

transformers = pytest.importorskip("transformers")

BLOCKS, WIDTH, WORDS = 6, 16, 40
LENGTHS = (12, 7, 10, 3, 12, 9, 11, 5)
NEW = ("ghosted", "shortgpt", "sleb", "uidl")


def llama(**more) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=BLOCKS,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=WORDS,
        max_position_embeddings=64,
        **more,
    )
    model = transformers.LlamaForCausalLM(config)
    enliven_(model)
    return model.eval()


def texts(*, junk: int = 0, fill: int = 0) -> list[dict[str, Tensor]]:
    """Two batches of padded token numbers; junk: so many more positions of padding. fill: what stands in padding."""
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(1, WORDS, (length,), generator=draw) for length in LENGTHS]
    batches = []
    for some in (rows[:4], rows[4:]):
        widest = max(map(len, some)) + junk
        ids = torch.full((len(some), widest), fill)
        mask = torch.zeros(len(some), widest, dtype=torch.long)
        for k, row in enumerate(some):
            ids[k, : len(row)], mask[k, : len(row)] = row, 1
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


def task(**more) -> Task:
    batches = texts(**more)
    return task_of(batches, batches[:1], kind="causal-lm")


def chain_of(model: nn.Module) -> Chain:
    return delayer.chain_of(model, texts()[0])


def states(model: nn.Module, *, inside: str = "") -> list[list[Tensor]]:
    """By hand: for each point, from before block 0 to behind the last, each sample's real tokens [tokens, width] in float64.

    inside: the answers of that module of each block instead.
    """
    layers = model.model.layers
    seen = [[] for _ in range(len(layers) + (not inside))]
    hooks = []
    for k, layer in enumerate(layers):
        module = layer.get_submodule(inside)
        if not inside and k == 0:
            hooks.append(layer.register_forward_pre_hook(lambda module, args: seen[0].append(args[0])))
        place = k if inside else k + 1
        hooks.append(module.register_forward_hook(lambda module, args, out, place=place: seen[place].append(out)))
    for batch in texts():
        answer(model, batch)
    for hook in hooks:
        hook.remove()
    masks = [batch["attention_mask"].bool() for batch in texts()]
    return [[x[k][mask[k]].double() for x, mask in zip(point, masks, strict=True) for k in range(len(x))] for point in seen]


def without(model: nn.Module, gone) -> nn.Module:
    """By hand: the network without some blocks."""
    small = deepcopy(model)
    small.model.layers = nn.ModuleList(layer for k, layer in enumerate(small.model.layers) if k not in gone)
    for k, layer in enumerate(small.model.layers):
        layer.self_attn.layer_idx = k
    return small


def gone_of(plan) -> list[int]:
    return sorted(block for edit in plan.edits for span in edit.removed for block in range(span.start, span.stop))


def influence(before: list[Tensor], after: list[Tensor]) -> float:
    return 1 - float(torch.cat([F.cosine_similarity(x, y, dim=1) for x, y in zip(before, after, strict=True)]).mean())


# -- choices -----------------------------------------------------------------------------------------------------------


def test_shortgpt_drops_the_blocks_of_least_influence_over_all_tokens():
    model = llama()
    seen = states(model)
    expected = [influence(*ends) for ends in pairwise(seen)]
    found = token_influence(chain_of(model), task().batches("fit"), range(BLOCKS))
    assert list(found.values()) == pytest.approx(expected, abs=1e-6)
    for num in (1, 3):
        plan = delayer.plan(chain_of(model), task(), remove=f"blocks={num}", method="shortgpt")
        assert gone_of(plan) == sorted(sorted(range(BLOCKS), key=expected.__getitem__)[:num])
        assert all(isinstance(edit, DropSpan) for edit in plan.edits)


@pytest.mark.parametrize("num", [1, 2, 3, BLOCKS])
def test_uidl_drops_the_span_across_which_the_last_real_token_turns_least(num):
    model = llama()
    last = [torch.stack([rows[-1] for rows in point]) for point in states(model)]

    def distance(start: int) -> float:
        return float(F.cosine_similarity(last[start], last[start + num], dim=1).clamp(-1, 1).arccos().mean() / torch.pi)

    start = min(range(BLOCKS - num + 1), key=distance)
    plan = delayer.plan(chain_of(model), task(), remove=f"blocks={num}", method="uidl")
    assert plan.edits == (DropSpan(start=start, stop=start + num),)


def test_sleb_tries_every_block_in_every_step():
    model = llama()
    gone: list[int] = []

    def loss(small: nn.Module) -> float:
        losses = []
        for batch in texts():
            logits, ids, mask = answer(small, batch).double(), batch["input_ids"], batch["attention_mask"]
            for k in range(len(ids)):
                length = int(mask[k].sum())
                losses.append(F.cross_entropy(logits[k, : length - 1], ids[k, 1:length], reduction="none"))
        return float(torch.cat(losses).mean())

    for _ in range(3):
        tried = {block: loss(without(model, {*gone, block})) for block in range(1, BLOCKS - 1) if block not in gone}
        gone.append(min(tried, key=tried.__getitem__))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    chain = chain_of(model)
    assert gone_of(delayer.plan(chain, task(), remove="blocks=3", method="sleb")) == sorted(gone)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [type(chain.module(k)).__name__ for k in range(BLOCKS)] == ["LlamaDecoderLayer"] * BLOCKS
    with pytest.raises(BudgetError, match="at most 4 blocks can go"):
        delayer.plan(chain, task(), remove="blocks=5", method="sleb")


# -- Ghosted Layers ----------------------------------------------------------------------------------------------------


def test_ghosted_layers_put_one_least_squares_map_for_each_removed_block():
    model = llama()
    seen = [torch.cat(point) for point in states(model)]
    expected = [influence([x], [y]) for x, y in pairwise(seen)]
    chosen = sorted(sorted(range(BLOCKS - 1), key=expected.__getitem__)[:3])
    chain = chain_of(model)
    plan = delayer.plan(chain, task(), remove="blocks=3", method="ghosted")
    assert plan.edits == tuple(ReplaceSpan(start=block, stop=block + 1, operator=Ghosted()) for block in chosen)
    assert any(two == one + 1 for one, two in pairwise(chosen))  # adjacent ones are among them
    small = apply(chain, plan, data=task().batches("fit"))
    for block in chosen:
        x, y = seen[block], seen[block + 1]
        added = torch.linalg.inv(x.T @ x + 1e-6 * torch.eye(WIDTH)) @ x.T @ (y - x)
        map = small.model.layers[block].map
        torch.testing.assert_close(map.weight.T.double(), torch.eye(WIDTH).double() + added, rtol=1e-3, atol=1e-4)
        assert map.bias is None
    with pytest.raises(BudgetError, match="Ghosted Layers removes a number of blocks"):
        delayer.plan(chain, task(), remove="params=20%", method="ghosted")


def test_a_span_by_hand_is_one_ghosted_map():
    model = llama()
    seen = [torch.cat(point) for point in states(model)]
    chain = chain_of(model)
    plan = delayer.plan(chain, task(), spans="2:4", method="ghosted")
    assert plan.edits == (ReplaceSpan(start=2, stop=4, operator=Ghosted()),)
    small = apply(chain, plan, data=task().batches("fit"))
    best = torch.linalg.lstsq(seen[2], seen[4]).solution
    torch.testing.assert_close(small.model.layers[2].map.weight.T.double(), best, rtol=1e-3, atol=1e-4)


# -- what holds for all of them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEW)
def test_padding_never_enters(name):
    """What stands in padding, and how much of it there is, changes neither the choice nor a weight."""
    found = []
    for given in (task(), task(junk=5, fill=7)):
        chain = chain_of(llama())
        plan = delayer.plan(chain, given, remove="blocks=2", method=name)
        found.append((plan.edits, apply(chain, plan, data=given.batches("fit")).state_dict()))
    (edits, plain), (others, junk) = found
    assert [edit.label for edit in edits] == [edit.label for edit in others]
    for key, tensor in plain.items():
        torch.testing.assert_close(junk[key], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NEW)
def test_it_finds_planted_identities_in_networks_of_other_families(name):
    """The planted blocks of a GPT-2, and of a ViT where no next token is needed, go without a trace."""
    for network, kind in (("gpt2", "causal-lm"), ("timm-vit", "image-classification")):
        case = BY_NAME[network]
        chain, x = case.chain(), case.inputs()
        asked = {"remove": f"blocks={2 if name == 'uidl' else 1}", "method": name}
        if name == "sleb" and kind != "causal-lm":
            with pytest.raises(
                BudgetError, match="SLEB chooses by the loss of the next token, and this is a task of image-class"
            ):
                delayer.plan(chain, task_of([x], [x], kind=kind), **asked)
            continue
        given = task_of([x], [x], kind=kind)
        plan = delayer.plan(chain, given, **asked)
        if name != "sleb":  # the loss of random tokens may fall without a block that does something
            assert set(gone_of(plan)) <= set(case.planted)
            small = apply(chain, plan, data=given.batches("fit"))
            torch.testing.assert_close(answer(small, x), answer(chain.model, x), rtol=1e-3, atol=1e-3)


def test_spans_that_are_not_there_are_said():
    chain = chain_of(llama())
    with pytest.raises(BudgetError, match="UIDL removes one contiguous span, and none of 7 blocks can go") as error:
        delayer.plan(chain, task(), remove="blocks=7", method="uidl")
    assert error.value.most == BLOCKS
    with pytest.raises(BudgetError, match="at most 6 blocks can go"):
        delayer.plan(chain, task(), remove="blocks=7", method="shortgpt")


def test_every_depth_method_is_here():
    assert set(methods) - {"rba", "redtest"} == set(NEW)
