"""The report: one HTML file that explains a study, made from the study folder alone."""

from delayer.report.page import render

__all__ = ["render"]
