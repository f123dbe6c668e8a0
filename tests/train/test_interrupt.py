import signal

import pytest
import torch

from mfkd.train import loop
from mfkd.train.interrupt import CODES, Interrupt, Interrupted, stop_at_once
from mfkd.train.progress import Display

MFKD = {"mfkd": {"kind": "attention", "calibration_epochs": 2}, "kd": {"warmup": 0.5}}
VARIANTS = {
    "plain": ("none", {}, {}),
    "mfkd": (MFKD, {"clip": 1.0}, {}),
    "ema": ("kd", {"ema": 0.8, "optimizer": "adamw", "lr": 0.01}, {}),
    "mixed": ("kd", {"accumulate": 2, "label_smoothing": 0.1}, {"mixup": 0.4, "cutmix": 0.4}),
    "crd": ({"crd": {"width": 8}}, {}, {}),
    "a stage of the student": ({"ab": {"initial_share": 0.34}, "kd": {}}, {}, {}),
    "bf16": ("kd", {"precision": "bf16", "schedule": "onecycle"}, {}),
}


@pytest.fixture
def press(monkeypatch):
    """A signal right after the nth update of a training."""

    def at(number, signum=signal.SIGINT):
        count = 0
        real = Display.step

        def step(self, images):
            nonlocal count
            count += 1
            real(self, images)
            if count == number:
                signal.raise_signal(signum)

        monkeypatch.setattr(Display, "step", step)

    yield at
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def rows(record):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in record.curves]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("number", [3, 8])
def test_a_stopped_training_goes_on_bit_by_bit(lab, press, monkeypatch, variant, number):
    method, options, augment = VARIANTS[variant]
    taken = int(variant == "a stage of the student")  # the first epoch belongs to it
    options = {"epochs": 3, "augment": augment, **options}
    whole, expected = lab.train(lab.job("whole", **options), method)
    press(number)
    job = lab.job("parts", **options)
    with pytest.raises(Interrupted) as caught:
        lab.train(job, method)
    assert str(caught.value) == (
        f"student distilled, seed 0: stopped in epoch {1 + taken + number // 6} of 3; "
        f"the same command goes on from here. Everything is in {job.folder}."
    )
    stopped = torch.load(job.checkpoint, weights_only=True)["state"]
    assert (stopped["epoch"] - taken, stopped["step"]) == divmod(number, 6)
    monkeypatch.undo()
    torch.rand(3)
    record, network = lab.train(job, method)
    assert rows(record) == rows(whole)
    assert record.method == whole.method
    for name, value in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    first, second = (torch.load(j.checkpoint, weights_only=True) for j in (job, lab.job("whole", **options)))
    assert first["model"].keys() == second["model"].keys()
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())


def test_ctrl_c_in_the_last_epoch_is_heard_and_nothing_is_trained_again(lab, press, monkeypatch):
    whole, expected = lab.train(lab.job("whole"))
    press(12)
    with pytest.raises(Interrupted, match="student distilled, seed 0: stopped at its end; the same command goes on"):
        lab.train(lab.job("parts"))
    monkeypatch.undo()
    monkeypatch.setattr(loop.Fit, "update", lambda *_: pytest.fail("trained again"))
    record, network = lab.train(lab.job("parts"))
    assert rows(record) == rows(whole)
    assert torch.equal(network[0].weight, expected[0].weight)


def test_what_is_broken_is_not_saved_on_ctrl_c(lab, press):
    press(9)
    job = lab.job(epochs=3)

    def breaks(distiller):
        def hook(module, args, out):
            hook.count += module.training
            return out * float("nan") if hook.count > 7 else out

        hook.count = 0
        distiller.student.register_forward_hook(hook)

    with pytest.raises(loop.TrainingError, match="loss and ce not finite in epoch 2, step 3"):
        lab.train(job, "none", before=breaks)
    assert torch.load(job.checkpoint, weights_only=True)["state"]["epoch"] == 1


def test_the_seconds_of_an_epoch_in_parts_add_up(lab, press, monkeypatch):
    press(8)
    with pytest.raises(Interrupted):
        lab.train(lab.job(epochs=3))
    monkeypatch.undo()
    record, _ = lab.train(lab.job(epochs=3))
    assert sum(row["seconds"] for row in record.curves) == pytest.approx(record.seconds, abs=0.03)
    assert record.images_per_second == pytest.approx(144 / record.seconds, rel=0.5)


def test_the_second_ctrl_c_is_an_ordinary_one():
    with Interrupt() as interrupt:
        assert not interrupt.pending
        signal.raise_signal(signal.SIGINT)
        assert interrupt.pending
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with Interrupt(active=False), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_second_ctrl_c_of_torchrun_is_none():
    with Interrupt(insist=False) as interrupt:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
    assert interrupt.pending


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_every_signal_stops_with_a_checkpoint_and_its_own_code(lab, press, monkeypatch, signum, code):
    before = {number: signal.getsignal(number) for number in CODES}
    press(3, signum)
    with pytest.raises(Interrupted, match="stopped in epoch 1 of 2") as caught:
        lab.train(lab.job())
    assert caught.value.code == code
    assert torch.load(lab.job().checkpoint, weights_only=True)["state"]["step"] == 3
    assert {number: signal.getsignal(number) for number in CODES} == before


def test_the_first_signal_counts_and_a_second_sigterm_is_patient():
    with Interrupt() as interrupt:
        for signum in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(signum)
        assert (interrupt.pending, interrupt.signum) == (True, signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_of_trainings_a_signal_ends_the_block():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="it goes on") as caught, stop_at_once("it goes on"):
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGTERM)
        assert interrupt.pending
        signal.raise_signal(signal.SIGUSR1)
        pytest.fail("went on")
    assert caught.value.code == 75
    assert signal.getsignal(signal.SIGTERM) == before
