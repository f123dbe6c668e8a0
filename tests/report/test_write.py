"""What is refused, and what a page does without."""

import json
import shutil
import sys

import pytest

from mfkd.config import load_config
from mfkd.errors import ConfigError, MfkdError
from mfkd.pipeline import run as whole
from mfkd.plan import open_plan
from mfkd.report.figures import canvas
from mfkd.report.folder import read_run
from mfkd.report.write import page_of, write_report
from mfkd.train import cost
from report.conftest import WORDS


def sections(page):
    return [section.title for section in page.sections]


def texts(page):
    return [block.text for section in page.sections for block in section.blocks if block.kind == "text"]


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of the finished run, whose figures are not drawn."""
    monkeypatch.setattr(canvas, "_svg", lambda paint, theme, size: b"<svg/>")
    return shutil.copytree(made, tmp_path / "copy")


def test_page_lies_in_the_folder_unless_told_otherwise(bench_made, tmp_path):
    folder = shutil.copytree(bench_made, tmp_path / "copy")
    assert write_report(folder, str) == [folder / "report.html"]
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(MfkdError) as error:
        write_report(tmp_path / "no", str)
    assert str(error.value) == (
        f"{tmp_path / 'no'} does not exist; give the folder of a run or of a bench, such as runs/digits."
    )


def test_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(MfkdError) as error:
        write_report(tmp_path, str)
    assert str(error.value) == (
        f"{tmp_path} is neither a run nor a bench: it holds no config.yaml and no bench.json; give a folder that "
        "mfkd run, train, distill or bench has written."
    )


def test_part_of_a_run_is_refused_with_the_whole(made):
    with pytest.raises(MfkdError) as error:
        write_report(made / "distilled" / "seed-0", str)
    part = made / "distilled" / "seed-0"
    assert str(error.value) == f"{part} is a part of a run; give the run's own folder, {made}."


def test_run_without_any_student_is_refused(run):
    for kind in ("alone", "distilled"):
        shutil.rmtree(run / kind)
    with pytest.raises(MfkdError) as error:
        write_report(run, str)
    assert str(error.value) == f"{run} holds no finished student yet; start its mfkd run again and let it end."


@pytest.mark.parametrize(("library", "name"), [("matplotlib", "matplotlib"), ("jinja2", "Jinja")])
def test_missing_library_is_named(bench_made, tmp_path, monkeypatch, library, name):
    for module in [module for module in sys.modules if module.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError) as error:
        write_report(bench_made, str, tmp_path / "page.html")
    assert str(error.value) == f"mfkd report needs {name}; run `pip install 'mfkd[report]'`."


def test_page_is_made_without_the_images(run, tmp_path):
    text = (run / "config.yaml").read_text(encoding="utf-8")
    name = read_run(run).config.data.name
    (run / "config.yaml").write_text(text.replace(name, f"folder:{tmp_path / 'gone'}"), encoding="utf-8")
    page = page_of(run, str)
    assert sections(page) == [
        "Accuracy against cost",
        "Learning curves",
        "What is missing here",
        "Settings and environment",
    ]
    assert any(
        text.startswith("The images could not be read, so nothing that needs them is shown here: ")
        for text in texts(page)
    )
    assert page.warnings


def test_page_is_made_without_the_teacher(run):
    (run / "teacher" / "teacher.safetensors").unlink()
    page = page_of(run, str)
    assert "The teacher's weights are not there any more, so its maps and answers are left out." in texts(page)
    assert "Without the teacher its fusion cannot be built; these are the student's levels alone." in texts(page)
    assert "Likeness of the features" not in sections(page)
    assert "What the networks see" in sections(page)


def test_damaged_student_is_left_out_and_named(run):
    (run / "alone" / "seed-1" / "student.safetensors").write_bytes(b"no weights")
    page = page_of(run, str)
    assert any(text.startswith("The student alone, seed 1 could not be opened") for text in texts(page))
    assert "Classes and confusions" in sections(page)


def test_fused_map_of_the_student_needs_a_checkpoint(run):
    shutil.rmtree(run / "distilled" / "seed-0" / "checkpoints")
    page = page_of(run, str)
    assert (
        "The fused map of the student is left out: it is kept in the checkpoint alone, which is not there any more."
    ) in texts(page)
    shown = [picture.name for picture in page.pictures]
    assert "levels-teacher" in shown
    assert "levels-student" not in shown


def test_fusion_without_parameters_shows_its_maps_and_no_weights(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    monkeypatch.setattr(canvas, "_svg", lambda paint, theme, size: b"<svg/>")
    whole(
        open_plan(load_config("digits", [*WORDS, f"data.name=folder:{pictures}", f"out={tmp_path}", "seeds=[0]"])), str
    )
    page = page_of(tmp_path, str)
    assert "by the method mfkd+kd (weights: ce 1, mfkd 64, kd 1)." in str(page)
    assert not any("weights are those" in text or "left out" in text for text in texts(page))
    assert not any(picture.name.startswith("levels") for picture in page.pictures)
    shown = [block for section in page.sections for block in section.blocks if section.title == "What the fusion sees"]
    assert str(shown).count("fused") >= 2  # of both sides


def test_fused_map_of_the_teacher_needs_its_calibration(run):
    (run / "distilled" / "prepared.safetensors").unlink()
    assert not any("is left out" in text for text in texts(page_of(run, str)))  # the checkpoint has it too
    for path in (run / "distilled" / "seed-0" / "checkpoints").iterdir():
        path.unlink()
    assert (
        "The fused map of the teacher is left out: it is kept in prepared.safetensors and in the checkpoint, which is "
        "not there any more."
    ) in texts(page_of(run, str))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("seed-0/checkpoints/last.pt", "The last checkpoint cannot be read: checkpoint "),
        ("prepared.safetensors", "The calibration cannot be read: "),
    ],
)
def test_damaged_fusion_is_told(run, path, text):
    (run / "distilled" / path).write_bytes(b"damaged")
    assert any(line.startswith(text) for line in texts(page_of(run, str)))


def test_nothing_in_the_run_folder_is_touched(run, tmp_path):
    def state():
        return {path: path.stat().st_mtime_ns for path in run.rglob("*")}

    before = state()
    write_report(run, str, tmp_path / "page.html")
    assert state() == before


def test_distilled_students_alone_give_no_gain(run):
    shutil.rmtree(run / "alone")
    page = page_of(run, str)
    assert page.warnings == [
        "The student was not trained alone here (mfkd distill), so no gain can be told; mfkd run does both."
    ]
    assert page.gained[0].startswith("Student distilled: Top-1 ")
    assert page.first == []


def test_student_alone_needs_no_teacher(run):
    for part in ("distilled", "teacher"):
        shutil.rmtree(run / part)
    (run / "summary.json").unlink()
    page = page_of(run, str)
    assert page.title == "resnet8 on its own"
    assert page.asked[0].endswith("without a teacher.")
    assert "Calibration" in sections(page)


def test_damaged_record_is_refused(run):
    path = run / "distilled" / "seed-0" / "record.json"
    path.write_text(json.dumps({"kind": "distilled"}), encoding="utf-8")
    with pytest.raises(MfkdError) as error:
        page_of(run, str)
    assert str(error.value) == f"{path} is not a run record (config: Field required); delete it and run again."
