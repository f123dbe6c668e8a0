import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, MultiStepLR, OneCycleLR

from mfkd.config import TrainConfig
from mfkd.train.optim import Average, build_optimizer, lr_factor, set_lr

STEPS = 7  # an epoch


def rates(make, count):
    """Learning rates that one of torch's own schedulers gives, as shares of the peak."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def ours(count, **options):
    config = TrainConfig(**options)
    return [lr_factor(config, step, STEPS) for step in range(count)]


@pytest.mark.parametrize(
    ("options", "make"),
    [
        (
            {"schedule": "multistep", "epochs": 9, "milestones": (2, 5, 6), "gamma": 0.2},
            lambda o: MultiStepLR(o, [2 * STEPS, 5 * STEPS, 6 * STEPS], gamma=0.2),
        ),
        ({"schedule": "cosine", "epochs": 9}, lambda o: CosineAnnealingLR(o, 9 * STEPS)),
        ({"schedule": "constant", "epochs": 9}, lambda o: LambdaLR(o, lambda step: 1.0)),
        # torch's last rising step is pct_start * total - 1; ours is a fifth of the run.
        (
            {"schedule": "onecycle", "epochs": 9},
            lambda o: OneCycleLR(o, 1.0, total_steps=9 * STEPS, pct_start=0.2 + 1 / (9 * STEPS), cycle_momentum=False),
        ),
        (
            {"schedule": "onecycle", "epochs": 9, "warmup_epochs": 3},
            lambda o: OneCycleLR(
                o, 1.0, total_steps=9 * STEPS, pct_start=1 / 3 + 1 / (9 * STEPS), cycle_momentum=False
            ),
        ),
    ],
    ids=["multistep", "cosine", "constant", "onecycle", "onecycle-warmup"],
)
def test_schedule_agrees_with_torchs_own(options, make):
    count = options["epochs"] * STEPS - 1  # torch's one-cycle refuses a step beyond its end
    assert ours(count, **options) == pytest.approx(rates(make, count), rel=1e-9, abs=1e-12)


def test_warm_up_rises_evenly_to_the_peak_and_the_cosine_starts_there():
    found = ours(6 * STEPS, schedule="cosine", epochs=6, warmup_epochs=1)
    expected = rates(lambda o: LinearLR(o, 1 / (STEPS + 1), 1.0, STEPS), STEPS)
    assert found[:STEPS] == pytest.approx(expected)
    assert found[STEPS] == 1.0
    assert found[STEPS:] == pytest.approx(rates(lambda o: CosineAnnealingLR(o, 5 * STEPS), 5 * STEPS), abs=1e-12)


def test_the_last_step_of_onecycle_has_torchs_final_share():
    assert ours(9 * STEPS, schedule="onecycle", epochs=9)[-1] == pytest.approx(1 / (25 * 1e4))


def test_optimizers_get_every_option():
    weights = [nn.Parameter(torch.zeros(2))]
    sgd = build_optimizer(weights, TrainConfig(lr=0.3, momentum=0.7, nesterov=True, weight_decay=0.02))
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert [group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")] == [0.3, 0.7, True, 0.02]
    adamw = build_optimizer(weights, TrainConfig(optimizer="adamw", lr=0.3, weight_decay=0.02))
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.param_groups[0]["lr"], adamw.param_groups[0]["weight_decay"]) == (0.3, 0.02)
    set_lr(adamw, 0.1)
    assert adamw.param_groups[0]["lr"] == 0.1


def test_average_of_weights_and_statistics_by_hand():
    student = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    with torch.no_grad():
        student[0].weight.fill_(1.0)
    average = Average(student, 0.75)
    for value in (2.0, 4.0):
        with torch.no_grad():
            student[0].weight.fill_(value)
            student[1].running_mean.fill_(10 * value)
            student[1].num_batches_tracked += 1
        average.update(student)
    # 1 -> 0.75 * 1 + 0.25 * 2 = 1.25 -> 0.75 * 1.25 + 0.25 * 4
    assert average.module[0].weight.item() == pytest.approx(1.9375)
    # 0 -> 5 -> 0.75 * 5 + 0.25 * 40
    assert average.module[1].running_mean.item() == pytest.approx(13.75)
    assert average.module[1].num_batches_tracked == 2
    assert not any(p.requires_grad for p in average.parameters())
    assert student[0].weight.item() == 4.0
