"""Our losses against torchdistill's: equal, once its named faults and choices are undone."""

import importlib
import json
import subprocess
from pathlib import Path

import pytest
import torch

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parent)
    measure, cases = map(importlib.import_module, ("measure", "cases"))


@pytest.fixture(scope="module")
def torchdistill():
    try:
        with measure.installed() as library:
            yield library
    except subprocess.SubprocessError as error:
        reason = (error.stderr or str(error)).strip().splitlines()[-1]
        pytest.skip(f"pip cannot install torchdistill: {reason}")


@pytest.mark.slow
@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_values_and_gradients_agree(case, torchdistill):
    found = measure.measure(case, torchdistill)
    assert found["relative"] <= case.tolerance
    if case.correction:  # and it is needed
        assert found["uncorrected"] > 0.1
    else:
        assert found["uncorrected"] == found["relative"]


@pytest.mark.slow
def test_no_loss_of_torchdistill_is_passed_over(torchdistill):
    registered = importlib.import_module("torchdistill.losses.registry").MIDDLE_LEVEL_LOSS_DICT
    compared = {case.theirs for case in cases.CASES} - {"SimpleLossWrapper"}  # of any loss of torch; no loss itself
    assert set(registered) == compared | set(cases.OTHERS)


@pytest.mark.slow
def test_faults_that_are_named_are_there(torchdistill):
    losses = torchdistill.losses
    for name in ("KDLoss", "LogitStdKDLoss"):
        with pytest.raises(TypeError, match="unsupported operand"):
            getattr(losses, name)(*cases.LOGITS, temperature=2.0)
    student, teacher = (cases.io(tap=cases.Draw(seed)(4, 5)) for seed in (0, 1))
    at_4 = losses.KDLoss(*cases.LOGITS, temperature=4.0, alpha=0.0)(student, teacher)
    plain = cases.kd_loss(student["tap"]["output"], teacher["tap"]["output"], 4.0)
    assert torch.isclose(at_4, plain / 16)
    with pytest.raises(AttributeError, match="prob"):
        losses.CRDLoss("tap", "supplement", "tap", 4, 10, 3, 10).draw(5)


def test_record_is_that_of_these_cases():
    record = json.loads(measure.RECORD.read_text())
    keys = ("method", "theirs", "correction", "note", "tolerance")
    told = [{key: getattr(case, key) for key in keys} for case in cases.CASES]
    assert [{key: row[key] for key in keys} for row in record["rows"]] == told
    assert all(row["relative"] <= row["tolerance"] for row in record["rows"])
    assert record["torchdistill"] == measure.VERSION
    assert record["others"] == sorted(set(cases.OTHERS.values()) - {""})
