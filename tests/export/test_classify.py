"""An export is asked without any training library, and answers as the trained network does."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mfkd.errors import CheckpointError, ConfigError, DataError
from mfkd.export.classify import classify, graph_of, line, listed
from mfkd.export.folder import Wishes, export_run
from mfkd.export.quick import Question, predict, understood
from mfkd.handed import predict_images

TRAINING = ("torch", "torchvision", "timm", "accelerate", "sklearn", "scipy", "pydantic", "typer", "rich", "onnx")


@pytest.fixture(scope="module")
def place(trained, tmp_path_factory):
    """(run folder, export folder, folder of images): of other sizes and colours than the network's."""
    folder = tmp_path_factory.mktemp("asked")
    rng = np.random.default_rng(0)
    for number, shape in enumerate([(8, 8), (30, 21), (9, 40, 3), (64, 64, 4)]):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number}.png")
    export_run(trained.folder, folder / "export", Wishes(embed=True))
    return trained.folder, folder / "export", folder


def test_answers_are_those_of_the_trained_network(place):
    run, export, images = place
    expected = predict_images([images], run, top=10)
    found = classify([images, images / "1.png"], export / "model.onnx", top=10)
    assert [row["image"] for row in found] == [str(images / f"{number}.png") for number in (0, 1, 2, 3, 1)]
    for got, told in zip(found, expected, strict=False):
        assert got["image"] == told["image"]
        assert dict(got["top"]) == pytest.approx(dict(map(tuple, told["top"])), abs=1e-5)
        assert [name for name, _ in got["top"][:2]] == [name for name, _ in told["top"][:2]]
    assert len({row["top"][0][1] for row in found}) == 4  # the images differ


def test_top_is_at_most_the_number_of_classes(place):
    _, export, images = place
    (row,) = classify([images / "0.png"], export / "model.onnx", top=99)
    assert len(row["top"]) == 10
    assert sum(share for _, share in row["top"]) == pytest.approx(1)
    assert line({"image": "a[b].png", "top": [["cat", 0.912], ["dog", 0.088]]}) == "a[b].png: cat 91.2%, dog 8.8%"


@pytest.mark.parametrize("words", [["-m", "{export}"], ["--model={export}/model.onnx", "--json"]])
def test_no_training_library_is_imported(place, words):
    _, export, images = place
    arguments = ["predict", str(images / "0.png"), *(word.format(export=export) for word in words)]
    code = (
        f"import sys; sys.argv[1:] = {arguments}\n"
        "from mfkd.__main__ import main; main()\n"
        f"sys.exit(str([name for name in {TRAINING} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "[]"
    assert "0.png" in done.stdout


def test_short_way_prints_what_the_whole_command_prints(place, mfkd, monkeypatch, capsys):
    _, export, images = place
    for words in ([images, "-m", export, "--top", "2"], ["-m", export / "model.onnx", images / "0.png", "--json"]):
        assert predict(list(map(str, words)))
        short = capsys.readouterr()
        whole = mfkd("predict", *words)
        assert (short.out, short.err) == (whole.stdout, whole.stderr)
        assert "Files: " in short.out + short.err


def test_list_on_standard_input(place, mfkd, monkeypatch, capsys):
    _, export, images = place
    text = f"{images / '1.png'}\n\n  {images / '0.png'}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert listed(["a.png", "-"]) == ["a.png", str(images / "1.png"), str(images / "0.png")]
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert predict(["-", "-m", str(export), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [Path(row["image"]).name for row in found] == ["1.png", "0.png"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(ConfigError) as caught:
        listed(["-"])
    assert str(caught.value) == "standard input names no image; write one path a line."


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a.png", "-m", "x"], Question(["a.png"], "x")),
        (["-mx", "a", "-", "--top", "3", "--json"], Question(["a", "-"], "x", 3, True)),
        (["--model=x", "--top=1", "a"], Question(["a"], "x", 1)),
        (["a.png"], None),
        (["-m", "x"], None),
        (["a", "-m", "x", "--top", "0"], None),
        (["a", "-m", "x", "--top", "many"], None),
        (["a", "--mod", "x"], None),
        (["a", "-m", "x", "--help"], None),
        (["a", "-m", "x", "-h"], None),
        (["a", "-m"], None),
        (["--json=1", "a", "-m", "x"], None),
        ([], None),
    ],
)
def test_words_of_the_short_way(words, expected):
    assert understood(words) == expected


def test_other_models_go_the_long_way(place):
    run, _, images = place
    assert not predict([str(images / "0.png"), "-m", str(run)])
    assert graph_of(run) is None
    assert graph_of(run / "student.safetensors") is None


def test_refusals(place, tmp_path):
    _, export, images = place
    with pytest.raises(DataError, match=r"^image .*none\.png does not exist; give image files, or folders of them\.$"):
        predict(["none.png", "-m", str(export)])
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png cannot be read as an image"):
        classify([tmp_path / "broken.png"], export / "model.onnx")
    with pytest.raises(CheckpointError, match=r"none\.onnx does not exist; give a file written by mfkd export\.$"):
        classify([images / "0.png"], tmp_path / "none.onnx")


@pytest.mark.parametrize("kind", ["run", "export"])
def test_an_image_that_cannot_be_read_costs_no_other_its_answer(place, tmp_path, kind):
    run, export, images = place
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    words = [broken, images / "0.png", "-m", {"run": run, "export": export}[kind]]
    told = f"{broken} cannot be read as an image (cannot identify image file 'the file'); repair or remove it."
    for more in ([], ["--json"]):
        command = [sys.executable, "-m", "mfkd", "predict", *map(str, words), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == f"mfkd: {told}"
        if more:
            first, second = json.loads(done.stdout)
            assert first == {"image": str(broken), "error": told}
            assert (second["image"], len(second["top"])) == (str(images / "0.png"), 5)
        else:
            answer, files = done.stdout.splitlines()
            assert answer.startswith(f"{images / '0.png'}: ")
            assert files.startswith("Files: ")


def test_refusal_of_the_command_is_one_line(place):
    _, export, _ = place
    command = [sys.executable, "-m", "mfkd", "predict", "none.png", "-m", str(export)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "mfkd: error: image none.png does not exist; give image files, or folders of them.\n"
    assert done.stdout == ""
