"""Passes that begin at a cut's first change are whole passes to the last bit; where they would not be, they are whole."""

import pytest
import torch
from planted import BY_NAME
from torch import nn

import delayer
from delayer.cutting import plan_by_hand
from delayer.fitting.evidence import Evidence
from delayer.observing.one_pass import observe
from delayer.observing.stats import Moments
from delayer.progress import Reporter
from delayer.search.replay import Replay
from delayer.search.subject import Subject
from delayer.tasks import predictions, task_of


def about(chain, batches) -> Subject:
    task = task_of(batches[:1], batches[1:], batches[:1], model=chain.model)
    return Subject(name="network", chain=chain, task=task, device=torch.device("cpu"), reporter=Reporter(quiet=True))


def subject_of(name: str) -> Subject:
    case = BY_NAME[name]
    inputs = case.inputs()
    pairs = inputs if isinstance(inputs, dict) else {"": inputs}
    more = [{k: v.roll(i, 0) if v.is_floating_point() else v.flip(0) for k, v in pairs.items()} for i in range(3)]
    return about(case.chain(), [one.get("", one) for one in more])


@pytest.mark.parametrize("name", ["timm-vit", "timm-swin", "hf-resnet", "llama", "own-stages", "timm-convnext"])
def test_a_pass_that_begins_late_has_the_same_bits(name, monkeypatch):
    subject = subject_of(name)
    spans = [span for span in subject.chain.spans() if len(span) == 1][-3:]
    moments = Moments([subject.chain.ends(span) for span in spans], exact=True)
    observe(subject.chain, subject.task.batches("fit"), [moments])
    assert len(subject.reference.sample) and subject.replay.sound
    for span in spans:
        for operator in ("drop", "affine"):
            cut = plan_by_hand(subject.chain, [str(span)], operator=operator).edits
            found = subject.judged(cut, Evidence(moments))
            with monkeypatch.context() as patch:
                patch.setattr(subject.replay, "_kept", {})
                whole = subject.judged(cut, Evidence(moments))
            assert torch.equal(found.values, whole.values) and torch.equal(found.top1, whole.top1)


def test_blocks_before_the_first_change_do_not_run_again():
    subject = subject_of("timm-vit")
    assert len(subject.reference.sample)
    runs: list[int] = []
    for index in range(subject.chain.num_blocks):
        subject.chain.module(index).mlp.register_forward_hook(lambda *_, index=index: runs.append(index))
    cut = plan_by_hand(subject.chain, ["4"], operator="drop").edits
    subject.judged(cut, Evidence())
    assert set(runs) == set(range(5, subject.chain.num_blocks))


def test_what_finds_no_room_is_run_from_the_last_block_that_did():
    subject = subject_of("timm-vit")
    subject.replay.largest = 3_000
    assert len(subject.reference.sample) and subject.replay.sound and subject.replay.stride > 1
    cut = plan_by_hand(subject.chain, ["4"], operator="drop").edits
    found = subject.judged(cut, Evidence())
    subject.replay._kept.clear()
    assert torch.equal(found.values, subject.judged(cut, Evidence()).values)


class Skips(nn.Module):
    """Reads what its first block gave once more at the end.

    noisy: draws random numbers instead. sly: reads past what blocks answer; late: finds there what the last pass left.
    """

    def __init__(self, way: str):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4))
        self.head, self.way, self.seen = nn.Linear(6, 3), way, []
        if way in ("sly", "late"):
            self.blocks[1][1].register_forward_hook(lambda module, args, output: self.seen.insert(0, output))

    def forward(self, x):
        if self.way != "late":
            self.seen.clear()
        x = first = self.blocks[0](x)
        for block in self.blocks[1:]:
            x = x + block(x)
        first = torch.randn_like(x) if self.way == "noisy" else self.seen[0] if self.seen else first
        return self.head(x + first)


@pytest.mark.parametrize("way, sound", [("plain", True), ("noisy", False), ("sly", False), ("late", False)])
def test_a_network_that_reads_past_its_blocks_answers_the_same(way, sound):
    torch.manual_seed(0)
    model = Skips(way).eval()
    batches = [torch.randn(4, 6) for _ in range(3)]
    subject = about(delayer.chain_of(model, batches[0], blocks=r"blocks\.\d+"), batches)
    assert len(subject.reference.sample) and subject.replay.sound is sound
    for start in (2, 3):
        again = predictions(model, subject.task.batches("validation"), around=lambda b, k=start: subject.replay.beginning(b, k))
        assert torch.equal(again.values, subject.reference.values)


def test_a_decoder_reads_what_its_encoder_gave(monkeypatch):
    """Blocks of the decoder begin late, and all of them read the end of the encoder, which is no answer of the block before."""
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=60, d_model=16, encoder_layers=3, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    ids = [torch.randint(4, 60, (4, 7), generator=torch.Generator().manual_seed(k)) for k in range(3)]
    batches = [{"input_ids": x, "decoder_input_ids": x.flip(1)} for x in ids]
    subject = about(delayer.chain_of(model, batches[0]), batches)
    assert len(subject.reference.sample) and subject.replay.sound
    subject.replay.stride = 1
    for block in range(subject.chain.num_blocks):
        cut = plan_by_hand(subject.chain, [str(block)], operator="drop").edits
        found = subject.judged(cut, Evidence())
        with monkeypatch.context() as patch:
            patch.setattr(subject.replay, "_kept", {})
            assert torch.equal(found.values, subject.judged(cut, Evidence()).values), block


def test_a_record_of_nothing_changes_nothing():
    subject = subject_of("timm-vit")
    empty = Replay(subject.chain, subject.task.batches("validation"))
    whole = predictions(subject.model, subject.task.batches("validation"))
    found = predictions(subject.model, subject.task.batches("validation"), around=lambda batch: empty.beginning(batch, 4))
    assert torch.equal(found.values, whole.values)
