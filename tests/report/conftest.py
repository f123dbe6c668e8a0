"""A run and a bench in seconds, and their pages."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from inprocess import Here
from mfkd.bench.plan import load_bench
from mfkd.bench.run import open_board, run_bench
from mfkd.config import load_config
from mfkd.pipeline import run
from mfkd.plan import open_plan
from mfkd.report.write import write_report
from mfkd.train import cost

LEARNT = "method={mfkd: {kind: attention}, kd: {}}"  # whose weights of the levels can be shown
CLASSES = ("<script>alert(1)<", "$x_{1}$ & \"quoted\" 'too'", "漢字")
WORDS = ["train.epochs=2", "train.batch_size=16", "teacher.train.epochs=2", "log.trackers=[]"]


def silent(line):
    assert line


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of small grey images in classes whose names mean no good."""
    folder = tmp_path_factory.mktemp("pictures")
    digits = load_digits()
    for label, name in enumerate(CLASSES):
        found = digits.images[digits.target == label]
        for split, images in (("train", found[:24]), ("test", found[24:40])):
            place = folder / split / name
            place.mkdir(parents=True)
            for number, image in enumerate(images):
                Image.fromarray((image * 15).astype(np.uint8)).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory, pictures):
    """A finished run of two seeds on these images."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "SECONDS", 0.0)
        words = [*WORDS, f"data.name=folder:{pictures}", f"out={folder}", "seeds=[0,1]", LEARNT]
        run(open_plan(load_config("digits", words)), silent)
    return folder


@pytest.fixture(scope="session")
def run_page(made, tmp_path_factory):
    """(the page of that run, the folder of its figures)."""
    folder = tmp_path_factory.mktemp("page")
    return write_report(made, silent, folder / "run.html", folder / "figures")


@pytest.fixture(scope="session")
def bench_made(tmp_path_factory):
    """A bench of three methods, one of which fails."""
    folder = tmp_path_factory.mktemp("bench") / "bench"
    plan = {
        "out": str(folder),
        "base": {
            "data": {"name": "digits", "fraction": 0.2},
            "teacher": {"model": "resnet14", "train": {"epochs": 1}},
            "student": {"model": "resnet8"},
            "train": {"epochs": 2, "batch_size": 32, "schedule": "constant"},
            "log": {"trackers": []},
        },
        "methods": {"mfkd": "mfkd", "kd": "kd", "broken": {"mfkd": {"student_taps": ["nowhere"]}}},
        "seeds": [0, 1],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "SECONDS", 0.0)
        run_bench(open_board(load_bench(plan, ())), Here(), lambda board, row: None)
    return folder


@pytest.fixture(scope="session")
def bench_page(bench_made, tmp_path_factory):
    """The page of that bench."""
    return write_report(bench_made, silent, tmp_path_factory.mktemp("page") / "bench.html")[0]
