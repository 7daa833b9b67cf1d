"""After the cut: a short fine-tune with the original as teacher, or a new linear head on frozen features."""

from delayer.tune.neighbourhood import counterparts, neighbourhood
from delayer.tune.readout import Readout, ReadoutOptions, linear_readout
from delayer.tune.tuning import TuneOptions, TuneReport, tune_

__all__ = ["Readout", "ReadoutOptions", "TuneOptions", "TuneReport", "counterparts", "linear_readout", "neighbourhood", "tune_"]
