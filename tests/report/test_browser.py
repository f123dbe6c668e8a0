"""The pages as a reader sees them, in a real browser."""

import pytest

WIDTHS = (375, 1440)
SMALL_TEXT = """
return [...document.querySelectorAll('body *')].filter(one => [...one.childNodes].some(
    node => node.nodeType === 3 && node.textContent.trim()) && parseFloat(getComputedStyle(one).fontSize) < 12
).map(one => one.outerHTML.slice(0, 80))
"""
# Contrast of every text with the nearest ground that is painted, as WCAG 2 defines it.
CONTRASTS = """
const parts = colour => colour.match(/[\\d.]+/g).map(Number);
const light = colour => parts(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = one => {
    for (; one; one = one.parentElement) {
        const found = getComputedStyle(one).backgroundColor, values = parts(found);
        if (values.length < 4 || values[3] === 1) return found;
    }
    return 'rgb(255, 255, 255)';
};
return [...document.querySelectorAll('body *')].filter(one => [...one.childNodes].some(
    node => node.nodeType === 3 && node.textContent.trim())).map(one => {
        const [low, high] = [light(getComputedStyle(one).color), light(ground(one))].sort((a, b) => a - b);
        return [(high + 0.05) / (low + 0.05), one.outerHTML.slice(0, 80)];
    });
"""


@pytest.fixture(params=["run", "bench"])
def page(request, run_page, bench_page):
    return str(run_page[0] if request.param == "run" else bench_page)


@pytest.mark.parametrize("width", WIDTHS)
def test_page_is_quiet_asks_for_nothing_and_fits(browser, page, width):
    browser.open(page, width)
    assert browser.errors() == []
    assert [url.partition(":")[0] for url in browser.requests()] == ["file"]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.run(SMALL_TEXT) == []


def test_pictures_are_shown_and_have_a_text(browser, page):
    browser.open(page, 375)
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    images = "[...document.images].map(one => [one.naturalWidth, one.offsetWidth, one.alt.length, one.className])"
    found = browser.run(f"return {images}")
    assert len(found) >= 4
    assert all(own > 0 and text > 0 for own, _, text, _ in found)
    assert all((shown > 0) == (kind != "on-dark") for _, shown, _, kind in found)


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(browser, page, dark):
    browser.open(page, 1440, dark=dark)
    found = browser.run(CONTRASTS)
    assert len(found) > 50
    assert [text for value, text in found if value < 4.5] == []


def test_dark_paper_has_figures_of_its_own(browser, page):
    browser.open(page, 1440, dark=True)
    shown = browser.run(
        "return [...document.querySelectorAll('.figure img')].map(one => [one.className, one.offsetWidth])"
    )
    assert {kind for kind, width in shown if width} == {"on-dark"}
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 26)"


def test_keyboard_finds_the_way_past_the_head(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.open(page, 375)
    browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    first = browser.driver.switch_to.active_element
    assert first.text == "Skip to the results"
    assert first.rect["x"] >= 0  # it shows itself
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    first.send_keys(Keys.ENTER)
    assert browser.run("return location.hash") == "#main"


def test_paper_is_light_and_has_no_links(browser, page):
    browser.open(page, 1000, dark=True)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.run("return getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.run("return getComputedStyle(document.body).color") == "rgb(28, 35, 48)"
    shown = browser.run(
        "return [...document.querySelectorAll('.figure img')].map(one => [one.className, one.offsetWidth])"
    )
    assert {kind for kind, width in shown if width} == {"on-light"}
