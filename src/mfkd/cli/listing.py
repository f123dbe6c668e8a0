"""`mfkd models`, `mfkd methods` and `mfkd taps`: what there is to choose from."""

from typing import Annotated, Any

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json, image_shape

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
        "mfkd taps timm/resnet18": "one of timm, in its own size",
        "mfkd taps timm/resnet18 --input 3x64x64": "in another size",
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
    """List the distillation methods, or tell all about one."""
    import yaml

    from mfkd.methods import PRESETS
    from mfkd.methods.describe import cite, details, overview

    if name is not None:
        found = details(name)
        return screen.dump(found) if as_json else _method(found)
    rows = overview()
    if as_json:
        return screen.dump(rows)
    screen.table(
        "Methods",
        ["method", "weight", "needs", "what it does, and its paper"],
        [
            cells
            for row in rows
            for cells in (
                [row["method"], f"{row['weight']:g}", ",\n".join(row["needs"]), f"{row['idea']}\n{cite(row['paper'])}"],
                None,
            )
        ],
        left=4,
    )
    for preset, parts in PRESETS.items():
        written = yaml.safe_dump(parts, default_flow_style=True, sort_keys=False, width=1000).strip()
        screen.tell(f"method={preset} stands for {written if parts else 'plain training, without a teacher'}.")
    screen.tell("Weight and needs are those of the default options. A vector is what the classifier gets.")
    return screen.tell("Options, deviations and the whole reference of one: mfkd methods NAME.")


def _method(found: dict[str, Any]) -> None:
    from mfkd.methods.describe import shown

    name, options = found["method"], found["options"]
    taps = {side: " ".join(found[f"{side}_taps"]) for side in ("student", "teacher")}
    told = {
        "paper": found["paper"],
        "deviates": found["deviates"],
        "needs": ", ".join(found["needs"]),
        "taps": "; ".join(f"{side} {names}" for side, names in taps.items() if names),
        "stage": f"trains {found['stage']} before the student learns" if found["stage"] else "",
    }
    screen.table(f"Method {name}", ["", found["idea"]], [[label, text] for label, text in told.items() if text], left=2)
    screen.table(
        f"Options of {name}",
        ["option", "default", "meaning"],
        [[row["option"], shown(row["default"]), row["meaning"]] for row in options],
        left=3,
    )
    screen.tell(f"In a recipe: method: {{{name}: {{{options[0]['option']}: {options[0]['default']}}}}}")


def taps(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A network, as in [cyan]student.model[/].")],
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="CxHxW",
            help="Channels, height and width of an image; else what a network of timm or torchvision was made for, "
            "3x32x32 for others.",
            show_default=False,
        ),
    ] = None,
    num_classes: Annotated[int, typer.Option("--classes", min=2, metavar="N", help="Classes of the head.")] = 100,
    as_json: Json = False,
) -> None:
    """Show where the feature maps of a network can be read.

    Front, middle and bottom are what the methods read unless they are told otherwise.
    """
    channels, height, width = image_shape(input_shape or "3x32x32")
    from mfkd.models import build_model
    from mfkd.taps import describe

    network = build_model(model, num_classes=num_classes, in_channels=channels)
    if input_shape is None:
        usual = (3, 224, 224) if model.startswith("torchvision/") else (channels, height, width)
        channels, height, width = getattr(network, "pretrained_cfg", {}).get("input_size", usual)
    found = describe(network, (channels, height, width))
    if as_json:
        return screen.dump([{**row._asdict(), "shape": list(row.shape)} for row in found])
    return screen.table(
        f"Tap points of {model}, images {channels} x {height} x {width}",
        ["tap", "module", "read at", "shape", "why"],
        [[row.name, row.path, row.side, " x ".join(map(str, row.shape)), row.reason] for row in found],
        left=5,
    )
