import builtins
import math
import os
import pickle
import signal

import pytest
import torch
from torch import nn

from mfkd.distill import Distiller
from mfkd.errors import CheckpointError, ConfigError, MfkdError, TrainingError
from mfkd.train import loop
from mfkd.train.checkpoint import generations, load_checkpoint, load_newest, save_checkpoint
from mfkd.train.interrupt import Interrupted
from mfkd.train.job import State
from mfkd.train.progress import Display
from mfkd.train.snapshot import restored


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_finished_training_is_not_run_again(lab, monkeypatch):
    first, network = lab.train(lab.job())
    monkeypatch.setattr(loop.Fit, "update", lambda *_: pytest.fail("trained again"))
    second, same = lab.train(lab.job())
    assert equal(network.state_dict(), same.state_dict())
    assert second.curves == first.curves


class Broken(nn.Module):
    """Gives NaN from its nth training step on."""

    def __init__(self, inner, good):
        super().__init__()
        self.inner, self.good = inner, good

    def forward(self, image):
        self.good -= self.training
        return self.inner(image) * (1 if self.good >= 0 else math.nan)


def test_a_nan_loss_stops_and_keeps_the_last_good_state(lab, monkeypatch):
    job = lab.job(epochs=4)
    kept = []
    real = loop.save_checkpoint
    monkeypatch.setattr(
        loop, "save_checkpoint", lambda path, *rest: (real(path, *rest), kept.append(path.read_bytes()))
    )
    with pytest.raises(TrainingError) as caught:
        lab.train(job, network=lambda: Broken(lab.small(), good=8))  # in the second step of the second epoch
    assert str(caught.value) == (
        "student distilled, seed 0: loss and ce and kd not finite in epoch 2, step 6; lower train.lr (now 0.05) or set "
        f"train.clip. The last good state is in {job.folder}."
    )
    assert job.checkpoint.read_bytes() == kept[-1]
    state = torch.load(job.checkpoint, weights_only=True)
    assert state["state"]["epoch"] == 1
    assert all(value.isfinite().all() for value in state["model"].values())
    assert len((job.folder / "log.csv").read_text().splitlines()) == 2


def test_weights_that_the_last_update_broke_are_not_saved(lab, monkeypatch):
    real = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        real(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][-1][0] = math.inf

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    job = lab.job(batch_size=48)  # one update an epoch, and its loss is still good
    with pytest.raises(
        TrainingError, match=r"seed 0: the student's weights not finite in epoch 1, step 1; lower train.lr"
    ):
        lab.train(job, "none")
    assert all(value.isfinite().all() for value in torch.load(job.checkpoint, weights_only=True)["model"].values())


def test_an_infinite_mask_is_no_broken_weight(lab):
    def masked():
        network = lab.small()
        network.register_buffer("mask", torch.full((2,), -math.inf))
        return network

    _, network = lab.train(lab.job(epochs=1), "none", masked)
    assert network.mask.isinf().all()


def test_preparation_runs_once_and_is_kept(lab, monkeypatch):
    job, calls = lab.job(lr=0.01), []
    real = Distiller.prepare
    monkeypatch.setattr(Distiller, "prepare", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    monkeypatch.setattr(loop.Fit, "_epoch", lambda self: (_ for _ in ()).throw(KeyError("before training")))
    with pytest.raises(KeyError):
        lab.train(job, "mfkd")
    state = torch.load(job.checkpoint, weights_only=True)
    assert state["state"]["prepared"]
    assert state["optimizer"] is None
    monkeypatch.undo()
    monkeypatch.setattr(Distiller, "prepare", lambda *_, **__: pytest.fail("prepared again"))
    resumed = lab.train(job, "mfkd")[1]
    monkeypatch.undo()
    assert equal(resumed.state_dict(), lab.train(lab.job("whole", lr=0.01), "mfkd")[1].state_dict())
    assert len(calls) == 1


def test_a_damaged_checkpoint_is_refused(lab):
    job = lab.job(checkpoint={"keep": 1})
    lab.train(job)
    assert [path.name for path in job.checkpoint.parent.iterdir()] == ["last.pt"]
    job.checkpoint.write_bytes(job.checkpoint.read_bytes()[:1000])
    start = f"delete {job.checkpoint.parent} to start this training anew."
    for content, kind in ((job.checkpoint.read_bytes(), "RuntimeError"), (b"garbage", "UnpicklingError"),
                          (b"", "EOFError")):  # fmt: skip
        job.checkpoint.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            lab.train(job)
        assert str(caught.value) == f"checkpoint {job.checkpoint} cannot be read ({kind}); {start}"
    torch.save({"version": 99}, job.checkpoint)
    with pytest.raises(CheckpointError, match="is of version 99, expected 1; delete"):
        lab.train(job)
    for content, told in (([1], "'list'"), ({"version": torch.ones(2)}, "Tensor"), ({"version": "a\nb"}, r"'a\\nb'")):
        torch.save(content, job.checkpoint)
        with pytest.raises(CheckpointError, match=f"is of version {told}, expected 1; delete"):
            lab.train(job)


class Hostile:
    def __reduce__(self):
        return exec, ("import builtins; builtins.mfkd_was_run = True",)


def test_a_checkpoint_is_never_executed(lab):
    job = lab.job()
    job.checkpoint.parent.mkdir(parents=True)
    for write, reason in (
        (lambda: torch.save({"version": 1, "model": Hostile()}, job.checkpoint), "would run code (exec) and was not"),
        (lambda: job.checkpoint.write_bytes(pickle.dumps(Hostile())), "cannot be read (UnpicklingError)"),
    ):
        write()
        with pytest.raises(CheckpointError) as caught:
            lab.train(job)
        assert str(caught.value).startswith(f"checkpoint {job.checkpoint} {reason}")
        assert str(caught.value).endswith(f"; delete {job.checkpoint.parent} to start this training anew.")
        assert not hasattr(builtins, "mfkd_was_run")


def test_an_unfinished_training_of_other_settings_is_refused(lab):
    lab.train(lab.job())
    for other in (lab.job(lr=0.04), lab.job(seed=1)):
        with pytest.raises(ConfigError) as caught:
            lab.train(other)
        assert str(caught.value) == (
            f"{other.folder} holds an unfinished run of other settings; choose another folder with out=."
        )


def without(*path):
    def change(saved):
        for name in path[:-1]:
            saved = saved[name]
        del saved[path[-1]]

    return change


def reshaped(saved):
    saved["model"]["student.0.bias"] = torch.zeros(9)


def of_adamw(saved):
    optimizer = torch.optim.AdamW(nn.ParameterList([nn.Parameter(torch.ones(1))] * 1))
    groups = [{**optimizer.state_dict()["param_groups"][0], "params": saved["optimizer"]["param_groups"][0]["params"]}]
    saved["optimizer"] = {"state": {}, "param_groups": groups}


def of_other_weights(saved):
    saved["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("hash"), "no 'hash'"),
        (without("optimizer"), "no 'optimizer'"),
        (without("state"), "no 'state'"),
        (without("state", "meter"), "no 'meter'"),
        (
            without("model", "student.0.bias"),
            'Error(s) in loading state_dict for Distiller: Missing key(s) in state_dict: "student.0.bias".',
        ),
        (
            reshaped,
            "Error(s) in loading state_dict for Distiller: size mismatch for student.0.bias: copying a param with "
            "shape torch.Size([9]) from checkpoint, the shape in ...",
        ),
        (without("optimizer", "param_groups"), "no 'param_groups'"),
        (of_adamw, "the optimizer's state lacks dampening, momentum"),
        (of_other_weights, "momentum_buffer of shape (5,) for weights of (8, 3, 3, 3)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_told_in_one_line(lab, change, reason):
    job = lab.job()
    lab.train(job)
    saved = torch.load(job.checkpoint, weights_only=True)
    change(saved)
    torch.save(saved, job.checkpoint)
    with pytest.raises(CheckpointError) as caught:
        lab.train(job)
    assert str(caught.value) == (
        f"checkpoint {job.checkpoint} does not belong to this training ({reason}); "
        f"delete {job.checkpoint.parent} to start anew."
    )


def test_the_last_checkpoints_are_kept_in_order(tmp_path):
    path = tmp_path / "last.pt"
    for number in range(5):
        save_checkpoint(path, {"number": number}, keep=3)
    (tmp_path / "last-9.pt.damaged").touch()
    (tmp_path / "least-1.pt").touch()
    assert [(one.name, load_checkpoint(one)["number"]) for one in generations(path)] == [
        ("last.pt", 4), ("last-1.pt", 3), ("last-2.pt", 2),
    ]  # fmt: skip
    save_checkpoint(path, {"number": 5}, keep=2)
    assert [load_checkpoint(one)["number"] for one in generations(path)] == [5, 4]
    save_checkpoint(path, {"number": 6})
    assert [load_checkpoint(one)["number"] for one in generations(path)] == [6]


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("failing", range(4))
def test_a_checkpoint_that_cannot_be_put_in_place_costs_no_earlier_one(tmp_path, monkeypatch, keep, failing):
    path = tmp_path / "last.pt"
    for number in range(4):
        save_checkpoint(path, {"number": number}, keep)
    count, real = 0, os.replace

    def replace(*args):
        nonlocal count
        count += 1
        if count > failing:
            raise OSError(28, "No space left on device")
        real(*args)

    monkeypatch.setattr(os, "replace", replace)
    if failing < keep:
        with pytest.raises(MfkdError) as caught:
            save_checkpoint(path, {"number": 4}, keep)
        assert str(caught.value) == (
            f"cannot write {path}: No space left on device; free space or choose another folder with out=."
        )
    monkeypatch.undo()
    assert load_newest(path, pytest.fail)["number"] == 3
    save_checkpoint(path, {"number": 5}, keep)
    assert load_newest(path, pytest.fail)["number"] == 5
    assert not list(tmp_path.glob(".*"))


def test_any_changed_byte_is_seen_and_the_one_before_is_used(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"number": 1, "weights": torch.ones(50)}, keep=2)
    save_checkpoint(path, {"number": 2, "weights": torch.ones(50)}, keep=2)
    good = path.read_bytes()
    for place in (*range(0, len(good) - 34, 37), len(good) - 1):
        told = []
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert load_newest(path, told.append)["number"] == 1, place
        assert told == [
            f"checkpoint {path} is damaged (its checksum does not hold); going on from the one before, last-1.pt."
        ]
        assert not path.exists()  # so that the next one does not put it in the place of the good one
        assert (tmp_path / "last.pt.damaged").exists()
    path.write_bytes(good)
    assert load_newest(path, pytest.fail)["number"] == 2


def test_where_all_are_damaged_the_newest_is_told(tmp_path):
    path = tmp_path / "last.pt"
    assert load_newest(path, pytest.fail) is None
    for _ in range(2):
        save_checkpoint(path, {}, keep=2)
    for one in generations(path):
        one.write_bytes(one.read_bytes()[:100])
    with pytest.raises(CheckpointError) as caught:
        load_newest(path, pytest.fail)
    start = f"delete {tmp_path} to start this training anew."
    assert str(caught.value) == f"checkpoint {path} cannot be read (RuntimeError); {start}"
    assert len(generations(path)) == 2


def test_a_training_goes_on_from_the_checkpoint_before_a_damaged_one(lab, capsys):
    whole, expected = lab.train(lab.job("whole", epochs=3))
    job = lab.job(epochs=3)
    lab.train(job)
    job.checkpoint.write_bytes(b"garbage")
    capsys.readouterr()
    record, network = lab.train(job)
    assert equal(expected.state_dict(), network.state_dict())
    assert [row["loss"] for row in record.curves] == [row["loss"] for row in whole.curves]
    told, trained = capsys.readouterr().err.splitlines()
    assert told == (
        f"student distilled, seed 0: checkpoint {job.checkpoint} cannot be read (UnpicklingError); "
        "going on from the one before, last-1.pt."
    )
    assert "epoch 3/3" in trained


@pytest.mark.parametrize("when", [{"every_steps": 4}, {"every_minutes": 1e-9}])
def test_a_training_killed_within_an_epoch_goes_on_from_there(lab, monkeypatch, when):
    whole, expected = lab.train(lab.job("whole"))
    job, updates = lab.job(checkpoint=when), []
    real = loop.Fit.update

    def update(self, batches):
        updates.append((self.state.epoch, self.state.step))
        if len(updates) == 12:
            raise KeyError("killed")
        return real(self, batches)

    monkeypatch.setattr(loop.Fit, "update", update)
    with pytest.raises(KeyError):
        lab.train(job)
    done = load_checkpoint(job.checkpoint)["state"]
    assert (done["epoch"], done["step"]) == ((1, 2) if "every_steps" in when else (1, 5))
    before = len(updates)
    record, network = lab.train(job)
    assert updates[before:] == [(1, step) for step in range(done["step"], 6)]
    assert equal(expected.state_dict(), network.state_dict())
    for row, other in zip(record.curves, whole.curves, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


def test_no_checkpoint_within_an_epoch_unless_asked_for(lab, monkeypatch):
    saved = []
    real = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", lambda path, state, keep: saved.append(state["state"]["step"]))
    lab.train(lab.job(checkpoint={"every_minutes": None}))
    lab.train(lab.job("other"))  # ten minutes
    assert saved == [0] * 6
    assert real is not loop.save_checkpoint


def test_the_log_is_whole_where_a_kill_fell_between_checkpoint_and_log(lab, monkeypatch):
    job, count = lab.job(), []
    real = loop.Fit._log

    def log(self):
        count.append(1)
        if len(count) == 2:
            raise KeyError("killed")
        real(self)

    monkeypatch.setattr(loop.Fit, "_log", log)
    with pytest.raises(KeyError):
        lab.train(job)
    assert len((job.folder / "log.csv").read_text().splitlines()) == 2
    lab.train(job)
    assert len((job.folder / "log.csv").read_text().splitlines()) == 3


def test_the_sums_of_other_processes_go_to_the_first_where_their_number_changes(lab, monkeypatch):
    job = lab.job()
    monkeypatch.setattr(Display, "step", lambda self, _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        lab.train(job)
    monkeypatch.undo()
    saved = load_checkpoint(job.checkpoint)
    own = saved["state"]["meter"]["sums"]
    saved["others"] = [{name: 3 * value for name, value in own.items()}]
    first, second = (restored(job, saved, lab.distiller(job), rank, 2, 4) for rank in (0, 1))
    assert first.meter.sums == own
    assert second.meter.sums == saved["others"][0]
    assert first.processes == [1, 2]
    alone = restored(job, saved, lab.distiller(job), 0, 1, 4)
    assert alone.meter.sums == {name: 4 * value for name, value in own.items()}
    parts = [restored(job, saved, lab.distiller(job), rank, 3, 4) for rank in range(3)]
    assert [part.meter.sums["loss"].item() for part in parts] == [pytest.approx(4 * own["loss"].item()), 0, 0]
    save_checkpoint(job.checkpoint, saved)
    monkeypatch.setattr("mfkd.train.snapshot.State", lambda **values: State(**{**values, "processes": [2]}))
    record, _ = lab.train(job)
    assert record.notes[-1] == ("Trained by 2, then 1 processes: not to the bit what an uninterrupted run gives.")


def test_a_stage_of_the_student_leaves_no_gradient_to_the_training(lab):
    seen = []

    def before(distiller):
        real = distiller.prepare

        def prepare(*args, **kwargs):
            taken = real(*args, **kwargs)
            seen.extend(p.grad for p in distiller.parameters() if p.grad is not None)
            return taken

        distiller.prepare = prepare

    lab.train(lab.job(epochs=3), {"ab": {"initial_share": 0.34}, "kd": {}}, before=before)
    assert seen == []
