"""Help pages, refusals and exits, as a person at a terminal meets them."""

import errno
import os
import re
import subprocess
import sys
from contextlib import suppress

import pytest

from mfkd.__main__ import main as entry
from mfkd.cli import app, main
from mfkd.train.interrupt import Interrupted

COMMANDS = (
    "run", "train", "distill", "evaluate", "export", "predict", "latency", "bench", "compare",
    "sweep", "profile", "models", "methods", "taps", "serve", "push", "report",
)  # fmt: skip


def shell(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "mfkd", *words], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("width", ["80", "120"])
@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_is_clean(mfkd, monkeypatch, command, width):
    monkeypatch.setenv("COLUMNS", width)
    text = mfkd(*command, "--help").stdout
    lines = text.splitlines()
    assert text.lstrip().startswith(f"Usage: {' '.join(['mfkd', *command])} [OPTIONS]")
    assert max(map(len, lines)) <= int(width)
    for raw in ("[/", "[cyan", "`", "{", "<bool>", "<str>", "<path>", "list["):
        assert raw not in re.sub(r"'\{.*?\}'", "", text), raw  # an example quotes a mapping


def test_examples_stand_on_one_line_each(mfkd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for command in COMMANDS:
        text = mfkd(command, "--help").stdout
        if "Examples:" in text:
            examples = text.split("Examples:")[1].strip().splitlines()
            assert all(line.strip().startswith("$ ") for line in examples), command


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_waits_for_no_library_of_computing(command):
    code = (
        "import sys; from mfkd.cli import app; "
        f"app({[*command, '--help']}, standalone_mode=False); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "torch",
        "torchvision",
        "timm",
        "accelerate",
        "torchmetrics",
        "numpy",
        "sklearn",
        "scipy",
        "pyarrow",
        "PIL",
    }
    assert not heavy & set(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["run", "--epochs=3"], "No such option: --epochs"),
        (["runn"], "No such command 'runn'. Did you mean 'run'?"),
        (["predict", "a.png"], "Missing option '--model' / '-m'."),
    ],
)
def test_wrong_word_is_answered_in_a_box(mfkd, tmp_path, words, text):
    result = mfkd(*words)
    assert result.exit_code == 2
    assert text in result.stderr
    assert "Usage: " in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


REFUSED = [
    (["run", "train.epoch=3"], "unknown key 'train.epoch'; did you mean train.epochs or"),
    (["run", "epochs=3"], "unknown key 'epochs'; did you mean train.epochs?"),
    (["run", "student.model=resnt8"], "unknown model 'resnt8'; did you mean resnet8 or"),
    (["train", "teacher.model=resnt8"], "unknown model 'resnt8'; did you mean resnet8 or"),
    (["run", "method=mfdk"], "unknown method 'mfdk'; did you mean mfkd"),
    (["run", "method={mfkd: {student_taps: [frnt]}}"], "unknown tap 'frnt'; did you mean front"),
    (["run", "digit"], "unknown recipe 'digit'; did you mean digits?"),
    (["run", "a[red]b/c.yaml"], "recipe a[red]b/c.yaml does not exist; `mfkd run --recipes` lists the ready ones."),
    (
        ["distill", "digits", "train.epochs", "3"],
        "got 'digits' and 'train.epochs' and '3', expected one recipe; "
        "whatever else there is must be key=value, such as train.epochs=30.",
    ),
    (["distill", "teacher.weights=none.pt"], "weights file none.pt does not exist; check the path."),
    (["run", "train.batch_size=9999"], "train.batch_size=9999 is larger than the 1347 training images;"),
    (["run", "--dry-run", "data.name=folder:none"], "folder none does not exist;"),
    (["evaluate", "none"], "none does not exist; give a run folder such as runs/digits."),
    (
        ["evaluate", "."],
        ". holds no student.safetensors, teacher.safetensors or model.safetensors; is the run finished?",
    ),
    (["evaluate", ".", "--split", "train"], "unknown split 'train'; known: test, val."),
    (["report", "none"], "none does not exist; give the folder of a run or of a bench, such as runs/digits."),
    (["report", "."], ". is neither a run nor a bench: it holds no config.yaml and no bench.json; give a folder"),
    (["predict", "none.png", "-m", "."], "image none.png does not exist; give image files, or folders of them."),
    (["predict", ".", "-m", "."], "folder . holds no image; known endings: .bmp, .gif,"),
    (["methods", "mfk"], "unknown method 'mfk'; did you mean mfkd"),
    (["bench", "bench-digit"], "unknown plan 'bench-digit'; did you mean bench-digits or fade-digits?"),
    (["bench", "a/b.yaml"], "plan a/b.yaml does not exist; shipped ones: ablation-cifar100, bench-digits,"),
    (["bench", "bench-digits", "seds=[0]"], "base: unknown key 'seds'; did you mean seeds?"),
    (["bench", "bench-digits", "--only", "kdd"], "unknown method 'kdd'; did you mean kd"),
    (["compare", "nowhere"], "nowhere does not exist; give run folders, benches or record files."),
    (["sweep", "weight=8..1"], "sweep: 'weight=8..1' is no range that rises, for example weight=1..8."),
    (["sweep"], "sweep: nothing to search; name ranges or choices such as weight=1..8 or kd.temperature=[2,4]."),
    (["taps", "resnet8", "--input", "3x3"], "--input: got '3x3', expected channels x height x width, for"),
]


@pytest.mark.parametrize(("words", "text"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_refusal_is_one_line_and_leaves_no_file(words, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mfkd", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"mfkd: error: {text}")
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_other_run_in_the_folder_is_refused_before_an_estimate_too(finished, mfkd):
    folder, words, _ = finished
    before = (folder / "config.yaml").read_bytes()
    for more in ([], ["--dry-run"]):
        error = mfkd("run", *words, "train.epochs=2", *more).exception
        assert str(error).startswith(f"{folder} holds another run: train.epochs is 1 there and 2 here;")
    assert (folder / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "mfkd: stopped.\n"),
        (Interrupted("it goes on."), 130, "mfkd: it goes on.\n"),
        (Interrupted("it goes on.", 15), 143, "mfkd: it goes on.\n"),
        (Interrupted("it goes on.", 10), 75, "mfkd: it goes on.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/logs"), 2,
         "mfkd: error: /x/logs: No space left on device; free space or choose another folder.\n"),
        (OSError(errno.EROFS, "Read-only file system"), 2,
         "mfkd: error: a file: Read-only file system; free space or choose another folder.\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 400), 2,
         f"mfkd: error: {'x' * 260} ... {'x' * 30}: File name too long; give a shorter name.\n"),
    ],
)  # fmt: skip
def test_a_line_and_a_code_for_signals_and_disks(error, code, text, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("mfkd.models.model_names", fail)
    monkeypatch.setattr(sys, "argv", ["mfkd", "models"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    assert capsys.readouterr() == ("", text)


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail():
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("mfkd.models.model_names", fail)
    monkeypatch.setattr(sys, "argv", ["mfkd", "models"])
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main()


@pytest.mark.parametrize("words", ["run --keys", "run --keys --json"])
def test_closed_pipe_is_silent(words):
    done = subprocess.run(
        f"{sys.executable} -m mfkd {words} | head -n 1", shell=True, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_piped_rows_do_not_wrap_and_poor_encodings_do_not_fail(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = shell("run", "--keys")
    assert done.returncode == 0
    row = next(line for line in done.stdout.splitlines() if "train.precision" in line)
    assert "fp32, bf16, fp16, fp64: the half precisions are mixed with fp32, fp16 needs CUDA; auto: bf16 if" in row


def test_version(mfkd):
    assert re.fullmatch(r"mfkd \d+\.\d+\.\d+\n", mfkd("--version").stdout)


def test_every_command_is_tried_here():
    assert {command.name for command in app.registered_commands} == set(COMMANDS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "10000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": None}),
    ],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(monkeypatch, given, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["mfkd", "methods", "kd", "--json"])
    with suppress(SystemExit):
        entry()
    assert {name: os.environ.get(name) for name in expected} == expected
