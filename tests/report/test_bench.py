"""What the page of a bench says, from comparisons with known figures."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from inprocess import Here
from mfkd.bench.compare import Comparison, Difference, Row
from mfkd.bench.plan import load_bench
from mfkd.bench.published import quoted
from mfkd.bench.run import open_board, run_bench
from mfkd.report import bench as module
from mfkd.report.bench import _leader, _tiles, conclusions, quotes
from mfkd.report.bench import bench_page as page_of_bench
from mfkd.report.page import html
from mfkd.train import cost


def row(method, mean, rank, ends=None, p_holm=None):
    change = {"alone": Difference("none", mean - 70, 3, {}, ends, 0.01, p_holm)} if method != "none" else {}
    return Row(method, {}, (0, 1, 2), {"mean": mean, "std": 1.0, "n": 3}, {}, change, rank)


ROWS = (
    row("a", 72.0, 1, (1.0, 3.0), 0.02),
    row("b", 71.5, 1, (0.5, 2.5), 0.2),
    row("c", 70.5, 3, (-0.5, 1.5), 1.0),
    row("none", 70.0, 4),
)


def comparison(rows=ROWS):
    models = {"teacher": "resnet56", "student": "resnet20"}
    return Comparison("", models, "cifar100", "test", "12 epochs", 73.0, ("a", "b", "c"), tuple(rows), ())


def test_conclusions_name_ties_and_what_holds_after_correction():
    assert conclusions(comparison()) == [
        "a has the highest mean, 72.00% Top-1, +2.00 points over the student alone (3 seeds, 95% interval +1.00 to "
        "+3.00).",
        "It cannot be told apart from b with these seeds.",
        "2 of 3 methods are better than the student alone by an interval above zero, 1 of them also after correction "
        "for the family of 3 methods.",
    ]


def test_conclusions_of_one_seed_are_careful():
    single = [replace(each, rank=None) for each in ROWS]
    assert conclusions(comparison(single))[1] == "With one seed each no method can be told from another."


def test_a_single_seed_leads_nothing_where_others_have_several():
    single = replace(row("d", 74.0, None), last={"mean": 74.0, "std": None, "n": 1})
    found = comparison([single, *ROWS])
    assert conclusions(found) == [
        "a has the highest mean of the ranked methods, 72.00% Top-1, +2.00 points over the student alone (3 seeds, 95% "
        "interval +1.00 to +3.00).",
        "It cannot be told apart from b with these seeds.",
        "Too few seeds to be ranked: d (74.00%).",
        "2 of 4 methods are better than the student alone by an interval above zero, 1 of them also after correction "
        "for the family of 3 methods.",
    ]
    assert [tile.label for tile in _tiles(found, _leader(found))][2] == "Highest mean of the ranked methods: a"
    found = comparison([*ROWS, replace(single, last={"mean": 60.0, "std": None, "n": 1})])
    assert conclusions(found)[0].startswith("a has the highest mean, 72.00% Top-1")
    assert conclusions(found)[2] == "Too few seeds to be ranked: d (60.00%)."


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (ROWS, "4 methods, the student alone among them; 2 of 3 students trained."),
        (ROWS[:3], "3 methods; 2 of 3 students trained."),
        (ROWS[:1], "1 method; 2 of 3 students trained."),
    ],
)
def test_the_student_alone_is_named_only_where_it_is(monkeypatch, rows, told):
    kinds = {"teacher": ("done",), "distilled": ("done", "done", "running")}
    cells = [{"kind": kind, "state": state} for kind, states in kinds.items() for state in states]
    sheet = SimpleNamespace(entries=[SimpleNamespace(record=SimpleNamespace(environment={}, config={}))])
    monkeypatch.setattr(module, "read_bench", lambda path: {"cells": cells})
    monkeypatch.setattr(module, "collect", lambda paths: [sheet])
    monkeypatch.setattr(module, "compare_sheet", lambda sheet: comparison(rows))
    monkeypatch.setattr(module, "_sections", lambda *_: [])
    assert page_of_bench("bench").asked[0] == told


def test_only_the_student_alone_is_no_comparison():
    assert conclusions(comparison(ROWS[3:])) == ["No method is finished yet beside the student alone."]


def test_quoted_figures_are_marked_with_how_they_were_obtained():
    found = quoted("cifar100", "resnet56", "resnet20")
    text, table = quotes(comparison([replace(ROWS[0], quote=found["kd"]), replace(ROWS[1], quote=found["mfkd"])]))
    assert text.text.endswith("differ from ours (12 epochs), so nothing is computed with them.")
    assert table.caption == "Quoted figures, not measured here"
    assert table.rows[0][:5] == ["a", "72.00", "70.66", "+1.60", "RepDistiller's README"]
    assert table.rows[1][:5] == ["b", "71.50", "-", "+1.82", "the abstract of MFKD"]
    assert quotes(comparison()) == []


@pytest.fixture(scope="module")
def two_budgets(tmp_path_factory):
    """A bench of one seed at two budgets."""
    folder = tmp_path_factory.mktemp("budgets") / "bench"
    plan = {
        "out": str(folder),
        "base": {
            "data": {"name": "digits", "fraction": 0.2},
            "teacher": {"model": "resnet8", "train": {"epochs": 1}},
            "student": {"model": "resnet8"},
            "train": {"epochs": 1, "batch_size": 32, "schedule": "constant"},
            "log": {"trackers": []},
        },
        "methods": {"kd": "kd"},
        "budgets": [{"name": "short"}, {"name": "long", "train": {"epochs": 2}}],
        "seeds": [0],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "SECONDS", 0.0)
        run_bench(open_board(load_bench(plan, ())), Here(), lambda board, row: None)
    return folder


def test_every_budget_has_its_own_sections(two_budgets):
    page = page_of_bench(two_budgets)
    assert page.title == "2 comparisons on digits"
    assert [section.name for section in page.sections] == [
        "ranking-1", "cost-1", "curves-1", "ranking-2", "cost-2", "curves-2", "settings",
    ]  # fmt: skip
    assert [section.title for section in page.sections[::3]] == [
        "resnet8-resnet8, short: Who is better",
        "resnet8-resnet8, long: Who is better",
        "Settings and environment",
    ]
    assert len({picture.name for picture in page.pictures}) == len(page.pictures)
    assert page.tiles == page.first == []
    assert "resnet8-resnet8, long: Learning curves" in html(page)
    assert "points over the student alone (1 seed)." in html(page)
