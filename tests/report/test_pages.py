"""The files as they are written: whole, escaped, in order, and asking for nothing from outside."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

VOID = {"meta", "link", "img", "source", "br"}


class Parsed(HTMLParser):
    """Tags in their order, what they hold, and whether they close."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.faults = [], [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}>")

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(params=["run", "bench"])
def page(request, run_page, bench_page):
    path = run_page[0] if request.param == "run" else bench_page
    return Parsed(path.read_text(encoding="utf-8"))


def test_every_tag_is_closed(page):
    assert page.faults == []
    assert page.open == []


def test_every_image_has_a_text(page):
    images = page.all("img")
    assert len(images) >= 4
    assert all(image["alt"].strip() for image in images)


def test_nothing_is_loaded(page):
    addresses = [value for _, found in page.tags for key, value in found.items() if key in ("src", "srcset", "data")]
    links = [found["href"] for found in page.all("link")]
    assert all(address.startswith("data:") for address in [*addresses, *links])
    assert page.all("script") == page.all("iframe") == page.all("object") == []
    assert "@import" not in page.text["style"]
    assert "url(" not in page.text["style"]
    assert not any(key.startswith("on") for _, found in page.tags for key in found)


def test_headings_go_down_step_by_step(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_landmarks_and_names_are_there(page):
    assert [len(page.all(tag)) for tag in ("header", "main", "nav", "footer")] == [1, 1, 1, 1]
    names = [found["id"] for _, found in page.tags if "id" in found]
    assert len(names) == len(set(names))
    wanted = [found["href"][1:] for found in page.all("a")]
    wanted += [found["aria-labelledby"] for _, found in page.tags if "aria-labelledby" in found]
    assert set(wanted) <= set(names)
    assert page.all("html") == [{"lang": "en"}]


def test_tables_have_captions_and_heads(page):
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(found.get("scope") in ("col", "row") for found in page.all("th"))


def test_names_of_classes_are_text(run_page):
    text = run_page[0].read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;" in text
    assert "$x_{1}$ &amp; &#34;quoted&#34; &#39;too&#39;" in text
    assert "漢字" in text


def test_run_tells_what_was_asked_and_gained(run_page):
    page = Parsed(run_page[0].read_text(encoding="utf-8"))
    assert page.text["h1"] == "resnet20 teaches resnet8"
    for title in (
        "What was gained",
        "Accuracy against cost",
        "Learning curves",
        "Classes and confusions",
        "Calibration",
        "What the fusion sees",
        "Likeness of the features",
        "Settings and environment",
    ):
        assert title in page.text["h2"]
    assert "by the method mfkd+kd (mfkd.kind=attention)." in page.text["p"]
    alts = [image["alt"] for image in page.all("img")]
    for side in ("teacher", "student"):
        for level in ("front", "middle", "bottom", "fused"):
            assert sum(alt.startswith(f"{side}, {level} map: strongest at ") for alt in alts) == 3  # one a class


def test_bench_tells_failures_and_says_so_first(bench_page):
    page = Parsed(bench_page.read_text(encoding="utf-8"))
    assert page.text["h1"] == "resnet14 teaches resnet8 on digits"
    assert "2 trainings have failed" in page.text["p"]
    assert "What has failed" in page.text["h2"]
    assert "broken" in page.text["th"]
    assert "unknown tap 'nowhere'" in page.text["td"]


def test_figures_are_files_too(run_page):
    files = sorted(run_page[1].iterdir())
    names = {file.stem.removesuffix("-dark") for file in files}
    assert {"gain", "learning-curves", "classes", "reliability", "cka-alone", "cka-distilled"} <= names
    assert {"levels-teacher", "levels-student", "level-weights", "cost-parameters", "loss-terms"} <= names
    assert len(files) == 2 * len(names)
    for file in files:
        root = ET.fromstring(file.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_page_is_the_same_when_made_again(run_page, made, tmp_path):
    from mfkd.report.write import write_report

    again = write_report(made, str, tmp_path / "again.html")[0]
    assert again.read_bytes() == run_page[0].read_bytes()
