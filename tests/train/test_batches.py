"""Which images a job trains on."""

from dataclasses import replace

import pytest
import torch

from mfkd.train.batches import training_batches


def half_unlabelled(lab):
    labels = lab.data.train.labels.clone()
    labels[24:] = -1
    return replace(lab.data, train=replace(lab.data.train, labels=labels))


@pytest.mark.parametrize(("kind", "steps", "unlabelled"), [("teacher", 3, 0), ("alone", 6, 0), ("distilled", 6, 24)])
def test_unlabelled_images_belong_to_the_distillation_alone(lab, kind, steps, unlabelled):
    loader = training_batches(lab.job(kind=kind), half_unlabelled(lab), "cpu")
    labels = torch.cat([batch.label for batch in loader.epoch(0)])
    assert loader.steps == steps
    assert int((labels < 0).sum()) == unlabelled


def test_without_unlabelled_images_alone_and_distilled_see_the_same(lab):
    alone, distilled = (
        list(training_batches(lab.job(kind=k), lab.data, "cpu").epoch(1)) for k in ("alone", "distilled")
    )
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.label, b.label) for a, b in zip(alone, distilled, strict=True)
    )


def test_the_hash_of_a_distilled_run_depends_on_the_content_of_the_teachers_file(lab, tmp_path):
    file = tmp_path / "teacher.safetensors"

    def job(kind, content):
        file.write_bytes(content)
        made = lab.job(kind=kind)
        teacher = made.config.teacher.model_copy(update={"weights": str(file)})
        return replace(made, config=made.config.model_copy(update={"teacher": teacher}))

    assert job("distilled", b"a").hash == job("distilled", b"a").hash != job("distilled", b"b").hash
    assert job("alone", b"a").hash == job("alone", b"b").hash == lab.job(kind="alone").hash
    assert len(job("distilled", b"a").teacher_sha256) == 64
