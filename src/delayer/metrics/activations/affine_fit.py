"""How far an activation is from the best line."""

from delayer.activations.switches import Switches
from delayer.metrics.activations import site_metric


@site_metric(title="Error of the best line", unit="share of the variance", source="ours")
def affine_fit(stat: Switches) -> float:
    """What the best scale · z + shift of each channel leaves, as a share of what the output varies over all channels.

    0 where every unit is always on, always off or constant; exact for smooth activations, whose sign is a proxy only.
    """
    _, _, residual, variance = stat.best_line()
    return float(residual.sum() / variance.sum().clamp_min(1e-300))
