"""Pages of the documentation site that lie elsewhere: the README, what stands beside it, and a reference made from docstrings.

mkdocs calls the functions whose names begin with on_ (see mkdocs.yml).
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BESIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changes.md",
    "LICENSE": "license.md",
}
"""Files at the root, and the page that each becomes."""
ROOMS = {
    "edits": ("Edits", ("edits",)),
    "operators": ("Operators", ("fitting/operators",)),
    "metrics": ("Metrics", ("metrics/blocks", "metrics/activations")),
    "stats": ("Statistics", ("observing/stats",)),
    "methods": ("Published methods", ("search/methods",)),
}
"""Pages of the reference: a title, and the folders below src/delayer whose files it shows."""


def groups() -> list[tuple[str, list[str]]]:
    """The public names of delayer under the headings of its __all__."""
    text = (ROOT / "src/delayer/__init__.py").read_text()
    found: list[tuple[str, list[str]]] = [("Names", [])]
    for line in text.partition("__all__ = [")[2].partition("]")[0].splitlines():
        if heading := re.match(r"\s*# (.+)", line):
            found.append((heading[1].capitalize(), []))
        found[-1][1].extend(name for name in re.findall(r'"(\w+)"', line) if not name.startswith("_"))
    return [(heading, names) for heading, names in found if names]


def reference() -> dict[str, str]:
    """The text of each page of the reference, by its path."""
    lines = ["# Public names", "", "All that `import delayer` gives; whatever else lies below may change."]
    for heading, names in groups():
        if set(names) == set(ROOMS):
            lines += ["", f"## {heading}", ""]
            lines += [f"- [`delayer.{name}`]({name}.md)" for name in names]
            continue
        lines += ["", f"## {heading}", *(f"\n::: delayer.{name}" for name in names)]
    pages = {"reference/index.md": "\n".join(lines) + "\n"}
    for page, (title, folders) in ROOMS.items():
        text = [f"# {title}"]
        for folder in folders:
            module = "delayer." + folder.replace("/", ".")
            text.append(f"## {module}\n\n::: {module}\n    options:\n      show_root_heading: false")
            for file in sorted((ROOT / "src/delayer" / folder).glob("[!_]*.py")):
                name = f"{module}.{file.stem}"
                text.append(f"## {file.stem}\n\n::: {name}\n    options:\n      show_root_heading: false")
        pages[f"reference/{page}.md"] = "\n\n".join(text) + "\n"
    return pages


def links(text: str, depth: str = "") -> str:
    """A page's links to files of the repository as links between pages."""
    for file, page in BESIDE.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(file)}(#[\w-]+)?\)", rf"]({depth}{page}\1)", text)
    return re.sub(r"\]\(docs/", f"]({depth}", text)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie elsewhere."""
    from mkdocs.structure.files import File

    made = {page: links((ROOT / file).read_text()) for file, page in BESIDE.items() if (ROOT / file).exists()}
    made["license.md"] = f"# License\n\n```text\n{(ROOT / 'LICENSE').read_text()}```\n"
    for path, text in (made | reference()).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links of the pages below docs/ to files above it."""
    return links(markdown)
