"""Every error delayer raises on purpose. The command line turns each into one sentence and exit code 2.

DelayerError
├── ModelError          a network that cannot be found, loaded or understood
│   ├── UnknownName     a name that no registry or library knows (near names are suggested)
│   ├── WeightsError    weights that do not fit, are not safetensors, or are corrupted
│   └── NotFiniteError  NaN or infinity in weights, activations or data
├── DataError           data that is missing, empty, unreadable or out of range
├── SpanError           a span that does not exist or that crosses widths
├── PlanError           a plan that is corrupted or made for another model
├── BudgetError         a budget that cannot be met
├── StudyError          a study folder that is corrupted, in use, or lacks a stage
├── ExportError         a network that cannot be exported
├── NasError            an architecture search that cannot be understood, or that found nothing
├── PlugInError         a plug-in that cannot be imported, or whose name is taken
├── MemoryLimitError    work that does not fit into memory
└── ProcessError        another of several processes that ended, or answers no more

DelayerWarning (a UserWarning) tells of what was done all the same, and has to be known.
"""


class DelayerWarning(UserWarning):
    """Something that was done all the same, and has to be known."""


class DelayerError(Exception):
    """Base of all errors that delayer raises on purpose; its text says what was asked, found and to do."""


class ModelError(DelayerError):
    """A network that cannot be found, loaded or understood."""


class UnknownName(ModelError):
    """A name that no registry or library knows."""


class WeightsError(ModelError):
    """Weights that do not fit, are not safetensors, or are corrupted."""


class NotFiniteError(ModelError):
    """NaN or infinity in weights, activations or data."""


class DataError(DelayerError):
    """Data that is missing, empty, unreadable or out of range."""


class SpanError(DelayerError):
    """A span that does not exist or that crosses widths."""


class PlanError(DelayerError):
    """A plan that is corrupted or made for another model."""


class BudgetError(DelayerError):
    """A budget that cannot be met; `most` is what could be, where that is known."""

    def __init__(self, text: str, most: float | None = None):
        super().__init__(text)
        self.most = most


class StudyError(DelayerError):
    """A study folder that is corrupted, in use, or lacks a stage."""


class ExportError(DelayerError):
    """A network that cannot be exported."""


class NasError(DelayerError):
    """An architecture search that cannot be understood, or that found nothing."""


class PlugInError(DelayerError):
    """A plug-in that cannot be imported, or whose name is taken."""


class MemoryLimitError(DelayerError):
    """Work that does not fit into memory."""


class ProcessError(DelayerError):
    """Another of several processes that ended, or answers no more."""
