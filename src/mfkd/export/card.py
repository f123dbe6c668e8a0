"""`README.md` of an export: what the network is, how it was made, how good it is, what it costs, what is not known."""

import json
from typing import Any

import yaml

from mfkd.config import RunConfig, load_config
from mfkd.export.feed import Feed
from mfkd.export.licences import inherited, shown
from mfkd.methods import known_methods
from mfkd.methods.describe import section
from mfkd.records import RunRecord
from mfkd.sections import split_name

KINDS = {
    "distilled": "a student trained with the help of a teacher (knowledge distillation)",
    "alone": "a student trained without a teacher",
    "teacher": "a teacher network",
}


def readme(result: dict[str, Any], feed: Feed, config: RunConfig, record: RunRecord | None) -> str:
    """The model card as Markdown, with the head that the Hugging Face hub reads.

    Args:
        result: what `export.json` holds.
        feed: how the network is fed.
        config: the recipe that names the images of the accuracy; the training may have had others.
        record: of its training; None where there is none.
    """
    kind = record.kind if record else ""
    made = load_config(None, (), record.config) if record else None
    title = shown(feed.model) + (f" for {shown(made.data.name)}" if made else "")
    head = {
        "library_name": "timm" if result["timm"] else "mfkd",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "mfkd", *(["knowledge-distillation"] if kind == "distilled" else [])],
    }
    parts = {
        "": f"{KINDS.get(kind, 'A network')[0].upper()}{KINDS.get(kind, 'A network')[1:]}: it names one of "
        f"{len(feed.classes)} classes ({_some(feed.classes)}) for an image.",
        "Use": _use(result, feed),
        "How it was made": _made(result, made, record),
        "Accuracy": _accuracy(result, config, made),
        "Every form says the same": _parity(result, split_name(config.data.evaluate)),
        "Cost": _cost(result),
        "Limits": _limits(result, feed, record, split_name(config.data.evaluate)),
        "Licences": _licences(made, kind),
        "Citation": _citation(result, record),
    }
    text = "\n\n".join(f"## {name}\n\n{part}" if name else part for name, part in parts.items())
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {title}\n\n{text}\n"


def _use(result: dict[str, Any], feed: Feed) -> str:
    raw = " x ".join(map(str, feed.shape))
    wants = "uint8 as it comes from a file" if feed.embedded else "float32 after normalisation"
    loads = 'import mfkd\nnetwork = mfkd.load_student("PATH")  # a torch.nn.Module in eval mode'
    if result["timm"]:
        loads = 'import timm\nnetwork = timm.create_model("local-dir:PATH", pretrained=True).eval()'
    side = (
        "scaled to that size" if feed.side is None else f"its shorter side scaled to {feed.side} px, its centre cut out"
    )
    return (
        f"```python\n{loads}\n```\n\n```sh\nmfkd predict IMAGE --model PATH\n```\n\n"
        f"An image has {feed.size[0]} x {feed.size[1]} px and {feed.channels} channel"
        f"{'s' if feed.channels > 1 else ''}; another one is {side} ({feed.interpolation}). Normalised by mean "
        f"{_numbers(feed.mean)} and deviation {_numbers(feed.std)} of values from 0 to 1.\n\n"
        f"`model.onnx` and `model.pt2` take `image`, (batch, {raw.replace(' x ', ', ')}), {wants}, and give `logits`, "
        f"(batch, {len(feed.classes)}), in the order of `labels.txt`."
    )


def _made(result: dict[str, Any], config: RunConfig | None, record: RunRecord | None) -> str:
    if record is None or config is None:
        return "Not known: there is no record of its training."
    found = record.environment
    teachers = [teacher.model for teacher in config.named_teachers.values()] if record.kind == "distilled" else []
    train = record.training
    rows = [
        [
            "data",
            f"{shown(config.data.name)}{f', {config.data.fraction:.0%} of it' if config.data.fraction < 1 else ''}",
        ],
        *([["teacher", " + ".join(map(shown, teachers))]] if teachers else []),
        *[[f"method {name}", _options(options)] for name, options in record.method.items()],
        [
            "training",
            f"{train['epochs']} epochs, {record.steps:,} updates of {train['batch_size']} images, "
            f"{train['optimizer']}, learning rate {train['lr']:g}, {train['schedule']}, {train['precision']}",
        ],
        ["seed", str(record.seed)],
        ["commit of mfkd", str(found.get("commit") or "not known")],
        ["trained with", _versions(found.get("versions", {}))],
        ["exported with", _versions(result["versions"])],
        [
            "hardware of the training",
            f"{found.get('processor', 'not known')}, {record.own_seconds:,.0f} s",
        ],
    ]
    notes = "".join(f"\n- {note}" for note in record.notes)
    return _table(["", ""], rows) + ("\n\n`record.json` holds all settings and curves." + notes)


def _accuracy(result: dict[str, Any], config: RunConfig, made: RunConfig | None) -> str:
    low, high = result["ci95"]
    on_val = config.data.evaluate == "val"
    text = (
        f"Top-1 on {result['images']:,} {split_name(config.data.evaluate)} images of {result['data']}: "
        f"**{result['top1']:.2f} %**, 95 % interval {low:.2f} to {high:.2f} (Wilson, over the images). "
    )
    if made is None:
        text += "Whether it was trained on some of them, or chosen by them, is not known."
    else:
        text += "The network of the last epoch; "
        text += "these images are there for choices." if on_val else "nothing was chosen by the test images."
        if made.data.model_copy(update={"workers": config.data.workers}) != config.data:
            text += " They were read by other settings than its training had; that none was trained on is not known."
    seeds = result["seeds"]
    if seeds:
        spread = f" ± {seeds['std']:.2f} (deviation)" if seeds["std"] is not None else ""
        text += f"\n\nOver the {seeds['n']} seeds of the run: mean {seeds['mean']:.2f} %{spread}; this is one of them."
    rows = [
        [f"`{name}`", f"{told['top1']:.2f}", f"{told['drop']:+.2f}", f"{told['agreement']:.2f}", f"{told['ms']:.3f}"]
        for name, told in result["forms"].items()
    ]
    return text + "\n\n" + _table(["file", "Top-1, %", "lost, points", "same prediction, %", "ms an image"], rows)


def _parity(result: dict[str, Any], split: str) -> str:
    rows = [
        [name, f"{told['largest']:.1e}", str(told["differing"] + told["ties"]), str(told["ties"])]
        for name, told in result["parity"].items()
    ]
    return (
        f"Logits of all {result['images']:,} {split} images beside those of the trained network in PyTorch; "
        f"differences are shares of their range, allowed is {result['tolerance']:.0e}. A tie is an image whose first "
        "two logits are closer than that.\n\n"
        + _table(["form", "largest difference", "other predictions", "of them ties"], rows)
    )


def _cost(result: dict[str, Any]) -> str:
    size = ", ".join(
        f"`{name}` {told['bytes'] / 1e6:,.2f} MB" for name, told in result["files"].items() if "model" in name
    )
    return (
        f"{result['parameters']:,.0f} parameters, {result['flops'] / 1e6:,.1f} MFLOPs an image (two a multiply-add). "
        f"{size}. Times above: median of {result['calls']} calls at batch 1 in ONNX Runtime, all forms in turns, "
        f"{result['threads']} thread{'s' if result['threads'] > 1 else ''} of {result['processor']}; PyTorch took "
        f"{result['torch_ms']:.3f} ms."
    )


def _limits(result: dict[str, Any], feed: Feed, record: RunRecord | None, split: str) -> str:
    limits = [
        "It knows its classes alone and gives one of them to any picture, also to one that shows none.",
        "Its probabilities are as calibrated as its training left them"
        + (
            f" (ECE {record.metrics['ece']:.2f} % on the {split_name(record.config.get('data', {}).get('evaluate'))} "
            "images of its run)."
            if record and "ece" in record.metrics
            else "."
        ),
        f"Accuracy holds for images like those of the {split} split; nothing was measured on others.",
        "Times are of the machine that exported it.",
    ]
    if result["code"]:
        limits.append(f"Loading it runs code: {', '.join(f'`{name}`' for name in result['code'])}. Read it first.")
    if feed.side is None:
        limits.append("Images of another size are scaled without regard to the ratio of their sides.")
    return "\n".join(f"- {limit}" for limit in limits)


def _licences(config: RunConfig | None, kind: str) -> str:
    if config is None:
        return "Not known, neither of the data nor of the weights that it started from."
    return _table(["what it was made from", "licence"], [list(row) for row in inherited(config, kind).items()])


def _citation(result: dict[str, Any], record: RunRecord | None) -> str:
    known = known_methods()
    papers = [section(known[name], "Paper") for name in (record.method if record else {}) if name in known]
    software = (
        f"mfkd {result['versions']['mfkd']}, knowledge distillation for image classifiers by fusing feature maps."
    )
    return "\n".join(f"- {line}" for line in [software, *papers] if line)


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {told}" for name, told in versions.items())


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in options.items())


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
