"""Stages before training that are interrupted go on where they were, to the bit."""

import signal
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from mfkd.errors import CheckpointError, ConfigError
from mfkd.train import loop, shared
from mfkd.train.checkpoint import generations, load_checkpoint, save_checkpoint
from mfkd.train.interrupt import Interrupted
from mfkd.train.progress import Display
from mfkd.train.shared import PREPARED, share

MFKD = {"mfkd": {"kind": "attention", "weight": 4.0, "calibration_epochs": 2}, "kd": {}}
FT = {"ft": {"initial_share": 0.5}}
AB = {"ab": {"initial_share": 0.5}, "kd": {}}
STAGES = {  # with 6 updates an epoch: method, options of the training, augmentation, updates of each stage
    "mfkd": (MFKD, {}, {}, {"mfkd": 12}),
    "mfkd in bf16": (MFKD, {"precision": "bf16"}, {}, {"mfkd": 12}),
    "static": ({"mfkd": {"calibration_epochs": 2, "kind": "static", "channels": 5}}, {}, {}, {"mfkd": 12}),
    "ab": (AB, {"ema": 0.8}, {"mixup": 0.4}, {"ab": 12}),
    "fsp": ({"fsp": {"initial_share": 0.5}}, {"optimizer": "adamw", "lr": 0.01}, {}, {"fsp": 12}),
    "ft": (FT, {"accumulate": 2}, {}, {"ft": 12}),
    "ab and fsp": (
        {"ab": {"initial_share": 1 / 3}, "fsp": {"initial_share": 1 / 3}}, {"epochs": 6}, {}, {"ab": 12, "fsp": 12}
    ),
    "all": ({**MFKD, **FT, **AB}, {"channels_last": True}, {"cutmix": 0.4}, {"mfkd": 12, "ft": 12, "ab": 12}),
}  # fmt: skip


def small():
    """As the lab's, with a layer that draws."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 8, 3, 2),
        nn.Flatten(), nn.Linear(72, 4),
    )  # fmt: skip


@pytest.fixture
def at(monkeypatch):
    """Does something after the nth update of a preparation; counts the updates of each stage."""
    count, todo = Counter(), {}
    real = Display.prepared

    def prepared(self, name, done, total):
        real(self, name, done, total)
        count[name] += 1
        if todo.get("number") == count.total():
            todo["do"]()

    monkeypatch.setattr(Display, "prepared", prepared)

    def at(number, do):
        todo.update(number=number, do=do)
        return count

    yield at
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def term():
    signal.raise_signal(signal.SIGTERM)


def die():
    raise RuntimeError("killed")


def equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def same(lab, parts, whole):
    """(record, network) each, and the last checkpoints."""
    rows = [
        [{name: value for name, value in row.items() if name != "seconds"} for row in record.curves]
        for record, _ in (parts, whole)
    ]
    assert rows[0] == rows[1]
    assert parts[0].notes == whole[0].notes
    equal(parts[1].state_dict(), whole[1].state_dict())
    models = [load_checkpoint(lab.job(place).checkpoint) for place in ("parts", "whole")]
    equal(models[0]["model"], models[1]["model"])
    assert "preparation" not in models[0]


@pytest.mark.parametrize("numbers", [(7,), (1, 6, 8, 12)], ids=["once", "again and again"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_preparation_goes_on_bit_by_bit(lab, at, stage, numbers):
    method, options, augment, updates = STAGES[stage]
    options = {"epochs": 4, "augment": augment, **options}
    whole = lab.train(lab.job("whole", **options), method, small)
    job, factor = lab.job("parts", **options), len(updates)
    expected = at(0, None)
    assert expected == updates
    expected.clear()
    for number in numbers:
        count = at(number * factor, term)
        with pytest.raises(Interrupted, match="the same command goes on from here"):
            lab.train(job, method, small)
        assert load_checkpoint(job.checkpoint)["preparation"]["done"] == (number * factor - 1) % 12 + 1
        torch.rand(3)
    parts = lab.train(job, method, small)
    assert count == updates, "an update was done twice"
    same(lab, parts, whole)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_tells_where_and_that_it_goes_on(lab, at, signum, code):
    at(7, lambda: signal.raise_signal(signum))
    job = lab.job()
    with pytest.raises(Interrupted) as caught:
        lab.train(job, MFKD)
    assert caught.value.code == code
    assert str(caught.value) == (
        "student distilled, seed 0: stopped in the preparation of mfkd, update 7 of 12; "
        f"the same command goes on from here. Everything is in {job.folder}."
    )


def saved(monkeypatch, module):
    """Updates done in each checkpoint; None once the training has begun."""
    found, real = [], module.save_checkpoint

    def save(path, state, keep):
        real(path, state, keep)
        found.append(state["preparation"]["done"] if "preparation" in state else None)

    monkeypatch.setattr(module, "save_checkpoint", save)
    return found


@pytest.mark.parametrize(
    ("pace", "expected"),
    [({"every_steps": 5}, [5, 10]), ({"every_minutes": 1e-9}, [*range(1, 13)]), ({}, [])],
)
def test_checkpoints_come_as_often_as_the_recipe_says(lab, monkeypatch, pace, expected):
    found = saved(monkeypatch, loop)
    lab.train(lab.job(checkpoint=pace), MFKD)
    assert found[: len(expected) + 1] == [*expected, None]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_preparation_goes_on_from_its_last_checkpoint(lab, at, damaged):
    pace = {"every_steps": 3}
    whole = lab.train(lab.job("whole", epochs=4, checkpoint=pace), AB, small)
    job = lab.job("parts", epochs=4, checkpoint=pace)
    at(0, None).clear()
    count = at(8, die)
    with pytest.raises(RuntimeError, match="killed"):
        lab.train(job, AB, small)
    assert [load_checkpoint(one)["preparation"]["done"] for one in generations(job.checkpoint)] == [6, 3]
    if damaged:
        job.checkpoint.write_bytes(job.checkpoint.read_bytes()[:-100])
    parts = lab.train(job, AB, small)
    assert count == {"ab": 8 + 12 - (3 if damaged else 6)}
    same(lab, parts, whole)
    assert parts[0].preparation_seconds > 0


def test_an_unfinished_preparation_of_other_settings_is_refused(lab, at):
    at(7, term)
    with pytest.raises(Interrupted):
        lab.train(lab.job(), MFKD)
    before = lab.job().checkpoint.read_bytes()
    for other in (lab.job(lr=0.04), lab.job(seed=1)):
        with pytest.raises(ConfigError, match="holds an unfinished run of other settings; choose another folder with"):
            lab.train(other, MFKD)
    assert lab.job().checkpoint.read_bytes() == before


def change(**values):
    return lambda state: {**state, **values}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (change(stage="ft"), "it was preparing ft, 12 updates, not mfkd, 12 updates"),
        (change(total=18), "it was preparing mfkd, 18 updates, not mfkd, 12 updates"),
        (change(optimizer=None), "it was preparing mfkd, 12 updates, not mfkd, 12 updates"),
        (change(optimizer={}), "no 'param_groups'"),
        (change(done=13), "update 13 of 12 in a preparation"),
        (change(scheduled=8), "update 7 of 12 in a preparation"),
        (change(before=-1), "before"),
        (lambda _: [1], "dictionary"),
    ],
)  # fmt: skip
def test_a_state_that_no_preparation_has_is_refused(lab, at, changed, reason):
    at(7, term)
    job = lab.job()
    with pytest.raises(Interrupted):
        lab.train(job, MFKD)
    found = load_checkpoint(job.checkpoint)
    save_checkpoint(job.checkpoint, {**found, "preparation": changed(found["preparation"])})
    with pytest.raises(CheckpointError, match="does not belong to this training") as caught:
        lab.train(job, MFKD)
    assert reason in str(caught.value)
    assert str(caught.value).endswith(f"; delete {job.checkpoint.parent} to start anew.")


def test_a_preparation_that_is_not_asked_for_any_more_is_refused(lab, at):
    at(7, term)
    job = lab.job()
    with pytest.raises(Interrupted):
        lab.train(job, MFKD)
    found = load_checkpoint(job.checkpoint)
    found["model"]["objective.methods.mfkd.teacher_side.done"].fill_(1)
    save_checkpoint(job.checkpoint, found)
    with pytest.raises(CheckpointError, match="it was preparing mfkd, which is done or not part of it"):
        lab.train(job, MFKD)


@pytest.fixture
def sharing(lab, monkeypatch):
    """What is prepared once for all students, in a folder."""
    monkeypatch.setattr(shared, "teacher_fields", lambda *_: {"weights": do.teacher})

    def do(place, method, **options):
        job = lab.job(place, epochs=4, **options)
        return job, share(job, lambda seed: lab.distiller(replace(job, seed=seed), method), lab.data, print)

    do.teacher = "one"
    return do


@pytest.mark.parametrize("numbers", [(7,), (1, 6, 8, 12)], ids=["once", "again and again"])
@pytest.mark.parametrize("stage", ["mfkd", "static", "ft", "all"])
def test_what_is_shared_goes_on_bit_by_bit(sharing, at, stage, numbers):
    method, options, augment, updates = STAGES[stage]
    updates = {name: count for name, count in updates.items() if name != "ab"}  # it trains the student
    _, whole = sharing("whole", method, augment=augment, **options)
    at(0, None).clear()
    for number in numbers:
        count = at(number * len(updates), term)
        with pytest.raises(Interrupted) as caught:
            sharing("parts", method, augment=augment, **options)
        torch.rand(3)
    assert caught.value.code == 143
    job, parts = sharing("parts", method, augment=augment, **options)
    before, done = divmod(numbers[-1] * len(updates) - 1, 12)
    assert str(caught.value) == (
        f"students distilled: stopped in the preparation of {[*updates][before]}, update {done + 1} of 12; "
        f"the same command goes on from here. Everything is in {job.folder}."
    )
    assert count == updates, "an update was done twice"
    equal(parts.state, whole.state)
    assert [path.name for path in job.folder.iterdir()] == [PREPARED], "the checkpoint is of no use any more"


def test_what_is_shared_is_written_as_often_as_the_recipe_says(sharing, monkeypatch):
    found = saved(monkeypatch, shared)
    job, _ = sharing("run", MFKD, checkpoint={"every_steps": 5})
    assert found == [5, 10]
    assert not job.checkpoint.parent.exists()


def test_a_checkpoint_beside_what_is_prepared_is_removed(sharing, at):
    """As after a kill between the two."""
    at(7, term)
    with pytest.raises(Interrupted):
        sharing("parts", MFKD)
    job, whole = sharing("whole", MFKD)
    place = job.folder.with_name("parts")
    (place / PREPARED).write_bytes((job.folder / PREPARED).read_bytes())
    assert (place / "checkpoints" / "last.pt").exists()
    job, parts = sharing("parts", MFKD)
    equal(parts.state, whole.state)
    assert [path.name for path in job.folder.iterdir()] == [PREPARED]


def test_what_is_shared_by_another_teacher_or_other_settings_is_refused(lab, sharing, at):
    at(7, term)
    with pytest.raises(Interrupted):
        sharing("run", MFKD)
    path = lab.job("run").checkpoint
    for teacher, options in (("other", {}), ("one", {"lr": 0.04})):
        sharing.teacher = teacher
        with pytest.raises(ConfigError) as caught:
            sharing("run", MFKD, **options)
        assert str(caught.value) == (
            f"{path} was prepared for another teacher or other settings; choose another folder with out=."
        )
    sharing.teacher = "one"
    found = load_checkpoint(path)
    del found["preparation"]
    save_checkpoint(path, found)
    with pytest.raises(CheckpointError, match=r"does not belong to this training \(no 'preparation'\); delete "):
        sharing("run", MFKD)


def test_draws_do_not_depend_on_what_was_drawn_before(lab, at):
    """A preparation that is not interrupted gives the same student after other draws in its updates."""
    job = lab.job("first", epochs=4)
    _, first = lab.train(job, AB, small)
    at(3, lambda: torch.rand(5)).clear()
    _, second = lab.train(lab.job("second", epochs=4), AB, small)
    equal(first.state_dict(), second.state_dict())
