"""`mfkd cache` on a few digits: build, info, verify, remove, by recipe, run folder and cache folder."""

import json
import re

import pytest

from mfkd.teacher.manifest import read_manifest
from mfkd.train import shared

WORDS = (
    "data.fraction=0.1", "teacher.model=resnet8", "teacher.train.epochs=1", "train.epochs=1", "train.batch_size=32",
    "method=kd", "cache.views=2", "log.trackers=[]", "out=run",
)  # fmt: skip


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "ROOT", str(tmp_path / "root"))


def test_a_cache_from_its_announcement_to_its_end(mfkd, tmp_path):
    told = mfkd("cache", "build", *WORDS, "--dry-run")
    assert told.exit_code == 0
    assert told.stdout.splitlines()[0].startswith("2 views of 136 images, about ")
    assert told.stdout.splitlines()[-1] == "Nothing was written."
    assert list(tmp_path.iterdir()) == []

    made = mfkd("cache", "build", *WORDS, "--json")
    value = json.loads(made.stdout)
    folder = tmp_path / "root" / value["fingerprint"]
    assert (
        value["bytes"]
        == 2 * 136 * 10 * 2
        == json.loads(mfkd("cache", "build", *WORDS, "--dry-run", "--json").stdout)["bytes"]
    )
    assert value["folder"] == str(folder)
    assert value["complete"] is True
    assert value["seconds"] > 0
    assert re.search(r"Knowledge cache: 2 views of 136 images, teacher/logits 0.0 MB; 0.0 MB in all of ", made.stderr)

    again = mfkd("cache", "build", *WORDS)
    assert "Knowledge cache:" not in again.stderr
    assert again.stdout.splitlines()[-1] == f"Files: {folder}"
    for place in (WORDS, ["run"], [folder]):
        lines = mfkd("cache", "info", *place).stdout.splitlines()
        assert lines[0] == "2 views of 136 images of digits, in float16, built in 0 s"
        assert lines[-1] == f"Files: {folder}"
        assert json.loads(mfkd("cache", "info", *place, "--json").stdout)["fields"]["view_seed"] == 0
        assert mfkd("cache", "verify", *place).stdout.splitlines()[0] == "All 0.0 MB are intact."
    assert json.loads(mfkd("cache", "verify", folder, "--json").stdout) == {
        "folder": str(folder), "bytes": 5440, "intact": True
    }  # fmt: skip

    raw = bytearray((folder / "0.bin").read_bytes())
    raw[-1] ^= 1
    (folder / "0.bin").write_bytes(raw)
    assert str(mfkd("cache", "verify", "run").exception) == (
        f"knowledge cache {folder} is damaged: teacher/logits of view 1, images 128 to 135, is corrupted; "
        f"remove it with `mfkd cache remove {folder}` and build it anew."
    )
    removed = mfkd("cache", "remove", "run")
    assert removed.stdout.startswith(f"Removed {folder}, 0.0 MB are free again.")
    assert not folder.exists()
    assert str(mfkd("cache", "info", "run").exception) == (
        f"{folder} holds no knowledge cache; make one with `mfkd cache build`."
    )


def test_run_builds_the_cache_and_counts_it_in_its_plan(mfkd, tmp_path):
    steps = json.loads(mfkd("run", *WORDS, "seeds=[0]", "--dry-run", "--json").stdout)["steps"]
    assert [step["step"] for step in steps] == [
        "teacher, seed 0", "knowledge cache", "student alone, seed 0", "student distilled, seed 0"
    ]  # fmt: skip
    assert steps[1]["megabytes"] == 5440 / 1e6
    done = mfkd("distill", *WORDS, "seeds=[0]", "--json")
    assert json.loads(done.stdout)[0]["shared_seconds"].keys() == {"cache"}
    (folder,) = (tmp_path / "root").iterdir()
    assert read_manifest(folder).complete
    steps = json.loads(mfkd("run", *WORDS, "seeds=[0,1]", "--dry-run", "--json").stdout)["steps"]
    assert "knowledge cache" not in [step["step"] for step in steps]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["build"], "cache.views is null, which asks the teacher itself; say how many, or cache.views=auto."),
        (["info"], "runs/digits has used no knowledge cache yet; build one with `mfkd cache build`."),
        (["verify", "out=x"], "x has used no knowledge cache yet; build one with `mfkd cache build`."),
        (["remove", "."], ". holds no knowledge cache; nothing was removed."),
        (
            ["build", *WORDS, "method=none"],
            "the methods of this recipe need nothing of the teacher; there is nothing to keep.",
        ),
        (
            ["build", *WORDS, "method=none", "--dry-run"],
            "the methods of this recipe need nothing of the teacher; there is nothing to keep.",
        ),
    ],
)
def test_refusals_are_one_line(mfkd, words, text):
    assert str(mfkd("cache", *words).exception).startswith(text)


def test_help_names_the_four_commands(mfkd):
    text = mfkd("cache", "--help").stdout
    assert [name for name in ("build", "info", "verify", "remove") if f" {name} " in text] == [
        "build", "info", "verify", "remove"
    ]  # fmt: skip
