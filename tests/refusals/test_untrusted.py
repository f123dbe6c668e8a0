"""Files from others: whatever is in them, no code of theirs runs, and nothing outside of a folder is read or changed.

What is tried elsewhere:

| file | test |
|---|---|
| weights: pickles of all kinds, scripts, oversized and garbled headers | cli/test_network_refusals, models/test_files |
| checkpoints that would run code, or belong to another training | train/test_checkpoint |
| damaged manifests, arrays and journals of a knowledge cache | teacher/test_store, teacher/test_cache |
| images: bombs, truncated, garbled; tables whose paths lead out of their folder | refusals/test_bad_data |
| torch.load without weights_only, yaml.load, pickle in the source | test_layers |
"""

import ast
import hashlib
import json
import pickle
import py_compile
import shutil
import stat
import struct
import sys
from importlib.util import cache_from_source
from pathlib import Path
from py_compile import PycInvalidationMode

import numpy as np
import pytest
import torch
from PIL import Image

import mfkd
from mfkd.cli import main
from mfkd.config import load_config
from mfkd.data import load_data
from mfkd.errors import MfkdError
from mfkd.export.contest import Contender, contest
from mfkd.export.onnx import OnnxModel
from mfkd.handed import teacher_of
from mfkd.models import build_model, trust
from mfkd.models.files import read_metadata, read_weights
from mfkd.models.trust import named_by
from mfkd.models.weights import save_weights
from mfkd.overrides import read_yaml
from mfkd.pictures import read_image
from mfkd.records import RunRecord
from mfkd.teacher.journal import journalled
from mfkd.teacher.manifest import CHECKSUMS, MANIFEST, Manifest, digest, read_manifest
from mfkd.teacher.store import Store
from mfkd.teacher.writing import begin
from mfkd.train.checkpoint import load_checkpoint, load_newest
from mfkd.train.student import load_student


class Runs:
    """Makes a file in the working folder when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("owned"),)


def hostile(kind):
    if kind == "zip":
        torch.save({"version": 1, "model": {"a": torch.zeros(1)}, "extra": Runs()}, "made")
        return Path("made").read_bytes()
    if kind == "yaml":
        return b"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [owned]]\n"
    if kind == "script":
        return b"import pathlib; pathlib.Path('owned').touch()\n"
    return pickle.dumps({"version": 1, "state_dict": Runs()}, protocol={"old pickle": 2, "new pickle": 5}[kind])


KINDS = ("zip", "old pickle", "new pickle", "yaml", "script")


def test_the_hostile_files_would_do_it(place):
    for kind in ("old pickle", "new pickle"):
        pickle.loads(hostile(kind))
        Path("owned").unlink()
    Path("made").write_bytes(hostile("zip"))
    torch.load("made", weights_only=False)
    assert Path("owned").exists()


LOADERS = {
    "last.pt": load_checkpoint,
    "newest.pt": lambda path: load_newest(path, print),
    "a.pth": read_weights,
    "a.safetensors": read_weights,
    "b.safetensors": load_student,
    "record.json": RunRecord.load,
    "config.yaml": read_yaml,
    MANIFEST: lambda path: read_manifest(path.parent),
    "model.onnx": OnnxModel,
    "image.png": lambda path: read_image(path, 3),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOADERS)
def test_no_loader_runs_what_a_file_holds(name, kind, place):
    (place / name).write_bytes(hostile(kind))
    (place / "made").unlink(missing_ok=True)
    with pytest.raises(MfkdError) as caught:
        LOADERS[name](place / name)
    assert "\n" not in str(caught.value)
    assert read_metadata(place / name) == {}
    assert [path.name for path in place.iterdir()] == [name]


TAGS = (
    "!!python/object/apply:os.system ['touch owned']",
    "!!python/object/new:os.system ['touch owned']",
    "!!python/name:os.system",
    "!!python/module:antigravity",
    '!!python/object/apply:builtins.eval [\'open("owned", "w")\']',
)


@pytest.mark.parametrize("tag", TAGS)
def test_no_yaml_builds_objects(tag, place, refused):
    for text in (tag, f"train: {tag}", f"train: {{epochs: {tag} }}", f"? {tag}\n: 1"):
        (place / "r.yaml").write_text(text)
        assert refused("run", "r.yaml").startswith("recipe r.yaml is not valid YAML: ")
        assert "r.yaml" in refused("bench", "./r.yaml")
    assert refused("run", f"train.epochs={tag}").startswith("the value of override")
    assert refused("sweep", f"kd.weight=[1, {tag}]").startswith("sweep: ")


RUN = (
    "config.yaml", "summary.json", "student.safetensors", "model.safetensors", "model.onnx", "model.pt2", "config.json",
    "export.json", "record.json", "knowledge.json", "teacher/teacher.safetensors", "teacher/head.safetensors",
    "distilled/prepared.safetensors", "distilled/knowledge.json", "distilled/seed-0/record.json", "manifest.json",
    "distilled/seed-0/student.safetensors", "distilled/seed-0/checkpoints/last.pt", "plan.json", "bench.yaml",
)  # fmt: skip
COMMANDS = (
    "evaluate run", "export run", "predict image.png -m run", "latency run", "compare run", "run --from run",
    "train run/config.yaml out=run", "run out=run", "bench run/config.yaml", "cache info run", "cache verify run",
    "distill teacher.model=local-dir:run teacher.options.pretrained=true",
    "distill teacher.weights=run/teacher/teacher.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["zip", "yaml"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_what_a_folder_holds(command, kind, place, refused):
    content = hostile(kind)
    for name in RUN:
        (place / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "run" / name).write_bytes(content)
    (place / "image.png").write_bytes(content)
    assert "run" in refused(*command.split())


def card(path, model, /, **options):
    told = {"model": model, "classes": ["a", "b"], "channels": 1, "size": [8, 8], "mean": [0.5], "std": [0.5]}
    state = build_model("resnet8", num_classes=2, in_channels=1).state_dict()
    save_weights(path, state, {"mfkd": json.dumps({**told, "options": options})})


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("subprocess:run", {"args": ["touch", "owned"]}),
        ("os:system", {"command": "touch owned"}),
        ("torch.hub:load", {"repo_or_dir": ".", "model": "net", "source": "local"}),
        ("logging:basicConfig", {"filename": "owned"}),
        ("runpy:run_path", {"path_name": "hubconf.py"}),
    ],
)
def test_a_description_of_a_network_calls_no_function_of_python_or_torch(model, options, place, refused):
    (place / "hubconf.py").write_text("import pathlib; pathlib.Path('owned').touch()\nnet = print\n")
    card(place / "student.safetensors", model, **options)
    (place / "x.png").write_bytes(b"")
    source = model.partition(":")[0]
    text = f"{source} is a part of Python or torch and builds no classifier; name code of your own."
    assert refused("predict", "x.png", "-m", "student.safetensors") == text
    words = [f"student.options.{name}={value}".replace("'", '"') for name, value in options.items()]
    assert refused("train", f"student.model={model}", *words) == text


def test_options_of_a_description_load_no_pickle(place, refused):
    (place / "evil.pth").write_bytes(hostile("zip"))
    (place / "made").unlink()
    (place / "x.png").write_bytes(b"")
    card(place / "student.safetensors", "timm/resnet10t", checkpoint_path="evil.pth")
    assert refused("predict", "x.png", "-m", ".").startswith("timm/resnet10t cannot be built (")


NET = """
import os
from pathlib import Path
from torch import nn

Path(os.environ["HOME"], "owned").touch()

class Net(nn.Module):
    def __init__(self, num_classes, in_channels=1):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_channels, 4, 3, 2), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))
"""
NAMES = {
    "run/student.safetensors": "predict x.png -m run",
    "run/distilled/seed-0/student.safetensors": "evaluate run/distilled/seed-0",
    "export/model.safetensors": "predict x.png -m export",
    "student.safetensors": "predict x.png -m student.safetensors",
    "a/student.safetensors": "evaluate a/student.safetensors data.name=digits",
    "b/student.safetensors": "export b",
    "c/teacher.safetensors": "predict x.png -m c",
    "d/student.safetensors": "serve d --port 0",
}


def refusal(who, path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return (
        f"{who} names code that you have not named yourself, {path} (SHA-256 {digest}); running it may do anything. "
        "Look at it, then set MFKD_TRUST_CODE=1 (in Python trust_code=True)."
    )


def own_card(path, name):
    """Weights of the network above under a description that names it in some way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"conv.weight": (4, 1, 3, 3), "conv.bias": (4,), "fc.weight": (2, 4), "fc.bias": (2,)}
    told = {"model": name, "classes": ["a", "b"], "channels": 1, "size": [8, 8], "mean": [0.5], "std": [0.5]}
    tensors = {key: torch.zeros(shape) for key, shape in state.items()}
    save_weights(path, tensors, {"mfkd": json.dumps({**told, "options": {}})})
    return path


def picture(place):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(place / "x.png")


@pytest.mark.parametrize("form", ["beside the weights", "where the name says", "a module"])
@pytest.mark.parametrize("file", NAMES)
def test_a_file_from_others_runs_no_code_that_it_names(file, form, place, refused, monkeypatch):
    for module in ("homemade", "homemade.net"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    picture(place)
    code = (place / file).parent / "net.py" if form == "beside the weights" else place / "homemade" / "net.py"
    code.parent.mkdir(parents=True, exist_ok=True)
    code.write_text(NET)
    name = {"beside the weights": "net.py:Net", "where the name says": "homemade/net.py:Net"}.get(
        form, "homemade.net:Net"
    )
    own_card(place / file, name)
    assert refused(*NAMES[file].split()) == refusal(file, code)
    with pytest.raises(MfkdError, match="names code that you have not named yourself"):
        Contender("", "PyTorch", Path(file), (1, 8, 8)).open()  # for `mfkd latency`
    assert not (place.parent / "owned").exists()
    monkeypatch.setenv("MFKD_TRUST_CODE", "0")
    with pytest.raises(MfkdError, match="names code that you have not named yourself"):
        load_student(file)
    assert load_student(file, trust_code=True)(torch.zeros(1, 1, 8, 8)).shape == (1, 2)
    assert (place.parent / "owned").exists()
    with pytest.raises(MfkdError, match="names code that you have not named yourself"):  # once is not for ever
        load_student(file)
    monkeypatch.setenv("MFKD_TRUST_CODE", "1")
    load_student(file)


def test_a_recipe_of_a_run_folder_runs_no_code_that_it_names(place, refused):
    (place / "net.py").write_text(NET)
    card(place / "run" / "student.safetensors", "resnet8")
    (place / "run" / "summary.json").write_text("{}")
    recipe = "student: {model: net.py:Net}\nteacher: {model: net.py:Net, weights: run/student.safetensors}\nout: run\n"
    (place / "run" / "config.yaml").write_text(recipe)
    text = refusal("run/config.yaml", place / "net.py")
    with pytest.raises(MfkdError) as caught:
        contest(["run"])
    assert str(caught.value) == text
    assert refused("run", "--from", "run") == text
    config = load_config("run/config.yaml")
    with pytest.raises(MfkdError, match=r"^run names code that you have not named yourself"):
        teacher_of(Path("run"), config, load_data(config.data))
    assert not (place.parent / "owned").exists()


@pytest.fixture
def command(place, monkeypatch, capsys):
    """Run `mfkd WORDS` as a process of its own would, which knows what stands on the disk alone."""

    def call(*words):
        trust._SEEN.clear()
        trust._NAMED.clear()
        monkeypatch.setattr(sys, "argv", ["mfkd", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, err.splitlines()[-1:] if caught.value.code else out

    return call


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the training of `own` is kept, so that it is done once."""
    return tmp_path_factory.mktemp("kept") / "home"


@pytest.fixture
def own(place, command, kept, monkeypatch):
    """A student of the user's own network that imports a neighbour, trained by the command."""
    monkeypatch.setattr(trust, "PLACE", "~/.cache/mfkd/trusted")
    picture(place)
    (place / "parts.py").write_text("WIDTH = 4\n")
    (place / "net.py").write_text(
        NET.replace("(in_channels, 4,", "(in_channels, WIDTH,") + "\nfrom parts import WIDTH\n"
    )
    words = ("train", "student.model=net.py:Net", "data.fraction=0.05", "train.epochs=1", "log.trackers=[]", "out=run")
    if kept.exists():
        shutil.copytree(kept, place.parent, dirs_exist_ok=True)
    else:
        assert command(*words)[0] == 0
        shutil.copytree(place.parent, kept)
    return words


PREDICT = ("predict", "x.png", "-m", "run/alone/seed-0")


def test_what_the_user_trained_loads_without_a_word(own, place, command):
    listed = place.parent / ".cache" / "mfkd" / "trusted"
    assert stat.S_IMODE(listed.stat().st_mode) == 0o600
    digests = {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in ("net.py", "parts.py")}
    lines = [line.partition("  # ") for line in listed.read_text().splitlines()]
    assert {(key, Path(ast.literal_eval(path)).name) for key, _, path in lines} == {
        (f"{digests['net.py']}:Net", "net.py"),
        (digests["net.py"], "net.py"),
        (digests["parts.py"], "parts.py"),
    }
    assert command(*PREDICT)[0] == 0
    assert command(*own)[0] == 0
    assert command("export", "run/alone/seed-0", "--out", "export")[0] == 0
    (place / "net.py").unlink()
    (place / "parts.py").unlink()
    assert command("predict", "x.png", "-m", "export")[0] == 0


@pytest.mark.parametrize("changed", ["net.py", "parts.py"])
def test_code_that_changed_is_not_what_the_user_named(changed, own, place, command):
    with (place / changed).open("a") as file:
        file.write("x = 1\n")
    said = refusal("run/alone/seed-0/student.safetensors", place / changed)
    assert command(*PREDICT) == (2, [f"mfkd: error: {said}"])


def test_known_code_runs_no_neighbours_and_no_compiled_file_of_others(own, place, command, monkeypatch):
    """A copy of code that the user knows, among files that he does not."""
    theirs = place.parent / "theirs"
    theirs.mkdir()
    for name in ("net.py", "parts.py", "run/alone/seed-0/student.safetensors"):
        shutil.copyfile(place / name, theirs / Path(name).name)
    evil = "import pathlib; pathlib.Path('evil').touch(); WIDTH = 4\n"
    for name in ("net", "parts"):
        (theirs / "evil.py").write_text(evil)
        compiled = cache_from_source(str(theirs / f"{name}.py"))
        py_compile.compile(theirs / "evil.py", compiled, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    predict = ("predict", "x.png", "-m", str(theirs))
    assert command(*predict)[0] == 0
    for neighbour in ("parts.py", "parts/__init__.py", "parts.so", "parts.pyc"):
        (theirs / "parts.py").unlink(missing_ok=True)
        (theirs / neighbour).parent.mkdir(exist_ok=True)
        (theirs / neighbour).write_bytes(Path(compiled).read_bytes() if neighbour == "parts.pyc" else evil.encode())
        code, said = command(*predict)
        text = refusal(theirs / "student.safetensors", theirs / neighbour)
        assert (code, said) == (2, [f"mfkd: error: {text}"])
        shutil.rmtree(theirs / "parts", ignore_errors=True)
        (theirs / neighbour).unlink(missing_ok=True)
    assert not Path("evil").exists()


def test_known_code_is_called_as_the_user_called_it(own, place, command):
    weights = own_card(place / "other.safetensors", "net.py:Path")
    code, said = command("predict", "x.png", "-m", str(weights))
    assert (code, said) == (2, [f"mfkd: error: {refusal(weights, place / 'net.py')}"])


def test_a_home_that_cannot_be_written_stops_no_training(place, command, monkeypatch):
    (place / "net.py").write_text(NET)
    picture(place)
    words = ("train", "student.model=net.py:Net", "data.fraction=0.05", "train.epochs=1", "log.trackers=[]", "out=run")
    (place / "file").touch()
    monkeypatch.setattr(trust, "PLACE", str(place / "file" / "trusted"))
    assert command(*words)[0] == 0
    assert command(*words)[0] == 0  # finished, and loaded again
    assert command(*PREDICT)[0] == 2
    monkeypatch.setattr(trust, "PLACE", "~nobody-of-this-name/trusted")
    assert command(*words)[0] == 0


def test_what_is_named_in_python_loads_in_the_same_program(place):
    (place / "net.py").write_text(NET)
    own_card(place / "student.safetensors", "net.py:Net")
    build_model("net.py:Net", num_classes=2)
    load_student("student.safetensors")
    trust._NAMED.clear()
    with named_by("other"), pytest.raises(MfkdError, match=r"^other names code"):
        build_model("net.py:Path", num_classes=2)


def test_an_oversized_header_of_weights_takes_no_memory(place):
    for length in (2**63 - 1, 2**40, 2**31):
        (place / "a.safetensors").write_bytes(struct.pack("<Q", length) + b'{"a": 1}')
        for load in (read_weights, read_metadata, load_student):
            with pytest.raises(MfkdError, match="damaged or holds no weights"):
                load(place / "a.safetensors")


def manifest(**changed):
    fields = {"views": 1, "storage": "float32", "data": {"images": 2}, "tensors": {"logits": {"shape": [3]}}}
    return Manifest({**fields, **changed})


def test_names_in_a_cache_are_no_paths(place):
    """A tensor may be called as it likes: its file is numbered."""
    (place / "secret").write_bytes(bytes(24))
    told = manifest(tensors={"../secret": {"shape": [3]}})
    assert told.file("../secret") == "0.bin"
    folder = place / "cache"
    Manifest(told.fields, complete=True, checksums=digest(b"")).save(folder)
    with pytest.raises(MfkdError, match=r"0.bin \(../secret\) is missing"):
        Store(folder)


@pytest.mark.parametrize("name", ["0.bin", "journal-1", "journal-0", CHECKSUMS])
def test_a_cache_is_not_built_through_a_link(name, place):
    (place / "victim").write_bytes(b"precious")
    folder, told = place / "cache", manifest()
    told.save(folder)
    (folder / name).symlink_to(place / "victim")
    with pytest.raises(MfkdError, match=f"{name} is a link to somewhere else; remove it"):
        begin(folder, told)
    assert (place / "victim").read_bytes() == b"precious"


def test_a_journal_names_chunks_and_nothing_else(place):
    told = manifest()
    told.save(place)
    good = f"0 0 {'a' * 16} 0.5\n"
    (place / "journal-1").write_text(f"../../x 0 {'a' * 16} 0.5\n0 99 {'a' * 16} 0.5\n{good}")
    assert list(journalled(place, told)) == [(0, 0)]


def test_the_place_of_a_cache_that_a_run_names_is_no_licence_to_delete(place, refused):
    (place / "photos").mkdir()
    (place / "photos" / "0.bin").write_bytes(b"precious")
    (place / "run" / "distilled").mkdir(parents=True)
    (place / "run" / "config.yaml").write_text("out: run\n")
    (place / "run" / "distilled" / "knowledge.json").write_text('{"folder": "photos"}')
    assert refused("cache", "remove", "run") == "photos holds no knowledge cache; nothing was removed."


def test_links_in_a_run_folder_change_no_file_elsewhere(place, monkeypatch, capsys):
    words = ["student.model=resnet8", "data.fraction=0.1", "train.epochs=1", "log.trackers=[]", "out=run"]
    (place / "victim").write_bytes(b"precious")
    seed = place / "run" / "alone" / "seed-0"
    (seed / "checkpoints").mkdir(parents=True)
    for name in ("log.csv", "student.safetensors", "checkpoints/last-1.pt"):
        (seed / name).symlink_to(place / "victim")
    monkeypatch.setattr(sys, "argv", ["mfkd", "train", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2  # last-1.pt is no checkpoint
    (seed / "checkpoints" / "last-1.pt").unlink()
    with pytest.raises(SystemExit) as caught:
        main()
    assert (caught.value.code, (place / "victim").read_bytes()) == (0, b"precious")
    assert not (seed / "log.csv").is_symlink()
    (place / "run" / ".lock").unlink()
    (place / "run" / ".lock").symlink_to(place / "victim")
    with pytest.raises(SystemExit) as caught:
        main()
    assert (caught.value.code, (place / "victim").read_bytes()) == (2, b"precious")
    assert capsys.readouterr().err.splitlines()[-1].startswith("mfkd: error: cannot write run: ")


def test_a_graph_reads_no_file_outside_of_its_folder(place):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    (place / "export").mkdir()
    (place / "secret").write_bytes(bytes(16))
    for location in ("../secret", str(place / "secret")):
        weight = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
        for key, value in {"location": location, "length": "16"}.items():
            weight.external_data.add(key=key, value=value)
        output = onnx.helper.make_tensor_value_info("logits", 1, [4])
        node = onnx.helper.make_node("Identity", ["w"], ["logits"])
        graph = onnx.helper.make_graph([node], "g", [], [output], [weight])
        content = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
        (place / "export" / "model.onnx").write_bytes(content.SerializeToString())
        with pytest.raises(MfkdError, match="is damaged or no ONNX file"):
            OnnxModel(place / "export" / "model.onnx")


def test_programs_of_torch_are_loaded_by_nothing_but_the_export_that_wrote_them(place, refused):
    """torch.export.load would run code; only the file that `mfkd export` has just written is opened by it."""
    (place / "x.png").write_bytes(b"")
    (place / "model.pt2").write_bytes(hostile("zip"))
    (place / "made").unlink()
    assert refused("predict", "x.png", "-m", ".").startswith(". holds no student.safetensors,")
    assert refused("predict", "x.png", "-m", "model.pt2").startswith("weights file model.pt2 ")
    calls = {"torch.export.load": {"export/folder.py"}}
    forbidden = ("eval", "exec", "compile", "np.load", "numpy.load", "shutil.unpack_archive", "joblib.load", *calls)
    root = Path(mfkd.__file__).parent
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for name in called & set(forbidden):
            assert str(path.relative_to(root)) in calls.get(name, ()), f"{path}: {name}"
