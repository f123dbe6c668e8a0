"""What goes to the hub, and what does not; nothing here asks it."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import httpx2
import pytest
import timm
import torch
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from mfkd.config import load_config
from mfkd.errors import CheckpointError, ConfigError, MfkdError, UnknownNameError
from mfkd.export.card import readme
from mfkd.export.feed import Feed
from mfkd.export.hub import pack, send
from mfkd.export.layout import write_network
from mfkd.files import sha256
from mfkd.models import build_model
from mfkd.train.student import Card, load_student

RESULT = {
    "images": 450,
    "top1": 96.6667,
    "ci95": [94.6, 98.0],
    "seeds": None,
    "tolerance": 1e-4,
    "parity": {},
    "forms": {},
    "torch_ms": 1.0,
    "calls": 30,
    "threads": 1,
    "processor": "A chip",
    "parameters": 1,
    "flops": 1.0,
    "code": [],
    "data": "folder:pets",
    "versions": {"mfkd": "1"},
}


def exported(folder, model="resnet8", side=8):
    """An export folder, without its graphs."""
    torch.manual_seed(0)
    network = build_model(model, num_classes=3, in_channels=3).eval()
    card = Card(model, ("a", "b", "c"), 3, (side, side), (0.5,) * 3, (0.25,) * 3, side=side)
    folder.mkdir()
    written = write_network(folder, network, card)
    (folder / "model.onnx").write_bytes(b"a graph")
    (folder / "record.json").write_text("{}")
    result = RESULT | {"model": written.model, "timm": model.startswith("timm/")}
    result["files"] = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in sorted(folder.iterdir())
    }
    feed = Feed(written.model, card.classes, 3, card.size, card.mean, card.std)
    (folder / "README.md").write_text(readme(result, feed, load_config(None, []), None))
    (folder / "export.json").write_text(json.dumps(result))
    return SimpleNamespace(folder=folder, network=network)


class Hub:
    """Behaves like `HfApi` towards `send`, and keeps what it was asked."""

    def __init__(self, place=None, public=False, error=None):
        self.place, self.public, self.error, self.asked = place, public, error, []

    def create_repo(self, repo_id, *, private, exist_ok):
        if self.error:
            raise self.error
        self.asked.append(("create", repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def model_info(self, repo_id):
        return SimpleNamespace(private=not self.public)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.asked.append(("upload", repo_id, commit_message))
        shutil.copytree(folder_path, self.place)


def parts(card):
    _, head, body = card.split("---\n", 2)
    return yaml.safe_load(head), body


def test_dry_run_prints_all_that_would_be_sent(tmp_path, mfkd):
    folder = exported(tmp_path / "export").folder
    told = json.loads(mfkd("push", folder, "me/pets", "--dry-run", "--json").stdout)
    assert [row["file"] for row in told["files"]] == [
        "README.md", "config.json", "labels.txt", "model.onnx", "model.safetensors", "export.json",
    ]  # fmt: skip
    for row in told["files"][1:]:
        content = (folder / row["file"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert (told["repository"], told["private"], told["address"]) == ("me/pets", True, None)
    assert told["message"] == "resnet8, Top-1 96.67 % on 450 test images"
    assert told["not_sent"] == ["record.json"]
    text = mfkd("push", folder, "me/pets", "--dry-run", "--public", "--license", "mit").stdout
    assert text.startswith("Would send to me/pets, public\n")
    rows = [line.split() for line in text.splitlines()]
    assert ["model.onnx", "7", hashlib.sha256(b"a graph").hexdigest()] in rows
    assert "Commit: resnet8, Top-1 96.67 % on 450 test images\nLicence in the card: mit\n" in text
    assert "Not sent: record.json" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]


def test_card_of_one_of_our_networks_says_how_it_is_loaded(tmp_path):
    shipment = pack(exported(tmp_path / "export").folder, "me/pets")
    head, body = parts(shipment.card)
    assert (head["library_name"], head["license"], head["metrics"]) == ("mfkd", "unknown", ["accuracy"])
    assert head["model-index"] == [
        {
            "name": "pets",
            "results": [
                {
                    "task": {"type": "image-classification"},
                    "dataset": {"name": "folder:pets", "type": "folder:pets", "split": "test"},
                    "metrics": [{"type": "accuracy", "name": "Top-1, %", "value": 96.67}],
                }
            ],
        }
    ]
    assert 'network = mfkd.load_student(snapshot_download("me/pets"))' in body
    assert "from huggingface_hub import snapshot_download\n" in body
    assert "hf download me/pets --local-dir PATH\nmfkd predict IMAGE --model PATH\n" in body
    assert body.endswith("\n\nOf the export, not in this repository: `record.json`.\n")
    assert "/home" not in shipment.card


def test_figures_of_validation_images_are_published_as_such(tmp_path):
    folder = exported(tmp_path / "export").folder
    result = json.loads((folder / "export.json").read_text())
    assert "split" not in result  # as of an older export
    (folder / "export.json").write_text(json.dumps(result | {"split": "val"}))
    shipment = pack(folder, "me/pets")
    assert shipment.message == "resnet8, Top-1 96.67 % on 450 validation images"
    head, _ = parts(shipment.card)
    assert head["model-index"][0]["results"][0]["dataset"]["split"] == "validation"


def test_card_of_a_timm_network_names_timm(tmp_path):
    shipment = pack(exported(tmp_path / "export", "timm/test_resnet", 32).folder, "me/pets", record=True)
    head, body = parts(shipment.card)
    assert head["library_name"] == "timm"
    assert 'timm.create_model("hf-hub:me/pets", pretrained=True)' in body
    assert "PATH" in body  # of mfkd predict alone
    assert "local-dir:" not in body
    assert "not in this repository" not in body
    assert "record.json" in shipment.files


def test_what_the_user_wrote_into_the_card_stays(tmp_path):
    folder = exported(tmp_path / "export").folder
    card = folder / "README.md"
    card.write_text(card.read_text().replace("---\n\n#", "license: apache-2.0\ndatasets: [me/d]\n---\n\n#") + "\nÄ!\n")
    shipment = pack(folder, "me/pets")
    head, body = parts(shipment.card)
    assert (head["license"], head["datasets"], shipment.licence) == ("apache-2.0", ["me/d"], "apache-2.0")
    assert "\nÄ!\n" in body
    assert pack(folder, "me/pets", licence="mit").licence == "mit"
    card.write_text("Mine.\n")
    assert pack(folder, "me/pets", licence="mit").card.startswith("---\nlicense: mit\nmetrics:\n- accuracy\n")


@pytest.mark.parametrize("model", ["resnet8", "timm/test_resnet"])
def test_what_arrives_is_the_network(tmp_path, model):
    found = exported(tmp_path / "export", model, 32)
    hub = Hub(tmp_path / "arrived")
    shipment = pack(found.folder, "me/pets", message="first", without=["model.onnx"])
    assert send(shipment, hub) == "https://huggingface.co/me/pets"
    assert hub.asked == [("create", "me/pets", True, True), ("upload", "me/pets", "first")]
    rows = {row["file"]: row["sha256"] for row in shipment.rows()}
    assert {path.name: sha256(path) for path in hub.place.iterdir()} == rows
    assert "model.onnx" not in rows
    images = torch.rand(2, 3, 32, 32)
    expected = found.network(images)
    assert torch.equal(load_student(hub.place)(images), expected)
    if model.startswith("timm/"):
        again = timm.create_model(f"local-dir:{hub.place}", pretrained=True).eval()
        assert torch.equal(again(images), expected)


def test_public_repository_is_not_filled_by_mistake(tmp_path):
    folder = exported(tmp_path / "export").folder
    hub = Hub(tmp_path / "arrived", public=True)
    with pytest.raises(MfkdError) as caught:
        send(pack(folder, "me/pets"), hub)
    assert str(caught.value) == ("me/pets is there and public; say --public, or choose another name. Nothing was sent.")
    assert not hub.place.exists()
    send(pack(folder, "me/pets", private=False), hub)
    assert hub.asked[-2:] == [
        ("create", "me/pets", False, True),
        ("upload", "me/pets", "resnet8, Top-1 96.67 % on 450 test images"),
    ]


def refused(status):
    request = httpx2.Request("POST", "https://huggingface.co/api/repos/create")
    return HfHubHTTPError("no", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (refused(403), "the hub does not let you write to me/pets (403); log in with hf auth login, by a token that"),
        (refused(500), "cannot push to me/pets (no); check the connection and try again, nothing is left half sent."),
        (OSError("a\nb"), "cannot push to me/pets (a b); check the connection and try again"),
    ],
)
def test_refusals_of_the_hub_are_one_line(tmp_path, error, text):
    with pytest.raises(MfkdError) as caught:
        send(pack(exported(tmp_path / "export").folder, "me/pets"), Hub(error=error))
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_no_connection_and_no_token(tmp_path, monkeypatch):
    shipment = pack(exported(tmp_path / "export").folder, "me/pets")
    with pytest.raises(MfkdError, match=r"^cannot push to me/pets \(.+\); check the connection"):
        send(shipment, HfApi(endpoint="http://127.0.0.1:9", token="hf_none"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(MfkdError) as caught:
        send(shipment)
    assert str(caught.value) == (
        "nobody is logged in to the hub; run hf auth login, or set HF_TOKEN to a token that writes."
    )


@pytest.mark.parametrize("repo", ["pets", "me/pets/x", "me/p ets", "/pets", "me/", "me/-x", "me/a..b", "me/x.git"])
def test_names_that_the_hub_does_not_know(tmp_path, repo):
    with pytest.raises(ConfigError) as caught:
        pack(exported(tmp_path / "export").folder, repo)
    assert str(caught.value) == (
        f"got {repo!r}, expected OWNER/NAME of letters, digits, '-', '_' and '.', such as me/pets."
    )


def test_only_a_whole_and_unchanged_export_is_sent(tmp_path):
    folder = exported(tmp_path / "export").folder
    with pytest.raises(CheckpointError, match=r"is no export; make one with mfkd export RUN\.$"):
        pack(tmp_path, "me/pets")
    with pytest.raises(UnknownNameError, match=r"unknown file 'model\.onx'; did you mean model\.onnx"):
        pack(folder, "me/pets", without=["model.onx"])
    with pytest.raises(ConfigError, match=r"^--without config\.json: the network is built of it; leave other files"):
        pack(folder, "me/pets", without=["config.json"])
    (folder / "labels.txt").write_text("other")
    with pytest.raises(CheckpointError, match=r"labels\.txt has changed since the export, so what was measured does"):
        pack(folder, "me/pets")
    (folder / "labels.txt").unlink()
    with pytest.raises(CheckpointError, match=r"labels\.txt is gone since the export; make it again with"):
        pack(folder, "me/pets")
    (folder / "README.md").write_text("---\n- a\n---\n")
    (folder / "labels.txt").write_text("a\nb\nc\n")
    with pytest.raises(ConfigError, match=r"^the head of README\.md is no YAML mapping; correct it, or export again"):
        pack(folder, "me/pets")
