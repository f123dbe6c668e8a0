from dataclasses import replace
from pathlib import Path

import pytest

from mfkd.errors import CheckpointError, MfkdError
from mfkd.export import contest as module
from mfkd.export.contest import Contender, contest
from mfkd.export.folder import export_run
from mfkd.files import write_text
from mfkd.models import build_model
from mfkd.train.student import save_student


@pytest.fixture(scope="module")
def place(trained, tmp_path_factory):
    """A run folder with a teacher, and an export folder."""
    run = tmp_path_factory.mktemp("contest") / "run"
    student = replace(trained.card)
    save_student(run / "student.safetensors", trained.network, student)
    save_student(
        run / "teacher" / "teacher.safetensors", build_model("resnet14", 10, 1), replace(student, model="resnet14")
    )
    write_text(run / "config.yaml", "teacher: {model: resnet14}\n")
    export_run(trained.folder, run.parent / "export")
    return run, run.parent / "export"


@pytest.fixture
def quiet(monkeypatch):
    """No process is started for the memory."""
    monkeypatch.setattr(module, "_peak_of", lambda contender, batch: 1.5)


def names(found):
    return [(row["name"], row["runtime"]) for row in found["rows"]]


def test_run_is_its_teacher_and_its_student_in_both_runtimes(place, quiet):
    run, _ = place
    lines = []
    found = contest([str(run)], batches=(1, 4), rounds=2, say=lines.append)
    both = ("PyTorch", "ONNX Runtime")
    assert names(found) == [(f"{run} {who}", runtime) for who in ("teacher", "student") for runtime in both]
    for row in found["rows"]:
        assert set(row["batches"]) == {"1", "4"}
        for batch, told in row["batches"].items():
            assert 0 < told["low"] <= told["ms"] <= told["high"]
            assert told["images_per_second"] == pytest.approx(1000 / told["ms"])
            assert told["calls"] == 2, batch
    teacher, _, student, _ = found["rows"]
    assert teacher["megabytes"] > 1.8 * student["megabytes"]
    assert student["megabytes"] == (run / "student.safetensors").stat().st_size / 1e6
    assert lines[0] == f"Writing {run} teacher as ONNX"
    assert found["notes"] == []


def test_export_is_its_files_and_a_name_has_random_weights(place, quiet):
    _, export = place
    words = [str(export), str(export / "model.onnx"), "resnet8"]
    found = contest(words, batches=(2,), rounds=1, classes=10, shape=(1, 8, 8))
    assert names(found) == [
        (str(export), "PyTorch"),
        (f"{export} model.onnx", "ONNX Runtime"),
        (str(export / "model.onnx"), "ONNX Runtime"),
        ("resnet8", "PyTorch"),
        ("resnet8", "ONNX Runtime"),
    ]
    named = found["rows"][3]["megabytes"] * 1e6
    state = build_model("resnet8", 10, 1).state_dict().values()
    assert named == sum(tensor.numel() * tensor.element_size() for tensor in state)


def test_teacher_that_was_loaded_is_built_by_its_name(place, quiet, tmp_path):
    run, _ = place
    (tmp_path / "student.safetensors").write_bytes((run / "student.safetensors").read_bytes())
    write_text(tmp_path / "config.yaml", "teacher: {model: resnet20, weights: x.pth, classes: 7, image_size: 16}\n")
    teacher, student = module._named([str(tmp_path)], 100, (3, 32, 32))
    assert (teacher.model, teacher.classes, teacher.shape, teacher.file) == ("resnet20", 7, (1, 16, 16), None)
    assert (student.model, student.classes, student.shape) == ("resnet8", 10, (1, 8, 8))
    assert teacher.open().fc.out_features == 7


def test_network_that_cannot_be_exported_is_timed_in_pytorch(place, quiet, monkeypatch):
    def refuses(contender, path):
        raise MfkdError("no.")

    monkeypatch.setattr(module, "_as_onnx", refuses)
    found = contest(["resnet8"], batches=(1,), rounds=1)
    assert names(found) == [("resnet8", "PyTorch")]
    assert found["notes"] == ["resnet8 is left out in ONNX Runtime: no."]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_memory_grows_with_the_batch_and_is_measured_in_a_fresh_process(place):
    _, export = place
    graph = Contender("x", "ONNX Runtime", export / "model.onnx", (1, 8, 8))
    few, many = module._peak_of(graph, 1), module._peak_of(graph, 4096)
    assert 0 < few < 200
    assert many > few + 4096 * 16 * 64 * 4 / 1e6 / 2  # half of one map of the first stage


def test_refusals(place, tmp_path, quiet):
    with pytest.raises(CheckpointError, match=r"holds no student\.safetensors, teacher"):
        contest([str(tmp_path)])
    with pytest.raises(MfkdError, match="unknown model 'resnet21'"):
        contest(["resnet21"])
    (tmp_path / "x.safetensors").write_bytes((place[1] / "model.onnx").read_bytes())
    with pytest.raises(CheckpointError) as caught:
        contest([str(tmp_path / "x.safetensors")])
    assert str(caught.value) == (
        f"{tmp_path / 'x.safetensors'} does not tell which network it is; give a run folder or a file written by mfkd."
    )
