"""The report in a real browser without network: it draws everything, fits the screen, and can be read."""

import re

import planted_studies
import pytest
from browser import browser, visit

from delayer.report import render

# Text of figures against the card behind it, as WCAG 2 measures contrast.
LEAST_CONTRAST = """() => {
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const card = light(getComputedStyle(document.querySelector(".card")).backgroundColor);
  const texts = [...document.querySelectorAll(".chart text")].filter(text => text.textContent.trim());
  const lights = texts.map(text => light(getComputedStyle(text).fill));
  return Math.min(...lights.map(text => Math.max(text, card) / Math.min(text, card)));
}"""


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report a study, made once."""
    made = {}

    def path_of(name: str):
        if name not in made:
            made[name] = render(getattr(planted_studies, name)(tmp_path_factory.mktemp(name)).folder)
        return made[name]

    return path_of


@pytest.mark.parametrize(
    "name, width, scheme",
    [("vit", 1280, "light"), ("resnet", 390, "dark"), pytest.param("long", 390, "light", marks=pytest.mark.slow)],
)
def test_the_report_draws_everything_without_network_or_complaint(chromium, report, tmp_path, name, width, scheme):
    with visit(chromium, width=width, scheme=scheme) as seen:
        seen.open(report(name))
        page = seen.page
        assert page.locator(".chart").count() == page.locator(".chart:has(.hm, .trace)").count() == 11
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width, "scrolls sideways"
        cards = "[...document.querySelectorAll('.card')]"
        assert page.evaluate(f"{cards}.every(card => card.scrollWidth <= card.clientWidth)"), "text leaves its card"
        assert page.locator("svg.network:visible").count() == 1
        assert page.evaluate(LEAST_CONTRAST) >= 4.5
        seen.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 100_000, "the page is nearly blank"
        page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
        seen.wait(f"({LEAST_CONTRAST})() >= 4.5")  # figures follow while the page is open
        assert seen.problems == [] and seen.requests == []


def test_hovering_and_tabs_tell_more(chromium, report):
    with visit(chromium) as seen:
        seen.open(report("vit"))
        page, chart = seen.page, seen.page.locator("#errors .chart").first
        assert chart.locator(".cbaxis").count() == 0  # which operator wins has no scale
        chart.get_by_role("button", name="affine").click()
        seen.wait("document.querySelector('#errors .cbaxis') !== null")
        assert chart.get_by_role("button", name="affine").get_attribute("aria-pressed") == "true"
        chart.locator(".nsewdrag").first.hover()
        page.wait_for_selector("#errors .hovertext")
        assert re.search(r"affine: [\d.]+.%", page.locator("#errors .hovertext").first.text_content())
        page.locator("#candidates .chart").get_by_role("button", name="latency").click()
        seen.wait("document.querySelector('#candidates .xtitle').textContent === 'latency, ms'")
        assert seen.problems == []
