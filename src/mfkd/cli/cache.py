"""`mfkd cache`: the teacher's knowledge on disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mfkd.cli import screen
from mfkd.cli.command import Command, Group, examples, prose
from mfkd.cli.words import Json, Overrides, Recipe, plan_from

if TYPE_CHECKING:
    from mfkd.teacher.manifest import Manifest

app = typer.Typer(
    name="cache",
    help=prose(
        """Keep the teacher's knowledge on disk, so that distilling costs what plain training does.

        What the methods need of the teacher is computed once for `cache.views` augmented views of each
        training image, and read back by every student that sees these views. `mfkd run` with
        `cache.views=N` builds it by itself.
        """
    ),
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=examples(
        {
            "mfkd cache build cache.views=4 --dry-run": "how big, and how long?",
            "mfkd cache build cache.views=4": "for the digits",
            "mfkd cache info runs/digits": "what a run has used",
            "mfkd cache verify FOLDER": "compare all checksums",
        }
    ),
)
Place = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE|FOLDER",
        help="A recipe whose run has used a cache, its run folder, or the folder of a cache. Default: digits.",
        show_default=False,
    ),
]


def build(
    recipe: Recipe = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print size and time; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Build the cache that a recipe with `cache.views=N` reads, or go on building it.

    The teacher is loaded, or trained first if the recipe names no weights. A disk that is too small is
    refused before anything is written; after Ctrl-C the same command goes on.
    """
    from mfkd.errors import ConfigError

    plan = plan_from(recipe, overrides)
    if plan.config.cache.views is None:
        raise ConfigError("cache.views is null, which asks the teacher itself; say how many, or cache.views=auto.")
    from mfkd.pipeline import build_student, claimed, share_knowledge
    from mfkd.teachers import obtain_teacher, stand_in
    from mfkd.train.shared import check_wanted

    check_wanted(build_student(plan, "distilled", plan.config.seeds[0], stand_in(plan)))
    if dry_run:
        from mfkd.estimate import estimate_cache

        return _estimate(estimate_cache(plan), as_json)
    with claimed(plan, screen.say):
        store = share_knowledge(plan, obtain_teacher(plan), screen.say, always=True).store
    assert store is not None  # noqa: S101 - `check_wanted` has seen to it
    return _show(store.folder, store.manifest, as_json)


def info(place: Place = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Tell what a cache holds, how big it is and what it belongs to."""
    from mfkd.teacher.manifest import read_manifest

    folder = _folder(place, overrides)
    _show(folder, read_manifest(folder), as_json)


def verify(place: Place = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Read a whole cache and compare all checksums."""
    from mfkd.teacher.store import Store

    store = Store(_folder(place, overrides))
    *_, done = store.verify()
    if as_json:
        screen.dump({"folder": str(store.folder), "bytes": done, "intact": True})
    else:
        screen.tell(f"All {screen.number(done / 1e6, 1)} MB are intact.")
    screen.files(store.folder, quiet=as_json)


def remove(place: Place = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Delete a cache, finished or not; other runs that would read it build it anew."""
    from mfkd.teacher.writing import remove as remove_cache

    folder = _folder(place, overrides)
    freed = remove_cache(folder)
    if as_json:
        screen.dump({"folder": str(folder), "bytes": freed})
    else:
        screen.tell(f"Removed {folder}, {screen.number(freed / 1e6, 1)} MB are free again.")


for function, more in ((build, None), (info, None), (verify, None), (remove, None)):
    app.command(function.__name__, cls=Command, help=prose(function.__doc__ or ""), epilog=more)(function)


def _folder(place: str | None, overrides: list[str] | None) -> Path:
    """The folder of a cache, by itself, by the run folder that used it, or by the recipe of that run."""
    from mfkd.cli.words import config_from
    from mfkd.teacher.manifest import MANIFEST
    from mfkd.train.shared import known_place

    given = Path(place or "").expanduser()
    if place is not None and "=" not in place and given.is_dir():
        if (given / MANIFEST).exists() or not (given / "config.yaml").exists():
            return given
        place = str(given / "config.yaml")
    config = config_from(place, overrides)
    return known_place(config)


def _show(folder: Path, manifest: "Manifest", as_json: bool) -> None:
    fields = manifest.fields
    value: dict[str, Any] = {
        "folder": str(folder),
        "complete": manifest.complete,
        "bytes": manifest.total,
        "seconds": manifest.seconds,
        "fingerprint": manifest.hash,
        "fields": fields,
    }
    if as_json:
        screen.dump(value)
        return screen.files(folder, quiet=True)
    state = f"built in {screen.duration(manifest.seconds)}" if manifest.complete else "unfinished"
    screen.table(
        f"{manifest.views} view{'s' if manifest.views > 1 else ''} of {manifest.images:,} images of "
        f"{fields['data']['name']}, in {fields['storage']}, {state}",
        ["tensor", "an image", "MB"],
        [
            *(
                [name, " x ".join(map(str, manifest.shape(name))), screen.number(manifest.size(name) / 1e6, 1)]
                for name in manifest.names
            ),
            None,
            ["all", "", screen.number(manifest.total / 1e6, 1)],
        ],
    )
    return screen.files(folder)


def _estimate(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return screen.dump(value)
    rows: list[list[str] | None] = [[name, screen.number(size / 1e6, 1)] for name, size in value["tensors"].items()]
    screen.table(
        f"{value['views']} view{'s' if value['views'] > 1 else ''} of {value['images']:,} images, "
        f"about {screen.duration(value['seconds'])} from two measured chunks",
        ["tensor", "MB"],
        [*rows, None, ["all", screen.number(value["bytes"] / 1e6, 1)], ["free", screen.number(value["free"] / 1e6, 0)]],
    )
    return screen.tell("Nothing was written.")
