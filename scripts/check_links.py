"""Says which links within a built site lead nowhere: `python scripts/check_links.py build/site`; other sites are not asked."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and the places in it that others may link to."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one tag."""
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.append(value)
            elif value and name in ("id", "name"):
                self.places.add(value)


def broken(site: Path) -> list[str]:
    """A sentence for each link that leads nowhere."""
    pages = {path.resolve(): Page(path.read_text("utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                found.append(f"{path.relative_to(site.resolve())}: {link} is not there.")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                found.append(f"{path.relative_to(site.resolve())}: {link} has no such place.")
    return found


def main() -> None:
    """Print what leads nowhere; exit code 1 where something does, or where there are no pages."""
    site = Path(sys.argv[1])
    if not list(site.rglob("*.html")):
        sys.exit(f"There are no pages in {site}. Build them first: mkdocs build.")
    wrong = broken(site)
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
