"""Pure functions from statistics to scores, of blocks and of activations; they never see a network."""

from delayer.metrics.activations import SiteMetric, site_metric, site_metrics
from delayer.metrics.blocks import Layout, Metric, metric, metrics

__all__ = ["Layout", "Metric", "SiteMetric", "metric", "metrics", "site_metric", "site_metrics"]
