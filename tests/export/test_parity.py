import numpy as np
import pytest

from mfkd.errors import MfkdError
from mfkd.export import answers
from mfkd.export.parity import Parity, compare, require

REFERENCE = np.array([[0.0, 10.0, 4.0], [5.0, 5.0005, 1.0], [2.0, 1.0, 0.0]], np.float32)  # range 10, tolerance 0.001


def moved(row, column, by):
    other = REFERENCE.copy()
    other[row, column] += by
    return other


def test_by_hand():
    assert compare(REFERENCE, REFERENCE) == Parity(3, 0.0, 0, 0)
    found = compare(REFERENCE, moved(0, 1, -0.5))
    assert (found.largest, found.differing, found.ties) == (pytest.approx(0.05), 0, 0)
    tie = compare(REFERENCE, moved(1, 0, 0.0008))
    assert (tie.largest, tie.differing, tie.ties) == (pytest.approx(8e-5, rel=1e-2), 0, 1)
    other = compare(REFERENCE, moved(2, 1, 1.5))
    assert (other.largest, other.differing, other.ties) == (pytest.approx(0.15), 1, 0)


def test_what_is_not_finite_or_has_no_range_is_no_match():
    assert compare(REFERENCE, moved(0, 0, np.nan)).largest == np.inf
    flat = np.zeros((2, 3), np.float32)
    assert compare(flat, flat).largest == 0
    assert compare(flat, flat + 1e-9).largest == np.inf


def test_refusal_tells_the_figures():
    require(compare(REFERENCE, moved(1, 0, 0.0008)), "model.onnx", "resnet8")
    with pytest.raises(MfkdError) as caught:
        require(compare(REFERENCE, moved(2, 1, 1.5)), "model.onnx", "resnet8")
    assert str(caught.value) == (
        "model.onnx does not repeat resnet8: on 3 test images its logits differ by up to 1.5e-01 of their range, "
        "allowed 1e-04, and 1 predictions are others; nothing was written. Report the network, it cannot be exported "
        "as it is."
    )
    with pytest.raises(MfkdError, match=r"up to 5\.0e-02 of their range.* and 0 predictions"):
        require(compare(REFERENCE, moved(0, 1, -0.5)), "model.pt2", "resnet8")


def test_long_comparisons_say_how_far_they_are(monkeypatch):
    now = iter([0.0, 4.0, 11.0, 11.0, 12.0, 30.0, 30.0])
    monkeypatch.setattr(answers.time, "monotonic", lambda: next(now))
    said = []
    found = answers.logits({"a": lambda images: images * 2.0}, iter([np.ones((1500, 3))] * 4), said.append)
    assert said == ["Compared 3,000 images", "Compared 6,000 images"]
    assert (found["a"].shape, found["a"].mean()) == ((6000, 3), 2)
