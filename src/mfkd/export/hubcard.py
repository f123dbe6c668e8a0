"""The model card of an export, as a repository on the Hugging Face hub needs it."""

from typing import Any

import yaml

from mfkd.errors import ConfigError
from mfkd.export.licences import shown

EDGE = "---\n"


def parts(card: str) -> tuple[dict[str, Any], str]:
    """Head and body of a card; the head is empty where there is none.

    Raises:
        ConfigError: a head that is no mapping.
    """
    first, _, rest = card.partition(EDGE)
    head, line, body = rest.partition(f"\n{EDGE}")
    if first or not line:
        return {}, f"\n{card}"
    try:
        found = yaml.safe_load(head)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError("the head of README.md is no YAML mapping; correct it, or export again with --force.")
    return found, body


def whole(head: dict[str, Any], body: str) -> str:
    """A card of its parts."""
    return f"{EDGE}{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}{EDGE}{body}"


def with_head(
    head: dict[str, Any], repo: str, top1: float, data: str | None, licence: str | None, *, split: str
) -> dict[str, Any]:
    """Add what the hub lists a network by, and leave what the user has written as it is.

    Args:
        head: of the card.
        repo: OWNER/NAME.
        top1: accuracy in percent.
        data: that it was measured on; None where it is not known, and then no result is listed.
        licence: the hub's name of one; None: that of the head, else "unknown".
        split: of the data, as `sections.split_name` calls it.
    """
    found = head | {"license": licence or head.get("license") or "unknown"}
    found.setdefault("metrics", ["accuracy"])
    if data is not None:
        measured = {
            "task": {"type": "image-classification"},
            "dataset": {"name": shown(data), "type": shown(data).removeprefix("hf:"), "split": split},
            "metrics": [{"type": "accuracy", "name": "Top-1, %", "value": round(top1, 2)}],
        }
        found.setdefault("model-index", [{"name": repo.rpartition("/")[2], "results": [measured]}])
    return found


def with_loading(body: str, repo: str, held_back: tuple[str, ...]) -> str:
    """Load from the repository where the card loads from a folder, and name the files that are not there."""
    fetched = (
        f'from huggingface_hub import snapshot_download\n\nnetwork = mfkd.load_student(snapshot_download("{repo}"))'
    )
    body = body.replace('"local-dir:PATH"', f'"hf-hub:{repo}"')
    body = body.replace('network = mfkd.load_student("PATH")', fetched)
    body = body.replace("```sh\nmfkd predict", f"```sh\nhf download {repo} --local-dir PATH\nmfkd predict")
    if not held_back:
        return body
    names = ", ".join(f"`{name}`" for name in held_back)
    return f"{body.rstrip()}\n\nOf the export, not in this repository: {names}.\n"
