"""Published depth pruning of decoders: each method against a slow literal twin on a small random Llama with padded texts."""

from copy import deepcopy
from itertools import pairwise

import pytest
import tiny
import torch
from planted import BY_NAME, answer, enliven_
from torch import Tensor, nn
from torch.nn import functional as F

import delayer
from delayer import apply
from delayer.edits.drop_span import DropSpan
from delayer.edits.fold_map import FoldMap
from delayer.edits.linear_patch import LinearPatch
from delayer.edits.replace_span import ReplaceSpan
from delayer.edits.rescale import Rescale
from delayer.errors import BudgetError, ModelError, PlanError, SpanError
from delayer.fitting.hadamard import hadamard
from delayer.fitting.operators.ghosted import Ghosted
from delayer.network.adding import writers_of
from delayer.network.chain import Chain
from delayer.observing.one_pass import watching
from delayer.search.methods import methods
from delayer.search.methods._influence import token_influence
from delayer.tasks import Task, task_of

transformers = pytest.importorskip("transformers")

BLOCKS, WIDTH, WORDS = 6, 16, 40
ADDED = (1.0, 1.51, 1.27, 1.71, 2.53, 4.01)
"""How much blocks add, so that their influences lie near each other and methods differ in what they choose."""
LENGTHS = (12, 7, 10, 3, 12, 9, 11, 5)
NEW = ("ghosted", "linearpatch", "prunecomp", "replaceme", "replaceme_cosine", "shortgpt", "sleb", "uidl")
ADDS_NOTHING = tuple(name for name in NEW if name not in ("ghosted", "linearpatch"))


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
    with torch.no_grad():
        for layer, factor in zip(model.model.layers, ADDED, strict=True):
            layer.self_attn.o_proj.weight *= factor
            layer.mlp.down_proj.weight *= factor
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


def test_sleb_takes_nan_for_infinitely_bad():
    for broken, found in ((1, [1]), (0, None)):
        model = llama()
        with torch.no_grad():
            model.model.layers[broken].self_attn.o_proj.weight.fill_(float("nan"))
        asked = {"remove": "blocks=1", "method": "sleb"}
        if found is None:  # block 0 stays, whatever goes
            with pytest.raises(ModelError, match="Without any of the blocks 1, 2, 3, 4 the network answers with NaN"):
                delayer.plan(chain_of(model), task(), **asked)
        else:
            assert gone_of(delayer.plan(chain_of(model), task(), **asked)) == found


def test_sleb_reads_what_a_decoder_writes():
    """An encoder-decoder is graded on the tokens that it writes, and chosen by them."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 4, "num_decoder_layers": 4, "vocab_size": WORDS}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0)).eval()
    enliven_(model)
    draw = torch.Generator().manual_seed(2)
    inputs = {"input_ids": torch.randint(1, WORDS, (3, 9), generator=draw)}
    inputs |= {"decoder_input_ids": torch.randint(1, WORDS, (3, 7), generator=draw)}
    chain = delayer.chain_of(model, inputs)
    plan = delayer.plan(chain, task_of([inputs], [inputs], kind="seq2seq"), remove="blocks=1", method="sleb")
    losses = {}
    for block in range(1, chain.num_blocks - 1):
        if chain.blocks[block].removable:
            small = apply(chain, delayer.plan_by_hand(chain, [str(block)], operator="drop"))
            logits = answer(small, inputs)[:, :-1]
            losses[block] = float(F.cross_entropy(logits.flatten(0, 1), inputs["decoder_input_ids"][:, 1:].flatten()))
    assert gone_of(plan) == [min(losses, key=losses.__getitem__)]


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


# -- ReplaceMe -----------------------------------------------------------------------------------------------------------


def folded_by_hand(model: nn.Module, start: int, stop: int, map: Tensor) -> nn.Module:
    """By hand: the span is gone, and the map stands in the layer before it."""
    small = without(model, range(start, stop))
    layer = small.model.layers[start - 1].mlp.down_proj
    layer.weight.data = (map.T @ layer.weight.double()).float()
    return small


def seam(model: nn.Module, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """By hand: what the MLP before a span says, and what it should."""
    seen, said = states(model), torch.cat(states(model, inside="mlp")[start - 1])
    return said, torch.cat(seen[stop]) - torch.cat(seen[start]) + said


def test_replaceme_folds_the_normal_equations_into_the_layer_before_its_span():
    model = llama()
    last = [torch.stack([rows[-1] for rows in point]) for point in states(model)]
    start = min(range(1, BLOCKS - 1), key=lambda k: float(F.cosine_similarity(last[k], last[k + 2], dim=1).arccos().mean()))
    chain = chain_of(model)
    plan = delayer.plan(chain, task(), remove="blocks=2", method="replaceme")
    assert set(plan.edits) == {DropSpan(start=start, stop=start + 2), FoldMap(block=start - 1, target=start + 1)}
    said, wanted = seam(model, start, start + 2)
    expected = folded_by_hand(model, start, start + 2, torch.linalg.inv(said.T @ said) @ said.T @ wanted)
    small = apply(chain, plan, data=task().batches("fit"))
    assert [name for name, _ in small.named_parameters()] == [name for name, _ in expected.named_parameters()]
    for batch in texts():
        torch.testing.assert_close(answer(small, batch), answer(expected, batch), rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        gap = said @ torch.linalg.lstsq(said, wanted).solution - wanted
    assert gap.square().sum() < (said - wanted).square().sum()  # nearer than dropping alone


def test_replaceme_by_cosine_is_ten_adam_steps_from_the_identity():
    """All rows fit into one step, so that an epoch is a step and their order changes nothing."""
    model = llama()
    chain = chain_of(model)
    plan = delayer.plan(chain, task(), spans="2:4", method="replaceme_cosine")
    assert set(plan.edits) == {DropSpan(start=2, stop=4), FoldMap(block=1, target=3, solver="cosine")}
    said, wanted = (x.float() for x in seam(model, 2, 4))
    map = torch.eye(WIDTH, requires_grad=True)
    adam = torch.optim.Adam([map], lr=1e-4)
    before = F.cosine_similarity(said, wanted, dim=1).mean()
    for _ in range(10):
        adam.zero_grad()
        (1 - F.cosine_similarity(said @ map, wanted, dim=1).mean()).backward()
        adam.step()
    assert F.cosine_similarity(said @ map, wanted, dim=1).mean() > before
    expected = folded_by_hand(model, 2, 4, map.detach().double())
    small = apply(chain, plan, data=task().batches("fit"))
    found = small.model.layers[1].mlp.down_proj.weight
    torch.testing.assert_close(found, expected.model.layers[1].mlp.down_proj.weight, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found, model.model.layers[1].mlp.down_proj.weight)


def test_replaceme_says_where_no_map_folds():
    chain = chain_of(llama())
    with pytest.raises(SpanError, match="ReplaceMe folds a map into the block before span 0:2, and there is none"):
        delayer.plan(chain, task(), spans="0:2", method="replaceme")
    with pytest.raises(SpanError, match="before span 3:4, and there is none that stays"):
        delayer.plan(chain, task(), spans=["1:3", "3:4"], method="replaceme")
    with pytest.raises(BudgetError, match="none of 6 blocks can go, but one of 5"):
        delayer.plan(chain, task(), remove="blocks=6", method="replaceme")
    case = BY_NAME["bert"]
    x = case.inputs()
    with pytest.raises(ModelError, match="no block of Bert.* ends in a sum with the answer of a Linear. Use --method ghosted"):
        delayer.plan(case.chain(), task_of([x], [x], kind="text-classification"), remove="blocks=1", method="replaceme")
    with pytest.raises(PlanError, match="fold_map 3 aims at block 3"):
        FoldMap(block=3, target=3).check(chain)


# -- LinearPatch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 12, 16, 20, 28, 36, 60, 192, 576, 768, 896, 960, 1536])
def test_a_hadamard_matrix_has_rows_at_right_angles_and_entries_of_one_size(width):
    found = hadamard(width)
    assert torch.allclose(found @ found.T, torch.eye(width).double(), atol=1e-12)
    assert torch.allclose(found.abs(), torch.full_like(found, width**-0.5), atol=1e-12)


def test_widths_without_a_hadamard_matrix_are_refused():
    assert [hadamard(width) for width in (3, 6, 10, 18, 52)] == [None] * 5
    model = tiny.network()
    model.blocks, model.stem, model.head = nn.ModuleList(tiny.Block(6) for _ in range(4)), nn.Linear(64, 6), nn.Linear(6, 10)
    given = task_of([torch.randn(8, 1, 8, 8)], [torch.randn(8, 1, 8, 8)], kind="image-classification")
    with pytest.raises(PlanError, match="none of width 6 is known here .* Use another method, such as ghosted"):
        delayer.plan(delayer.chain_of(model, torch.randn(2, 1, 8, 8)), given, remove="blocks=1", method="linearpatch")


def test_linearpatch_scales_turned_channels_to_their_sizes_behind_the_span():
    model = llama()
    seen = states(model)
    cosines = {
        k: float(torch.cat([F.cosine_similarity(x, y, dim=1) for x, y in zip(seen[k], seen[k + 2], strict=True)]).mean())
        for k in range(1, BLOCKS - 2)
    }
    start = max(cosines, key=cosines.__getitem__)
    turn = torch.tensor([[(-1.0) ** bin(i & j).count("1") / WIDTH**0.5 for j in range(WIDTH)] for i in range(WIDTH)]).double()
    ratios = [(y @ turn).abs().mean(0) / (x @ turn).abs().mean(0) for x, y in zip(seen[start], seen[start + 2], strict=True)]
    expected = turn @ torch.diag(torch.stack(ratios).mean(0)) @ turn.T
    chain = chain_of(model)
    plan = delayer.plan(chain, task(), remove="blocks=2", method="linearpatch")
    assert plan.edits == (LinearPatch(start=start, stop=start + 2),)
    small = apply(chain, plan, data=task().batches("fit"))
    map = small.model.layers[start].map
    torch.testing.assert_close(map.weight.double(), expected, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in small.model.layers[start].parameters()) == plan.edits[0].num_params(chain) == WIDTH**2
    assert len(small.model.layers) == BLOCKS - 1
    with pytest.raises(BudgetError, match="none of 5 blocks can go, but one of 4"):  # the first and the last stay
        delayer.plan(chain, task(), remove="blocks=5", method="linearpatch")


# -- Prune&Comp ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_prunecomp_removes_and_makes_up_step_by_step(tied):
    model = llama(tie_word_embeddings=tied)
    small, left, factors = deepcopy(model), list(range(BLOCKS)), {}
    for _ in range(3):
        seen = states(small)
        scores = [influence(*ends) for ends in pairwise(seen)]
        place = scores.index(min(scores))
        ratios = [y.abs().mean() / x.abs().mean() for x, y in zip(seen[place], seen[place + 1], strict=True)]
        factor = float(torch.stack(ratios).mean())
        factors[left.pop(place)] = factor
        with torch.no_grad():
            small.model.embed_tokens.weight *= factor
            for layer in small.model.layers[:place]:
                layer.self_attn.o_proj.weight *= factor
                layer.mlp.down_proj.weight *= factor
            if tied:
                small.model.norm.weight /= factor
        small = without(small, [place])
    assert (small.lm_head.weight is small.model.embed_tokens.weight) == tied
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    chain = chain_of(model)
    plan = delayer.plan(chain, task(), remove="blocks=3", method="prunecomp")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert gone_of(plan) == sorted(set(range(BLOCKS)) - set(left))
    assert gone_of(plan) != gone_of(delayer.plan(chain, task(), remove="blocks=3", method="shortgpt"))  # scored again
    assert {edit.before: edit.factor for edit in plan.edits if isinstance(edit, Rescale)} == pytest.approx(factors, rel=1e-4)
    found = apply(chain, plan)  # nothing is left to fit
    for batch in texts():
        torch.testing.assert_close(answer(found, batch), answer(small, batch), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("network", ["llama", "llama-tied", "gpt2"])
def test_a_rescaled_state_is_so_many_times_as_large_and_nothing_else_changes(network):
    """Scaled before the last block and beyond, all readers but the sum with that block's own answer normalise first."""
    case = BY_NAME[network]
    model, x = case.build(), case.inputs()
    chain = delayer.chain_of(model, x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = writers_of(chain, x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert bool(found.undo) == (network != "llama")
    copy = chain.copy()
    edit = Rescale(before=3, factor=5.0, begins=found.begins, adds=found.adds, undo=found.undo)
    edit.apply_(copy)
    seen = {}
    for name, one in (("plain", chain), ("scaled", copy)):
        with watching(one, [one.blocks[3].inlet, one.blocks[1].outlet], lambda k, h, name=name: seen.__setitem__((name, k), h)):
            answer(one.model, x)
    for point in (chain.blocks[3].inlet, chain.blocks[1].outlet):
        torch.testing.assert_close(seen["scaled", point], 5 * seen["plain", point], rtol=1e-2, atol=1e-2)
    with pytest.raises(PlanError, match="rescale aims before block 9"):
        edit.model_copy(update={"before": 9}).check(chain)
    with pytest.raises(PlanError, match="has no attribute .nothing.* in this network. Plan anew"):
        edit.model_copy(update={"adds": ("nothing",)}).check(chain)


@pytest.mark.parametrize("network, kind", [("bert", "text-classification"), ("timm-vit", "image-classification")])
def test_prunecomp_says_where_weights_cannot_change_the_state_alone(network, kind):
    case = BY_NAME[network]
    x = case.inputs()
    with pytest.raises(ModelError, match="Prune&Comp scales the hidden state by its weights. .* Use --method shortgpt"):
        delayer.plan(case.chain(), task_of([x], [x], kind=kind), remove="blocks=1", method="prunecomp")


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


ELSEWHERE = [
    (name, network, kind)
    for network, kind, not_there in (
        ("gpt2", "causal-lm", ("replaceme", "replaceme_cosine")),
        ("timm-vit", "image-classification", ("prunecomp",)),
        ("qwen3", "causal-lm", ()),
    )
    for name in NEW
    if name not in ("sleb", *not_there)
]


@pytest.mark.parametrize("name, network, kind", ELSEWHERE)
def test_planted_identities_go_without_a_trace_in_other_families(name, network, kind):
    """Of SLEB that is not true: the loss of random tokens may fall without a block that does something."""
    case = BY_NAME[network]
    chain, x = case.chain(), case.inputs()
    given = task_of([x, x], [x], kind=kind)
    plan = delayer.plan(chain, given, remove="blocks=1", method=name)
    assert set(gone_of(plan)) <= set(case.planted)
    small = apply(chain, plan, data=given.batches("fit"))
    torch.testing.assert_close(answer(small, x), answer(chain.model, x), rtol=1e-2, atol=1e-2)


def test_sleb_needs_next_tokens():
    case = BY_NAME["timm-vit"]
    chain, x = case.chain(), case.inputs()
    with pytest.raises(
        BudgetError, match="SLEB chooses by the loss of the next token, and this is a task of image-classification"
    ):
        delayer.plan(chain, task_of([x], [x], kind="image-classification"), remove="blocks=1", method="sleb")


QUICK = ("prunecomp", "replaceme")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in ADDS_NOTHING])
def test_what_adds_no_module_opens_with_plain_transformers(name, tmp_path):
    llama(tie_word_embeddings=True).save_pretrained(tmp_path / "original")
    model = delayer.load(str(tmp_path / "original"))
    chain, given = chain_of(model), task()
    plan = delayer.plan(chain, given, remove="blocks=2", method=name)
    small = apply(chain, plan, data=given.batches("fit"))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    artefact = delayer.save(small, plan, chain, tmp_path / "small", example=texts()[0])
    assert artefact.ordinary
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small").eval()
    assert again.config.num_hidden_layers == BLOCKS - 2
    for batch in texts():
        torch.testing.assert_close(answer(again, batch), answer(small, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("edits", [("linear_patch",), ("ghosted",), ("rescale", "ghosted")], ids="+".join)
def test_what_adds_a_module_comes_back_from_its_folder(edits, tmp_path):
    llama().save_pretrained(tmp_path / "original")
    model = delayer.load(str(tmp_path / "original"))
    chain, data = chain_of(model), task().batches("fit")
    made = {
        "linear_patch": LinearPatch(start=2, stop=4),
        "ghosted": ReplaceSpan(start=3, stop=4, operator=Ghosted()),
        "rescale": Rescale(before=2, factor=1.5, begins=("model.embed_tokens",), adds=("mlp.down_proj", "self_attn.o_proj")),
    }
    plan = delayer.plan_by_hand(chain, []).model_copy(update={"edits": tuple(made[name] for name in edits)})
    small = apply(chain, plan, data=data)
    artefact = delayer.save(small, plan, chain, tmp_path / "small", example=texts()[0])
    assert not artefact.ordinary
    again = delayer.load(str(tmp_path / "small"))
    torch.testing.assert_close(answer(again, texts()[1]), answer(small, texts()[1]), rtol=1e-6, atol=1e-6)


def test_spans_that_are_not_there_are_said():
    chain = chain_of(llama())
    with pytest.raises(BudgetError, match="UIDL removes one contiguous span, and none of 7 blocks can go") as error:
        delayer.plan(chain, task(), remove="blocks=7", method="uidl")
    assert error.value.most == BLOCKS
    with pytest.raises(BudgetError, match="at most 6 blocks can go"):
        delayer.plan(chain, task(), remove="blocks=7", method="shortgpt")


def test_every_depth_method_is_here():
    assert set(methods) - {"rba", "redtest"} == set(NEW)
