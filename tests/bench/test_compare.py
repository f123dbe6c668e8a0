"""Comparisons of made-up records, whose every figure can be worked out by hand."""

import csv
import io
from dataclasses import replace

import pytest

from mfkd.bench.collect import collect, label
from mfkd.bench.compare import compare, difference, partner
from mfkd.bench.tables import (
    ACCURACY,
    GAINS,
    accuracy_rows,
    as_csv,
    cost_rows,
    gain_rows,
    headline,
    markdown,
    remarks,
    tables,
)
from mfkd.config import load_config
from mfkd.errors import ConfigError, MfkdError
from mfkd.files import write_json
from mfkd.methods import METHODS, complete
from mfkd.records import RunRecord

KD = {"ce": {"weight": 0.1}, "kd": {"weight": 0.9}}
CIFAR = ("data.name=parquet:../cifar100", "teacher.model=resnet56", "student.model=resnet20")


def record(path, method, seed, top1, *words, best=None, sha="a" * 64, **changes):
    """Write one record; returns its path."""
    alone = method == "none"
    config = load_config(None, [*words, "out=there"]).model_copy(update={"method": method})
    made = RunRecord(
        kind="alone" if alone else "distilled",
        config=config.model_dump(mode="json"),
        config_hash="0" * 12,
        seed=seed,
        training=config.train.model_dump(mode="json"),
        method=complete(method),
        teacher_sha256="" if alone else sha,
        best={"test_top1": top1 if best is None else best},
        metrics={"top1": top1, "n": 100},
        seconds=10.0 if alone else 12.0,
        preparation_seconds=0.0 if alone else 3.0,
        images_per_second=1000.0,
        peak_mb=0.0 if alone else 250.0,
        environment={"processor": "p", "device": "cpu", "threads": 2, "commit": "c"},
    ).model_copy(update=changes)
    path.mkdir(exist_ok=True)
    file = path / f"{len(list(path.iterdir()))}.record.json"
    made.save(file)
    return file


@pytest.fixture
def three(tmp_path):
    """Student alone, kd and mfkd with kd, three seeds."""
    for seed, (alone, kd, mfkd) in enumerate([(60.0, 61.0, 63.0), (61.0, 63.0, 64.0), (59.0, 62.0, 64.0)]):
        record(tmp_path / "all", "none", seed, alone, *CIFAR, best=alone + 0.5)
        record(tmp_path / "all", {"kd": {}}, seed, kd, *CIFAR)
        record(tmp_path / "all", "mfkd", seed, mfkd, *CIFAR)
    record(tmp_path / "all", "none", 0, 70.0, *CIFAR, kind="teacher")
    return tmp_path / "all"


def test_figures_by_hand(three):
    (table,) = compare([three])
    assert [row.method for row in table.rows] == ["mfkd", "kd", "none"]
    rows = {row.method: row for row in table.rows}
    assert rows["none"].last["mean"] == 60.0
    assert rows["none"].last["std"] == pytest.approx(1.0)
    assert rows["none"].best["mean"] == 60.5
    gain = rows["kd"].differences["alone"]
    assert (gain.to, gain.mean, gain.n, gain.each) == ("none", 2.0, 3, {0: 1.0, 1: 2.0, 2: 3.0})
    assert gain.ci95 == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert gain.p == pytest.approx(0.0741799, abs=1e-6)
    assert gain.p_permutation is None  # fewer than six seeds
    most = rows["mfkd"].differences["alone"]
    assert most.each == {0: 3.0, 1: 3.0, 2: 5.0}
    # Two methods: the smaller p counts twice, the larger at least as much.
    assert most.p_holm == pytest.approx(2 * most.p)
    assert gain.p_holm == pytest.approx(max(2 * most.p, gain.p))
    assert rows["mfkd"].differences["partner"].to == rows["mfkd"].differences["kd"].to == "kd"
    assert rows["mfkd"].differences["partner"].mean == pytest.approx(5 / 3)
    assert "partner" not in rows["kd"].differences
    assert (table.teacher, rows["kd"].gap_closed, rows["none"].gap_closed) == (70.0, pytest.approx(0.2), None)
    # mfkd is above both by an interval; that of kd over the student alone crosses 0, so these two tie behind it.
    assert {name: row.rank for name, row in rows.items()} == {"mfkd": 1, "kd": 2, "none": 2}
    assert rows["kd"].cost["seconds"] == 15.0
    assert rows["kd"].cost["times_alone"] == 1.5
    assert rows["kd"].cost["images_per_second"] == 1000.0
    assert (rows["kd"].cost["megabytes"], rows["none"].cost["megabytes"]) == (250.0, None)  # older records have none
    assert table.family == ("kd", "mfkd")


def test_published_figures_stand_beside_ours_and_say_how_they_were_made(three):
    (table,) = compare([three])
    quotes = {row.method: row.quote for row in table.rows}
    assert (quotes["none"].top1, quotes["kd"].top1, quotes["mfkd"].gain) == (69.06, 70.66, 1.82)
    said = " ".join(remarks(table))
    assert "Published figures are quoted (their teacher 72.34%), and obtained otherwise than ours" in said
    assert "RepDistiller's README: 240 epochs, batch 64, all 50,000 training images, last epoch" in said
    assert "240 epochs, batch 64, all training images, multistep at rate 0.05, fp32, last epoch on the test" in said
    cells = {row[0]: dict(zip(ACCURACY, row, strict=True)) for row in accuracy_rows(table)}
    assert cells["kd"]["published"] == "quoted 70.66 (+1.60)"
    assert cells["mfkd"]["published"] == "quoted +1.82"


def test_a_table_that_says_nothing_is_left_out(three):
    (table,) = compare([three])
    bare = replace(table, rows=[replace(row, differences={}) for row in table.rows])
    assert [title.split()[0] for title, _, _ in tables(table)] == ["resnet56", "Gain", "Cost"]
    assert [title.split()[0] for title, _, _ in tables(bare)] == ["resnet56", "Cost"]
    assert [any(said.startswith("p is of the difference") for said in remarks(one)) for one in (table, bare)] == [
        True,
        False,
    ]


def test_tables_say_the_same_in_all_forms(three):
    found = compare([three])
    gains = {row[0]: dict(zip(GAINS, row, strict=True)) for row in gain_rows(found[0])}
    cells = {row[0]: dict(zip(ACCURACY, row, strict=True)) for row in accuracy_rows(found[0])}
    assert gains["kd"]["over alone"] == "+2.00 [-0.48, +4.48]"
    assert gains["mfkd"]["over partner"] == "+1.67 [+0.23, +3.10] (kd)"
    assert (cells["kd"]["last epoch"], cells["none"]["best epoch"]) == ("62.00 ± 1.00", "60.50 ± 1.00")
    assert (cells["kd"]["gap closed"], gains["kd"]["p (flips)"], gains["none"]["over KD"]) == (
        "20%",
        "-",
        "-2.00 [-4.48, +0.48]",
    )
    assert headline(found[0]) == "resnet56 teaches resnet20 on parquet:../cifar100, teacher 70.00%"
    page = markdown(found)
    assert "p (flips)" not in page  # no six seeds, so the column would be empty
    for row in (*accuracy_rows(found[0]), *(row[:-1] for row in gain_rows(found[0]) + cost_rows(found[0]))):
        assert f"| {' | '.join(row)} |" in page
    (first, *_) = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert (first["method"], float(first["alone_mean"]), float(first["partner_p_holm"])) == (
        "mfkd",
        pytest.approx(11 / 3),
        pytest.approx(found[0].rows[0].differences["partner"].p),
    )
    assert float(first["alone_low"]) == pytest.approx(found[0].rows[0].differences["alone"].ci95[0])
    assert first["quoted_source"] == "the abstract of MFKD"
    assert found[0].as_dict()["rows"][1]["differences"]["alone"]["each"] == {0: 1.0, 1: 2.0, 2: 3.0}


@pytest.mark.parametrize(
    ("device", "shared", "told"),
    [("cpu", {"cache": 9.0}, True), ("cpu", {"preparation": 1.0}, False), ("cuda", {"cache": 9.0}, False)],
)
def test_memory_that_counts_the_cache_is_said_to(tmp_path, device, shared, told):
    environment = {"processor": "p", "device": device, "threads": 2, "commit": "c"}
    record(tmp_path / "a", "kd", 0, 61.0, shared_seconds=shared, environment=environment)
    (table,) = compare([tmp_path / "a"])
    assert any("pages that all trainings share" in note for note in table.notes) == told


def test_six_seeds_have_a_permutation_test(tmp_path):
    for seed in range(6):
        record(tmp_path / "a", "none", seed, 60.0 + seed)
        record(tmp_path / "a", "kd", seed, 61.0 + 1.1 * seed)
    (table,) = compare([tmp_path / "a"])
    assert table.rows[0].differences["alone"].p_permutation == 2 / 64


def test_seeds_are_paired_and_one_seed_gives_no_interval(tmp_path):
    for seed in (0, 1, 2):
        record(tmp_path / "a", "none", seed, 60.0 + seed)
    record(tmp_path / "a", "kd", 2, 63.5)
    (table,) = compare([tmp_path / "a"])
    gain = next(row for row in table.rows if row.method == "kd").differences["alone"]
    assert (gain.mean, gain.n, gain.ci95, gain.p, gain.p_holm) == (1.5, 1, None, None, None)
    assert "Methods have different seeds; every difference is over the seeds that both have." in table.notes
    assert difference({0: 1.0}, {1: 1.0}, "x") is None


@pytest.mark.parametrize(
    ("words", "field", "values"),
    [
        (("train.epochs=12",), "train.epochs", "240 in {a} (kd, seed 0) and 12 in {b} (dkd, seed 0)"),
        (("data.fraction=0.2",), "data.fraction", "1.0 in {a} (kd, seed 0) and 0.2 in {b} (dkd, seed 0)"),
        (("data.val_fraction=0.1", "data.evaluate=val"), "data.val_fraction", "0.0 in"),
        (("student.model=resnet14",), "student.model", "'resnet8' in"),
        (("teacher.model=resnet32",), "teacher.model", "'resnet20' in"),
        (("augment.mixup=0.2",), "augment.mixup", "0.0 in"),
        (("train.batch_size=32",), "train.batch_size", "64 in"),
    ],
)
def test_unlike_things_are_refused_by_the_field_that_differs(tmp_path, words, field, values):
    a = record(tmp_path / "a", "kd", 0, 61.0)
    b = record(tmp_path / "b", "dkd", 0, 62.0, *words)
    with pytest.raises(ConfigError) as caught:
        compare([tmp_path / "a", tmp_path / "b"])
    told = str(caught.value)
    assert told.startswith(f"unlike things: {field} is {values.format(a=a, b=b)}")
    assert told.endswith(f"leave one out, or compare them all the same with --allow {field}.")
    allowed = [word.partition("=")[0] for word in words]
    (table,) = compare([a, b], allowed)
    assert len(table.rows) == 2
    assert f"Compared although unlike: {told.removeprefix('unlike things: ').partition('; ')[0]}." in table.notes
    assert len(compare([a, b], [field.split(".")[0]])[0].rows) == 2


def test_compiling_and_options_that_came_later_make_no_difference(tmp_path):
    a = record(tmp_path / "a", "kd", 0, 61.0, "train.compile=false")
    early = {key: value for key, value in RunRecord.load(a).training.items() if key not in ("freeze", "no_decay")}
    record(tmp_path / "a", "dkd", 0, 62.0, training=early)
    (table,) = compare([tmp_path / "a"])
    assert len(table.rows) == 2
    assert not [note for note in table.notes if "unlike" in note]


def test_the_teacher_is_that_of_all_students(tmp_path):
    several = "teachers=[{model: resnet14}]"
    record(tmp_path / "a", "kd", 0, 61.0, several)
    for top1 in (99.0, 80.0):
        record(tmp_path / "a", "none", 0, top1, several, kind="teacher")
    assert compare([tmp_path / "a"])[0].teacher is None
    write_json(tmp_path / "a" / "teachers.json", {"top1": 99.2})
    assert compare([tmp_path / "a"])[0].teacher == 99.2
    write_json(tmp_path / "a" / "summary.json", {"teacher": {"top1": {"mean": 99.3}}})
    assert compare([tmp_path / "a"])[0].teacher == 99.3


def test_the_trials_of_a_sweep_in_a_run_folder_are_none_of_its_students(tmp_path):
    record(tmp_path / "a", "kd", 0, 61.0)
    record(tmp_path / "a" / "sweep-kd", {"kd": {"temperature": 2.0}}, 0, 55.0, "data.val_fraction=0.2")
    write_json(tmp_path / "a" / "sweep-kd" / "sweep.json", {})
    assert [row.last["mean"] for row in compare([tmp_path / "a"])[0].rows] == [61.0]
    assert [row.last["mean"] for row in compare([tmp_path / "a" / "sweep-kd"])[0].rows] == [55.0]


def test_another_teacher_is_refused_although_its_settings_are_the_same(tmp_path):
    record(tmp_path / "a", "kd", 0, 61.0)
    record(tmp_path / "a", "dkd", 0, 61.0, sha="b" * 64)
    with pytest.raises(ConfigError, match=r"unlike things: teacher\.sha256 is 'aaaa"):
        compare([tmp_path / "a"])
    assert compare([tmp_path / "a"], ["teacher"])


def test_the_place_of_teacher_and_data_makes_no_difference_but_the_student_alone_must_be_alike(tmp_path):
    record(tmp_path / "a", "kd", 0, 61.0, "teacher.weights=here.safetensors", "data.root=x")
    record(tmp_path / "a", "dkd", 0, 61.0, "teacher.weights=there.safetensors", "log.trackers=[]", "seeds=[4]")
    record(tmp_path / "a", "none", 0, 60.0, "teacher.model=resnet110")
    assert len(compare([tmp_path / "a"])[0].rows) == 3
    record(tmp_path / "a", "none", 1, 60.0, "train.lr=0.1")
    with pytest.raises(ConfigError, match=r"train\.lr is 0\.05 in .*none, seed 0.* and 0\.1 in .*none, seed 1"):
        compare([tmp_path / "a"])


def test_the_same_training_twice_counts_once_unless_it_differs(tmp_path):
    for folder in ("a", "b"):
        record(tmp_path / folder, "kd", 0, 61.0)
    assert compare([tmp_path / "a", tmp_path / "b"])[0].rows[0].last["n"] == 1
    file = record(tmp_path / "b", "kd", 0, 61.5)
    with pytest.raises(ConfigError) as caught:
        compare([tmp_path / "a", tmp_path / "b"])
    first = tmp_path / "a" / "0.record.json"
    expected = f"kd, seed 0, was trained twice: 61.00% in {first} and 61.50% in {file}; give only one of them."
    assert str(caught.value) == expected


def test_nothing_to_compare_is_refused(tmp_path):
    with pytest.raises(MfkdError, match=r"nowhere does not exist; give run folders, benches or record files\."):
        compare([tmp_path / "nowhere"])
    with pytest.raises(MfkdError, match="no finished student there; run something first"):
        compare([tmp_path])


def test_methods_are_named_by_what_they_are():
    assert label({}) == "none"
    assert label(complete("mfkd")) == "mfkd"
    preset = {"weight": 256.0, "fade": 0.5}
    assert label(complete({"kd": {}, "mfkd": preset, "ce": {}})) == "mfkd"  # the order says nothing
    assert label(complete({"mfkd": {}, "kd": {}})) == "mfkd+kd"
    assert label(complete({"mfkd": {}})) == "{mfkd}"
    assert label(complete(KD)) == "kd (ce.weight=0.1, kd.weight=0.9)"
    assert label(complete({"at": {}, "kd": {"temperature": 2.0}})) == "at+kd (kd.temperature=2.0)"
    assert complete({"gone": {"a": 1}}) == {"gone": {"a": 1}}  # of another version of the code


def test_two_methods_of_one_name_are_told_apart(tmp_path):
    import json

    for folder, method in (("a", "kd"), ("b", KD)):
        file = record(tmp_path / folder, method, 0, 61.0)
        cell = {"kind": "distilled", "pair": "p", "budget": "", "method": "kd", "seed": 0, "state": "done", "error": ""}
        cell |= {"folder": "cell", "split": "test"}
        (tmp_path / folder / "cell").mkdir()
        file.rename(tmp_path / folder / "cell" / "record.json")
        value = {"methods": ["none", "kd"], "family": [], "kd": "kd", "cells": [cell]}
        (tmp_path / folder / "bench.json").write_text(json.dumps(value))
    (table,) = compare([tmp_path / "a", tmp_path / "b" / "bench.json"])
    assert {row.method for row in table.rows} == {"kd: kd", "kd: kd (ce.weight=0.1, kd.weight=0.9)"}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_partner_of_a_feature_method_is_what_is_left_of_it(name):
    on_logits = name in {"kd", "dkd", "mlld", "dist", "ctkd", "tfkd"}
    settings = {"it": complete({name: {}, "kd": {"temperature": 3.0}, "ce": {"weight": 0.5}})}
    settings["other"] = complete({"kd": {"temperature": 2.0}, "ce": {"weight": 0.5}})
    settings["rest"] = complete({"kd": {"temperature": 3.0}, "ce": {"weight": 0.5}})
    assert partner("it", settings) == (None if on_logits else "rest")
    assert partner("rest", settings) is None
    assert partner("it", {name: settings[name] for name in ("it", "other")}) is None


def test_digits_of_the_documentation_can_be_compared():
    from pathlib import Path

    folder = Path(__file__).parents[2] / "docs" / "records" / "digits"
    (sheet,) = collect([folder])
    (table,) = compare([folder])
    assert {entry.record.seed for entry in sheet.entries} == set(range(10))
    import json

    gain = json.loads((folder / "summary.json").read_text())["gain"]
    told = table.rows[0].differences["alone"]
    assert (told.mean, list(told.ci95)) == (pytest.approx(gain["mean"]), pytest.approx(gain["ci95"]))
