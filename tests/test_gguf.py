"""GGUF files: a tiny one, made here, opens as the network that it holds; a hostile one is refused by its header."""

import struct
import subprocess
import sys

import pytest
import torch
from planted import answer, gap

from delayer.cutting import apply, plan_by_hand
from delayer.errors import DelayerWarning, ModelError, WeightsError
from delayer.families import chain_of
from delayer.libraries import gguf_place
from delayer.store import load, save
from delayer.store.gguf_header import read_gguf

WIDTH, HEADS, BLOCKS, WORDS = 32, 2, 3, 40
LETTERS = "\u2581abcdefghijklmnopqrstuvwxyz0123456789"
SIZES = {0: (1, 4), 1: (1, 2), 8: (32, 34)}
"""Numbers and bytes of a block of float32, float16 and Q8_0."""


def tiny(path, packed=False):
    """A Llama of three blocks in a GGUF file, written as llama.cpp does it, and its weights by that library's names."""
    gguf = pytest.importorskip("gguf")
    generator = torch.Generator().manual_seed(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(BLOCKS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>", *(letter.encode() for letter in LETTERS)])
    writer.add_token_scores([0.0] * WORDS)
    writer.add_token_types([2, 3, 3, *[1] * (WORDS - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd.weight": (WORDS, WIDTH), "output.weight": (WORDS, WIDTH), "output_norm.weight": (WIDTH,)}
    for k in range(BLOCKS):
        shapes |= {f"blk.{k}.{name}.weight": (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"blk.{k}.{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{k}.ffn_gate.weight": (64, WIDTH), f"blk.{k}.ffn_up.weight": (64, WIDTH)}
        shapes |= {f"blk.{k}.ffn_down.weight": (WIDTH, 64)}
    for name, shape in shapes.items():
        value = 0.2 * torch.randn(shape, generator=generator) + (len(shape) == 1)
        if name.startswith("blk.1.") and ("ffn_down" in name or "attn_output" in name):
            value = torch.zeros(shape)  # a planted identity
        if packed and len(shape) == 2:
            packed_value = gguf.quantize(value.numpy(), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed_value, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


IDS = torch.arange(3, 15).view(2, 6)


@pytest.mark.parametrize("packed", [False, True], ids=["float32", "q8_0"])
def test_a_gguf_file_is_opened_cut_saved_and_opened_again(packed, tmp_path):
    path = tiny(tmp_path / "tiny.gguf", packed)
    if packed:
        with pytest.warns(DelayerWarning, match="packed or half-precision weights, which are unpacked into float32.*--dtype"):
            model = load(f"gguf:{path}")
    else:
        model = load(f"gguf:{path}")
    assert type(model).__name__ == "LlamaForCausalLM" and model.config.num_hidden_layers == BLOCKS
    assert not hasattr(model.config, "quantization_config") and not getattr(model, "is_quantized", False)
    expected = answer(model, IDS)
    chain = chain_of(model, {"input_ids": IDS})
    assert chain.num_blocks == BLOCKS
    plan = plan_by_hand(chain, ["1"], operator="drop")
    small = apply(chain, plan)
    assert gap(answer(small, IDS), expected) < 1e-5
    artefact = save(small, plan, chain, tmp_path / "cut", example={"input_ids": IDS})
    assert artefact.ordinary and (tmp_path / "cut" / "tokenizer.json").is_file() and not artefact.notes
    again = load(str(tmp_path / "cut"))
    assert again.config.num_hidden_layers == 2 and gap(answer(again, IDS), expected) < 1e-5
    assert "quantization" not in (tmp_path / "cut" / "config.json").read_text()
    out = again.generate(IDS, max_new_tokens=3, do_sample=False, pad_token_id=2, eos_token_id=None)
    assert torch.equal(out, model.generate(IDS, max_new_tokens=3, do_sample=False, pad_token_id=2, eos_token_id=None))


def test_texts_are_read_by_the_files_own_tokenizer(tmp_path):
    from delayer.tasks import open_task

    model = load(f"gguf:{tiny(tmp_path / 'tiny.gguf')}")
    (tmp_path / "t.txt").write_text("a bad cab " * 200)
    task = open_task(f"text:{tmp_path / 't.txt'}", model)
    assert task.kind == "causal-lm" and task.batches("fit")[0].inputs["input_ids"][0, 0] == 1


def test_where_a_gguf_file_lies():
    assert gguf_place("gguf:a/b c.gguf") == ("a", {"gguf_file": "b c.gguf"})
    assert gguf_place("gguf:b.gguf") == (".", {"gguf_file": "b.gguf"}) and gguf_place("gguf:/b.gguf")[0] == "/"
    assert gguf_place("some/name") == ("some/name", {})


# -- what is refused -----------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def file_of(*, keys=b"", num_keys=0, tensors=b"", num_tensors=0, data=b"", version=3, magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, num_tensors, num_keys) + keys + tensors + data


def tensor(name, shape, kind=0, start=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, start)


ARRAY = text("tokens") + struct.pack("<IIQ", 9, 8, 2**40)
HOSTILE = {
    "no gguf": (file_of(magic=b"PK\3\4"), "does not begin with GGUF"),
    "empty": (b"", "does not begin with GGUF"),
    "cut short": (file_of()[:12], "bytes where"),
    "version": (file_of(version=9), "its version is 9, and 2 and 3 are known"),
    "tensors": (file_of(num_tensors=2**50), "1,125,899,906,842,624 tensors where 200,000 is the most"),
    "keys": (file_of(num_keys=2**40), "keys where 10,000 is the most"),
    "a long name": (file_of(num_keys=1, keys=struct.pack("<Q", 2**60)), "a name of 1,152,921,504,606,846,976 bytes"),
    "a long text": (file_of(num_keys=1, keys=text("a") + struct.pack("<IQ", 8, 2**60)), "bytes where 0 are left"),
    "a long array": (file_of(num_keys=1, keys=ARRAY), "1,099,511,627,776 items where 4,000,000"),
    "an array that is not there": (
        file_of(num_keys=1, keys=text("a") + struct.pack("<IIQ", 9, 4, 4_000_000)),
        "16,000,000 bytes where 0 are left",
    ),
    "an array of arrays": (file_of(num_keys=1, keys=text("a") + struct.pack("<IIQI", 9, 9, 1, 9)), "of the type 9"),
    "a type": (file_of(num_keys=1, keys=text("a") + struct.pack("<I", 77)), "of the type 77, which there is not"),
    "a tensor's size": (file_of(num_tensors=1, tensors=tensor("w", (2**30, 2**30)), data=b"x" * 64), "bytes where 64 are left"),
    "a tensor's type": (file_of(num_tensors=1, tensors=tensor("w", (2,), kind=55)), "w is of the type 55"),
    "a tensor's place": (
        file_of(num_tensors=1, tensors=tensor("w", (2,), start=2**62), data=b"x" * 64),
        "bytes where 64 are left",
    ),
    "dimensions": (file_of(num_tensors=1, tensors=text("w") + struct.pack("<I", 9)), "9 dimensions where 4"),
    "twice": (file_of(num_tensors=2, tensors=2 * tensor("w", (2,)), data=b"x" * 64), "holds w twice"),
    "one place for many": (
        file_of(num_tensors=50, tensors=b"".join(tensor(f"w{k}", (16,)) for k in range(50)), data=b"x" * 64),
        "3,200 bytes where 64 are left",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_by_its_header(case, tmp_path):
    content, message = HOSTILE[case]
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(WeightsError, match=f"x.gguf is damaged or no GGUF file: .*{message}.*Fetch it again"):
        read_gguf(tmp_path / "x.gguf", SIZES)


def test_a_file_that_is_not_there_or_holds_another_architecture(tmp_path):
    pytest.importorskip("gguf")
    with pytest.raises(WeightsError, match="There is no GGUF file .*none.gguf. Check the path"):
        load(f"gguf:{tmp_path / 'none.gguf'}")
    keys = text("general.architecture") + struct.pack("<I", 8) + text("nonsense")
    (tmp_path / "x.gguf").write_bytes(file_of(num_keys=1, keys=keys))
    with pytest.raises(ModelError, match="holds a network of the architecture 'nonsense', which transformers .* does not open"):
        load(f"gguf:{tmp_path / 'x.gguf'}")


def test_more_blocks_than_the_tensors_account_for_are_refused(tmp_path):
    path = tiny(tmp_path / "tiny.gguf")
    content = path.read_bytes()
    key = text("llama.block_count") + struct.pack("<I", 4)
    place = content.index(key) + len(key)
    for many in (9_000, 2**31):
        path.write_bytes(content[:place] + struct.pack("<I", many) + content[place + 4 :])
        with pytest.raises(ModelError, match="describes a network of more than|is the most that is believed"):
            load(f"gguf:{path}")


def test_other_names_and_arguments_are_put_right(tmp_path):
    (tmp_path / "x.gguf").write_bytes(file_of())
    with pytest.raises(WeightsError, match="x.gguf is a GGUF file, which is a whole network: open it by the name gguf:"):
        load("tests.tiny:network", weights=tmp_path / "x.gguf")
    with pytest.raises(ModelError, match="brings its weights and its configuration with it. Leave --weights"):
        load(f"gguf:{tmp_path / 'x.gguf'}", weights="w.safetensors")


def test_without_the_package_a_sentence_says_what_to_install(tmp_path):
    code = f"import sys; sys.modules['gguf'] = None; import delayer; delayer.load('gguf:{tmp_path}/x.gguf')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "This needs gguf, which is not installed: pip install 'delayer[gguf]'" in found.stderr
