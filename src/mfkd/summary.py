"""`summary.json`: the three networks side by side, and the gain with its interval."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mfkd.config import RunConfig, config_hash
from mfkd.records import RunRecord

METRICS = ("top1", "top5", "balanced", "ece", "agreement", "parameters", "flops", "latency_ms")


def summarise(
    config: RunConfig, teacher: dict[str, Any], alone: list[RunRecord], distilled: list[RunRecord]
) -> dict[str, Any]:
    """Means over seeds of the last epoch, and the paired gain.

    Args:
        config: the complete recipe.
        teacher: its metrics, and its record's best epoch where it was trained here.
        alone: one record a seed.
        distilled: one record a seed, in the same order of seeds.

    Returns:
        teacher, student_alone, student_distilled (each metric as mean, std, n and the values of the
        last epoch; Top-1 also of the best), gain in points of Top-1 (mean, ci95, n, per seed), and
        what is needed to say how it came about, with `warnings` in sentences.
    """
    gains = [b.metrics["top1"] - a.metrics["top1"] for a, b in zip(alone, distilled, strict=True)]
    students = _group(alone)
    return {
        "teacher": teacher,
        "student_alone": students,
        "student_distilled": _group(distilled),
        "gain": {**spread(gains), "ci95": interval(gains)},
        "models": {
            "teacher": " + ".join(teacher.model for teacher in config.named_teachers.values()),
            "student": config.student.model,
        },
        "data": config.data.name,
        "method": distilled[0].method,
        "epochs": config.train.epochs,
        "seeds": [record.seed for record in alone],
        "config_hash": config_hash(config),
        "notes": sorted({note for record in distilled for note in record.notes}),
        "warnings": _warnings(teacher, students),
        "seconds": {
            "alone": spread([record.seconds for record in alone]),
            "distilled": spread([record.own_seconds for record in distilled]),
        },
        "environment": distilled[0].environment,
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for one value), n and the values."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "n": len(values),
        "last": [float(value) for value in values],
    }


def gap_closed(alone: Sequence[float], distilled: Sequence[float], teacher: float) -> float | None:
    """Share of the way from the student alone to the teacher, by the means; None where the teacher is not ahead."""
    start, end = sum(alone) / len(alone), sum(distilled) / len(distilled)
    return (end - start) / (teacher - start) if teacher > start else None


def interval(values: list[float]) -> list[float] | None:
    """95% t interval of the mean of paired differences; None for fewer than two."""
    from scipy import stats

    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return [mean, mean]
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return [float(low), float(high)]


def _warnings(teacher: dict[str, Any], alone: dict[str, Any]) -> list[str]:
    if "top1" not in teacher or teacher["top1"]["mean"] >= alone["top1"]["mean"]:
        return []
    return [
        f"the teacher is worse than the student alone, {teacher['top1']['mean']:.2f} against "
        f"{alone['top1']['mean']:.2f}% Top-1; train it longer, or give a better one."
    ]


def _group(records: list[RunRecord]) -> dict[str, Any]:
    group = {
        name: spread([record.metrics[name] for record in records]) for name in METRICS if name in records[0].metrics
    }
    group["top1"]["best"] = [record.best["test_top1"] for record in records]
    return group
