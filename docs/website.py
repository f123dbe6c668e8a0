"""What mkdocs does beside the pages in docs/: README, changelog and contributing become pages.

Their links lead from the repository's root; here `docs/` is the root.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files, config):
    """Add the pages whose text stands at the repository's root."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=moved(text)))
    return files


def moved(text: str) -> str:
    """A root page's text with its links as seen from docs/."""
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", lambda found: f"]({_target(found[1])})", text)


def _target(link: str) -> str:
    path, _, anchor = link.partition("#")
    return PAGES.get(path, path.removeprefix("docs/")) + (f"#{anchor}" if anchor else "")
