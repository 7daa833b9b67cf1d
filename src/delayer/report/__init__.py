"""The report: one HTML file that explains a study, or a search, made from its folder alone."""

from delayer.report.nas_page import render_nas
from delayer.report.page import render

__all__ = ["render", "render_nas"]
