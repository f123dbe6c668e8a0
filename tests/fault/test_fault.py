"""Killed runs end with the same files; the long form is `campaign.py` itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).with_name("campaign.py")


def campaign(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, CAMPAIGN, *words], check=False, capture_output=True, text=True, env=environment, timeout=3000
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[0]


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_with_the_same_files():
    row = campaign("cache", "--short", "8")
    assert row["differing"] == []
    assert sum(row["by_operation"].values()) == sum(row["at_operation"].values()) == 8
    assert all(row["at_operation"].values()), "a stage was left out"
    assert row["operations"] > 200


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cache", "live", "folder"])
def test_a_run_killed_at_many_moments_ends_with_the_same_files(recipe):
    row = campaign(recipe, "--short", "24" if recipe == "folder" else "60")
    assert row["differing"] == []
    assert sum(row["at_random"].values()) > 3
