"""Verification passes the named environments and catches wrong ones; the published figures are those of this code."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

from offdyn_envs.cli import main
from offdyn_envs.datasets.store.card import same_platform
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import model_hash, published_hash
from offdyn_envs.robots import HANDS, WALKERS, get_robot
from offdyn_envs.shifts import BrokenJoint, Friction, Gravity, Kinematic
from offdyn_envs.tasks import DYNAMICS, dynamics_of, env_id, list_env_ids
from offdyn_envs.vector import OffDynVectorEnv
from offdyn_envs.verification import divergence, states, subjects
from offdyn_envs.verification.common import check_with_gymnasium, compare_twins
from offdyn_envs.verification.contacts import FEET
from offdyn_envs.verification.page import environments_page, hardly_reached
from offdyn_envs.verification.results import CheckFailed, Verification, published, run_checks
from offdyn_envs.verification.robot_checks import robot_checks
from offdyn_envs.verification.runner import verify
from offdyn_envs.verification.subjects import RobotSubject, Subject, find_subject, named_subjects, robot_subject

HOPPER = WALKERS["hopper"]
ROOT = Path(__file__).parents[2]
NAMES = tuple(named_subjects())
CACHES = (states.random_states, states.policy_states, divergence._nominal_next, divergence._nominal_long_run)


@pytest.fixture
def few_states(monkeypatch):
    """Sets of states that take no time; not those of the published figures."""
    monkeypatch.setattr(states, "STEPS", 40)
    for cache in CACHES:
        cache.cache_clear()
    yield
    for cache in CACHES:
        cache.cache_clear()


@dataclass(frozen=True)
class LeakyGravity(Gravity):
    """Also makes the floor soft, and tells nobody."""

    def apply(self, spec, robot, profile):
        super().apply(spec, robot, profile)
        spec.geom("floor").solref = [0.2, 1.0]


@dataclass(frozen=True)
class LeakyBrokenJoint(BrokenJoint):
    """Also brakes a joint of another finger, and tells nobody."""

    def apply(self, spec, robot, profile):
        super().apply(spec, robot, profile)
        spec.joint("MFJ2").frictionloss = 1.0


class GreedyKinematic(Kinematic):
    """Also narrows a joint that is not its own."""

    def apply(self, spec, robot, profile):
        super().apply(spec, robot, profile)
        spec.joint("thigh_joint").range = [-10.0, 0.0]


def failures(subject):
    found = verify(subject)
    assert set(found.passed) | set(found.failures) == set(robot_checks(subject))
    return found.failures


def only(subject, check):
    """The failure of one check."""
    return run_checks(subject.name, {check: robot_checks(subject)[check]}).failures.get(check)


# Wrong environments


def test_a_shift_that_changes_nothing_is_caught(few_states):
    found = failures(robot_subject(HOPPER, (Gravity(1.0),)))
    assert found.keys() == {"fields", "hash", "effect"}
    assert found["fields"] == "no field of the model differs from the nominal robot's"
    assert "that of OffDyn/Hopper-v0" in found["hash"]
    assert "no transition differs" in found["effect"]


@pytest.mark.parametrize("name", [name for name, (robot, _) in list_env_ids().items() if robot.name in WALKERS])
def test_only_declared_fields_of_every_named_robot_differ(name):
    facts = robot_checks(find_subject(name))["fields"]()
    nominal = list_env_ids()[name][1] == "nominal"
    assert bool(facts["changed_fields"]) is not nominal


def test_an_undeclared_field_is_caught(few_states):
    found = failures(robot_subject(HOPPER, (LeakyGravity(0.7),)))
    # As JSON the shift loses what makes it wrong, and the copy goes another way.
    assert found.keys() <= {"fields", "twins"}
    assert found["fields"] == "changed but not declared: geom_solref"


def test_an_undeclared_element_of_a_declared_field_is_caught():
    subject = robot_subject(HOPPER, (GreedyKinematic("foot", 0.5),))
    assert only(subject, "fields") == "changed but not declared: jnt_range of thigh_joint"
    assert only(robot_subject(HOPPER, (Kinematic("foot", 0.5),)), "fields") is None


@pytest.mark.parametrize("scale", (0.1, 0.5))
def test_friction_that_does_not_reach_contacts_is_caught(scale):
    """The published Hopper: its floor keeps 1.0, and the larger friction of two geoms counts."""
    subject = robot_subject(HOPPER, (Friction(scale),), profile="odrl")
    failure = only(subject, "friction")
    assert failure.endswith(f"meets the floor with friction 1; expected {2.0 * scale:g}") or failure.endswith(
        f"meets the floor with friction 1; expected {scale:g}"
    )
    assert only(robot_subject(HOPPER, (Friction(scale),)), "friction") is None


def test_another_environments_model_is_caught():
    own = find_subject("Hopper-gravity-0.5")
    assert only(own, "hash") is None
    assert "that of OffDyn/Hopper-gravity-0.5-v0" in only(replace(own, name="a second one"), "hash")


def test_an_environment_that_simulates_another_model_is_caught():
    subject = replace(find_subject("Hopper-gravity-0.5"), env_id="OffDyn/Hopper-gravity-2.0-v0")
    assert only(subject, "fields") == "the environment simulates another model than its shifts lead to"
    assert "scalar and batched environment differ" in only(subject, "batched")


@pytest.mark.parametrize("name", tuple(WALKERS))
def test_a_nominal_environment_that_is_not_stock_is_caught(name):
    nominal = find_subject(env_id(WALKERS[name], "nominal"))
    wrong = replace(nominal, env_id=env_id(WALKERS[name], "gravity-0.5"))
    assert f"than Gymnasium's {WALKERS[name].title}-v5" in only(wrong, "stock")


def test_a_crash_is_a_failure_and_does_not_stop_the_others():
    def crash():
        raise ValueError("two\nlines")

    found = run_checks("x", {"a": crash, "b": lambda: {"c": 1}})
    assert found == Verification("x", {"c": 1}, ("b",), {"a": "ValueError: two lines"})


class Forgetful(gymnasium.Env):
    """Its observations depend on how many environments there are."""

    made = 0

    def __init__(self):
        self.observation_space = self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        Forgetful.made += 1
        self.number = Forgetful.made

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.full(1, 0.01 * self.number, np.float32), 0.0, False, False, {}


class Blind(Forgetful):
    """Returns no observation of its space."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full(3, 5.0), {}


@pytest.fixture
def faulty():
    kinds = (Forgetful, Blind)
    for kind in kinds:
        entry = f"{__name__}:{kind.__name__}"
        gymnasium.register(f"Faulty/{kind.__name__}-v0", entry_point=entry, disable_env_checker=True)
    yield
    for kind in kinds:
        gymnasium.registry.pop(f"Faulty/{kind.__name__}-v0")


def test_twins_that_differ_are_caught(faulty):
    with pytest.raises(CheckFailed, match="goes another way at step 1"):
        compare_twins(Subject("x", "Faulty/Forgetful-v0"))


def test_what_gymnasiums_checker_refuses_is_caught(faulty):
    found = run_checks("x", {"checker": lambda: check_with_gymnasium(Subject("x", "Faulty/Blind-v0"))})
    assert found.failures


def test_wrong_hands_are_caught():
    pytest.importorskip("gymnasium_robotics")
    broken, shrunk = (find_subject(f"AdroitPen-{kind}-hard") for kind in ("broken-joint", "shrink-finger"))
    assert only(broken, "fields") is only(shrunk, "fields") is None
    assert "simulates another model" in only(replace(broken, shifts=shrunk.shifts), "fields")
    assert "that of OffDyn/AdroitPen-broken-joint-hard-v0" in only(replace(broken, name="a second one"), "hash")
    stiff = robot_subject(broken.robot, (LeakyBrokenJoint(0.5),))
    assert only(stiff, "fields") == "changed but not declared: dof_frictionloss"


# Good environments


@pytest.mark.parametrize("name", NAMES)
def test_every_named_environment_passes_the_checker_and_has_twins(name):
    """check_env, JSON round trip, pickle, and twin rollouts bit for bit."""
    if "Adroit" in name:
        pytest.importorskip("gymnasium_robotics")
    subject = named_subjects()[name]
    check_with_gymnasium(subject)
    compare_twins(subject)


@pytest.mark.parametrize("name", tuple(WALKERS))
def test_scalar_equals_batched_with_all_named_dynamics_in_one_batch(name):
    slugs = tuple(DYNAMICS[name])
    rows = len(slugs)
    batches = [
        OffDynVectorEnv(
            name,
            rows,
            row_shifts=[DYNAMICS[name][slug] or None for slug in slugs],
            num_threads=threads,
            autoreset_mode="same_step",
        )
        for threads in (1, 2)
    ]
    scalars = [gymnasium.make(env_id(WALKERS[name], slug)) for slug in slugs]
    expected = np.stack([env.reset(seed=7 + row)[0] for row, env in enumerate(scalars)])
    assert len(np.unique(expected, axis=0)) == rows
    for batch in batches:
        np.testing.assert_array_equal(batch.reset(seed=7)[0], expected)
    rng = np.random.default_rng(1)
    for _ in range(40):
        actions = rng.uniform(-1, 1, (rows, WALKERS[name].action_dim)).astype(np.float32)
        steps = [env.step(action) for env, action in zip(scalars, actions, strict=True)]
        observations, rewards, terminations = (np.array(part) for part in list(zip(*steps, strict=True))[:3])
        for row in np.flatnonzero(terminations):
            observations[row] = scalars[row].reset()[0]
        for batch in batches:
            got = batch.step(actions)
            for left, right in zip(got[:3], (observations, rewards, terminations), strict=True):
                np.testing.assert_array_equal(left, right)


# The published figures


def test_everything_named_is_published_as_verified():
    figures = published()["environments"]
    assert set(figures) == set(NAMES)
    assert len(NAMES) == 92 + 28 + 1
    for name, facts in figures.items():
        subject = named_subjects()[name]
        if isinstance(subject, RobotSubject):
            assert set(facts["passed"]) == set(robot_checks(subject))
            assert facts.get("contact_friction", {}).keys() == FEET.get(subject.robot.name, {}).keys()
        if subject.dynamics != "nominal":
            assert facts["changed_fields"] and facts["differences"]
    hashes = [facts["model_sha256"] for facts in figures.values() if "model_sha256" in facts]
    assert len(set(hashes)) == len(hashes) == 92 + 28


def test_what_random_actions_hardly_reach_is_named():
    named = hardly_reached(published())
    assert {f"OffDyn/Hopper-kinematic-leg-{level}-v0" for level in ("easy", "medium")} <= set(named)
    assert all("kinematic" in name for name in named)
    for name in named:
        subject = named_subjects()[name]
        assert divergence.matters_at_the_limits(subject.robot, subject.shifts, "default")


@pytest.mark.parametrize("name", ("Hopper-friction-0.5", "Hopper-kinematic-leg-easy", "HalfCheetah-morphology-severe"))
def test_published_figures_can_be_measured_again(name):
    """To the last digit on the platform on which they were measured; elsewhere chaos has its say."""
    record, subject = published(), find_subject(name)
    facts = record["environments"][subject.name]
    if record["versions"]["mujoco"] == model_version():
        assert model_hash(subject.model) == facts["model_sha256"]
    effect = divergence.effect(subject.robot, subject.shifts, "default")
    measured = {
        "share_changed": effect.share,
        "shift_size": effect.size,
        "divergence_50_steps": divergence.long_divergence(subject.robot, subject.shifts, "default"),
    }
    for key, value in measured.items():
        if same_platform(record):
            assert float(f"{value:.4g}") == facts[key], key
        else:
            assert value == pytest.approx(facts[key], rel=0.25), key


@pytest.mark.parametrize("name", HANDS)
def test_hashes_of_the_hand_are_those_published(name):
    pytest.importorskip("gymnasium_robotics")
    record, robot = published(), get_robot(name)
    if record["versions"]["mujoco"] != model_version():
        pytest.skip("measured with another MuJoCo")
    for slug in dynamics_of(name):
        found = published_hash(robot, dynamics_of(name)[slug])
        assert found == record["environments"][env_id(robot, slug)]["model_sha256"]


def test_a_hash_does_not_depend_on_where_meshes_lie(tmp_path):
    """A model holds the paths of its meshes; another installation is not another robot."""
    corners = "v 0 0 0\nv .1 0 0\nv 0 .1 0\nv 0 0 .1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
    xml = """<mujoco><asset><mesh name="corner" file="corner.obj"/></asset><worldbody><body><freejoint/>
        <geom type="mesh" mesh="corner"/></body></worldbody></mujoco>"""
    models = []
    for folder, size in (("near", ".1"), ("a/good/deal/farther", ".1"), ("bigger", ".2")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "corner.obj").write_text(corners.replace(".1", size))
        (tmp_path / folder / "robot.xml").write_text(xml)
        models.append(mujoco.MjModel.from_xml_path(str(tmp_path / folder / "robot.xml")))
    near, far, bigger = models
    assert near.npaths != far.npaths
    assert model_hash(near) == model_hash(far)
    assert model_hash(bigger) != model_hash(near)


def model_version():
    return mujoco.__version__


def test_the_page_is_up_to_date():
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    assert page == environments_page(published()), "run `make docs`"
    for name in NAMES:
        subject = named_subjects()[name]
        shown = subject.dynamics if isinstance(subject, RobotSubject) else subject.title
        assert shown in page


# The command


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["envs", *arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_command_verifies_and_writes(capsys, tmp_path, few_states):
    path = tmp_path / "figures.json"
    status, out, _ = run(capsys, "verify", "Hopper-friction-2.0", "Refrigerator", "--json", "--out", str(path))
    hopper, refrigerator = json.loads(out)
    assert status == 0
    assert hopper["failures"] == refrigerator["failures"] == {}
    assert hopper["contact_friction"] == {"foot_geom": 4.0}
    assert hopper["set_fields"] == ["geom_friction"]
    record = json.loads(path.read_text())
    assert set(record["environments"]) == {"OffDyn/Hopper-friction-2.0-v0", "OffDyn/Refrigerator-v0"}
    assert record["environments"]["OffDyn/Hopper-friction-2.0-v0"]["model_sha256"] == hopper["model_sha256"]
    status, out, _ = run(capsys, "verify", "Hopper-friction-2.0")
    assert status == 0
    assert "Hopper-friction-2.0" in out and "geom_friction" in out and hopper["model_sha256"][:8] in out


def test_command_fails_with_a_clear_line(capsys, tmp_path, monkeypatch, few_states):
    wrong = robot_subject(HOPPER, (Friction(0.1),), profile="odrl", name="OffDyn/Hopper-friction-0.1-v0")
    monkeypatch.setattr(subjects, "find_subject", lambda name: wrong)
    path = tmp_path / "figures.json"
    status, out, err = run(capsys, "verify", "Hopper-friction-0.1", "--out", str(path))
    assert status == 1
    assert "FAILED: friction" in out
    assert "offdyn: OffDyn/Hopper-friction-0.1-v0: friction: " in err and "with friction 1; expected" in err
    assert err.endswith("offdyn: 1 of 1 environments failed verification\n")
    assert not path.exists()


def test_a_missing_extra_is_skipped_in_words(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = tmp_path / "figures.json"
    status, out, _ = run(capsys, "verify", "AdroitPen", "--json", "--out", str(path))
    assert status == 0
    assert json.loads(out) == [
        {
            "environment": "OffDyn/AdroitPen-v0",
            "skipped": "extra not installed: pip install '.[adroit]' in the checkout",
        }
    ]
    assert json.loads(path.read_text())["environments"] == {}


def test_command_refuses_unknown_names(capsys):
    status, out, err = run(capsys, "verify", "Hopper-gravty-0.5")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "did you mean 'Hopper-gravity-0.5'" in err
    with pytest.raises(OffDynError, match="OffDyn/Hopper-v0"):
        find_subject("OffDyn/Hoper-v0")


def test_show_prints_words_numbers_and_the_published_size(capsys):
    facts = published()["environments"]["OffDyn/Hopper-kinematic-leg-easy-v0"]
    status, out, _ = run(capsys, "show", "Hopper-kinematic-leg-easy", "--json")
    shown = json.loads(out)
    assert status == 0
    assert shown["differences"] == ["joint leg_joint: range -150..0 -> -120..0 degrees"]
    assert shown["friction of feet on the floor"] == {"foot_geom": 2.0}
    assert sum(shown["masses in kg"].values()) == pytest.approx(shown["mass in kg"], abs=1e-3)
    assert shown["shift size"] == facts["shift_size"]
    assert shown["share of random transitions changed"] == facts["share_changed"]
    status, out, _ = run(capsys, "show", "Hopper-morphology-torso-hard")
    assert "body torso: mass 3.665 -> 47.45 kg" in out and "radius 0.05 -> 0.125 m" in out
    status, out, _ = run(capsys, "show", "Refrigerator")
    assert status == 0 and "compressor" in out
    assert "T' = 0.98 (T - u) + 0.3" in out and "T' = 0.92 (T - u) + 1.2" in out and "-|T' - (-2)|" in out


def test_list_names_everything_with_its_size(capsys):
    status, out, _ = run(capsys, "list", "--json")
    rows = {row["id"]: row for row in json.loads(out)}
    assert status == 0 and set(rows) == set(NAMES)
    figures = published()["environments"]
    for name in ("OffDyn/Ant-gravity-5.0-v0", "OffDyn/AdroitDoor-shrink-finger-hard-v0"):
        assert rows[name]["shift size"] == figures[name]["shift_size"] > 0.0
        assert rows[name]["changes"] and rows[name]["shifts"]
    assert rows["OffDyn/Refrigerator-v0"]["shift size"] is None
