"""Runs with several teachers, from the recipe to the measured folder."""

import pytest

from mfkd.config import RunConfig, load_config, to_yaml
from mfkd.errors import ConfigError
from mfkd.estimate import estimate
from mfkd.files import read_json
from mfkd.handed import evaluate_run
from mfkd.pipeline import run
from mfkd.plan import open_plan
from mfkd.teacher.several import SeveralTeachers
from mfkd.teachers import obtain_teacher, stand_in
from mfkd.train import cost

WORDS = [
    "seeds=[0]",
    "train.epochs=1",
    "data.fraction=0.2",
    "log.trackers=[]",
    "method={mfkd: {}, kd: {temperature: 3.0}}",
]
TWO = "teacher=[{model: resnet8, train: {epochs: 1}}, {model: resnet14, train: {epochs: 1}, weight: 3, seed: 1}]"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.0)


def plan_of(tmp_path, *words):
    return open_plan(load_config("digits", [f"out={tmp_path / 'run'}", *WORDS, *words]))


def test_a_list_of_teachers_reads_back_as_the_same_recipe(tmp_path):
    config = load_config("digits", [TWO])
    assert [teacher.model for teacher in (config.teacher, *config.teachers)] == ["resnet8", "resnet14"]
    (tmp_path / "again.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml") == config
    assert load_config("digits", ["teacher=[{model: resnet8}]"]) == load_config("digits", ["teacher={model: resnet8}"])
    assert RunConfig().teachers == ()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["teacher=[{model: resnet8}, {model: resnet14}]", "teachers=[{}]"],
            "teacher is a list and teachers is given too; name all teachers in one of them",
        ),
        (["teacher=[{}, {weight: 0}]"], "teachers.0.weight: got 0, expected more than 0"),
    ],
)
def test_refused_lists(words, told):
    with pytest.raises(ConfigError) as caught:
        load_config("digits", words)
    assert told in str(caught.value)


def test_a_run_with_two_teachers(tmp_path):
    plan = plan_of(tmp_path, TWO)
    steps = [step["step"] for step in estimate(plan)["steps"]]
    assert steps == ["teacher, seed 0", "teacher, seed 1", "student alone, seed 0", "student distilled, seed 0"]
    assert isinstance(stand_in(plan), SeveralTeachers)
    said = []
    summary = run(plan, said.append)
    assert said[:2] == ["Teacher resnet8: training", "Teacher resnet14: training"]
    assert summary["models"]["teacher"] == "resnet8 + resnet14"
    assert summary["teacher"]["top1"]["n"] == 1
    parameters = [
        read_json(plan.folder / name / "record.json")["metrics"]["parameters"] for name in ("teacher", "teacher-2")
    ]
    assert summary["teacher"]["parameters"]["mean"] == sum(parameters)
    record = read_json(plan.folder / "distilled" / "seed-0" / "record.json")
    assert set(record["method"]) == {"ce", "mfkd", "kd"}
    assert 0 <= record["metrics"]["agreement"] <= 100
    again = obtain_teacher(plan)
    assert again.network.weights == [1.0, 3.0]
    assert again.network.temperature == 3.0
    measured = evaluate_run(plan.folder, [])
    assert measured
    assert run(plan, said.append)["teacher"] == summary["teacher"]  # nothing is done or measured twice


def test_a_second_teacher_changes_the_distilled_run_and_not_the_student_alone(tmp_path):
    one, two = plan_of(tmp_path, "teacher={model: resnet8}"), plan_of(tmp_path, "teacher=[{model: resnet8}, {}]")
    assert one.student_job("alone", 0).hash == two.student_job("alone", 0).hash
    assert one.student_job("distilled", 0).hash != two.student_job("distilled", 0).hash
    assert one.teacher_job().hash == two.per_teacher()[0].teacher_job().hash


def test_a_method_on_one_map_asks_which_teacher(tmp_path):
    plan = plan_of(tmp_path, TWO, "method={sp: {}}")
    with pytest.raises(ConfigError, match=r"there are 2 teachers, and 'bottom' may be a map of any; name one's"):
        run(plan, print)
    assert not plan.folder.exists()
