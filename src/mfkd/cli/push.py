"""`mfkd push`: an export to the Hugging Face hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json

if TYPE_CHECKING:
    from mfkd.export.hub import Shipment

EXAMPLES = examples(
    {
        "mfkd push runs/x/export me/pets --dry-run": "what would be sent",
        "mfkd push runs/x/export me/pets": "for your eyes alone",
        "mfkd push runs/x/export me/pets --public --license mit": "for all",
    }
)


def push(  # noqa: PLR0917 - typer calls it by name
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="A folder from mfkd export.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be sent.")] = False,
    public: Annotated[bool, typer.Option("--public", help="For all to see; otherwise the repository is private.")] = (
        False
    ),
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="The hub's name of one, such as apache-2.0. Default: that of the card, else unknown.",
            show_default=False,
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="A file to leave out; may be repeated.", show_default=False),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Also record.json, which tells folders of this machine.")
    ] = False,
    message: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Of the commit. Default: network and accuracy.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send an export to the Hugging Face hub, where timm loads its own networks from.

    Files are compared with those that the export has proved before anything is sent. Log in with `hf auth login`.
    """
    from mfkd.export.hub import pack, send

    shipment = pack(
        export, repo, private=not public, licence=licence, message=message, without=without or (), record=record
    )
    if not as_json:
        _show(shipment, dry_run)
    address = None if dry_run else send(shipment)
    if as_json:
        screen.dump({**shipment.to_dict(), "address": address})
    elif address is not None:
        screen.tell(f"Sent to {address}")


def _show(shipment: "Shipment", dry_run: bool) -> None:
    rows = shipment.rows()
    screen.table(
        f"{'Would send' if dry_run else 'Sending'} to {shipment.repo}, {'private' if shipment.private else 'public'}",
        ["file", "bytes", "SHA-256"],
        [[row["file"], f"{row['bytes']:,}", row["sha256"]] for row in rows],
    )
    screen.tell(f"{len(rows)} files, {sum(row['bytes'] for row in rows) / 1e6:,.2f} MB")
    screen.tell(f"Commit: {shipment.message}")
    screen.tell(f"Licence in the card: {shipment.licence}")
    if shipment.held_back:
        screen.tell(f"Not sent: {', '.join(shipment.held_back)}")
