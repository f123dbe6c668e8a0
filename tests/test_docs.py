"""Documents say what the code and the records say."""

import runpy
from pathlib import Path

import pytest

from page_blocks import blocks

ROOT = Path(__file__).parents[1]


def test_results_page_is_made_from_the_records():
    written = (ROOT / "docs" / "results.md").read_text()
    assert runpy.run_path(str(ROOT / "docs" / "results.py"))["page"]() == written


def test_the_first_recipe_tells_the_gain_that_its_record_has():
    import json

    gain = json.loads((ROOT / "docs" / "records" / "digits" / "summary.json").read_text())["gain"]
    low, high = gain["ci95"]
    told = f"gain {gain['mean']:+.2f}, n={gain['n']}, 95% interval {low:+.2f} to {high:+.2f}."
    assert told in (ROOT / "recipes" / "digits.yaml").read_text()


@pytest.mark.parametrize(
    ("plan", "teacher", "student"),
    [
        ("depth-cifar100-resnet", "ResNet56", "ResNet20"),
        ("depth-cifar100-resnet-kept", "ResNet56", "ResNet20"),
        ("depth-cifar100-vgg", "VGG13", "VGG8"),
    ],
)
def test_readme_tells_the_gain_on_all_of_cifar100_that_its_record_has(plan, teacher, student):
    import json

    (found,) = json.loads((ROOT / "docs" / "records" / plan / "comparison.json").read_text())
    rows = {row["method"]: row for row in found["rows"]}
    alone, kd, mfkd = (f"{rows[name]['last']['mean']:.2f}" for name in ("none", "kd-1", "mfkd"))
    (n,) = {rows[name]["last"]["n"] for name in ("none", "kd-1", "mfkd")}

    def gain(over):
        gap = rows["mfkd"]["differences"][over]
        return f"{gap['mean']:+.2f} ({gap['ci95'][0]:+.2f} to {gap['ci95'][1]:+.2f})"

    cells = (f"{teacher}, {found['teacher']:.2f}", student, str(n), alone, kd, mfkd, gain("alone"), gain("partner"))
    assert f"| {' | '.join(cells)} |" in (ROOT / "README.md").read_text().splitlines()


def test_performance_page_is_made_from_the_records():
    written = (ROOT / "docs" / "performance.md").read_text()
    assert runpy.run_path(str(ROOT / "docs" / "performance.py"))["page"]() == written


def test_reliability_page_is_made_from_the_record_and_nothing_differed():
    import json

    written = (ROOT / "docs" / "reliability.md").read_text()
    assert runpy.run_path(str(ROOT / "docs" / "reliability.py"))["page"]() == written
    for row in json.loads((ROOT / "docs" / "records" / "reliability.json").read_text())["rows"]:
        assert row["differing"] == [], row["recipe"]


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))])
def test_links_lead_somewhere(page):
    import re

    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_readme_loop_runs_as_shown(tmp_path, monkeypatch):
    import torch

    from mfkd import build_model
    from mfkd.models.weights import save_weights

    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    save_weights("resnet56.safetensors", build_model("resnet56", num_classes=100).state_dict())
    (code,) = (block.code for block in blocks((ROOT / "README.md").read_text()) if block.language == "python")
    images, labels = torch.randn(12, 3, 32, 32), torch.arange(12)
    space = {"loader": [(images[:6], labels[:6]), (images[6:], labels[6:])]}
    exec(code, space)
    assert set(space["out"].terms) == {"ce", "kd"}  # mfkd has faded out
    assert torch.isfinite(space["out"].loss)
    untouched = build_model("resnet56", num_classes=100, weights="resnet56.safetensors").state_dict()
    assert all(torch.equal(untouched[name], tensor) for name, tensor in space["teacher"].state_dict().items())


def test_methods_page_is_written_from_the_method_files():
    written = (ROOT / "docs" / "methods.md").read_text()
    assert runpy.run_path(str(ROOT / "docs" / "methods.py"))["page"]() == written


def test_methods_page_tells_all_of_each():
    from mfkd.methods import METHODS
    from mfkd.methods.describe import details, shown

    page = " ".join((ROOT / "docs" / "methods.md").read_text().split())
    for name in METHODS:
        found = details(name)
        assert f"## {name} " in page
        assert found["deviates"][1:].rstrip(".") in page
        assert all(f"| `{row['option']}` | `{shown(row['default'])}` |" in page for row in found["options"])


def rows_of(**top1):
    options = {"weight": 2.5}
    return [
        {
            "name": name,
            "method": {} if name == "plain" else {"ce": {"weight": 1.0}, name: options},
            "why": "",
            "top1": values,
            "seconds": [1.0, 3.0],
            "commit": ["abc"],
        }
        for name, values in top1.items()
    ]


def test_table_of_methods_is_paired_by_seed():
    record = {
        "data": "digits",
        "teacher": {"model": "resnet20", "top1": 98.0},
        "student": "resnet8",
        "training": {"epochs": 4, "batch_size": 64, "lr": 0.05},
        "seeds": [0, 1],
        "environment": {"threads": 1, "processor": "P", "versions": {"torch": "2"}},
        "rows": rows_of(plain=[90.0, 94.0], sp=[91.0, 97.0]),
    }
    lines = runpy.run_path(str(ROOT / "docs" / "results.py"))["methods_table"](record).splitlines()
    assert lines[2] == "| `plain` | - | 92.00 ± 2.83 | - | - | 2.0 | - |"
    # gaps 1 and 3: mean 2, standard error 1, and t of 97.5% with one degree of freedom is 12.71
    assert lines[3] == "| `sp` | 2.5 | 94.00 ± 4.24 | +2.00 | -10.71 to +14.71 | 2.0 | - |"
    assert lines[5].startswith("n=2 (seeds 0, 1), resnet8, 4 epochs, batch 64, rate 0.05; one teacher, resnet20 with")


@pytest.fixture(scope="module")
def smoke():
    return runpy.run_path(str(ROOT / "docs" / "smoke.py"))


def test_smoke_has_a_row_for_every_method_and_preset(smoke):
    from mfkd.methods import METHODS, PRESETS, resolve

    rows = {row.name: row for row in smoke["rows"]()}
    assert set(METHODS) | {"plain"} <= set(rows)
    assert all(resolve(row.method) for row in rows.values())
    assert all(rows[name].method == (PRESETS.get(name) or {name: {}}) for name in METHODS)


def test_smoke_trains_rows_with_one_teacher_and_goes_on(smoke, tmp_path):
    from mfkd.config import load_config
    from mfkd.records import RunRecord

    small = ["data.fraction=0.2", "train.epochs=1", "teacher.train.epochs=1"]
    base = load_config(smoke["RECIPE"], small)
    rows = [row for row in smoke["rows"]() if row.name in ("plain", "kd")]
    found = smoke["train_all"](rows, (0, 1), tmp_path, base)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(before) == 5  # the teacher and four students
    again = smoke["train_all"](rows, (0, 1), tmp_path, base)
    assert again == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    record = smoke["summary"](rows, found, base, RunRecord.load(tmp_path / "teacher" / "record.json"))
    assert record["seeds"] == [0, 1]
    plain, kd = record["rows"]
    assert (plain["name"], plain["method"]) == ("plain", {})
    assert (kd["name"], kd["method"]["kd"]["weight"]) == ("kd", 1.0)
    assert kd["top1"] == [one.metrics["top1"] for one in found["kd"]]


def test_what_is_far_below_plain_training_is_explained(smoke):
    assert smoke["far_below"]({"rows": rows_of(plain=[90.0, 94.0], sp=[88.0, 91.0], at=[90.0, 92.0])}) == ["sp"]
    if smoke["RECORD"].exists():
        import json

        about = (smoke["RECORD"].parent / "about.md").read_text()
        assert all(f"`{name}`" in about for name in smoke["far_below"](json.loads(smoke["RECORD"].read_text())))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "assets" / "teachers").glob("*.safetensors")), ids=lambda path: path.stem
)
def test_kept_teachers_load_and_have_the_accuracy_of_their_record(path):
    import json

    from mfkd import build_model
    from mfkd.models.weights import load_weights

    record = json.loads(path.with_name(f"{path.stem}.record.json").read_text())
    model, top1 = record["config"]["student"]["model"], record["metrics"]["top1"]
    load_weights(build_model(model, num_classes=100), path, who="teacher")
    row = f"| `{path.name}` | {model} | {top1:.2f} | `mfkd train {Path(record['config']['out']).name}` |"
    assert row in (path.parent / "README.md").read_text()
