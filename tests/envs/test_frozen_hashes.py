"""The models of all named environments are those of the day on which hashes.json was written.

`offdyn envs verify --out` does not touch that file, so that a change which moves a model cannot bring its own proof.
After a change that is meant to, or with another MuJoCo: `python -m tests.envs.test_frozen_hashes`.
"""

import json
from pathlib import Path

import mujoco
import pytest

from offdyn_envs.models import published_hash
from offdyn_envs.robots import HANDS, WALKERS
from offdyn_envs.verification.robot_checks import extra_missing
from offdyn_envs.verification.subjects import RobotSubject, named_subjects

PATH = Path(__file__).with_name("hashes.json")
FROZEN = json.loads(PATH.read_text(encoding="utf-8"))
SUITE = {
    name: subject
    for name, subject in named_subjects().items()
    if isinstance(subject, RobotSubject) and subject.robot.name in {**WALKERS, **HANDS}
}
OFTEN = set(list(SUITE)[::10])


def test_the_file_names_every_environment():
    assert list(FROZEN["model_sha256"]) == list(SUITE)
    assert len(set(FROZEN["model_sha256"].values())) == len(SUITE)


@pytest.mark.skipif(FROZEN["mujoco"] != mujoco.__version__, reason=f"the hashes are those of MuJoCo {FROZEN['mujoco']}")
@pytest.mark.parametrize("name", [one if one in OFTEN else pytest.param(one, marks=pytest.mark.slow) for one in SUITE])
def test_the_model_is_unchanged(name):
    subject = SUITE[name]
    if missing := extra_missing(subject.robot):
        pytest.skip(missing)
    assert published_hash(subject.robot, subject.shifts) == FROZEN["model_sha256"][name]


if __name__ == "__main__":
    found = {name: published_hash(subject.robot, subject.shifts) for name, subject in SUITE.items()}
    record = {"mujoco": mujoco.__version__, "model_sha256": found}
    PATH.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
