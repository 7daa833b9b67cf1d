"""All site metrics at once: the record, the ranking, the stage, the command and its pictures."""

import json
import sys

import pytest
import torch
from planted import BY_NAME
from torch import nn

from delayer import cli
from delayer.activations.counting import observe_sites
from delayer.activations.sites import sites_
from delayer.metrics.activations import site_metrics
from delayer.network.chain import Chain, Family
from delayer.report.sites import sites_figures, sites_table
from delayer.search.scoring_sites import rank_sites, score_sites
from delayer.study import SiteInfo, Sites, Study
from delayer.tasks.splits import Batch

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))


def planted() -> Chain:
    """Three activations: one always on, one behind a norm whose channels are decided, one that switches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU())
    with torch.no_grad():
        model[0].bias.fill_(50)
        model[3].running_mean.copy_(model[2](model[0](X)).mean(0))
        model[3].bias.copy_(torch.tensor([20.0, -20, 20, -20, 1]))
        model[5].bias.copy_(-model[5](torch.relu(model[3].eval()(model[2](model[0](X))))).mean(0))
    return Chain(model.eval(), Family("own", (), "", 1, "mean"), ())


def batches() -> list[Batch]:
    return [Batch(x, None, 8 * k) for k, x in enumerate(X.split(8))]


def scored(batches_=None, **more) -> Sites:
    chain = planted()
    return score_sites(chain, sites_(chain, X[:4]), batches_, data="own", **more)


def test_every_metric_speaks_of_every_activation():
    chain = planted()
    sites = sites_(chain, X[:4])
    found = score_sites(chain, sites, batches(), data="own", batch_size=8)
    assert [m.name for m in found.metrics] == list(site_metrics) and found.num_samples == 20 and found.batch_size == 8
    stats = observe_sites(chain, sites, batches(), batch_size=8)
    for site in found.sites:
        for name, metric in site_metrics.items():
            if metric.reads == "switches":
                assert site.values[name] == metric.value(stats[site.path])
        assert sum(site.states.values()) == pytest.approx(1)
    first, second, third = found.sites
    assert first.states["on"] == 1 and first.values["easier"] == 0 and second.norm == "3" and third.norm is None
    assert second.values["tlc"] == pytest.approx(0.158655 / 5, rel=1e-4)  # Φ(−1) of one channel
    assert [row["path"] for row in found.ranking] == ["1", "4", "6"] and found.ranking[0]["mean_rank"] == 1
    assert "training mode" in found.notes[0]


def test_norm_parameters_alone_need_no_data_and_say_where_they_are_silent():
    found = scored()
    assert [m.name for m in found.metrics] == ["tlc"] and found.num_samples == 0
    assert [site.values["tlc"] for site in found.sites] == [None, pytest.approx(0.158655 / 5, rel=1e-4), None]
    assert found.ranking[0]["path"] == "4" and found.ranking[1]["mean_rank"] is None
    assert "2 of 3 activations have no batch norm directly before them" in found.notes[0] and "1, 6" in found.notes[0]


def test_equal_values_share_a_rank():
    def site(path, value):
        return SiteInfo(
            path=path, kind="relu", block=None, num_features=1, positions=1, norm=None, states={}, values={"m": value}
        )

    rows = rank_sites([site("a", 2.0), site("b", 1.0), site("c", 1.0)])
    assert [(row["path"], row["mean_rank"]) for row in rows] == [("b", 1), ("c", 1), ("a", 3)]


def test_the_record_and_its_pictures_hold_every_activation(tmp_path):
    found = scored(batches())
    Study(tmp_path).write("sites", found)
    again = Study(tmp_path).read("sites")
    assert again == found
    figures = sites_figures(again)
    assert list(figures) == [m.title for m in found.metrics]
    for metric in found.metrics:
        (bars,) = figures[metric.title]["data"]
        assert bars["y"] == pytest.approx([site.values[metric.name] for site in found.sites], rel=1e-5)
        assert "fed by 3" in bars["text"][1] and "fed by" not in bars["text"][0]
    table = sites_table(again)
    assert [row[1] for row in table.rows] == ["1", "4", "6"] and table.rows[0][4].heat == 1
    json.dumps([figures, table.note], allow_nan=False)


def test_the_command_prints_a_table_or_the_record(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    words = ["sites", "tiny:network", "--data", "digits", "--out", str(tmp_path / "study"), "--num-fit", "60", "--quiet"]

    def run(*more) -> str:
        monkeypatch.setattr(sys, "argv", ["delayer", *words, *more])
        cli.main()
        return capsys.readouterr().out

    said = run()
    assert "blocks.3.relu_1" in said and "least switching first" in said
    page = (tmp_path / "study" / "report.html").read_text()
    assert "How much each activation switches" in page and "blocks.3.relu_1" in page and "60 samples" in page
    record = Sites.model_validate_json(run("--json"))
    assert [site.block for site in record.sites] == list(range(6)) and record.num_samples == 60
    assert record == Study(tmp_path / "study").read("sites")
    again = json.loads(run("--json", "--data-free"))
    assert [m["name"] for m in again["metrics"]] == ["tlc"]


def test_scores_and_activations_come_from_one_pass(tmp_path, monkeypatch, capsys):
    """`score --sites` passes the fit split once, and says what the two commands say in a pass each."""
    pytest.importorskip("sklearn")
    from delayer.observing import one_pass

    passes, observe = [], one_pass.call
    monkeypatch.setattr(one_pass, "call", lambda model, inputs: passes.append(1) or observe(model, inputs))

    def run(command: str, study: str, *more: str) -> str:
        words = [command, "tiny:network", "--data", "digits", "--out", str(tmp_path / study), "--num-fit", "60", "--quiet"]
        monkeypatch.setattr(sys, "argv", ["delayer", *words, *more])
        cli.main()
        return capsys.readouterr().out

    run("score", "apart")
    alone = len(passes)
    run("sites", "apart")
    assert len(passes) == 2 * alone
    run("score", "shared", "--sites")
    assert len(passes) == 3 * alone
    shared, apart = Study(tmp_path / "shared"), Study(tmp_path / "apart")
    assert shared.read("sites") == apart.read("sites") and shared.read("scores").scores == apart.read("scores").scores
    run("sites", "shared")
    run("score", "shared", "--sites")
    assert len(passes) == 3 * alone, "both stand"
    run("score", "apart2")
    run("score", "apart2", "--sites")
    assert len(passes) == 5 * alone and Study(tmp_path / "apart2").read("sites") == apart.read("sites")


def test_a_network_without_activations_ends_with_one_sentence(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "delayer",
            "sites",
            "test_score_sites:linear",
            "--data",
            "digits",
            "--out",
            str(tmp_path / "study"),
            "--num-fit",
            "60",
            "--blocks",
            "[12]",
            "--quiet",
        ],
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "runs no activation that delayer knows" in capsys.readouterr().err


def linear() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10))
    model.preprocessing = {"mean": (0.5,), "std": (0.5,), "size": 8, "channels": 1}
    return model


@pytest.mark.parametrize("name", ["timm-resnet", "bert"])
def test_the_original_network_stays_as_it_was(name, tmp_path):
    """The stage watches a copy: forward passes of the network that is cut are not traced anew."""
    from delayer.stages.sites import sites_stage
    from delayer.stages.work import Work

    case = BY_NAME[name]
    chain = case.chain()
    inputs = case.inputs()
    kinds = [type(m) for m in chain.model.modules()]

    class Task:
        hash = "h"

        @staticmethod
        def batches(split):
            return [Batch(inputs, None, 0)]

    from delayer.progress import Reporter
    from delayer.tasks import TaskOptions

    work = Work(
        name=name,
        chain=chain,
        task=Task,
        study=Study(tmp_path),
        data=("own",),
        device=torch.device("cpu"),
        seed=0,
        reporter=Reporter(quiet=True),
        options={},
        task_options=TaskOptions(),
    )
    found = sites_stage(work)
    assert [type(m) for m in chain.model.modules()] == kinds and len(found.sites) >= 6
