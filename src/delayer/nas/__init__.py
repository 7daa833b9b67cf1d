"""Architecture search that knows redundancy: search spaces, strategies, real candidates and tables."""

from delayer.nas.cells import CellSpace
from delayer.nas.depth_width import DepthWidthSpace
from delayer.nas.front import pareto_front
from delayer.nas.options import NasTaskOptions, ProxyOptions, SearchOptions, SpaceOptions
from delayer.nas.search import search
from delayer.nas.strategies import StrategyOptions, strategies
from delayer.nas.tabular import TableOptions, replay
from delayer.nas.winner import load_winner, network

__all__ = [
    "CellSpace",
    "DepthWidthSpace",
    "NasTaskOptions",
    "ProxyOptions",
    "SearchOptions",
    "SpaceOptions",
    "StrategyOptions",
    "TableOptions",
    "load_winner",
    "network",
    "pareto_front",
    "replay",
    "search",
    "strategies",
]
