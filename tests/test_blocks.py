"""Blocks of every manner of calling and answering: cutting one is exact, or refused with the reason before anything is judged.

Each row of the table is a small network whose block 2 is an exact identity. Either that block is dropped and nothing moves, and
another block's loss shows; or it has to stay, and the sentence says why.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from planted import answer, cut, gap, normal
from torch import Tensor, nn

from delayer.cutting import apply, plan_by_hand
from delayer.errors import ModelError, SpanError
from delayer.families import chain_from_facts, chain_of
from delayer.network.blocks import AGAIN
from delayer.network.calling import call, evaluating
from delayer.observing.one_pass import watching
from delayer.tasks.splits import Batch

WIDTH, NUM = 8, 5


class Base(nn.Module):
    """x + W₂ relu(W₁ x), of which the second is planted as an identity."""

    def __init__(self, index: int):
        super().__init__()
        self.index, self.inner, self.outer = index, nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)
        if index == 2:
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)

    def new(self, x: Tensor, by: Tensor | float = 0.0) -> Tensor:
        return x + 2 * self.outer(torch.relu(self.inner(x + by)))


@dataclass
class Row:
    """One manner: what a block computes, and what its parent does with all blocks."""

    name: str
    block: Callable[..., Any]
    parent: Callable[[list[Callable], Tensor], Any]
    stays: str = ""
    """What the reason says; "" where block 2 may go."""
    facts: dict[str, Any] | None = None
    """What is known of block 2."""

    def build(self) -> nn.Module:
        row = self

        class One(Base):
            def forward(self, *args, **kwargs):
                return row.block(self, *args, **kwargs)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = nn.ModuleList(One(k) for k in range(NUM))
                self.head = nn.Linear(WIDTH, 3)

            def forward(self, x):
                y = row.parent(self.blocks, x)
                return (self.head(y[0].mean(1)), *y[1:]) if isinstance(y, tuple) else self.head(y.mean(1))

        torch.manual_seed(0)
        return Net().eval()


@dataclass
class Thing:
    """A record of one's own."""

    x: Tensor
    mask: Tensor | None = None


class Pair(NamedTuple):
    x: Tensor
    mask: Tensor


def through(
    step: Callable[[Callable, Any], Any], begin: Callable[[Tensor], Any] = lambda x: x, end: Callable[[Any], Any] = lambda x: x
) -> Callable:
    """A parent that hands each block what the last one left."""

    def parent(blocks, x):
        state = begin(x)
        for block in blocks:
            state = step(block, state)
        return end(state)

    return parent


def with_aux(blocks, x):
    total = 0.0
    for block in blocks:
        x, aux = block(x)
        total = total + aux
    return x, total


def with_some_aux(blocks, x):
    """Reads what it can get, and says nothing where there is none."""
    found = []
    for block in blocks:
        x, aux = block(x)
        found += [] if aux is None else [aux]
    return x, sum(found)


def ignoring(blocks, x):
    for block in blocks:
        x, _ = block(x)
    return x


def relative(self, x, bias=None):
    """As T5: the first block computes what all later ones read."""
    bias = self.inner.bias.mean() + x.flip(1).mean(-1, keepdim=True) if self.index == 0 else bias
    return self.new(x, bias if bias is not None else 0.0), bias


def two_streams(blocks, x):
    c = x.cos()
    for block in blocks:
        x, c = block(x, c)
    return x + c


def in_place(self, x):
    x += self.new(x) - x
    return x


def lends(blocks, x):
    """Reads a part of its first block."""
    for block in blocks:
        x = block(x) * (blocks[0].inner.in_features / WIDTH)
    return x


def uses(blocks, x):
    for block in blocks:
        x = block(x)
    return x + blocks[2].inner(x)[..., :WIDTH]


def remembers(self, x, memory):
    """A state that the next block reads, which no answer tells of."""
    y = self.new(x, sum(memory))
    memory.append(x.mean() * (self.index + 1))
    return y


CONDITION = through(lambda block, s: (block(s[0], s[1]), s[1]), lambda x: (x, x.flip(1)), lambda s: s[0])
ROWS = [
    Row("tensor", Base.new, through(lambda block, x: block(x)), facts={"returns": 0, "takes": "0"}),
    Row("condition-second", lambda self, x, c: self.new(x, c), CONDITION, facts={"takes": "0"}),
    Row(
        "condition-first",
        lambda self, c, x: self.new(x, c),
        through(lambda block, s: (block(s[1], s[0]), s[1]), lambda x: (x, x.flip(1)), lambda s: s[0]),
        facts={"takes": "1"},
    ),
    Row(
        "by-other-names",
        lambda self, *, cond, state: self.new(state, cond),
        through(lambda block, s: (block(cond=s[1], state=s[0]), s[1]), lambda x: (x, x.flip(1)), lambda s: s[0]),
        facts={"takes": "state"},
    ),
    Row(
        "mask-first",
        lambda self, mask, x: self.new(x, mask),
        through(lambda block, s: (block(s[1], s[0]), s[1]), lambda x: (x, torch.ones(len(x), x.shape[1], 1)), lambda s: s[0]),
        facts={"takes": "1"},
    ),
    Row(
        "condition-first-and-work-between",
        lambda self, c, x: self.new(x, c),
        through(lambda block, s: (block(s[1], s[0] * 1.1), s[1]), lambda x: (x, x.flip(1)), lambda s: s[0]),
        facts={"takes": "1"},
    ),
    Row(
        "tuple-with-mask",
        lambda self, x, mask: (self.new(x, mask), mask),
        through(lambda block, s: block(*s), lambda x: (x, (x[..., :1] > -1).float() + 0.5), lambda s: s[0] * s[1]),
        facts={"returns": 2, "passes": ("", "1")},
    ),
    Row(
        "tuple-with-sizes",
        lambda self, x, height, width: (self.new(x), height, width),
        through(lambda block, s: block(*s), lambda x: (x, x.shape[1], x.shape[1]), lambda s: s[0] * s[1] / s[2]),
        facts={"passes": ("", "1", "2")},
    ),
    Row("tuple-with-none", lambda self, x: (self.new(x), None), ignoring, facts={"passes": ()}),
    Row(
        "tuple-again",
        lambda self, x: (lambda y: (y, y))(self.new(x)),
        through(lambda block, s: block(s[0] + s[1]), lambda x: (x, x), lambda s: s[1]),
        facts={"passes": ("", AGAIN)},
    ),
    Row("tuple-unread", lambda self, x: (self.new(x), self.inner(x)), ignoring, facts={"passes": ()}),
    Row("copied-coordinates", lambda self, x, c: (self.new(x, c), c.clone()), two_streams, facts={"passes": ("", "1")}),
    Row(
        "list",
        lambda self, x, m: [self.new(x), m],
        through(lambda b, s: b(*s), lambda x: [x, x.cos()], lambda s: s[0] + s[1]),
        facts={"form": "list"},
    ),
    Row(
        "dict",
        lambda self, x, m: {"mask": m, "x": self.new(x, m)},
        through(lambda b, s: b(s["x"], s["mask"]), lambda x: {"x": x, "mask": x.cos() + 2}, lambda s: s["x"] * s["mask"]),
        facts={"form": "dict", "names": ("mask", "x"), "hidden": 1, "passes": ("1", "")},
    ),
    Row(
        "dict-for-a-dict",
        lambda self, s: s | {"x": self.new(s["x"], s["mask"])},
        through(lambda b, s: b(s), lambda x: {"x": x, "mask": x.cos() + 2}, lambda s: s["x"] * s["mask"]),
        facts={"takes": "0.x", "passes": ("", "0.mask")},
    ),
    Row(
        "tuple-for-a-tuple",
        lambda self, s: (self.new(s[0], s[1]), s[1]),
        through(lambda b, s: b(s), lambda x: (x, x.cos()), lambda s: s[0] + s[1]),
        facts={"takes": "0.0", "passes": ("", "0.1")},
    ),
    Row(
        "record",
        lambda self, x, mask: Thing(self.new(x, mask), mask),
        through(lambda b, s: b(s.x, s.mask), lambda x: Thing(x, x.cos() + 2), lambda s: s.x * s.mask),
        facts={"form": "record"},
    ),
    Row(
        "named-tuple",
        lambda self, x, mask: Pair(self.new(x, mask), mask),
        through(lambda b, s: b(*s), lambda x: Pair(x, x.cos() + 2), lambda s: s.x * s.mask),
        facts={"form": "named tuple"},
    ),
    Row("in-place", in_place, through(lambda block, x: block(x), lambda x: x.clone())),
    Row("in-place-and-read-there", in_place, through(lambda block, x: (block(x), x)[1], lambda x: x.clone())),
    Row("random-numbers", lambda self, x: self.new(x, torch.randn(())), through(lambda block, x: block(x + torch.randn(())))),
    Row("parts-read", Base.new, lends),
    Row(
        "bias-of-the-first-block",
        relative,
        through(lambda b, s: b(*s), lambda x: (x, None), lambda s: s[0]),
        facts={"passes": ("", "1")},
    ),
    Row(
        "auxiliary-loss",
        lambda self, x: (self.new(x), x.square().mean()),
        with_aux,
        "reads output 1 of it, which it computes itself",
    ),
    Row(
        "auxiliary-loss-in-silence",
        lambda self, x: (self.new(x), x.square().mean()),
        with_some_aux,
        "reads output 1 of it, which it computes itself",
    ),
    Row("second-stream", lambda self, x, c: (self.new(x, c), c + x.tanh()), two_streams, "reads output 1 of it"),
    Row(
        "dict-with-more",
        lambda self, x: {"x": self.new(x), "gate": x.sigmoid()},
        through(lambda b, s: b(s["x"] * s["gate"]), lambda x: {"x": x, "gate": x}, lambda s: s["x"] * s["gate"]),
        "reads output gate of it",
    ),
    Row(
        "argument-changed-in-place",
        lambda self, x, c: (self.new(x, c), c.mul_(1.1)),
        through(lambda b, s: b(*s), lambda x: (x, x.cos()), lambda s: s[0] + s[1]),
        "reads output 1 of it",
    ),
    Row("parts-used", Base.new, uses, r"does not run without it \(TypeError: 'Shell' object is not callable"),
    Row(
        "memory",
        remembers,
        through(lambda b, s: (b(*s), s[1]), lambda x: (x, [x.mean()]), lambda s: s[0]),
        "something else of it is read",
    ),
]
MAY_GO = [row for row in ROWS if not row.stays]
HAVE_TO_STAY = [row for row in ROWS if row.stays]
X = normal(4, 6, WIDTH)()


def loose(model: nn.Module, x: Tensor = X) -> Tensor:
    torch.manual_seed(0)
    return answer(model, x.clone())


@pytest.mark.parametrize("row", MAY_GO, ids=lambda row: row.name)
def test_an_identity_is_dropped_exactly_and_another_blocks_loss_shows(row):
    model = row.build()
    chain, expected = chain_of(model, X.clone()), loose(model)
    assert chain.blocks[2].removable, chain.describe()
    for name, value in (row.facts or {}).items():
        assert getattr(chain.blocks[2], name) == value, (name, chain.blocks[2])
    if row.name != "random-numbers":  # whose later blocks would draw others
        assert gap(loose(cut(chain, ["2"])), expected) < 1e-5
        assert gap(loose(cut(chain, mapped=["2"])), expected) < 1e-5
        again = chain_from_facts(deepcopy(model), json.loads(json.dumps(chain.facts())))
        assert again.facts() == chain.facts() and again.blocks == chain.blocks
        assert gap(loose(cut(again, ["2"])), expected) < 1e-5
    assert gap(loose(cut(chain, ["3"])), expected) > 1e-3
    assert gap(loose(model), expected) == 0, "the original was touched"


@pytest.mark.parametrize("row", MAY_GO, ids=lambda row: row.name)
def test_the_hidden_state_is_what_is_watched(row):
    """The two ends of a planted identity are the same rows, in the network and in one where it was replaced by a map."""
    chain = chain_of(row.build(), X.clone())
    ends = chain.blocks[2].inlet, chain.blocks[2].outlet
    seen = {}
    with evaluating(chain.model), watching(chain, ends, lambda point, hidden: seen.update({point: hidden.clone()})):
        call(chain.model, X.clone())
    assert seen[ends[0]].shape == X.shape and seen[ends[0]].std() > 0.1 and torch.allclose(*(seen[end] for end in ends))
    small = apply(chain, plan_by_hand(chain, ["2"], operator="affine"), data=[Batch(X.clone(), None, 0)])
    if row.name != "random-numbers":
        assert gap(loose(small), loose(chain.model)) < 1e-4


@pytest.mark.parametrize("row", HAVE_TO_STAY, ids=lambda row: row.name)
def test_what_has_to_stay_is_refused_with_the_reason(row):
    chain = chain_of(row.build(), X.clone())
    with pytest.raises(SpanError, match=rf"Span 2:3 holds blocks\.2 \(One\), which has to stay: .*{row.stays}.*\. (Use|Choose)"):
        plan_by_hand(chain, ["2"], operator="drop")
    assert f"stays: {chain.blocks[2].stays}" in chain.describe() and "blocks.2" in chain.describe()
    assert f"stays: {next(block.stays for block in chain.blocks if block.stays)}" in repr(chain)


# -- libraries' networks ---------------------------------------------------------------------------------------------


def huggingface(kind: str, **arguments: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    model = cls(cls.config_class(**arguments)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.ndim > 1 else 1)
    return model


def zero_(module: nn.Module, *ends: str) -> None:
    for path, part in module.named_modules():
        if path.endswith(ends):
            for parameter in part.parameters():
                nn.init.zeros_(parameter)


IDS = torch.randint(5, 96, (2, 7), generator=torch.Generator().manual_seed(1))
BOTH = {"input_ids": IDS, "decoder_input_ids": IDS.flip(1)}
BART = {
    "vocab_size": 96,
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
}
T5 = {"vocab_size": 96, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_heads": 2, "decoder_start_token_id": 0}


def test_both_lists_of_an_encoder_decoder_are_found():
    chain = chain_of(huggingface("BartModel", **BART), BOTH)
    assert [block.path for block in chain.blocks] == [f"{part}.layers.{k}" for part in ("encoder", "decoder") for k in range(3)]
    assert [(s.start, s.stop) for s in chain.segments] == [(0, 3), (3, 6)]


def test_the_block_that_computes_t5s_position_bias_stays_and_others_hand_it_on():
    model = huggingface("T5Model", **T5)
    zero_(model.encoder.block[1], "SelfAttention.o", "wo")
    zero_(model.decoder.block[2], "SelfAttention.o", "EncDecAttention.o", "wo")
    chain = chain_of(model, BOTH)
    assert [block.removable for block in chain.blocks] == [False, True, True] * 2
    assert all("output 1" in chain.blocks[i].stays and "it computes itself" in chain.blocks[i].stays for i in (0, 3))
    expected = answer(model, BOTH)
    assert gap(answer(cut(chain, ["1", "5"]), BOTH), expected) < 1e-5
    assert gap(answer(cut(chain, ["2"]), BOTH), expected) > 1e-3


SMALL = {
    "vocab_size": 96,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 4, "mamba_chunk_size": 4}
CACHES = {
    "Mamba2ForCausalLM": {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    "RecurrentGemmaForCausalLM": {"num_key_value_heads": 1, "head_dim": 8, "lru_width": 16, "attention_window_size": 16},
    "FalconH1ForCausalLM": MAMBA | {"mamba_d_ssm": 32},
    "BambaForCausalLM": MAMBA | {"attn_layer_indices": [1]},
}


@pytest.mark.parametrize("name", CACHES)
def test_stand_ins_in_recurrent_and_hybrid_layers_keep_generation_with_a_cache(name):
    """Whichever layer is replaced, by nothing or by a map that is no identity: a cache changes no logits."""
    model = huggingface(name, **SMALL | CACHES[name])
    chain = chain_of(model, {"input_ids": IDS})
    assert [block.removable for block in chain.blocks] == [True] * 3, chain.describe()
    for block in "012":
        for operator in ("drop", "affine"):
            small = cut(chain, *([[block]] if operator == "drop" else [[], [block]]))
            for path, parameter in small.named_parameters():
                if ".map." in path:
                    parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            with_cache, without = (
                torch.stack(
                    small.generate(
                        input_ids=IDS,
                        max_new_tokens=4,
                        do_sample=False,
                        use_cache=use,
                        output_logits=True,
                        return_dict_in_generate=True,
                    ).logits
                )
                for use in (True, False)
            )
            assert gap(with_cache, without) < 1e-4 * without.abs().max(), (block, operator)


@pytest.mark.parametrize("with_mask", [False, True])
def test_the_first_layer_of_torchs_encoder_may_go(with_mask):
    """Its parent reads parts of the first layer, and with a mask their weights."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True), 4)

        def forward(self, x):
            mask = torch.arange(x.shape[1]).expand(x.shape[:2]) >= x.shape[1] - 2 if with_mask else None
            return self.encoder(x, src_key_padding_mask=mask)[:, :3]

    torch.manual_seed(0)
    model = Net().eval()
    chain = chain_of(model, X)
    assert [block.removable for block in chain.blocks] == [True] * 4, chain.describe()
    first = model.encoder.layers[0]
    expected = deepcopy(model)
    expected.encoder.layers[0].forward = lambda x, **more: x
    assert gap(answer(cut(chain, ["0"]), X), answer(expected, X)) < 1e-5 and first in model.modules()
    assert gap(answer(cut(chain, mapped=["0"]), X), answer(expected, X)) < 1e-5


class Pyramid(nn.Module):
    """A backbone, and heavier branches on its answer, as in DeepLabV3."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.stages = nn.ModuleDict({"one": nn.Sequential(Base(0), Base(1), Base(2)), "two": nn.Sequential(Base(3), Base(4))})
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, 300), nn.Linear(300, WIDTH)) for _ in range(4))
        for block in (*self.stages["one"], *self.stages["two"]):
            block.forward = block.new

    def forward(self, x):
        x = self.stages["two"](self.stages["one"](self.stem(x)))
        return sum(branch(x) for branch in self.branches)


def test_branches_of_a_pyramid_are_no_blocks():
    chain = chain_of(Pyramid(), X)
    assert [block.path[7:] for block in chain.blocks] == ["one.0", "one.1", "one.2", "two.0", "two.1"]


# -- what a file tells -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"returns": 10**6}, "has its hidden state at 0 of 1000000 items"),
        ({"hidden": 2}, "has its hidden state at 2 of 2 items"),
        ({"form": "pickle"}, "form"),
        ({"form": "dict"}, "answers with a dict of 2 items and has names for 0"),
        ({"form": "named tuple", "names": ["x", "import os"]}, "has items whose names cannot be"),
        ({"form": "dict", "names": ["x", "x"]}, "has items whose names cannot be"),
        ({"passes": ["", "1", "2"]}, "hands on more than it answers with"),
        ({"passes": ["", 1]}, "passes"),
        ({"takes": 0}, "takes"),
        ({"stays": "x" * 2000}, "a name that is too long"),
    ],
)
def test_facts_of_a_block_are_checked(change, message):
    row = next(row for row in ROWS if row.name == "tuple-with-mask")
    model = row.build()
    facts = json.loads(json.dumps(chain_of(model, X.clone()).facts()))
    facts["blocks"][2] |= change
    with pytest.raises(ModelError, match=f"delayer.json tells of is damaged: .*{message}"):
        chain_from_facts(model, facts)


def test_facts_of_older_files_are_read():
    """They know one kind of answer and the first argument."""
    row = next(row for row in ROWS if row.name == "tuple-with-none")
    model = row.build()
    chain = chain_of(model, X)
    facts = json.loads(json.dumps(chain.facts()))
    for block in facts["blocks"]:
        for name in ("form", "names", "hidden", "takes", "passes", "stays"):
            del block[name]
    assert gap(loose(cut(chain_from_facts(model, facts), ["2"])), loose(model)) < 1e-5


class HandsOnAMask(nn.Module):
    """[n, positions, 4] → the same, and the mask, as it came or one more."""

    def __init__(self, more: int):
        super().__init__()
        self.inner, self.more = nn.Linear(4, 4), more

    def forward(self, x, mask=None):
        return x + self.inner(x), None if mask is None else mask + self.more


@pytest.mark.parametrize("more", [0, 1])
def test_an_output_that_held_nothing_when_it_was_watched_is_not_made_up_later(more):
    """Without the mask a cut runs; with it, it says that it was never shown one. Watched with it, it is handed on, or stays."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(HandsOnAMask(more) for _ in range(4))
            nn.init.zeros_(self.blocks[2].inner.weight)
            nn.init.zeros_(self.blocks[2].inner.bias)

        def forward(self, x, mask=None):
            for block in self.blocks:
                x, mask = block(x, mask)
            return x.mean(1) if mask is None else (x * mask).mean(1)

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(3, 5, 4)
    masked = {"x": x, "mask": torch.ones(3, 5, 1)}
    chain = chain_of(net, {"x": x})
    small = apply(chain, plan_by_hand(chain, ["2"], operator="drop"))
    torch.testing.assert_close(small(x), net(x))
    with pytest.raises(ModelError, match="watched without argument 1 of its blocks"):
        small(**masked)
    again = chain_of(net, masked)
    if more:
        assert not again.blocks[2].removable and "output 1" in again.blocks[2].stays
    else:
        small = apply(again, plan_by_hand(again, ["2"], operator="drop"))
        torch.testing.assert_close(small(**masked), net(**masked))
