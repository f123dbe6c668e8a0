"""A plan worked through in this process: what is shared, kept, continued, and what a failure costs."""

import json
import os
import shutil
import signal

import pytest
from filelock import FileLock

from mfkd import data
from mfkd.bench.cell import attempt, forget, opened, work
from mfkd.bench.compare import compare
from mfkd.bench.plan import cells, load_bench
from mfkd.bench.run import open_board, read_bench
from mfkd.bench.same import check_same
from mfkd.config import load_config
from mfkd.errors import ConfigError, MfkdError, UnknownNameError
from mfkd.files import sha256
from mfkd.models.weights import read_weights, save_weights
from mfkd.pipeline import run as run_recipe
from mfkd.plan import open_plan
from mfkd.records import RunRecord
from mfkd.teacher.manifest import read_manifest
from mfkd.train.interrupt import CODES, Interrupted
from mfkd.train.progress import Display

PAIR = "resnet14-resnet8"


def test_all_cells_share_teacher_and_calibration_and_a_failure_stops_nothing(bench, tmp_path, monkeypatch):
    folder = tmp_path / "bench"
    board, started = bench("method_seeds={broken: [0]}")
    assert started == [f"{PAIR}/{key}" for key in (
        "teacher", "none/seed-0", "mfkd/seed-0", "kd/seed-0", "broken/seed-0", "none/seed-1", "mfkd/seed-1", "kd/seed-1"
    )]  # fmt: skip
    assert [row.state for row in board.rows] == ["done"] * 4 + ["failed"] + ["done"] * 3
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("teacher.safetensors")) == [
        f"{PAIR}/teacher/teacher.safetensors"
    ]
    assert len(list(folder.rglob("prepared.safetensors"))) == 1
    records = {
        (method, seed): RunRecord.load(folder / PAIR / method / kind / f"seed-{seed}" / "record.json")
        for method, kind in (("none", "alone"), ("mfkd", "distilled"), ("kd", "distilled"))
        for seed in (0, 1)
    }
    digest = sha256(folder / PAIR / "teacher" / "teacher.safetensors")
    assert {record.teacher_sha256 for (method, _), record in records.items() if method != "none"} == {digest}
    assert "agreement" in records["none", 0].metrics

    broken = board.rows[4]
    assert broken.error.startswith("unknown tap 'nowhere'")
    assert "Traceback" in (broken.cell.folder / "error.log").read_text()
    value = read_bench(folder)
    assert value["cells"][4]["error"] == broken.error
    assert value["cells"][3]["top1"] == records["kd", 0].metrics["top1"]
    assert value["cells"][3]["best"] == records["kd", 0].best["test_top1"]
    assert json.loads((folder / "bench.json").read_text()) == value

    # All of it is kept, and the failed one is done again only when asked for.
    monkeypatch.setattr("mfkd.train.session.fit", lambda *_: pytest.fail("trained again"))
    assert bench("method_seeds={broken: [0]}")[1] == []
    again, started = bench("method_seeds={broken: [0]}", retry=True)
    assert started == [f"{PAIR}/broken/seed-0"]
    assert again.rows[4].error == broken.error

    # The table knows all of that, and pairs by seed.
    (table,) = compare([folder])
    rows = {row.method: row for row in table.rows}
    expected = [records["kd", seed].metrics["top1"] - records["none", seed].metrics["top1"] for seed in (0, 1)]
    assert list(rows["kd"].differences["alone"].each.values()) == expected
    assert rows["mfkd"].differences["partner"].to == "kd"
    assert table.teacher == value["cells"][0]["top1"]
    assert any(note.startswith("Failed: broken, seed 0: unknown tap") for note in table.notes)


def test_a_cell_is_what_a_run_with_the_same_teacher_gives(bench, tmp_path):
    bench("seeds=[3]", only=["kd"])
    teacher = tmp_path / "bench" / PAIR / "teacher" / "teacher.safetensors"
    words = ["data.fraction=0.2", "student.model=resnet8", "train.epochs=2", "train.batch_size=32", "log.trackers=[]"]
    words += ["train.schedule=constant", "teacher.model=resnet14", f"teacher.weights={teacher}", "seeds=[3]"]
    run_recipe(open_plan(load_config(None, [*words, "method=kd", f"out={tmp_path / 'run'}"])), lambda _: None)
    cell, run = (
        RunRecord.load(folder / "distilled" / "seed-3" / "record.json")
        for folder in (tmp_path / "bench" / PAIR / "kd", tmp_path / "run")
    )
    assert cell.metrics["loss"] == run.metrics["loss"]
    (both,) = compare([tmp_path / "bench", tmp_path / "run"])  # the same trainings count once
    assert {row.method: row.seeds for row in both.rows} == {"none": (3,), "kd": (3,)}


def test_interrupted_bench_goes_on_exactly(bench, tmp_path, monkeypatch):
    whole, _ = bench("seeds=[0]", "out=" + str(tmp_path / "whole"), only=["kd"])
    shown = Display.epoch

    def interrupt(display, text):
        shown(display, text)
        if "distilled" in display.title:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Display, "epoch", interrupt)
    with pytest.raises(Interrupted, match=r"^bench: stopped, 1 cells are left; the same command goes on from here\.$"):
        bench("seeds=[0]", only=["kd"])
    value = {cell["key"]: cell["state"] for cell in read_bench(tmp_path / "bench")["cells"]}
    assert (value[f"{PAIR}/none/seed-0"], value[f"{PAIR}/kd/seed-0"]) == ("done", "begun")
    monkeypatch.setattr(Display, "epoch", shown)
    board, started = bench("seeds=[0]", only=["kd"])
    assert started == [f"{PAIR}/kd/seed-0"]
    first, second = (
        next(RunRecord.load(row.cell.record) for row in one.rows if row.cell.method == "kd") for one in (whole, board)
    )
    assert first.metrics["loss"] == second.metrics["loss"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_signals_of_batch_systems_stop_a_bench_as_ctrl_c_does(bench, tmp_path, number):
    class Struck:
        slots, stopped = 1, False

        def start(self, cell):
            pass

        def ended(self, patience):
            os.kill(os.getpid(), number)
            return {}

        def stop(self):
            self.stopped = True

    runner = Struck()
    with pytest.raises(Interrupted, match=r"^bench: stopped, 9 cells are left; the same command goes on") as caught:
        bench(runner=runner)
    assert (caught.value.code, runner.stopped) == (CODES[number], True)
    states = [cell["state"] for cell in read_bench(tmp_path / "bench")["cells"]]
    assert states == ["waiting"] * len(states)
    assert signal.getsignal(number) is signal.SIG_DFL


def test_records_are_enough_to_go_on_from_on_another_machine(bench, tmp_path):
    bench("seeds=[0]", only=["kd"])
    copied = tmp_path / "copied"
    for path in [*(tmp_path / "bench").rglob("record.json"), *(tmp_path / "bench").rglob("teacher/*.*s*")]:
        place = copied / path.relative_to(tmp_path / "bench")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    board, started = bench("seeds=[0]", f"out={copied}", only=["kd", "mfkd"])
    assert started == [f"{PAIR}/mfkd/seed-0"]
    (table,) = compare([copied])
    assert {row.method: row.seeds for row in table.rows} == {"none": (0,), "kd": (0,), "mfkd": (0,)}
    (teacher,) = copied.rglob("teacher.safetensors")
    teacher.unlink()
    assert open_board(board.bench).rows[0].state != "done"


def test_finished_students_of_another_plan_are_refused_before_anything_is_trained(bench, tmp_path):
    bench("seeds=[0]", only=["kd"])
    told = rf"^{tmp_path}/bench/{PAIR}/none/alone/seed-0 holds a student trained with train\.epochs=2, and the plan "
    told += r"says 3; choose another folder with out=, or change the plan back\.$"
    with pytest.raises(ConfigError, match=told):
        bench("seeds=[0, 1]", "train.epochs=3", runner=pytest.fail)
    path = tmp_path / "bench" / PAIR / "kd" / "distilled" / "seed-0" / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "config": {**record["config"], "seeds": "many"}}))
    with pytest.raises(ConfigError, match=rf"^{path}: seeds"):
        bench("seeds=[0]")


def test_options_that_a_plan_no_longer_has_are_another_plan(bench, tmp_path):
    hot = {"kd": {"kd": {"temperature": 8.0}}, "none": "none"}
    cold, plain = {"kd": {"kd": {}}, "none": "none"}, {"kd": {"ce": {"weight": 2.0}}, "none": "none"}
    board, _ = bench("seeds=[0]", "train.clip=5", "train.compile=false", methods=hot)
    folder = board.rows[-1].cell.folder

    def again(*words, **changes):
        plan = {**board.bench.model_dump(), **changes}
        return open_board(load_bench(plan, words))

    assert again("train.compile=true").count("done") == 3  # changes roundings alone
    for methods, told in (
        (cold, "method.kd.temperature=8.0, and the plan says 4.0;"),
        (plain, "method.ce.weight=1.0, and the plan says 2.0;"),
    ):
        with pytest.raises(ConfigError, match=rf"^{folder} holds a student trained with {told}"):
            again(methods=methods)
    with pytest.raises(
        ConfigError, match=r"holds a (teacher|student) trained with .*clip=5.0, and the plan says None;"
    ):
        again("train.clip=null")


def test_a_preset_that_stood_for_other_options_is_another_plan(bench):
    board, _ = bench("seeds=[0]", only=["mfkd"], methods={"mfkd": "mfkd"})
    path = board.rows[-1].cell.record
    record = json.loads(path.read_text())
    weight = record["method"]["mfkd"]["weight"]
    record["method"]["mfkd"]["weight"] = weight / 4
    path.write_text(json.dumps(record))
    told = rf"method\.mfkd\.weight={weight / 4}, and the plan says {weight};"
    with pytest.raises(ConfigError, match=told):
        open_board(board.bench)
    record["method"]["mfkd"]["weight"] = weight
    del record["method"]["kd"]  # as where the teacher has other classes
    path.write_text(json.dumps(record))
    assert open_board(board.bench).rows[-1].state == "done"
    record["config"]["method"] = {"mfkd": record["method"]["mfkd"]}  # a plan of another mapping, under the same name
    path.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"method\.kd.*=None, and the plan says "):
        open_board(board.bench)


def test_teachers_of_another_plan_are_refused(tmp_path):
    def teacher(*words):
        small = ("data.fraction=0.2", "teacher.model=resnet14", "teacher.train={epochs: 1}", "log.trackers=[]")
        return cells(load_bench({"out": str(tmp_path / "b"), "methods": {"kd": "kd"}}, [*small, *words]))[0]

    work(teacher())
    check_same(teacher("train.epochs=9", "teacher.train.epochs=1", "augment.views=3"))
    place = f"^{tmp_path}/b/{PAIR}/teacher holds "
    for word, told in (
        ("teacher.train.lr=0.2", r"teacher\.train\.lr=0\.05, and the plan says 0\.2"),
        ("data.fraction=0.3", r"data\.fraction=0\.2, and the plan says 0\.3"),
    ):
        with pytest.raises(ConfigError, match=f"{place}a teacher trained with {told}; choose another folder with out="):
            check_same(teacher(word))

    first, second = (tmp_path / f"{name}.safetensors" for name in ("first", "second"))
    shutil.copy(tmp_path / "b" / PAIR / "teacher" / "teacher.safetensors", first)
    words = f"out={tmp_path / 'loaded'}", "teacher.train={}"
    work(teacher(*words, f"teacher.weights={first}"))
    shutil.move(first, second)
    check_same(teacher(*words, f"teacher.weights={first}"))  # it is not there, so nothing can be said
    check_same(teacher(*words, f"teacher.weights={second}"))
    state, metadata = read_weights(second)
    save_weights(second, {name: value + 1 for name, value in state.items()}, metadata)
    place = f"^{tmp_path}/loaded/{PAIR}/teacher holds "
    with pytest.raises(
        ConfigError, match=rf"{place}figures of a teacher with SHA-256 of teacher\.weights=[0-9a-f]+, and"
    ):
        check_same(teacher(*words, f"teacher.weights={second}"))


def test_several_teachers_trained_for_a_pair_are_the_same_at_the_next_start(bench):
    two = {"teacher": [{"model": "resnet14", "train": {"epochs": 1}}, {"model": "resnet8", "train": {"epochs": 1}}]}
    plan = {"methods": {"kd": "kd"}, "seeds": [0], "pairs": [two]}
    assert len(bench(**plan)[1]) == 3
    assert bench(**plan)[1] == []


def test_only_and_added_seeds_do_what_is_left(bench):
    assert bench("seeds=[0]", only=["kd"])[1] == [f"{PAIR}/{key}" for key in ("teacher", "none/seed-0", "kd/seed-0")]
    assert bench("seeds=[0, 5]", only=["kd"])[1] == [f"{PAIR}/{key}" for key in ("none/seed-5", "kd/seed-5")]


def test_without_its_teacher_no_student_is_started(bench, tmp_path):
    board, started = bench("seeds=[0]", "teacher.weights=nowhere.safetensors")
    assert started == [f"{PAIR}/teacher"]
    assert [row.state for row in board.rows] == ["failed"] + ["waiting"] * 4
    assert "nowhere.safetensors" in board.rows[0].error
    with pytest.raises(MfkdError, match="no finished student there; run something first"):
        compare([tmp_path / "bench"])


def test_budgets_share_the_teacher_of_their_pair(bench, tmp_path, capsys):
    _, started = bench(
        "seeds=[0]",
        only=["none"],
        budgets=[
            {"train": {"epochs": 1}},
            {"name": "half", "data": {"fraction": 0.1, "val_fraction": 0.5, "evaluate": "val"}},
        ],
        methods=["kd"],
    )
    assert started == [f"{PAIR}/teacher", f"{PAIR}/epochs=1/none/seed-0", f"{PAIR}/half/none/seed-0"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "student alone" in line]
    assert [("test Top-1" in line, "validation Top-1" in line) for line in lines] == [(True, False)] + [
        (False, True)
    ] * 2
    tables = compare([tmp_path / "bench"])
    assert [table.title for table in tables] == [f"{PAIR}, epochs=1", f"{PAIR}, half"]
    assert tables[1].protocol.startswith("2 epochs, batch 32, 10% of the training images but 50% held out")
    # The teacher was measured on the test images, so only what is of them stands beside it.
    assert [(table.split, table.teacher is None) for table in tables] == [("test", False), ("val", True)]
    assert "All figures are of the validation images; the test images were not looked at." in tables[1].notes


def test_knowledge_on_disk_is_built_once_and_all_see_its_views(bench, tmp_path):
    words = ("cache.views=2", f"cache.folder={tmp_path / 'knowledge'}")
    bench(*words, methods=["kd"])
    manifest = read_manifest(tmp_path / "knowledge")
    assert (manifest.complete, manifest.views) == (True, 2)
    found = [RunRecord.load(path) for path in sorted((tmp_path / "bench" / PAIR).glob("*/*/seed-*/record.json"))]
    assert {record.config["augment"]["views"] for record in found} == {2}
    assert [list(record.shared_seconds) for record in found] == [["cache"], ["cache"], [], []]
    assert len({record.shared_seconds.get("cache") for record in found[:2]}) == 1  # built by the first, read by both


def test_a_process_that_dies_is_a_failure_with_its_reason(bench):
    class Deadly:
        slots, started = 2, []

        def start(self, cell):
            self.started.append(cell)
            cell.folder.mkdir(parents=True, exist_ok=True)

        def ended(self, patience):
            over, self.started = {cell.key: "its process was ended by SIGKILL" for cell in self.started}, []
            return over

        def stop(self):
            self.stopped = True

    runner = Deadly()
    board, _ = bench("seeds=[0]", runner=runner)
    assert runner.stopped
    log = board.rows[0].cell.log
    assert (board.rows[0].state, board.rows[0].error) == ("failed", f"its process was ended by SIGKILL; see {log}")


def test_an_error_of_any_kind_is_told_in_a_line_with_its_traceback(bench, tmp_path, monkeypatch):
    cell = cells(load_bench({"out": str(tmp_path), "methods": ["kd"], "seeds": [0]}))[2]
    monkeypatch.setattr("mfkd.bench.cell.work", lambda cell: [].pop())
    assert attempt(cell)
    assert (cell.state, cell.failure) == ("failed", "IndexError: pop from empty list")
    assert "IndexError" in (cell.folder / "error.log").read_text()


def test_two_benches_in_one_folder_are_refused(bench, tmp_path):
    (tmp_path / "bench").mkdir()
    with FileLock(tmp_path / "bench" / ".lock"), pytest.raises(ConfigError) as caught:
        bench()
    text = f"{tmp_path / 'bench'} is being worked at by another mfkd bench; wait, or choose out=."
    assert str(caught.value) == text


def test_only_must_name_methods_of_the_plan(bench):
    with pytest.raises(UnknownNameError, match="unknown method 'dk'; did you mean kd"):
        bench(only=["dk"])


def test_time_left_is_that_of_what_is_still_wanted(bench):
    board, _ = bench("seeds=[0]", only=["kd"])
    assert board.seconds_left(1) == 0
    for row in board.rows[1:3]:
        row.figures["seconds"] = 10.0
    board.rows[3].figures.clear()
    board.rows[3].state = board.rows[2].state = "waiting"
    board.rows[2].wanted = True
    assert board.seconds_left(2) == 10.0 * 2 / 2


def test_foreign_file_is_refused(tmp_path):
    (tmp_path / "bench.json").write_text("[]")
    with pytest.raises(MfkdError) as caught:
        read_bench(tmp_path)
    text = f"{tmp_path}/bench.json was not written by mfkd bench; delete it and run the plan again."
    assert str(caught.value) == text


def test_board_is_read_from_the_folders(bench, tmp_path):
    board, _ = bench("seeds=[0]", only=["kd"])
    opened = open_board(board.bench)
    assert [(row.state, row.figures) for row in opened.rows] == [(row.state, row.figures) for row in board.rows]


def test_cells_that_one_process_does_in_turn_read_their_data_once(bench, monkeypatch):
    read, really = [], data.load_data
    monkeypatch.setattr(data, "load_data", lambda config: read.append(config.fraction) or really(config))
    board, _ = bench()
    forget()
    read.clear()
    (first, *_, last) = (opened(row.cell.config) for row in board.rows)
    assert (read, last.data.train) == ([0.2], first.data.train)
    opened(
        board.rows[0].cell.config.model_copy(update={"data": first.config.data.model_copy(update={"fraction": 0.1})})
    )
    assert read == [0.2, 0.1]
    forget()
    opened(board.rows[0].cell.config)
    assert read == [0.2, 0.1, 0.2]
