"""Closed-form maps from one point to another, fitted and judged from second moments alone.

With rows x (before) and y (after), a map is y ≈ W x + b, W [d, d]. Ridge pulls W towards the identity, so that on the
rows that it was fitted to a map is never worse than dropping, whatever the ridge:

    W = I + (Syx − Sxx)(Sxx + λ c I)⁻¹,   b = ȳ − W x̄,   c = tr(Sxx) / d

with centred S (uncentred and b = 0 for a map without bias). From held-out moments the squared error of any map is a
closed formula, so every operator on every span is judged without touching a network.
Source: RBA/TOAST (Cannistraci et al., arXiv 2410.04941) for the plain least-squares map.
Fidelity: RBA has no bias, no ridge; that is the operator "linear".
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delayer.errors import ModelError
from delayer.observing.stats.pair import Pair

OPERATORS = ("linear", "affine", "diagonal", "low_rank")
RIDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Shares of the mean eigenvalue of Sxx that a held-out choice looks at."""


TIE = 1e-9
"""Share of the target's energy that errors must lie apart to be told apart: of those that tie the largest ridge is taken,
which is the nearest to changing nothing."""
SMALLEST = 1e-16
"""Features smaller than that on average have squares that single precision takes for nothing."""
CONSTANT = 1e-13
"""Share of their energy below which what features vary by is the rounding of single precision."""


class AffineMap(nn.Module):
    """y = W x + b on the feature axis, in one of four forms.

    operator "affine" and "linear": weight [d, d] (linear has no bias); "diagonal": weight [d]; "low_rank": W = I + U V
    with U [d, r], V [r, d].
    axis: -1 for tokens, 1 for images.
    """

    def __init__(self, operator: str, width: int, *, rank: int | None = None, axis: int = -1):
        super().__init__()
        if operator not in OPERATORS:
            raise ValueError(f"Operator {operator!r} is unknown; use one of {', '.join(OPERATORS)}.")
        self.operator, self.width, self.axis = operator, width, axis
        if operator == "low_rank":
            if not rank or not 0 < rank < width:
                raise ValueError(f"A low-rank update of width {width} needs a rank between 1 and {width - 1}.")
            self.u = nn.Parameter(torch.zeros(width, rank))
            self.v = nn.Parameter(torch.zeros(rank, width))
        else:
            self.weight = nn.Parameter(torch.ones(width) if operator == "diagonal" else torch.eye(width))
        self.bias = None if operator == "linear" else nn.Parameter(torch.zeros(width))

    @property
    def matrix(self) -> Tensor:
        """W as a full matrix [d, d]."""
        if self.operator == "low_rank":
            return torch.eye(self.width, dtype=self.u.dtype, device=self.u.device) + self.u @ self.v
        return torch.diag(self.weight) if self.operator == "diagonal" else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """x with its features mapped, on whichever axis they stand [..., in, ...] → [..., out, ...]."""
        moved = self.axis not in (-1, x.ndim - 1)
        if moved and self.operator in ("affine", "linear"):
            kernel = self.weight.reshape(*self.weight.shape, *[1] * (x.ndim - 2))
            return (F.conv2d if x.ndim == 4 else F.conv1d)(x, kernel, self.bias)
        x = x.movedim(self.axis, -1) if moved else x
        if self.operator == "low_rank":
            y = x + F.linear(F.linear(x, self.v), self.u, self.bias)
        elif self.operator == "diagonal":
            y = x * self.weight + self.bias
        else:
            y = F.linear(x, self.weight, self.bias)
        return y.movedim(-1, self.axis) if moved else y

    def extra_repr(self) -> str:
        """Widths and operator, for `print(model)`."""
        rank = f", rank={self.u.shape[1]}" if self.operator == "low_rank" else ""
        return f"{self.operator}, width={self.width}{rank}, axis={self.axis}"


def num_params(operator: str, width: int, rank: int | None = None) -> int:
    """Parameters of a map. RBA's linear map has d²."""
    return {
        "drop": 0,
        "linear": width**2,
        "affine": width**2 + width,
        "diagonal": 2 * width,
        "low_rank": (2 * (rank or 0) + 1) * width,
    }[operator]


def num_macs_a_row(operator: str, width: int, rank: int | None = None) -> int:
    """Multiply-adds of a map for one row."""
    return {"drop": 0, "diagonal": width, "low_rank": 2 * width * (rank or 0)}.get(operator, width**2)


def mean_eigenvalue(xx: Tensor) -> float:
    """What a ridge is a share of; 1 for rows that never change."""
    return float(torch.trace(xx)) / len(xx) or 1.0


class Fits:
    """All fits from one point, sharing one eigendecomposition V Λ Vᵀ of Sxx."""

    def __init__(self, pair: Pair, *, bias: bool = True):
        self.bias, self.rounding = bias, pair.rounding
        self.xx = (pair if bias else pair.uncentred()).xx
        values, self.vectors = torch.linalg.eigh((self.xx + self.xx.T) / 2)
        self.values, self.scale = values.clamp_min(0), mean_eigenvalue(self.xx)

    def inverse(self, ridge: float) -> Tensor:
        """Eigenvalues [d] of (Sxx + ridge·c·I)⁻¹; directions that the rows never showed get zero."""
        total = self.values + ridge * self.scale
        seen = total > self.values[-1].clamp_min(1e-300) * self.rounding
        return torch.where(seen, 1 / total.clamp_min(1e-300), 0.0)

    def gap(self, pair: Pair) -> Tensor:
        """(Syx − Sxx) V [d, d]: what a fit is made of, before any ridge."""
        return ((pair if self.bias else pair.uncentred()).xy - self.xx).T @ self.vectors

    def update(self, pair: Pair, ridge: float) -> Tensor:
        """W − I [d, d]."""
        return (self.gap(pair) * self.inverse(ridge)) @ self.vectors.T

    def best_ridge(self, pair: Pair, heldout: Pair, ridges: Sequence[float]) -> float:
        """The ridge whose full map with bias has the least held-out error; the largest of those that tie.

        In the eigenbasis a map is gap · diag(v), v the inverse of Λ + λc, so its error is quadratic in v and all
        ridges together cost three products.
        """
        gap, basis = self.gap(pair), self.vectors
        linear = ((heldout.xy - heldout.xx).T @ basis * gap).sum(0)
        square = (gap.T @ gap) * (basis.T @ heldout.xx @ basis)
        moved = gap * (basis.T @ (heldout.mean_x - pair.mean_x))
        missed = (heldout.mean_y - heldout.mean_x) - (pair.mean_y - pair.mean_x)

        def error(ridge: float) -> float:
            v = self.inverse(ridge)
            return float(v @ square @ v - 2 * linear @ v + heldout.num_rows * (moved @ v - missed).square().sum())

        errors = {ridge: error(ridge) for ridge in ridges}
        unsure = TIE * float(torch.trace(heldout.yy))
        return max(ridge for ridge, found in errors.items() if found <= min(errors.values()) + unsure)


def unfit(pair: Pair) -> str:
    """Why no map can be fitted to these rows; "" where one can."""
    numbers = pair.mean_x, pair.mean_y, pair.xx, pair.xy, pair.yy
    if not all(torch.isfinite(t.sum()) or torch.isfinite(t).all() for t in numbers):
        return "the features hold NaN or infinity, or their squares do"
    for name, mean, square in (
        ("features that enter it", pair.mean_x, pair.xx),
        ("features that it should give", pair.mean_y, pair.yy),
    ):
        about_mean, about_zero = (
            float(torch.trace(square) + more) / max(pair.num_rows * pair.width, 1)
            for more in (0.0, pair.num_rows * mean.square().sum())
        )
        if about_zero < SMALLEST**2:
            return f"the {name} are all but zero ({max(about_zero, 0.0) ** 0.5:.0e} on average), and their squares vanish"
        if about_mean <= CONSTANT * about_zero:
            return f"the {name} never change, so there is nothing to tell a map by"
    return ""


def fit(
    pair: Pair, operator: str, *, ridge: float = 0.0, rank: int | None = None, axis: int = -1, fits: Fits | None = None
) -> AffineMap:
    """The map of one kind that fits a pair's rows best, in float32 parameters.

    ridge: share of Sxx's mean eigenvalue, pulling towards the identity.
    rank: for "low_rank"; the update W − I is truncated in the metric of Sxx (truncating W itself is worse than
    dropping).
    fits: an eigendecomposition to share between spans that begin at the same point.
    Raises ModelError where the rows are not finite, all but zero, or always the same.
    Source: "linear" is RBA (arXiv 2410.04941): ordinary least squares without bias and ridge.
    """
    if why := unfit(pair):
        raise ModelError(f"No {operator} map can be fitted here: {why}. Drop this span, or choose another.")
    weight, bias, factors = solve(pair, operator, ridge=ridge, rank=rank, fits=fits)
    result = AffineMap(operator, pair.width, rank=rank, axis=axis)
    with torch.no_grad():
        if operator == "low_rank":
            result.u.copy_(factors[0])
            result.v.copy_(factors[1])
        else:
            result.weight.copy_(weight)
        if result.bias is not None:
            result.bias.copy_(bias)
    return result


def solve(
    pair: Pair, operator: str, *, ridge: float = 0.0, rank: int | None = None, fits: Fits | None = None
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """W [d, d], b [d] and, for "low_rank", the factors (U [d, r], V [r, d]) of W − I, all in float64.

    For "diagonal" and "drop" W is its diagonal [d] alone; "drop" gives ones and zeros.
    """
    one, zero, factors = torch.ones_like(pair.mean_x), torch.zeros_like(pair.mean_x), None
    if operator == "drop":
        return one, zero, None
    if operator == "diagonal":
        xx, xy = torch.diagonal(pair.xx), torch.diagonal(pair.xy)
        total = xx + ridge * mean_eigenvalue(pair.xx)
        weight = one + torch.where(total > 0, (xy - xx) / total.clamp_min(1e-300), 0.0)
        return weight, pair.mean_y - weight * pair.mean_x, None
    if fits is None or fits.bias == (operator == "linear"):
        fits = Fits(pair, bias=operator != "linear")
    if operator == "linear":
        return torch.diag(one) + fits.update(pair, 0.0), zero, None
    update = fits.update(pair, ridge)
    if operator == "low_rank":
        factors = _truncated(update, fits, ridge, rank)
        update = factors[0] @ factors[1]
    weight = torch.diag(one) + update
    return weight, pair.mean_y - weight @ pair.mean_x, factors


def _truncated(update: Tensor, fits: Fits, ridge: float, rank: int) -> tuple[Tensor, Tensor]:
    """U [d, r] and V [r, d], equally large, whose product is the best update of a rank in the metric of Sxx + λ c I."""
    root = (fits.values + ridge * fits.scale).sqrt()
    weighed = (update @ fits.vectors) * root
    # The left singular vectors, for a fraction of a decomposition's cost where rank and width are large.
    u = torch.linalg.eigh(weighed @ weighed.T).eigenvectors[:, -rank:].flip(1)
    v = u.T @ update
    size = v.norm(dim=1).clamp_min(1e-300).sqrt()
    return u * size, v / size[:, None]
