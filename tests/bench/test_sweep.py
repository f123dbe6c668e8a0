"""Sweeps on a few digits: what is searched, what is looked at, and going on."""

import json

import pytest
import yaml

pytest.importorskip("optuna", reason="the extra [sweep] is not installed")

from mfkd.bench.space import Span
from mfkd.bench.sweep import chosen, plan_sweep, run_sweep
from mfkd.config import load_config
from mfkd.errors import ConfigError, MfkdError
from mfkd.plan import open_plan
from mfkd.records import RunRecord
from mfkd.train.interrupt import Interrupted

WORDS = (
    "data.fraction=0.2", "data.val_fraction=0.2", "teacher.model=resnet8", "train.epochs=1", "train.batch_size=32",
    "train.schedule=constant", "log.trackers=[]",
)  # fmt: skip
SPACE = ("weight=0.5..8", "temperature=[2.0,4.0]", "train.lr=0.01..0.4")


@pytest.fixture
def sweep(tmp_path):
    def make(*words, trials=2, method="kd", config=(), seed=0):
        base = load_config(None, [*WORDS, f"out={tmp_path}", *config])
        return plan_sweep(base, method, words or SPACE, trials, seed)

    return make


def test_space_is_of_the_method_or_of_the_recipe(sweep, tmp_path):
    planned = sweep(
        "weight=1..8",
        "ce.weight=0.1..1",
        "train.lr=0.01..0.4",
        "kd.temperature=[2,4]",
        "mfkd.size=[[2,2],[4,4]]",
        method="mfkd",
    )
    assert planned.space == {
        "method.mfkd.weight": Span(1, 8),
        "method.ce.weight": Span(0.1, 1),
        "train.lr": Span(0.01, 0.4),
        "method.kd.temperature": [2, 4],
        "method.mfkd.size": [[2, 2], [4, 4]],
    }
    assert (planned.config.data.evaluate, planned.folder) == ("val", tmp_path / "sweep-mfkd")
    assert planned.config.method == {
        "mfkd": {"weight": 256.0, "fade": 0.5},
        "kd": {"temperature": 4.0, "weight": 1.0},
    }
    assert [Span(1, 8).log, Span(0.01, 0.4).log, Span(0, 5).log] == [False, True, False]


def test_the_recipes_own_mapping_is_the_start(sweep):
    planned = sweep("weight=1..8", config=["method={kd: {temperature: 3.0}, at: {}}"])
    values = {"method.kd.weight": 2.0}
    assert chosen(planned.config, values).method == {"kd": {"temperature": 3.0, "weight": 2.0}, "at": {}}


def test_trials_are_of_the_validation_images_and_the_test_images_are_not_read(sweep, tmp_path, monkeypatch):
    real = open_plan(load_config(None, [*WORDS, f"out={tmp_path}"]))
    seen = []
    from mfkd.train import session

    measure = session.measure
    monkeypatch.setattr(session, "measure", lambda network, data, *more: (
        seen.append(data) or measure(network, data, *more)
    ))  # fmt: skip
    lines = []
    planned = sweep()
    result = run_sweep(planned, lines.append)
    assert len(seen) == 3  # the teacher and two students
    for data in seen:
        assert data.test.rows.tolist() == real.data.val.rows.tolist()
        assert data.val is None
    assert [trial["number"] for trial in result["trials"]] == [0, 1]
    for trial in result["trials"]:
        assert 0.5 <= trial["values"]["method.kd.weight"] <= 8
        assert trial["values"]["method.kd.temperature"] in (2.0, 4.0)
        cell = RunRecord.load(planned.folder / f"trial-{trial['number']}" / "distilled" / "seed-0" / "record.json")
        assert (cell.metrics["top1"], cell.metrics["n"]) == (trial["val_top1"], len(real.data.val))
        assert cell.method["kd"]["weight"] == trial["values"]["method.kd.weight"]
        assert cell.config["data"]["evaluate"] == "val"
        assert cell.notes == [
            "The test images were not looked at: every figure called test is of the validation images."
        ]
    assert result["best"]["val_top1"] == max(trial["val_top1"] for trial in result["trials"])
    best = yaml.safe_load((planned.folder / "best.yaml").read_text())
    assert best["train"]["lr"] == result["best"]["values"]["train.lr"]
    assert best["method"]["kd"]["weight"] == result["best"]["values"]["method.kd.weight"]
    assert json.loads((planned.folder / "trials.json").read_text()) == result
    assert lines[0].startswith("Trial 1 of 2: kd.weight=")

    # A killed sweep goes on with the very trials that an unbroken one has; finished ones are kept.
    more = run_sweep(sweep(trials=3), lines.append)
    assert more["trials"][:2] == result["trials"]
    assert len(more["trials"]) == 3
    with pytest.raises(ConfigError) as caught:
        run_sweep(sweep("weight=0.5..9", *SPACE[1:]), print)
    assert str(caught.value) == (
        f"{planned.folder} holds another sweep: space.method.kd.weight.high is 8 there and 9 here; choose another out=."
    )


def test_an_interrupted_trial_is_drawn_as_before(sweep, tmp_path, monkeypatch):
    whole = run_sweep(sweep(config=[f"out={tmp_path / 'whole'}"]), print)
    from mfkd.bench import sweep as module

    work, begun = module.work, []

    def interrupted(cell):
        begun.append(cell.key)
        if len(begun) == 3:
            raise Interrupted("stopped")
        work(cell)

    monkeypatch.setattr(module, "work", interrupted)
    with pytest.raises(Interrupted):
        run_sweep(sweep(), print)
    assert run_sweep(sweep(), print)["trials"] == whole["trials"]


def test_a_failed_trial_is_told_and_counts(sweep):
    result = run_sweep(sweep("student_taps=[[front],[nowhere]]", method="mfkd", trials=3), print)
    failed = [trial for trial in result["trials"] if trial["state"] == "fail"]
    assert len(result["trials"]) == 3
    assert len(failed) > 0
    assert all("unknown tap 'nowhere'" in trial["error"] for trial in failed)


def test_a_trial_that_breaks_in_a_library_fails_alone(sweep, monkeypatch):
    from mfkd.bench import sweep as module

    work = module.work

    def broken(cell):
        if cell.config.train.batch_size == 64:
            raise RuntimeError("out of memory\n  tried to allocate all")
        work(cell)

    monkeypatch.setattr(module, "work", broken)
    planned = sweep("train.batch_size=[32,64]", trials=4)
    result = run_sweep(planned, print)
    failed = [trial for trial in result["trials"] if trial["state"] == "fail"]
    assert 0 < len(failed) < 4
    assert {trial["error"] for trial in failed} == {"RuntimeError: out of memory tried to allocate all"}
    log = planned.folder / f"trial-{failed[0]['number']}" / "error.log"
    assert log.read_text().startswith("Traceback")

    def full(cell):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "work", full)
    with pytest.raises(OSError, match="No space left"):  # of the machine, so that the trial is not over
        run_sweep(sweep("train.batch_size=[32,64]", trials=5), print)


def test_the_folder_of_a_sweep_may_lie_at_home(sweep, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    planned = sweep(config=["out=~/runs"])
    assert planned.config.out == str(tmp_path / "home" / "runs" / "sweep-kd")


def test_nothing_but_failures_is_refused(sweep):
    planned = sweep("student_taps=[[nowhere],[nowhere,either]]", method="mfkd", trials=1)
    with pytest.raises(MfkdError, match=r"^sweep: every trial failed, the first one with: .*unknown tap 'nowhere'"):
        run_sweep(planned, print)


def test_without_validation_images_nothing_is_chosen(sweep):
    with pytest.raises(ConfigError) as caught:
        run_sweep(sweep(config=["data.val_fraction=0.0"]), print)
    assert str(caught.value) == (
        "data.evaluate=val needs validation images, and there are none; "
        "hold some out with data.val_fraction, such as 0.1."
    )


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("weight=8..1", "sweep: 'weight=8..1' is no range that rises, for example weight=1..8."),
        ("weight=a..b", "sweep: 'weight=a..b' is no range of numbers, for example weight=1..8."),
        ("weight=3", "sweep: 'weight=3' is neither a range nor a list of two or more, for example weight=1..8."),
        ("weight=[3]", "sweep: 'weight=[3]' is neither a range nor a list of two or more, for example weight=1..8."),
        ("wight=1..8", "unknown key 'method.kd.wight'; did you mean method.kd.weight"),
        ("weight=-1..8", "method.kd.weight: got -1, expected 0 or more"),
        ("train.leraning=1..8", "unknown key 'train.leraning'; did you mean"),
    ],
)
def test_what_cannot_be_searched_is_refused(sweep, word, text):
    with pytest.raises(ConfigError) as caught:
        sweep(word)
    assert text in str(caught.value)


def test_nothing_to_search_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^sweep: nothing to search; name ranges or choices"):
        plan_sweep(load_config(None, []), "kd", [], 1)


def test_missing_optuna_names_the_extra(sweep, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"^mfkd sweep needs Optuna; run `pip install 'mfkd\[sweep\]'`\.$"):
        run_sweep(sweep(), print)
