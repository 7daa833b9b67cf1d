"""The version of delayer that records and folders name as their maker."""

__version__ = "0.1.0"
