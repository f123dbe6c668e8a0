"""`mfkd report`: from a folder to a page."""

from collections.abc import Callable
from pathlib import Path

from mfkd.bench.run import FILE
from mfkd.errors import MfkdError
from mfkd.files import write_atomic, write_text
from mfkd.report.bench import bench_page
from mfkd.report.folder import is_run, read_run
from mfkd.report.page import html
from mfkd.report.parts import Page
from mfkd.report.run import run_page


def write_report(
    path: str | Path, say: Callable[[str], None], out: Path | None = None, figures: Path | None = None
) -> list[Path]:
    """Write the page of a run or of a bench.

    Args:
        path: its folder.
        say: gets a line a step.
        out: the page; None: `report.html` in the folder.
        figures: a folder for the figures as SVG files, for light and for dark paper; None writes none.

    Returns:
        The page, and the folder of the figures where there is one.

    Raises:
        MfkdError: no run and no bench there, nothing finished, or a file that cannot be written.
        ConfigError: matplotlib or Jinja is not installed.
    """
    folder = Path(path).expanduser()
    page = page_of(folder, say)
    place = out or folder / "report.html"
    write_text(place, html(page))
    if figures is None:
        return [place]
    for picture in page.pictures:
        for suffix, content in (("", picture.light), ("-dark", picture.dark)):
            write_atomic(figures / f"{picture.name}{suffix}.svg", lambda file, content=content: file.write(content))  # type: ignore[misc]
    return [place, figures]


def page_of(folder: Path, say: Callable[[str], None]) -> Page:
    """The page of a run folder or of a bench, see `write_report`."""
    if not folder.exists():
        raise MfkdError(f"{folder} does not exist; give the folder of a run or of a bench, such as runs/digits.")
    if (folder / FILE).is_file():
        return bench_page(folder)
    if is_run(folder):
        return run_page(read_run(folder), say)
    above = next((parent for parent in folder.absolute().parents[:2] if is_run(parent)), None)
    if above is not None:
        raise MfkdError(f"{folder} is a part of a run; give the run's own folder, {above}.")
    raise MfkdError(
        f"{folder} is neither a run nor a bench: it holds no config.yaml and no {FILE}; give a folder that mfkd run, "
        "train, distill or bench has written."
    )
