"""A training's folder: finished once, and made whole again."""

import shutil

import pytest

from mfkd.errors import ConfigError
from mfkd.models.weights import read_weights
from mfkd.train import loop, session
from mfkd.train.student import Card


def train(lab, job):
    card = Card("made", lab.data.classes, 3, lab.data.size, lab.data.mean, lab.data.std)
    return session.train(job, lambda: lab.distiller(job), lab.data, card)


def contents(job):
    """Bit for bit, but for the order in which the file lists its texts."""
    state, metadata = read_weights(job.weights)
    return {name: (value.dtype, value.shape, value.numpy().tobytes()) for name, value in state.items()}, metadata


def test_a_finished_training_is_read_back(lab, monkeypatch):
    first = train(lab, lab.job())
    monkeypatch.setattr(session, "fit", lambda *_: pytest.fail("trained again"))
    assert train(lab, lab.job()) == first
    with pytest.raises(ConfigError, match=r"holds a run of other settings; choose another folder with out="):
        train(lab, lab.job(lr=0.04))


def test_lost_weights_are_written_again_from_the_checkpoint(lab, monkeypatch):
    job = lab.job()
    first = train(lab, job)
    weights = contents(job)
    job.weights.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(loop.Fit, "update", lambda *_: pytest.fail("trained again"))
        again = train(lab, job)
    assert contents(job) == weights
    assert again.curves == first.curves
    assert again.metrics.keys() == first.metrics.keys()
    assert all(again.metrics[name] == value for name, value in first.metrics.items() if name != "latency_ms")


def test_lost_weights_without_a_checkpoint_are_trained_anew(lab):
    job = lab.job()
    train(lab, job)
    weights = contents(job)
    job.weights.unlink()
    shutil.rmtree(job.checkpoint.parent)
    train(lab, job)
    assert contents(job) == weights
