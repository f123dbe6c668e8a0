"""Sentences of the first screen, from records with known figures."""

from pathlib import Path

import pytest

from mfkd.bench.collect import complete
from mfkd.config import RunConfig
from mfkd.records import RunRecord
from mfkd.report import words
from mfkd.report.folder import RunFolder


def record(kind, seed, top1, seconds=10.0, parameters=1000.0):
    config = RunConfig.model_validate({}).model_dump(mode="json")
    method = complete({"kd": {"weight": 2.0}}) if kind == "distilled" else {}
    metrics = {"top1": top1, "parameters": parameters}
    return RunRecord(
        kind=kind, config=config, config_hash="x", seed=seed, training=config["train"], method=method,
        metrics=metrics, seconds=seconds,
    )  # fmt: skip


def folder(alone, distilled, teacher=90.0, seeds=None, **data):
    config = RunConfig.model_validate({"seeds": seeds or list(range(max(len(alone), len(distilled)))), "data": data})
    students = {
        "alone": {seed: record("alone", seed, value) for seed, value in enumerate(alone)},
        "distilled": {seed: record("distilled", seed, value, 25.0) for seed, value in enumerate(distilled)},
    }
    measured = {"top1": teacher, "parameters": 4000.0} if teacher is not None else {}
    return RunFolder(Path("run"), config, students, measured)


def test_gain_interval_gap_and_cost_by_hand():
    # Gains 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.3027, so 2 -+ 4.3027 / sqrt 3.
    run = folder([80.0, 80.0, 80.0], [81.0, 82.0, 83.0])
    assert words.gained(run) == [
        "Distillation raised the student's Top-1 by 2.00 points, from 80.00 ± 0.00 to 82.00 ± 1.00% "
        "(95% interval of the gain \N{MINUS SIGN}0.48 to +4.48, paired by seed, n=3).",
        "The teacher has 90.00%, of whose lead 20% is closed.",
        "Training took 25 s a student instead of 10 s (2.50 times as long).",
        "In use it costs what it does alone: 1,000 parameters, 4.0 times fewer than the teacher.",
    ]


def test_interval_that_contains_zero_is_a_warning():
    assert words.warnings(folder([80.0, 80.0, 80.0], [81.0, 82.0, 83.0])) == [
        "The interval of the gain (\N{MINUS SIGN}0.48 to +4.48) contains zero: with 3 seeds this run cannot tell the "
        "gain from chance. More seeds would narrow it."
    ]
    assert words.warnings(folder([80.0, 80.0, 80.0], [81.9, 82.0, 82.1])) == []


@pytest.mark.parametrize(
    ("run", "warning"),
    [
        (folder([80.0], [82.0]), "One seed says little: the gain has no interval. Add seeds, three or more."),
        (
            folder([82.1, 82.0], [80.1, 80.0]),
            "Distillation has harmed here: the whole interval of the gain is below zero.",
        ),
        (
            folder([80.0, 80.1], [82.0, 82.1], teacher=79.0),
            "The teacher is not better than the student alone, so there is little to be learnt from it.",
        ),
        (
            folder([80.0, 80.1], [82.0, 82.1], evaluate="val", val_fraction=0.1),
            "All figures are of the validation images; the test images were not looked at.",
        ),
        (folder([80.0, 80.1, 80.0], [82.0, 82.1]), "Not finished yet: seed 2."),
    ],
)
def test_reasons_to_be_careful(run, warning):
    assert words.warnings(run) == [warning]


def test_weaker_teacher_closes_no_gap():
    assert folder([80.0], [82.0], teacher=79.0).gap_closed is None
    assert folder([80.0], [82.0], teacher=None).gap_closed is None
    assert folder([80.0], [85.0]).gap_closed == pytest.approx(0.5)


def test_only_seeds_of_both_kinds_are_paired():
    run = folder([80.0, 81.0, 99.0], [82.0, 82.0])
    assert run.gain["n"] == 2
    assert run.gain["last"] == [2.0, 1.0]


def test_what_was_asked():
    assert words.asked(folder([80.0], [82.0]))[0] == (
        "resnet8 learns digits from resnet20 by the method kd (kd.weight=2.0)."
    )
    assert words.asked(folder([80.0], []))[0] == "resnet8 was trained on digits without a teacher."
    fading = folder([80.0], [82.0])
    fading.distilled[0] = fading.distilled[0].model_copy(update={"method": complete("mfkd")})
    assert words.asked(fading)[0] == (
        "resnet8 learns digits from resnet20 by the method mfkd "
        "(weights: ce 1, mfkd 256 fading out over 50% of the run, kd 1)."
    )


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.92, "0.92 s"), (31.4, "31 s"), (119, "119 s"), (150, "2 min"), (9000, "2.5 h")]
)
def test_times_are_told_as_people_do(seconds, told):
    assert words.duration(seconds) == told
