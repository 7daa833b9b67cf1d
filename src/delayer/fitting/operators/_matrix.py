"""What operators share that put in one full matrix without a bias."""

from delayer.fitting.operators import Operator
from delayer.modules.feature_maps import DenseMap


class Matrix(Operator):
    """W x: d² parameters. How W is found is left to the operator."""

    def num_params(self, width: int) -> int:
        return width**2

    def num_macs(self, width: int) -> int:
        return width**2

    def module(self, width: int, axis: int = -1) -> DenseMap:
        return DenseMap(width, axis, bias=False)
