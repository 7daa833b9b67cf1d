"""The command line's application, and the arguments that commands share."""

from pathlib import Path
from typing import Annotated

import typer

from delayer.cli import sections

app = typer.Typer(
    name="delayer",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Makes trained networks shallower: watches a network once, says which blocks repeat each other, cuts them, "
    "proves what was lost, measures what was won, and hands over a smaller network that loads like any other.",
)
MODEL = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Hugging Face name or folder, timm:NAME, package.module:factory, or a study folder."),
]
STUDY = Annotated[Path, typer.Argument(metavar="STUDY", help="Study folder that earlier stages wrote.")]
DATA = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Data, such as imagefolder:PATH, npz:PATH#train, csv:PATH, text:PATH, hf:NAME, digits. `score` takes several.",
        rich_help_panel=sections.DATA,
    ),
]
TEST = Annotated[str | None, typer.Option("--test", help="Data of their own for the test split.", rich_help_panel=sections.DATA)]
OUT = Annotated[Path, typer.Option("--out", help="Study folder to write.", rich_help_panel=sections.OUTPUT)]
JSON = Annotated[
    bool, typer.Option("--json", help="Print the stage's record as JSON on standard output.", rich_help_panel=sections.OUTPUT)
]
QUIET = Annotated[bool, typer.Option("--quiet", help="No progress.", rich_help_panel=sections.OUTPUT)]
