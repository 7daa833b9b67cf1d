"""The comparison of language models: its grades by hand, and a run that goes on where it stood."""

import json
import sys
from pathlib import Path

import pytest
import torch
from planted import answer
from test_depth_methods import llama, texts
from torch.nn import functional as F


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    folder = Path(__file__).parent.parent / "benchmarks"
    monkeypatch.setattr(sys, "path", [str(folder / "head_to_head"), str(folder), *sys.path])


def windows() -> list[dict[str, torch.Tensor]]:
    """Three batches of unpadded windows."""
    return [{"input_ids": batch["input_ids"].clamp_min(1)} for batch in (*texts(), texts()[0])]


@pytest.mark.parametrize("keeps", [True, False])
def test_grades_are_what_loops_over_tokens_find(keeps, monkeypatch):
    import measuring

    monkeypatch.setattr(measuring, "MOST_KEPT", 1 << 30 if keeps else 0)
    model, small = llama(), llama()
    with torch.no_grad():
        small.model.layers[2].mlp.down_proj.weight.zero_()
    original = measuring.Original(model, windows(), half=False)
    assert original.keeps == keeps
    losses, divergences, same = [], [], []
    for batch in windows():
        for k, ids in enumerate(batch["input_ids"]):
            p, q = (answer(one, batch)[k].double().softmax(-1) for one in (model, small))
            for t in range(len(ids) - 1):
                losses.append(float(-q[t, ids[t + 1]].log()))
                divergences.append(float((p[t] * (p[t] / q[t]).log()).sum()))
                same.append(float(p[t].argmax() == q[t].argmax()))
    for _ in range(2):  # the second time from what is kept
        found = measuring.graded(small, original, windows())
        assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert found.kl == pytest.approx(sum(divergences) / len(divergences), rel=1e-4)
        assert found.agreement == pytest.approx(sum(same) / len(same)) and found.num_tokens == len(losses)
    itself = measuring.graded(model, original, windows())
    assert itself.kl == pytest.approx(0, abs=1e-6) and itself.agreement == 1
    loss = F.cross_entropy(
        torch.cat([answer(model, b)[:, :-1].flatten(0, 1) for b in windows()]),
        torch.cat([b["input_ids"][:, 1:].flatten() for b in windows()]),
    )
    assert itself.loss == pytest.approx(float(loss), rel=1e-5)


def test_the_peak_is_what_was_held_inside():
    import measuring

    with measuring.peak_memory() as found:
        torch.ones(64 << 20, dtype=torch.uint8)
    assert 60 <= found["peak_mib"] - found["begin_mib"] < 200 or "whole_process" in found


@pytest.mark.data
@pytest.mark.slow
def test_a_run_goes_on_where_it_stood(data_root, tmp_path, capsys, monkeypatch):
    import language

    words = [
        str(data_root / "weights/stories260k"),
        *("--fit", str(data_root / "text/tinystories_calibration.json"), "--test", str(data_root / "text/tinystories_test.json")),
        *(
            "--out",
            str(tmp_path / "rows.jsonl"),
            "--blocks",
            "1",
            "--fit-tokens",
            "1024",
            "--test-tokens",
            "1024",
            "--window",
            "128",
        ),
    ]
    language.main([*words, "--methods", "uidl", "linearpatch"])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["original", "uidl", "linearpatch"]
    assert rows[0]["perplexity"] < rows[1]["perplexity"] and rows[0]["kl"] == 0 and rows[1]["kl"] > 0
    assert [row.get("opens_with_transformers") for row in rows] == [None, True, False]
    assert [row.get("added_params") for row in rows] == [None, 0, 64**2]
    first = capsys.readouterr().out
    monkeypatch.setattr(language.delayer, "load", lambda *args, **more: pytest.fail("the network was opened again"))
    language.main([*words, "--methods", "uidl", "linearpatch"])
    assert capsys.readouterr().out.splitlines()[1:] == first.splitlines()[1:]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3
