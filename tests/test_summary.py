import math

import pytest

from mfkd.config import RunConfig
from mfkd.records import RunRecord
from mfkd.summary import interval, spread, summarise


def record(kind, seed, top1, best, **metrics):
    return RunRecord(
        kind=kind,
        config={},
        config_hash="x",
        seed=seed,
        training={},
        method={"kd": {}} if kind == "distilled" else {},
        notes=["b", "a"] if kind == "distilled" else [],
        best={"test_top1": best},
        metrics={"top1": top1, "parameters": 10, **metrics},
        seconds=2.0 + seed,
        preparation_seconds=0.5,
        environment={"python": "3"},
    )


def test_spread_by_hand():
    assert spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "std": pytest.approx(math.sqrt(7)), "n": 3, "last": [1.0, 2.0, 6.0]}
    assert spread([4]) == {"mean": 4.0, "std": None, "n": 1, "last": [4.0]}


def test_interval_by_hand():
    # mean 2, deviation 1, n 3: 2 +- t(0.975, 2) * 1 / sqrt 3, and the table says t = 4.302653
    assert interval([1.0, 2.0, 3.0]) == pytest.approx([2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)])
    assert interval([1.5, 1.5]) == [1.5, 1.5]
    assert interval([1.0]) is None


def test_gain_is_paired_by_seed():
    alone = [record("alone", seed, top1, top1 + 1, agreement=50.0) for seed, top1 in enumerate((60.0, 70.0, 80.0))]
    distilled = [
        record("distilled", seed, top1, top1 + 2, agreement=60.0) for seed, top1 in enumerate((61.0, 72.0, 83.0))
    ]
    found = summarise(RunConfig(), {"top1": spread([90.0])}, alone, distilled)
    assert found["gain"]["last"] == [1.0, 2.0, 3.0]
    assert found["gain"]["mean"] == 2.0
    assert found["gain"]["ci95"] == pytest.approx([2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)])
    assert found["student_alone"]["top1"] == {**spread([60.0, 70.0, 80.0]), "best": [61.0, 71.0, 81.0]}
    assert found["student_distilled"]["top1"]["best"] == [63.0, 74.0, 85.0]
    assert found["student_distilled"]["agreement"]["mean"] == 60.0
    assert "top5" not in found["student_alone"]
    assert (found["seeds"], found["notes"], found["method"]) == ([0, 1, 2], ["a", "b"], {"kd": {}})
    assert found["seconds"]["distilled"]["mean"] == 3.5


def test_a_seed_that_lacks_its_partner_is_no_pair():
    with pytest.raises(ValueError, match="zip"):
        summarise(RunConfig(), {}, [record("alone", 0, 1, 1)] * 2, [record("distilled", 0, 1, 1)])


@pytest.mark.parametrize(("top1", "told"), [(49.0, True), (50.0, False), (51.0, False)])
def test_a_teacher_that_is_worse_than_the_student_alone_is_told_with_both_figures(top1, told):
    records = [record("alone", 0, 50.0, 1), record("distilled", 0, 60.0, 1)]
    warnings = summarise(RunConfig(), {"top1": spread([top1])}, records[:1], records[1:])["warnings"]
    text = "the teacher is worse than the student alone, 49.00 against 50.00% Top-1; "
    assert warnings == ([f"{text}train it longer, or give a better one."] if told else [])
    assert summarise(RunConfig(), {}, records[:1], records[1:])["warnings"] == []
