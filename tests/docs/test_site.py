"""The documentation site builds without a warning and without a network, and asks for nothing beyond itself."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(HTMLParser):
    """Addresses that a page loads by itself: scripts, styles, images, fonts, frames."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        loads = tag == "link" and attrs.get("rel") not in {"canonical", "prev", "next", "edit"}
        self.found += [value for key, value in attrs.items() if value and (key == "src" or (key == "href" and loads))]


def test_every_page_of_docs_is_in_the_site(site):
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    wanted = {path.with_suffix(".html") for path in pages if path.parts[0] != "records"}
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    made = (
        "404.html",
        "index.html",
        "changelog.html",
        "contributing.html",
        "bench-digits.html",
        "breadth-cifar100.html",
        "depth-cifar100-resnet.html",
        "depth-cifar100-resnet-kept.html",
        "depth-cifar100-vgg.html",
    )  # the last five by a report
    assert built - wanted == set(map(Path, made))
    assert wanted <= built
    assert not list(site.rglob("*.py"))


def test_pages_load_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        page = Loaded()
        page.feed(path.read_text(encoding="utf-8"))
        assert page.found
        assert [address for address in page.found if re.match(r"(https?:)?//", address)] == [], path.name


def test_start_is_the_readme_with_links_of_the_site(site):
    start = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="folders.html"' in start
    assert 'href="changelog.html"' in start
    assert "Train a small image classifier that learns from a big one." in start


def test_search_knows_pages_and_docstrings(site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    assert {"tutorials/digits.html", "reference/python.html#mfkd.Distiller"} <= {entry["location"] for entry in index}
