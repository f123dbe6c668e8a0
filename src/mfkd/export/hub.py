"""`mfkd push`: an export as a repository on the Hugging Face hub, in the layout that timm loads from there."""

import hashlib
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfkd.errors import CheckpointError, ConfigError, MfkdError, UnknownNameError
from mfkd.export.hubcard import parts, whole, with_head, with_loading
from mfkd.export.licences import shown
from mfkd.files import read_json, sha256
from mfkd.sections import split_name

RESULT, CARD, RECORD = "export.json", "README.md", "record.json"
NEEDED = ("config.json", "model.safetensors")
"""Of what timm, or `mfkd.load_student`, builds the network; code of a user's network is needed too."""


@dataclass(frozen=True)
class Shipment:
    """What goes to the hub.

    Args:
        repo: OWNER/NAME.
        private: whether only its owner sees it.
        message: of the commit.
        folder: of the export.
        card: `README.md` as it is sent.
        files: names of all others that are sent, in order.
        held_back: names of those of the export that are not.
        licence: that the card names.
    """

    repo: str
    private: bool
    message: str
    folder: Path
    card: str
    files: tuple[str, ...]
    held_back: tuple[str, ...]
    licence: str

    def rows(self) -> list[dict[str, Any]]:
        """Name, bytes and SHA-256 of all that is sent."""
        text = self.card.encode()
        found = [{"file": CARD, "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}]
        paths = [(name, self.folder / name) for name in self.files]
        return found + [{"file": name, "bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in paths]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "repository": self.repo,
            "private": self.private,
            "message": self.message,
            "license": self.licence,
            "files": self.rows(),
            "not_sent": list(self.held_back),
        }


def pack(
    folder: str | Path,
    repo: str,
    *,
    private: bool = True,
    licence: str | None = None,
    message: str | None = None,
    without: Collection[str] = (),
    record: bool = False,
) -> Shipment:
    """Decide what is sent; nothing is written and nobody is asked.

    Args:
        folder: from `mfkd export`.
        repo: OWNER/NAME on the hub.
        private: whether only its owner sees it.
        licence: the hub's name of one, such as apache-2.0; None: what the head of the card says, else "unknown".
        message: of the commit; None: network and accuracy.
        without: names of files that stay here.
        record: whether `record.json` goes too, which tells folders of this machine.

    Raises:
        CheckpointError: no export, or files that are not those which it has proved.
        ConfigError: an impossible name of a repository, or a file that the network is built of is left out.
        UnknownNameError: a file to leave out that is not there.
    """
    folder = Path(folder).expanduser()
    _check_name(repo)
    if not (folder / RESULT).is_file() or not (folder / CARD).is_file():
        raise CheckpointError(f"{folder} is no export; make one with mfkd export RUN.")
    result = read_json(folder / RESULT)
    _check_files(folder, result)
    known = [*sorted(result["files"]), RESULT]
    needed = {*NEEDED, *result["code"]}
    for name in without:
        if name not in known:
            raise UnknownNameError("file", name, known)
        if name in needed:
            raise ConfigError(f"--without {name}: the network is built of it; leave other files out.")
    held_back = tuple(name for name in known if name in without or (name == RECORD and not record))
    head, body = parts((folder / CARD).read_text(encoding="utf-8"))
    split = split_name(result.get("split"))  # older exports do not tell it
    head = with_head(head, repo, result["top1"], result.get("data"), licence, split=split)
    return Shipment(
        repo,
        private,
        message or f"{shown(result['model'])}, Top-1 {result['top1']:.2f} % on {result['images']:,} {split} images",
        folder,
        whole(head, with_loading(body, repo, held_back)),
        tuple(name for name in known if name not in held_back),
        held_back,
        str(head["license"]),
    )


def send(shipment: Shipment, api: Any = None) -> str:
    """Create the repository where it is not there, and put the files into it by one commit.

    Args:
        shipment: from `pack`.
        api: a `huggingface_hub.HfApi`, or what behaves like one; None: that of the user who is logged in.

    Returns:
        The address of the repository.

    Raises:
        MfkdError: nobody is logged in, no connection, no right to write; or the repository is public and this
            shipment is not.
    """
    from huggingface_hub import HfApi, get_token

    if api is None:
        if get_token() is None:
            raise MfkdError(
                "nobody is logged in to the hub; run hf auth login, or set HF_TOKEN to a token that writes."
            )
        api = HfApi()
    repo = shipment.repo
    try:
        address = str(api.create_repo(repo, private=shipment.private, exist_ok=True))
        public = shipment.private and not api.model_info(repo).private
        if not public:
            with tempfile.TemporaryDirectory() as place:
                _fill(Path(place), shipment)
                api.upload_folder(repo_id=repo, folder_path=place, commit_message=shipment.message)
    except Exception as error:  # the library's, and those of HTTP below it
        raise MfkdError(_told(repo, error)) from None
    if public:
        raise MfkdError(f"{repo} is there and public; say --public, or choose another name. Nothing was sent.")
    return address


def _fill(place: Path, shipment: Shipment) -> None:
    (place / CARD).write_text(shipment.card, encoding="utf-8")
    for name in shipment.files:
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shipment.folder / name, target)


def _check_name(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError:
        valid = False
    else:
        valid = repo.count("/") == 1
    if not valid:
        raise ConfigError(f"got {repo!r}, expected OWNER/NAME of letters, digits, '-', '_' and '.', such as me/pets.")


def _check_files(folder: Path, result: dict[str, Any]) -> None:
    for name, told in result["files"].items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is gone since the export; make it again with mfkd export --force.")
        if sha256(folder / name) != told["sha256"]:
            raise CheckpointError(
                f"{folder / name} has changed since the export, so what was measured does not hold; make it again "
                "with mfkd export --force."
            )


def _told(repo: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"the hub does not let you write to {repo} ({status}); log in with hf auth login, by a token that writes."
        )
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return f"cannot push to {repo} ({why}); check the connection and try again, nothing is left half sent."
