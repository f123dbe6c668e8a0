import copy
import csv

import pytest
import torch

from mfkd.data import train_loader
from mfkd.errors import ConfigError
from mfkd.methods.mfkd import MFKD
from mfkd.methods.objective import Objective
from mfkd.train import loop
from mfkd.train.optim import Average
from mfkd.train.runtime import start


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_learns_and_leaves_log_checkpoint_and_figures(lab):
    job = lab.job(epochs=6, trackers=("tensorboard",))
    record, _ = lab.train(job)
    assert record.last["test_top1"] > 60  # chance is 25
    assert record.curves[0]["loss"] > record.curves[-1]["loss"]
    assert (record.steps, record.images, record.processes, record.seed) == (36, 288, 1, 0)
    assert record.peak_mb > 50
    assert record.best["test_top1"] == max(row["test_top1"] for row in record.curves)
    assert record.method["kd"]["weight"] == 1.0
    rows = list(csv.DictReader((job.folder / "log.csv").read_text().splitlines()))
    assert [{name: float(text) for name, text in row.items()} for row in rows] == record.curves
    assert list(rows[0]) == ["epoch", "lr", "loss", "ce", "kd", "train_top1", "seconds", "test_top1", "test_loss"]
    assert list(job.folder.glob("logs/**/events.out.tfevents.*"))
    assert not job.record.exists()  # the session's task, once the final figures are there


def test_accumulated_parts_give_the_weights_of_the_whole_batch(lab):
    options = {"precision": "fp64", "label_smoothing": 0.1, "clip": 0.5}
    parts, whole = (lab.train(lab.job(f"by-{n}", accumulate=n, **options), network=lab.group_norm)[1] for n in (4, 1))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-10, atol=1e-12)
    initial = lab.distiller(lab.job(), network=lab.group_norm).student
    assert not torch.allclose(initial[0].weight.double(), whole[0].weight, atol=1e-3)


@pytest.mark.parametrize("clip", [0.05, None])
def test_clip_bounds_the_norm_of_the_gradient(lab, monkeypatch, clip):
    norms = []
    real = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.stack([g.square().sum() for g in gradients]).sum().sqrt().item())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    lab.train(lab.job(clip=clip, epochs=1, accumulate=2))
    assert len(norms) == 6
    assert (max(norms) <= 0.05 * 1.001) == (clip is not None)


def test_first_loss_has_label_smoothing_by_hand(lab):
    job = lab.job(label_smoothing=0.2, batch_size=48, epochs=1, evaluate_every=1)
    network = lab.distiller(job, "none").student
    augment, config = job.config.augment, job.config.data
    batch = next(train_loader(lab.data, config, augment, batch_size=48, seed=0, device="cpu").epoch(0))
    shares = network.train()(batch.image).log_softmax(1)
    own = shares[range(48), batch.label]
    expected = -(0.8 * own + 0.2 * shares.mean(1)).mean()
    record, _ = lab.train(job, "none")
    assert record.curves[0]["ce"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_kd_sees_the_mixed_images_and_their_targets(lab, kind):
    job = lab.job(augment={kind: 1.0}, epochs=1)
    seen = []

    def spy(distiller):
        distiller.teacher.register_forward_pre_hook(lambda _, args: seen.append(("teacher", args[0].clone())))
        distiller.student.register_forward_pre_hook(lambda _, args: seen.append(("student", args[0].clone())))
        forward = distiller.objective.forward

        def objective(outputs, knowledge, batch, smoothing):
            targets.append(batch.target)
            return forward(outputs, knowledge, batch, smoothing)

        distiller.objective.forward = objective

    targets = []
    lab.train(job, before=spy)
    teacher, student = ([image for who, image in seen if who == name and len(image) == 8] for name in
                        ("teacher", "student"))  # fmt: skip
    assert len(teacher) == 6
    assert all(map(torch.equal, teacher, student))
    plain = lab.job("plain", epochs=1)
    loader = train_loader(lab.data, plain.config.data, plain.config.augment, batch_size=8, seed=0, device="cpu")
    assert not any(torch.equal(image, batch.image) for image, batch in zip(teacher, loader.epoch(0), strict=True))
    assert all(torch.allclose(target.sum(1), torch.ones(8)) for target in targets)
    assert any(((target > 0).sum(1) == 2).any() for target in targets)


def test_bf16_trains_with_weights_in_fp32(lab):
    seen = []

    def spy(distiller):
        distiller.student[0].register_forward_hook(lambda _, __, out: seen.append(out.dtype))

    record, network = lab.train(lab.job(precision="bf16", epochs=6), before=spy)
    assert torch.bfloat16 in seen
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert record.last["test_top1"] > 60


def test_adamw_learns_too(lab):
    assert lab.train(lab.job(optimizer="adamw", lr=0.005, epochs=6))[0].last["test_top1"] > 60


def test_evaluates_every_so_many_epochs_and_at_the_end(lab):
    record, _ = lab.train(lab.job(epochs=5, evaluate_every=2))
    assert [row["epoch"] for row in record.curves if "test_top1" in row] == [2, 4, 5]
    assert record.last["epoch"] == 5
    rows = list(csv.DictReader((lab.job().folder / "log.csv").read_text().splitlines()))
    assert [row["test_top1"] == "" for row in rows] == [True, False, True, False, False]


def test_validation_images_are_reported_beside_the_test(lab):
    data = copy.copy(lab.data)
    object.__setattr__(data, "val", lab.data.train.take(torch.arange(10)))
    row = lab.train(lab.job(epochs=1), data=data)[0].last
    assert 0 <= row["val_top1"] <= 100
    assert row["val_top1"] % 10 == pytest.approx(0, abs=1e-4)


def test_the_averaged_copy_is_what_is_evaluated_and_kept(lab, monkeypatch):
    averages = []
    real = Average.update

    def update(self, student):
        real(self, student)
        averages.append((self, student))

    monkeypatch.setattr(Average, "update", update)
    _, network = lab.train(lab.job(ema=0.9))
    average, student = averages[-1]
    assert len(averages) == 12
    assert network is average.module
    assert not equal(network.state_dict(), student.state_dict())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": "fp16"}, "train.precision: fp16 needs a CUDA device, this machine has none; use bf16 or fp32."),
        ({"sync_batchnorm": True}, "train.sync_batchnorm needs CUDA devices, this machine has none; leave it false."),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusals of a machine without CUDA")
def test_what_needs_cuda_is_refused_without_it(lab, options, text):
    job = lab.job(**options)
    with pytest.raises(ConfigError) as caught:
        start(job.training, job.config.log, job.folder)
    assert str(caught.value) == text


def test_a_tracker_that_is_not_installed_is_refused(lab, monkeypatch):
    monkeypatch.setattr("mfkd.train.runtime.find_spec", lambda name: None if name == "wandb" else object())
    job = lab.job(trackers=("tensorboard", "wandb"))
    with pytest.raises(ConfigError) as caught:
        lab.train(job)
    assert str(caught.value) == "log.trackers: wandb is not installed; run `pip install wandb` or drop it."
    with pytest.raises(ConfigError, match=r"log.trackers.0: got 'wandbb', expected 'tensorboard', 'wandb'"):
        from mfkd.config import load_config

        load_config(None, ["log.trackers=[wandbb]"])


def test_seed_decides_everything_and_the_state_of_the_process_nothing(lab):
    first = lab.train(lab.job("a", augment={"mixup": 0.5}))[1]
    torch.manual_seed(1234)
    torch.rand(17)
    again = lab.train(lab.job("b", augment={"mixup": 0.5}))[1]
    other = lab.train(lab.job("c", augment={"mixup": 0.5}, seed=1))[1]
    assert equal(first.state_dict(), again.state_dict())
    assert not equal(first.state_dict(), other.state_dict())


def test_alone_and_distilled_start_alike_and_see_the_same(lab):
    seen = {}

    def spy(method):
        def note(distiller):
            weights = copy.deepcopy(distiller.student.state_dict())
            images = []
            distiller.student.register_forward_pre_hook(lambda m, args: images.append(args[0]) if m.training else None)
            seen[method] = weights, images

        return note

    mfkd = {"mfkd": {}, "kd": {}}
    for name, method in (("alone", "none"), ("kd", "kd"), ("mfkd", mfkd)):
        lab.train(lab.job(name), method, before=spy(name))
    for name in ("kd", "mfkd"):
        assert equal(seen[name][0], seen["alone"][0])
        assert len(seen[name][1]) == 12
        assert all(map(torch.equal, seen[name][1], seen["alone"][1]))


def test_a_weight_that_has_faded_out_costs_nothing_and_changes_nothing(lab, monkeypatch):
    method, calls, results = {"mfkd": {"fade": 0.25}, "kd": {}}, [], []
    real = MFKD.forward
    monkeypatch.setattr(MFKD, "forward", lambda *args: calls.append(args) or real(*args))
    for place, resting in (("resting", Objective.resting), ("multiplied", lambda self, name: False)):
        monkeypatch.setattr(Objective, "resting", resting)
        results.append(lab.train(lab.job(place), method))
        results.append(len(calls))
    (record, student), few, (full, other), all_of_them = results
    assert (few, all_of_them - few) == (3, 12)  # of two epochs of six steps
    assert equal(student.state_dict(), other.state_dict())
    first, last = record.curves
    assert "mfkd" not in last
    assert last == {name: value for name, value in full.last.items() if name != "mfkd"} | {"seconds": last["seconds"]}
    everywhere = full.curves[0]["mfkd"]
    assert first["mfkd"] != everywhere  # a mean over its own three steps
    assert 0.5 * everywhere < first["mfkd"] < 2 * everywhere
    assert first["kd"] == full.curves[0]["kd"]


def test_the_teacher_does_not_move(lab):
    held = []
    lab.train(
        lab.job(),
        {"mfkd": {}, "kd": {}},
        before=lambda distiller: held.append((distiller.teacher, copy.deepcopy(distiller.teacher.state_dict()))),
    )
    teacher, before = held[0]
    assert equal(teacher.state_dict(), before)
    assert not any(part.training for part in teacher.modules())


def test_a_batch_larger_than_the_data_is_refused(lab):
    with pytest.raises(ConfigError, match=r"train.batch_size=64 is larger than the 48 training images"):
        lab.train(lab.job(batch_size=64))


def test_no_step_waits_for_the_device(lab, monkeypatch):
    """Nothing may read a number back: on a GPU each such look would drain the queue."""
    looks = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *args, real=real, name=name: (looks.append(name) if watching else None, real(self, *args))[1],
        )
    watching = False
    real_update = loop.Fit.update

    def update(self, batches):
        nonlocal watching
        batches = iter([next(batches)])
        watching = self.state.step > 0  # the frozen fusion is asked once whether it is ready
        try:
            return real_update(self, batches)
        finally:
            watching = False

    monkeypatch.setattr(loop.Fit, "update", update)
    lab.train(lab.job(ema=0.9, clip=1.0), {"mfkd": {}, "kd": {}})
    assert looks == []
