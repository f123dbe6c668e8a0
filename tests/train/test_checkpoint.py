import builtins
import math
import pickle

import pytest
import torch
from torch import nn

from mfkd.distill import Distiller
from mfkd.errors import CheckpointError, ConfigError, TrainingError
from mfkd.train import loop


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_finished_training_is_not_run_again(lab, monkeypatch):
    first, network = lab.train(lab.job())
    monkeypatch.setattr(loop._Fit, "_update", lambda *_: pytest.fail("trained again"))
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
        loop, "save_checkpoint", lambda path, state: (real(path, state), kept.append(path.read_bytes()))
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


def test_preparation_runs_once_and_is_kept(lab, monkeypatch):
    job, calls = lab.job(), []
    real = Distiller.prepare
    monkeypatch.setattr(Distiller, "prepare", lambda *args, **kwargs: (calls.append(1), real(*args, **kwargs)))
    monkeypatch.setattr(loop._Fit, "_epoch", lambda self: (_ for _ in ()).throw(KeyError("before training")))
    with pytest.raises(KeyError):
        lab.train(job, "mfkd")
    state = torch.load(job.checkpoint, weights_only=True)
    assert state["state"]["prepared"]
    assert state["optimizer"] is None
    monkeypatch.undo()
    monkeypatch.setattr(Distiller, "prepare", lambda *_, **__: pytest.fail("prepared again"))
    resumed = lab.train(job, "mfkd")[1]
    monkeypatch.undo()
    assert equal(resumed.state_dict(), lab.train(lab.job("whole"), "mfkd")[1].state_dict())
    assert len(calls) == 1


def test_a_damaged_checkpoint_is_refused(lab):
    job = lab.job()
    lab.train(job)
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
    torch.save([1], job.checkpoint)
    with pytest.raises(CheckpointError, match="is of version 'list', expected 1; delete"):
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
