"""Blocks for a depth/width search on 8×8 digits, some of which go wrong."""

import os
from pathlib import Path

from torch import nn

from delayer.nas import CellSpace


def plain(in_width: int, width: int, stride: int) -> nn.Module:
    """A strided 1×1 convolution, a norm and a ReLU."""
    return nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def treacherous(in_width: int, width: int, stride: int) -> nn.Module:
    """Width 5 raises, width 6 always ends the process, width 7 ends it once; the others are plain."""
    if width == 5:
        raise ValueError("five is not allowed")
    if width == 6:
        os._exit(9)
    if width == 7 and not (mark := Path(os.environ["DELAYER_TEST_MARK"])).exists():
        mark.touch()
        os._exit(9)
    return plain(in_width, width, stride)


def homely() -> CellSpace:
    """A space that opens in one process only."""
    if os.environ["DELAYER_TEST_HOME"] != str(os.getpid()):
        raise ValueError("away from home")
    return CellSpace(width=4, num_cells=1)
