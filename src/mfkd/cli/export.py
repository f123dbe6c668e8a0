"""`mfkd export`: a trained network in every form that is in use."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json

EXAMPLES = examples(
    {
        "mfkd export runs/digits": "into runs/digits/export",
        "mfkd export runs/x --embed-preprocessing": "ONNX takes raw pixels",
        "mfkd export runs/x --int8 --fp16 --out mine": "smaller forms too, elsewhere",
    }
)


def export(  # noqa: PLR0917 - typer calls it by name
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a weights file inside of one.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Other images, such as [cyan]data.name=folder:PATH[/].", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The new folder. Default: export beside the weights.", show_default=False),
    ] = None,
    embed: Annotated[
        bool,
        typer.Option("--embed-preprocessing", help="Graphs take (batch, height, width, channel) uint8 pixels."),
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also an ONNX file in int8.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Also ONNX and safetensors files in float16.")] = False,
    max_drop: Annotated[float, typer.Option(min=0, metavar="POINTS", help="Top-1 that a smaller form may lose.")] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    as_json: Json = False,
) -> None:
    """Write a trained network as safetensors, ONNX and torch.export, with a model card.

    The forms are compared on the whole test split; if one says something else than the trained network, nothing is
    written.
    """
    from mfkd.export.folder import Wishes, export_run

    wishes = Wishes(embed=embed, int8=int8, fp16=fp16, max_drop=max_drop)
    result = export_run(run, out, wishes, force=force, overrides=overrides or (), say=screen.say)
    if as_json:
        screen.dump(result)
    else:
        _tables(result)
    screen.files(Path(result["folder"]), quiet=as_json)


def _tables(result: dict[str, Any]) -> None:
    from mfkd.sections import split_name

    screen.table(
        f"{result['model']} on {result['images']:,} {split_name(result['split'])} images, beside PyTorch",
        ["form", "largest difference", "other predictions", "ties"],
        [
            [name, f"{told['largest']:.1e}", str(told["differing"] + told["ties"]), str(told["ties"])]
            for name, told in result["parity"].items()
        ],
    )
    low, high = result["ci95"]
    screen.table(
        f"Top-1 of the trained network {result['top1']:.2f} %, 95% interval {low:.2f} to {high:.2f}",
        ["file", "Top-1, %", "lost, points", "same prediction, %", "MB", "ms an image"],
        [
            [
                name,
                screen.number(told["top1"]),
                f"{told['drop']:+.2f}",
                screen.number(told["agreement"]),
                screen.number(result["files"][name]["bytes"] / 1e6),
                screen.number(told["ms"], 3),
            ]
            for name, told in result["forms"].items()
        ],
    )
