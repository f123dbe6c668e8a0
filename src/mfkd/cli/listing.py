"""`mfkd models`, `mfkd methods` and `mfkd taps`: what there is to choose from."""

from typing import Annotated, Any

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json

METHODS_EXAMPLES = examples(
    {
        "mfkd methods": "all of them",
        "mfkd methods mfkd": "the options of one",
        "mfkd run method='{mfkd: {weight: 2}, kd: {}}'": "use them",
    }
)
TAPS_EXAMPLES = examples(
    {
        "mfkd taps resnet20": "one of ours, small images",
        "mfkd taps timm/resnet18 --input 3x224x224": "one of timm, large images",
    }
)


def models(as_json: Json = False) -> None:
    """List the networks with size and tap points.

    Every network of timm and torchvision can be used too, as `timm/NAME` and `torchvision/NAME`.
    """
    from mfkd.models import build_model, model_names

    rows: list[dict[str, Any]] = []
    for name in model_names():
        network = build_model(name, num_classes=100)
        taps = [tap.name for tap in network.tap_points]  # type: ignore[union-attr]
        rows.append({"model": name, "parameters": sum(p.numel() for p in network.parameters()), "taps": taps})
    if as_json:
        return screen.dump(rows)
    screen.table(
        "Networks (parameters with 100 classes and 3 channels)",
        ["model", "tap points", "parameters"],
        [
            [
                row["model"],
                " ".join(t for t in row["taps"] if not t.endswith(".pre")),
                screen.number(row["parameters"], 0),
            ]
            for row in rows
        ],
        left=2,
    )
    screen.tell("Besides: timm/NAME and torchvision/NAME, with student.options.pretrained=true for their weights.")
    screen.tell("Your own: package.module:factory or path/to/file.py:factory, called with num_classes and the options.")
    return screen.tell("A stage can also be read before its activation, as stage1.pre; see mfkd taps MODEL.")


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A method, to see its options.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the distillation methods, or the options of one."""
    from mfkd.methods import PRESETS
    from mfkd.methods.describe import options, overview

    if name is not None:
        rows = options(name)
        if as_json:
            return screen.dump(rows)
        screen.table(
            f"Options of {name}", ["option", "default", "meaning"], [list(row.values()) for row in rows], left=3
        )
        first = rows[0]
        return screen.tell(f"In a recipe: method: {{{name}: {{{first['option']}: {first['default']}}}}}")
    rows = overview()
    if as_json:
        return screen.dump(rows)
    screen.table(
        "Methods",
        ["method", "what it does, and its paper"],
        [cells for row in rows for cells in ([row["method"], f"{row['idea']}\n{row['paper']}"], None)],
        left=2,
    )
    for preset, parts in PRESETS.items():
        screen.tell(f"method={preset} stands for {' + '.join(parts) or 'plain training, without a teacher'}.")
    return screen.tell("Options of one: mfkd methods NAME.")


def taps(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A network, as in [cyan]student.model[/].")],
    input_shape: Annotated[
        str, typer.Option("--input", metavar="CxHxW", help="Channels, height and width of an image.")
    ] = "3x32x32",
    num_classes: Annotated[int, typer.Option("--classes", min=2, metavar="N", help="Classes of the head.")] = 100,
    as_json: Json = False,
) -> None:
    """Show where the feature maps of a network can be read.

    Front, middle and bottom are what the methods read unless they are told otherwise.
    """
    from mfkd.errors import ConfigError

    sides = input_shape.lower().split("x")
    if len(sides) != 3 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"--input: got {input_shape!r}, expected channels x height x width, for example 3x32x32.")
    channels, height, width = map(int, sides)
    from mfkd.models import build_model
    from mfkd.taps import describe

    found = describe(build_model(model, num_classes=num_classes, in_channels=channels), (channels, height, width))
    if as_json:
        return screen.dump([{**row._asdict(), "shape": list(row.shape)} for row in found])
    return screen.table(
        f"Tap points of {model}, images {channels} x {height} x {width}",
        ["tap", "module", "read at", "shape", "why"],
        [[row.name, row.path, row.side, " x ".join(map(str, row.shape)), row.reason] for row in found],
        left=5,
    )
