import numpy as np
import pytest

from mfkd.records import RunRecord
from mfkd.report.figures import curves, points
from mfkd.report.figures.canvas import DARK, LIGHT, STYLES
from mfkd.report.figures.matrix import contrast, matrix, rgb
from mfkd.report.page import runs, width
from mfkd.report.parts import Table, Text


def record(rows):
    return RunRecord(kind="alone", config={}, config_hash="", seed=0, training={}, curves=rows)


def test_only_epochs_of_all_records_are_drawn():
    rows = [{"epoch": 1, "test_top1": 10.0}, {"epoch": 2}, {"epoch": 3, "test_top1": 30.0}]
    epochs, values = curves.column([record(rows), record([*rows[:1], {"epoch": 2, "test_top1": 5.0}])], "test_top1")
    assert epochs == [1]
    assert values.tolist() == [[10.0], [10.0]]
    assert curves.column([], "test_top1")[0] == []


def test_curves_of_unlike_length_share_an_axis():
    long, short = ([{"epoch": n, "test_top1": 10.0 * n} for n in range(1, last + 1)] for last in (4, 2))
    found = curves.learning({"teacher": [record(long)], "alone": [record(short)]})
    assert found.caption.endswith("Epochs: teacher 4, student alone 2.")
    assert "teacher from 10.0 to 40.0%; student alone from 10.0 to 20.0%" in found.alt


def test_a_term_whose_weight_has_faded_out_ends_there():
    rows = [{"epoch": n, "ce": 2.0 / n, "mfkd": 1.0 / n} for n in (1, 2, 3, 4)]
    faded = [*rows[:2], *({"epoch": row["epoch"], "ce": row["ce"]} for row in rows[2:])]
    assert curves.losses([record(rows)]).caption.endswith("divided by its value in the first epoch.")
    found = curves.losses([record(faded)])
    assert found.caption.endswith("A line ends where its weight has faded out.")
    assert found.alt.endswith("ce falls to 25%; mfkd falls to 50%.")


def test_limits_leave_out_what_is_far_away():
    low, high = points.window([0, 1, 2, 3, -50, 1])
    assert -1 < low < 0
    assert 3 < high < 4
    assert points.window([-2.0, -1.0, 0.0])[0] < -2


def test_value_outside_of_the_frame_is_told():
    spots = [points.Spot(f"m{n}", STYLES["alone"], n, 90 + n) for n in range(5)]
    found = points.against("x", "X", "s", [*spots, points.Spot("low", STYLES["alone"], 1, 10)], many=True)
    assert found.caption == "Below the frame: low (10.0% at 1)."
    assert "low 10.00% at 1 s" in found.alt


def test_forest_tells_intervals_in_words():
    rows = [points.Interval("a", 1.0, (0.5, 1.5)), points.Interval("b", -1.0, None)]
    assert points.forest("x", "X", "points", rows).alt == "X, in points: a +1.00 (+0.50 to +1.50); b -1.00."


def test_kinds_differ_without_colour():
    looks = {(style.marker, str(style.line), style.filled) for style in STYLES.values()}
    assert len(looks) == len(STYLES)
    six = [(style.marker, str(style.line)) for style in points.styles(6)]
    assert len(set(six)) == 6


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_colours_of_figures_stand_out_from_the_paper(theme):
    for colour in (theme.ink, theme.soft, theme.accent):
        assert contrast(rgb(colour), rgb(theme.paper)) >= 4.5


def test_contrast_of_black_and_white():
    assert contrast(rgb("#000000"), rgb("#ffffff")) == pytest.approx(21)
    assert contrast(rgb("#767676"), rgb("#ffffff")) == pytest.approx(4.54, abs=0.01)  # the known limit of WCAG


def test_matrix_tells_its_figures():
    found = matrix("x", "X", np.eye(2).tolist(), ["a", "b"], ["c", "d"])
    assert found.alt == "X. a: c 1.00, d 0.00; b: c 0.00, d 1.00."
    assert found.light != found.dark


def test_narrow_tables_stand_beside_figures():
    small, large = Table("s", ("a", "b"), [["1", "2"]]), Table("l", ("a", "b"), [["1", "x" * 80]])
    figure = matrix("x", "X", [[1.0]], ["a"], ["b"])
    assert [(name, len(found)) for name, found in runs([figure, small, large, Text("t"), Text("u")])] == [
        ("grid", 2),
        ("table", 1),
        ("text", 2),
    ]
    assert width(small) == 1 + 1 + 4


def test_six_curves_of_one_network_all_look_different(monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "lines", lambda plot, theme, found, floor: drawn.append(found))
    names = [f"mfkd/{side} {level}" for side in ("student", "teacher") for level in ("front", "middle", "bottom")]
    rows = [{"epoch": epoch, **dict.fromkeys(names, 1 / 3)} for epoch in (1, 2)]
    assert curves.weights([record(rows)]) is not None
    looks = [(style.colour, style.marker, style.line, style.filled) for _, style, _, _ in drawn[0]]
    assert len({str(look) for look in looks}) == len(names)
    assert len({str(look[1:3]) for look in looks}) == len(names)  # in print as well
