import json

WORDS = ["train.epochs=1", "data.fraction=0.2", "method=kd", "--steps", "2"]


def test_profile_prints_every_phase_and_the_floor(mfkd):
    result = mfkd("profile", *WORDS)
    assert result.exit_code == 0
    for text in ("input", "teacher", "student forward", "method and loss", "backward", "optimiser", "whole step"):
        assert f" {text} " in result.stdout
    assert "plain training, data in memory" in result.stdout
    assert "times its time" in result.stdout


def test_profile_for_machines_and_with_a_trace(mfkd, tmp_path):
    result = mfkd("profile", *WORDS, "--json", "--trace", "trace.json")
    found = json.loads(result.stdout[result.stdout.index("{") :])
    assert found["steps"] == 2
    assert found["environment"]["device"] in ("cpu", "cuda")
    assert "Files: trace.json" in result.stderr
    assert (tmp_path / "trace.json").stat().st_size > 1000


def test_profile_refuses_a_trace_in_no_folder(mfkd):
    result = mfkd("profile", *WORDS, "--trace", "none/trace.json")
    assert result.exit_code != 0
    assert "there is no folder" in str(result.exception)
