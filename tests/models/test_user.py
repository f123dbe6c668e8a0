"""Networks of the user's own files and modules."""

import sys
from pathlib import Path

import pytest
import torch

from mfkd.errors import ConfigError, UnknownNameError
from mfkd.models import build_model, local_files

CODE = """
from torch import nn
from blocks import WIDTH
from parts.sizes import KERNEL

class Net(nn.Module):
    def __init__(self, num_classes, in_channels, width=WIDTH):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_channels, width, KERNEL), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

def build(num_classes, **options):
    from blocks import WIDTH
    return Net(num_classes, 3, WIDTH, **options)

def needy(num_classes, depth, /, *, width): ...

def plain(depth=3): ...

def number(num_classes=5):
    return num_classes

net = Net(2, 3)
size = 3
"""


def write(folder: Path, width: int = 4, code: str = CODE) -> str:
    (folder / "parts").mkdir(parents=True, exist_ok=True)  # a package without __init__.py
    (folder / "parts" / "sizes.py").write_text(f"KERNEL = {3 if width == 4 else 1}\n")
    (folder / "blocks.py").write_text(f"WIDTH = {width}\n")
    (folder / "nets.py").write_text(code)
    return str(folder / "nets.py")


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write(tmp_path / "a")


def test_a_class_of_a_file_gets_classes_channels_and_options(file: str) -> None:
    model = build_model(f"{file}:Net", num_classes=5, in_channels=1, width=6)
    assert (model.conv.weight.shape, model.fc.weight.shape) == ((6, 1, 3, 3), (5, 6))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 5)


def test_a_function_without_channels_is_called_without(file: str) -> None:
    assert build_model(f"{file}:build", num_classes=5, in_channels=1).conv.weight.shape == (4, 3, 3, 3)


def test_files_see_their_own_neighbours_and_nothing_is_left(tmp_path: Path) -> None:
    path = list(sys.path)
    for name, width, kernel in (("a", 4, 3), ("b", 7, 1)):
        assert build_model(f"{write(tmp_path / name, width)}:build").conv.weight.shape == (width, 3, kernel, kernel)
    assert sys.path == path
    assert {"blocks", "parts", "parts.sizes"}.isdisjoint(sys.modules)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    build_model(f"{write(tmp_path / 'a')}:build")
    changed = write(tmp_path / "a", code=CODE.replace("Net(num_classes, 3, WIDTH", "Net(num_classes, 3, WIDTH + 10"))
    assert build_model(f"{changed}:build").conv.out_channels == 14


def test_modules_are_found_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "homemade_nets"
    package.mkdir()
    (package / "one.py").write_text(
        "from torch import nn\n\ndef build(num_classes):\n    return nn.Linear(3, num_classes)"
    )
    monkeypatch.chdir(tmp_path)
    assert build_model("homemade_nets.one:build", num_classes=4).out_features == 4
    with pytest.raises(
        ConfigError, match=r"^module homemade_nets\.two cannot be found; install it, start in its folder"
    ):
        build_model("homemade_nets.two:build")
    for name in ("homemade_nets", "homemade_nets.one"):
        del sys.modules[name]


def test_a_users_weights_load(file: str, tmp_path: Path) -> None:
    from mfkd.models.weights import save_weights

    state = build_model(f"{file}:Net", num_classes=5).state_dict()
    save_weights(tmp_path / "w", {f"module.{key}": tensor for key, tensor in state.items()})
    loaded = build_model(f"{file}:Net", num_classes=5, weights=tmp_path / "w").state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("factory", "options", "text"),
    [
        (
            "needy",
            {},
            "{name} needs further arguments: num_classes, depth, width; give them as options of the network.",
        ),
        ("Net", {"depth": 3}, "{name} does not take depth; accepted: in_channels, num_classes, width."),
        ("plain", {}, "{name} does not take num_classes; accepted: depth. A factory must take the number of classes."),
        ("number", {}, "{name} returned int, expected a torch.nn.Module; return the network."),
        (
            "net",
            {},
            "{name} is Net, expected a factory; name a function or class that returns the network.",
        ),
        (
            "size",
            {},
            "{name} is int, expected a factory; name a function or class that returns the network.",
        ),
    ],
)
def test_unusable_factories_are_refused(factory: str, options: dict[str, int], text: str, file: str) -> None:
    name = f"{file}:{factory}"
    with pytest.raises(ConfigError) as caught:
        build_model(name, num_classes=None if factory == "needy" else 5, **options)
    assert str(caught.value) == text.format(name=name)


def test_an_unknown_factory_is_answered_with_near_ones(file: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        build_model(f"{file}:biuld")
    assert str(caught.value) == f"unknown factory 'biuld'; did you mean build? name a function or class of {file}."


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(f"{tmp_path}/absent.py:build")
    assert str(caught.value) == f"file {tmp_path}/absent.py does not exist; check the path."


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere', nets.py line 1); correct it."),
        (
            "open('absent')",
            "FileNotFoundError: [Errno 2] No such file or directory: 'absent', nets.py line 1); correct it.",
        ),
        ("\n1 / 0", "ZeroDivisionError: division by zero, nets.py line 2); correct it."),
        ("def build(:\n    pass", "SyntaxError: invalid syntax (nets.py, line 1)); correct it."),
        (
            "import sys\nsys.exit('usage: train')",
            "SystemExit: usage: train, nets.py line 2); correct it or put what it runs under "
            "if __name__ == '__main__'.",
        ),
    ],
)
def test_code_that_fails_is_told(code: str, told: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a", code=code)
    with pytest.raises(ConfigError) as caught:
        build_model(f"{path}:build")
    assert str(caught.value) == f"{path} fails when it is imported ({told}"


def test_a_factory_that_fails_is_told_with_its_line(tmp_path: Path) -> None:
    code = "from torch import nn\n\ndef build(num_classes, width=3):\n    return nn.Linear(width, num_classes)\n"
    name = f"{write(tmp_path / 'a', code=code)}:build"
    with pytest.raises(ConfigError) as caught:
        build_model(name, width="wide")
    assert str(caught.value).startswith(f"{name} fails when it is called (TypeError: ")
    assert str(caught.value).endswith(", nets.py line 4); correct it, or the options of the network.")


def test_a_refusal_inside_a_factory_is_passed_on(tmp_path: Path) -> None:
    code = "from mfkd import build_model\n\ndef build(num_classes):\n    return build_model('resnt8', num_classes)\n"
    with pytest.raises(UnknownNameError, match=r"^unknown model 'resnt8'; did you mean resnet8"):
        build_model(f"{write(tmp_path / 'a', code=code)}:build")


def test_a_file_that_seeds_itself_leaves_the_seed_of_the_run(tmp_path: Path) -> None:
    name = f"{write(tmp_path / 'a', code=f'import torch{chr(10)}torch.manual_seed(7){chr(10)}{CODE}')}:Net"
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(build_model(name, num_classes=5).fc.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("source", ["", ".relative", "a b", "path/to/net"])
def test_what_is_no_module_is_told(source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(f"{source}:build")
    assert str(caught.value) == (
        f"{source!r} is no module; name one as package.module:factory, or a file as net.py:factory."
    )


def test_a_factory_without_a_signature_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("make = dict\n")
    with pytest.raises(ConfigError, match=r"^mine.py:make does not tell its arguments; name a function or class"):
        build_model("mine.py:make")


def test_parts_of_python_and_torch_are_no_factories_unless_a_module_here_has_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("builtins:dict", "os:system", "torch.hub:load", "subprocess:run"):
        with pytest.raises(ConfigError, match="is a part of Python or torch and builds no classifier; name code of y"):
            build_model(name)
    (tmp_path / "this.py").write_text(
        "from torch import nn\ndef net(num_classes):\n    return nn.Linear(4, num_classes)\n"
    )
    assert build_model("this:net", num_classes=3).out_features == 3


def test_the_files_behind_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("net.py", "homemade/one.py", "folder/model.safetensors", "folder/config.json"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    assert local_files(f"{tmp_path}/net.py:build") == (tmp_path / "net.py",)
    assert local_files("homemade.one:build") == (Path("homemade/one.py"),)
    assert local_files("timm/local-dir:folder") == (Path("folder/config.json"), Path("folder/model.safetensors"))
    assert local_files("local-dir:folder") == local_files("timm/local-dir:folder")
    for name in ("resnet8", "timm/resnet18", "torch.nn:Linear", "hf-hub:a/b", "local-dir:absent", ""):
        assert local_files(name) == ()
