"""`mfkd models`, `mfkd methods` and `mfkd taps`: what there is to choose from."""

from typing import Annotated

import typer

from mfkd.cli.words import Json


def models(as_json: Json = False) -> None:
    """List the networks with parameters and tap points; timm/NAME and torchvision/NAME work besides."""
    from mfkd.cli import show
    from mfkd.models import build_model, model_names

    rows = []
    for name in model_names():
        network = build_model(name, num_classes=100)
        rows.append(
            {
                "model": name,
                "parameters": sum(p.numel() for p in network.parameters()),
                "taps": [tap.name for tap in network.tap_points],  # type: ignore[union-attr]
            }
        )
    show.models(rows, as_json)


def methods(
    name: Annotated[str | None, typer.Argument(help="A method, to see its options.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List the distillation methods, or the options of one."""
    from mfkd.cli import show

    show.methods(name, as_json)


def taps(
    model: Annotated[str, typer.Argument(help="A network, as in `student.model`.")],
    input_shape: Annotated[str, typer.Option("--input", help="Channels x height x width of an image.")] = "3x32x32",
    num_classes: Annotated[int, typer.Option(min=2, help="Classes of the head.")] = 100,
    as_json: Json = False,
) -> None:
    """Show where feature maps can be read: tap points with shapes, and which are front, middle, bottom."""
    from mfkd.cli import show
    from mfkd.errors import ConfigError
    from mfkd.models import build_model
    from mfkd.taps import describe

    sides = input_shape.lower().split("x")
    if len(sides) != 3 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise ConfigError(f"--input {input_shape!r} is not of the form channels x height x width, for example 3x32x32.")
    channels, height, width = map(int, sides)
    network = build_model(model, num_classes=num_classes, in_channels=channels)
    show.taps(describe(network, (channels, height, width)), model, as_json)
