"""The house's docstrings as the site shows them: a parameter a line of a list, shapes in brackets as code."""

import re
from typing import Any

import griffe

NAMED = re.compile(r"^(\w+(?:, \w+)*): (?=\S)")
APART = re.compile(r"^(Raises|Source|Sources|Fidelity)\b")
SHAPE = re.compile(r"(?<![`\w\])])\[[^\]\n`]*\](?![(\[`])")


def shown(text: str) -> str:
    """A docstring's text as Markdown: lines that begin with names are items, and what is raised stands apart."""
    first, *rest = text.split("\n")
    lines, listed = [first], False
    for line in rest:
        if APART.match(line):
            lines += ["", line]
            listed = False
        elif named := NAMED.match(line):
            lines += [*([] if listed else [""]), f"- **{named[1]}**: {line[named.end() :]}"]
            listed = True
        else:
            listed = listed and bool(line.strip())
            lines.append(f"  {line}" if listed else line)
    return SHAPE.sub(lambda shape: f"`{shape[0]}`", "\n".join(lines))


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is shown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one."""
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)
