"""The documentation site: nothing public is left out, and links lead somewhere, in the repository and on the site."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import delayer

ROOT = Path(__file__).parent.parent


def script(name: str):
    """A file of scripts/, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_links_between_files_of_the_repository_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        assert not place or place in anchors(target), f"{page.name} links to {link}; {target.name} has {sorted(anchors(target))}"


def test_the_reference_holds_every_public_name():
    pages = script("site").reference()
    said = "\n".join(pages.values())
    missing = [
        n for n in delayer.__all__ if n != "__version__" and f"::: delayer.{n}\n" not in said and f"`delayer.{n}`" not in said
    ]
    assert not missing
    for page in ("edits", "operators", "metrics", "stats", "methods"):
        folders = script("site").ROOMS[page][1]
        files = [file.stem for folder in folders for file in (ROOT / "src/delayer" / folder).glob("[!_]*.py")]
        assert files and all(f".{file}\n" in pages[f"reference/{page}.md"] for file in files)


def test_every_page_of_the_menu_is_made():
    made = (
        {page.name for page in (ROOT / "docs").glob("*.md")}
        | set(script("site").BESIDE.values())
        | set(script("site").reference())
    )
    menu = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert len(menu) > 10 and set(menu) <= made


def test_links_of_a_file_become_links_of_its_page():
    links = script("site").links
    assert links("[a](docs/use.md) [b](SECURITY.md#x) [c](../CHANGELOG.md)") == "[a](use.md) [b](security.md#x) [c](changes.md)"
    assert links("[a](https://docs/x) `docs/`") == "[a](https://docs/x) `docs/`"


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "index.html").write_text('<a href="a/">1</a><a href="a/#here">2</a><a href="a/#there">3</a><img src="no.png">')
    (tmp_path / "a").mkdir()
    (tmp_path / "a/index.html").write_text('<p id="here"><a href="https://elsewhere/none">4</a><a href="../index.html">5</a>')
    assert script("check_links").broken(tmp_path) == [
        "index.html: a/#there has no such place.",
        "index.html: no.png is not there.",
    ]
    done = subprocess.run([sys.executable, ROOT / "scripts/check_links.py", tmp_path / "none"], capture_output=True, text=True)
    assert done.returncode == 1 and "There are no pages in" in done.stderr and "mkdocs build" in done.stderr


def test_docstrings_become_lists_and_shapes_become_code():
    pytest.importorskip("griffe")
    shown = script("docstrings").shown
    assert shown("W [d, d].\n\nx, y: ends [n].\nw: more\nof it.\nRaises E.\nAnd so on.") == (
        "W `[d, d]`.\n\n\n- **x, y**: ends `[n]`.\n- **w**: more\n  of it.\n\nRaises E.\nAnd so on."
    )


def test_versions_that_the_rules_are_pinned_to_agree():
    """pre-commit runs the linter that constraints.txt names."""
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.search(r"ruff-pre-commit\n +rev: v(\S+)", hooks)[1] == constraints["ruff"]
