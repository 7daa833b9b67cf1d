"""Options that plug-ins declare: given by name, checked once, refused where nobody takes them."""

import pytest
import torch
from pydantic import Field

from delayer.errors import PlugInError
from delayer.metrics.blocks import Layout, metric
from delayer.metrics.blocks.block_redundancy import geometry
from delayer.metrics.blocks.msrs import MsrsOptions
from delayer.registry.options import OptionsOf, own_options
from delayer.search.scoring import METRIC_OPTIONS, ScoreOptions, stats_for
from delayer.shrinking.options import SCHEDULE_OPTIONS
from delayer.study import Record


def test_each_kind_declares_what_its_plug_ins_take():
    assert METRIC_OPTIONS.declared()["tau"][1] == ["msrs"]
    assert {name: takers for name, (_, takers) in SCHEDULE_OPTIONS.declared().items()} == {
        "variant": ["easier"],
        "zeta": ["nepenthe"],
        "data_free": ["tlc"],
    }
    assert "tail" not in OptionsOf("delayer.fitting.operators", "operators").declared()  # the network decides it


def test_an_option_that_nobody_takes_is_refused_with_those_that_there_are():
    METRIC_OPTIONS.check({"tau": 0.5})
    with pytest.raises(PlugInError, match="sharpness .sharpness=3 was given. is no option; known are .*beta"):
        METRIC_OPTIONS.check({"sharpness": 3})
    with pytest.raises(PlugInError, match="zeta .zeta=0.5 was given. is no option of easier; it is one of nepenthe"):
        SCHEDULE_OPTIONS.check({"zeta": 0.5}, ["easier"])
    with pytest.raises(PlugInError, match="tau=2 does not do: input should be less than 1"):
        own_options(MsrsOptions, {"tau": 2, "zeta": 1})


def test_an_own_metric_gets_its_options_and_only_valid_ones(monkeypatch):
    from delayer.metrics.blocks import metrics

    monkeypatch.setattr(metrics, "_items", dict(metrics.items()))  # it is gone afterwards
    monkeypatch.setattr(metrics, "_origins", dict(metrics._origins))

    class Powers(Record):
        power: float = Field(default=1.0, gt=0)

    @metric(title="Power", shape="blocks", redundant="low", unit="", source="a test", stat=geometry, fewest=1, options=Powers)
    def own_power(stat, *, layout: Layout, power: float):
        return torch.full((3,), 2.0) ** power

    layout = Layout(num_points=4, groups=(), rows=None)
    assert metrics["own_power"].read(None, layout, {"power": 3.0, "tau": 0.1}).tolist() == [8.0] * 3
    assert metrics["own_power"].read(None, layout).tolist() == [2.0] * 3
    with pytest.raises(PlugInError, match="power=-1 does not do"):
        metrics["own_power"].read(None, layout, {"power": -1})
    assert METRIC_OPTIONS.declared()["power"][1] == ["own_power"] and "power" not in METRIC_OPTIONS.declared(outside=False)


def test_options_are_checked_before_any_pass():
    with pytest.raises(PlugInError, match="is no option"):
        stats_for(None, None, ScoreOptions(metric_options={"nonsense": 1}))
