"""The options of a command by subject, as its help lists them."""

from typing import Any

import typer.core

NETWORK, DATA, BUDGET, SEARCH, SCORES, TRAINING, SHRINKING, CHECK, TRUST, OUTPUT = SECTIONS = (
    "Network",
    "Data",
    "Budget: how much goes (one of them)",
    "Search",
    "Scores",
    "Training",
    "Shrinking",
    "Check",
    "What opened folders may do",
    "Output",
)
OF_MODEL = {
    "load": NETWORK,
    "networks": NETWORK,
    "task": DATA,
    "scan": SEARCH,
    "plan": SEARCH,
    "search": SEARCH,
    "rule": SEARCH,
    "proxy": TRAINING,
    "tune": TRAINING,
    "counting": SCORES,
    "sites": SCORES,
    "shrink": SHRINKING,
    "compare": SHRINKING,
    "check": CHECK,
    "saving": OUTPUT,
}
"""By the name under which a command takes a model of options."""
OTHERS = "Options"
"""The section of what is in none."""
OF_FIELD = dict.fromkeys(("remove", "max_drop", "span"), BUDGET)
"""Fields that stand apart from the rest of their model."""


def section_of(model: str, field: str) -> str | None:
    """Where an option that fills a field of a model stands; None for among the others."""
    return OF_FIELD.get(field) if model == "plan" and field in OF_FIELD else OF_MODEL.get(model)


class Sectioned(typer.core.TyperCommand):
    """A command whose help lists options by section."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments first, then each section, then what is in none."""
        found: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if (line := param.get_help_record(ctx)) is not None:
                argument = param.param_type_name == "argument"
                title = "Arguments" if argument else getattr(param, "rich_help_panel", None) or OTHERS
                found.setdefault(title, []).append(line)
        for title in sorted(found, key=["Arguments", *SECTIONS, OTHERS].index):
            with formatter.section(title):
                formatter.write_dl(found[title])
