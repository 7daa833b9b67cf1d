"""After the cut: a short fine-tune with the original as teacher, or a new linear head on frozen features."""

from delayer.tuning.fine_tuning import TuneReport, tune, tune_
from delayer.tuning.neighbourhood import counterparts, neighbourhood
from delayer.tuning.options import TuneOptions
from delayer.tuning.readout import Readout, ReadoutOptions, linear_readout

__all__ = [
    "Readout",
    "ReadoutOptions",
    "TuneOptions",
    "TuneReport",
    "counterparts",
    "linear_readout",
    "neighbourhood",
    "tune",
    "tune_",
]
