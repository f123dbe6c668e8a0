"""The page, in a browser."""

import re
import time
from base64 import b64encode
from hashlib import sha256

import httpx2
import pytest

from mfkd.serve.page import page

TAB = "\ue004"  # the key, as WebDriver has it
DROP = """
const canvas = new OffscreenCanvas(8, 8), context = canvas.getContext("2d");
context.fillStyle = "#0000ff"; context.fillRect(0, 0, 8, 8);
return canvas.convertToBlob().then((blob) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([blob], "blue.png", {type: "image/png"}));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
});
"""


def wait(until, what):
    deadline = time.monotonic() + 15
    while not until():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)


def test_headers_let_only_the_page_itself_run():
    text, headers = page()
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    assert policy["script-src"] == f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "http" not in text.replace("http-equiv", "")  # no address of another machine
    assert "innerHTML" not in text


@pytest.fixture
def opened(browser, running, kit, tmp_path):
    """The page, and a function that gives it a picture and waits for the answer."""

    def answer(data, name="a.png"):
        file = tmp_path / name
        file.write_bytes(data)
        browser.driver.find_element("id", "file").send_keys(str(file))

    def told(text):
        wait(lambda: text in browser.driver.find_element("id", "first").text, text)
        return browser.driver.find_element("id", "found").text

    browser.open(running.url)
    wait(lambda: browser.driver.title == "colours", "title")
    browser.answer, browser.told = answer, told
    return browser


def test_chosen_picture_is_answered(opened, running, kit):
    opened.answer(kit.picture((255, 0, 0)))
    text = opened.told("red, 100.0 %")
    assert "green" in text
    assert "<img src=x onerror=alert(1)>" in text  # a class name is text, whatever stands in it
    assert opened.run("return document.querySelectorAll('#all img').length") == 0
    widths = opened.run("return [...document.querySelectorAll('.track div')].map((bar) => bar.offsetWidth)")
    assert widths[0] > 200 > 5 > widths[1]
    assert opened.run("return document.getElementById('seen').naturalWidth") == 8
    opened.answer(kit.picture((0, 255, 0)), "b.png")
    opened.told("green, 100.0 %")
    assert opened.errors() == []
    asked = opened.requests()
    assert any("/predict" in url for url in asked)
    assert all(url.startswith((f"{running.url}/", f"blob:{running.url}/")) for url in asked)


def test_dropped_picture_is_answered(opened):
    opened.run(DROP)
    opened.told("<img src=x onerror=alert(1)>, 100.0 %")
    assert opened.run("return document.getElementById('file').files[0].name") == "blue.png"
    assert opened.errors() == []


def test_refusals_are_told(opened, kit):
    opened.answer(b"no picture", "a.txt")
    assert "send JPEG, PNG, WebP, BMP or GIF." in opened.told("This is no picture")
    assert all("415" in line for line in opened.errors())  # the browser's own line on the answer
    opened.requests()
    opened.answer(b"\x89PNG" + bytes(10_000_000), "big.png")
    opened.told("The picture is too large, at most 10 MB are taken")
    assert not [url for url in opened.requests() if "predict" in url]  # it is not even sent


def test_keyboard_and_screen_reader_find_their_way(opened):
    opened.run("document.activeElement.blur()")
    opened.driver.find_element("tag name", "body").send_keys(TAB)
    focused = opened.driver.switch_to.active_element
    assert focused.get_attribute("id") == "file"
    assert focused.accessible_name == "Choose a picture, or drop one here"
    assert opened.run("return getComputedStyle(arguments[0]).outlineStyle", focused) == "solid"
    first = opened.driver.find_element("id", "first")
    assert (first.get_attribute("role"), first.get_attribute("aria-live")) == ("status", "polite")


@pytest.mark.parametrize("dark", [False, True])
def test_narrow_screen_does_not_scroll_sideways(opened, running, kit, dark):
    opened.open(running.url, width=375, height=700, dark=dark)
    opened.answer(kit.picture(), f"{'long-name-' * 20}.png")
    opened.told("red")
    assert opened.run("return document.documentElement.scrollWidth") <= 375
    shades = opened.run("const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]")
    brightness = [sum(map(int, re.findall(r"\d+", shade)[:3])) for shade in shades]
    assert (brightness[0] < brightness[1]) == dark
    assert opened.errors() == []


def test_ended_service_is_told(browser, graph, kit, tmp_path):
    with kit.service(graph, tmp_path / "log") as found:
        assert httpx2.get(found.url).headers["content-type"] == "text/html; charset=utf-8"
        browser.open(found.url)
        wait(lambda: browser.driver.title == "colours", "title")
    (tmp_path / "a.png").write_bytes(kit.picture())
    browser.driver.find_element("id", "file").send_keys(str(tmp_path / "a.png"))
    text = "The service does not answer; is it still running?"
    wait(lambda: browser.driver.find_element("id", "first").text == text, text)
    browser.errors()
