from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from offdyn_envs.datasets.importing import Imported, import_file
from offdyn_envs.datasets.importing.episodes import hidden_resets
from offdyn_envs.datasets.store.imported import ImportedDataset, imported_ids, load_imported
from offdyn_envs.datasets.store.spec import Arrays
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS, get_robot
from tests.datasets.collector import collect, write_target
from tests.datasets.foreign import (
    LENGTHS,
    d4rl_keys,
    make_arrays,
    minari_keys,
    odrl_keys,
    write,
    write_minari,
)

STEPS = ("observations", "actions", "next_observations", "rewards", "terminations", "truncations", "lengths")


def read(done: Imported) -> ImportedDataset:
    return load_imported(done.card["id"], root=done.path.parents[1])


def assert_same(data: ImportedDataset, arrays: Arrays) -> None:
    for key in STEPS:
        found, expected = getattr(data, key), getattr(arrays, key)
        assert found.dtype == expected.dtype, key
        np.testing.assert_array_equal(found, expected, err_msg=key)


@pytest.mark.parametrize("name", WALKERS)
def test_d4rl(tmp_path: Path, name: str) -> None:
    arrays = make_arrays(name)
    done = import_file(write(tmp_path / "a.hdf5", d4rl_keys(arrays)), robot=name, root=tmp_path)
    data = read(done)
    assert_same(data, arrays)
    assert data.qpos is not None
    assert data.qvel is not None
    np.testing.assert_array_equal(data.qpos, arrays.qpos[arrays.state_rows])
    np.testing.assert_array_equal(data.qvel, arrays.qvel[arrays.state_rows])
    card = done.card
    assert (card["rows"], card["episodes"], card["terminated_episodes"]) == (
        sum(LENGTHS),
        len(LENGTHS),
        arrays.terminations.sum(),
    )
    assert card["source"]["layout"] == "d4rl"
    assert card["dropped"] == {}


@pytest.mark.parametrize("name", WALKERS)
def test_odrl(tmp_path: Path, name: str) -> None:
    arrays = make_arrays(name)
    data = read(import_file(write(tmp_path / "a.hdf5", odrl_keys(arrays)), robot=name, root=tmp_path))
    assert_same(data, arrays)
    assert data.qpos is None
    assert data.card["source"]["layout"] == "odrl"
    assert data.card["counted"] == {"ends of episodes without a flag": len(LENGTHS) - arrays.terminations.sum()}


@pytest.mark.parametrize("name", WALKERS)
@pytest.mark.parametrize("states", [False, True])
def test_minari(tmp_path: Path, name: str, states: bool) -> None:
    arrays = make_arrays(name)
    env = f"{WALKERS[name].title}-v5"
    folder = write_minari(tmp_path / "set-v0", minari_keys(arrays, states=states), env)
    for path in (folder, folder / "data" / "main_data.hdf5"):
        data = read(import_file(path, root=tmp_path, out=f"imported/{path.name.partition('.')[0].replace('_', '-')}"))
        assert_same(data, arrays)
        assert (data.qpos is not None) == states
        assert data.card["robot"] == name
        assert data.card["dynamics"] is None
        assert any("left foot" in note for note in data.card["notes"]) == (name == "walker2d")
    assert imported_ids(tmp_path) == ["imported/main-data", "imported/set-v0"]


def test_minari_more_than_ten_episodes_stay_in_order(tmp_path: Path) -> None:
    arrays = make_arrays("hopper", tuple(range(1, 14)), (False,) * 13)
    data = read(import_file(write_minari(tmp_path / "a", minari_keys(arrays)), root=tmp_path))
    assert_same(data, arrays)


def test_minari_of_many_episodes_takes_time_in_proportion(tmp_path: Path) -> None:
    """45,000 episodes of two steps, a random policy's Hopper set, are to take less than a minute."""
    seconds = []
    for count in (250, 2000):
        keys = minari_keys(make_arrays("hopper", (2,) * count, (True,) * count))
        file = write(tmp_path / f"{count}.hdf5", {key: value for key, value in keys.items() if "infos" not in key})
        begun = time.process_time()
        card = import_file(file, robot="hopper", root=tmp_path).card
        seconds.append(time.process_time() - begun)
        assert (card["episodes"], card["terminated_episodes"]) == (count, count)
    assert seconds[1] < 60 * 2000 / 45_000
    assert seconds[1] < 20 * seconds[0]  # 8 in proportion, 64 where every episode costs a look at all others.


def test_minari_of_our_own_environments_knows_its_dynamics(tmp_path: Path) -> None:
    folder = write_minari(tmp_path / "a", minari_keys(make_arrays("hopper")), "OffDyn/Hopper-gravity-0.5-v0")
    card = import_file(folder, root=tmp_path).card
    assert (card["robot"], card["dynamics"]) == ("hopper", "gravity-0.5")
    with pytest.raises(OffDynError, match=r"of dynamics 'gravity-0\.5'; expected 'nominal', as --dynamics says"):
        import_file(folder, dynamics="nominal", root=tmp_path, out="imported/b")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("AdroitHandPen-v1", r"collected in 'AdroitHandPen-v1'; expected an environment of halfcheetah, hopper"),
        ("PointMaze_UMaze-v3", "collected in 'PointMaze_UMaze-v3'"),
        ("Ant-v5", "holds data of robot 'ant'; expected 'hopper', as --robot says"),
    ],
)
def test_minari_of_another_robot(tmp_path: Path, env: str, message: str) -> None:
    folder = write_minari(tmp_path / "a", minari_keys(make_arrays("hopper")), env)
    with pytest.raises(OffDynError, match=message):
        import_file(folder, robot="hopper", root=tmp_path)


@pytest.mark.parametrize(
    ("env", "kwargs", "said"),
    [
        ("Hopper-v5", {"forward_reward_weight": 0.0}, "forward_reward_weight 0.0 (here 1.0)"),
        ("Hopper-v5", {"frame_skip": 2}, "frame_skip 2 (here 4)"),
        ("Hopper-v4", {"xml_file": "heavy.xml"}, "xml_file heavy.xml (here hopper.xml)"),
        ("Hopper-v5", {"terminate_when_unhealthy": False}, "terminate_when_unhealthy False (here True)"),
        ("Hopper-v5", {"reset_noise_scale": 0.1, "width": 64}, "reset_noise_scale 0.1 (here 0.005): not"),
        ("Hopper-v5", {"healthy_z_range": [0.6, 2.0]}, "healthy_z_range [0.6, 2.0] (here (0.7, inf))"),
        ("Hopper-v5", {"gravity": -1.6}, "gravity -1.6 (unknown here)"),
        ("Ant-v5", {}, "contact_cost_weight 0.0005 (here 0.0)"),
        ("Ant-v5", {"contact_cost_weight": 0.0, "main_body": 2}, "main_body 2 (here 1)"),
        (
            "OffDyn/Hopper-v0",
            {"shifts": [{"kind": "gravity", "scale": 2.0}]},
            "dynamics that have no name here: shifts",
        ),
    ],
)
def test_settings_of_the_environment_are_noted(tmp_path: Path, env: str, kwargs: dict[str, Any], said: str) -> None:
    robot = "ant" if env == "Ant-v5" else "hopper"
    folder = write_minari(tmp_path / "a", minari_keys(make_arrays(robot)), env, **kwargs)
    data = read(import_file(folder, root=tmp_path))
    assert sum(said in note for note in data.card["notes"]) == 1
    assert data.card["environment"] == {"id": env, "kwargs": kwargs}
    assert data.card["dynamics"] is None


@pytest.mark.parametrize(
    ("env", "spec", "said"),
    [
        (
            "Hopper-v5",
            {"entry_point": "my_robots:HeavyHopper"},
            "by my_robots:HeavyHopper, which is not the class of H",
        ),
        ("OffDyn/Hopper-v0", {"entry_point": "my_robots:Hopper"}, "by my_robots:Hopper, which is not the class of Off"),
        (
            "OffDyn/Hopper-v0",
            {"kwargs": {"forward_reward_weight": 0.0}},
            "environments have not: forward_reward_weight",
        ),
        ("OffDyn/Hopper-v0", {"max_episode_steps": 50}, "environments have not: max_episode_steps 50"),
    ],
)
def test_other_classes_and_settings_are_noted(tmp_path: Path, env: str, spec: dict[str, Any], said: str) -> None:
    folder = write_minari(tmp_path / "set", minari_keys(make_arrays("hopper")))
    told = {"id": env, "kwargs": {}} | spec
    (folder / "data" / "metadata.json").write_text(json.dumps({"dataset_id": "a/b-v0", "env_spec": json.dumps(told)}))
    notes = import_file(folder, root=tmp_path / "root").card["notes"]
    assert [note for note in notes if said in note]


@pytest.mark.parametrize("env", ["Hopper-v4", "Hopper-v5", "OffDyn/Hopper-v0", "OffDyn/Hopper-gravity-0.5-v0"])
def test_the_specification_of_an_environment_as_it_is_is_no_note(tmp_path: Path, env: str) -> None:
    folder = write_minari(tmp_path / "set", minari_keys(make_arrays("hopper")))
    metadata = {"dataset_id": "a/b-v0", "env_spec": gymnasium.spec(env).to_json()}
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    notes = import_file(folder, root=tmp_path / "root").card["notes"]
    assert not [note for note in notes if note.startswith("collected")]


def test_settings_of_this_suite_are_no_note(tmp_path: Path) -> None:
    kwargs = {"frame_skip": 4, "healthy_z_range": [0.7, float("inf")], "render_mode": "human", "ctrl_cost_weight": 1e-3}
    folder = write_minari(tmp_path / "a", minari_keys(make_arrays("hopper")), "Hopper-v5", **kwargs)
    card = import_file(folder, root=tmp_path).card
    assert not any("collected" in note for note in card["notes"])
    assert card["environment"]["kwargs"]["healthy_z_range"] == [0.7, "inf"]
    kwargs = {"main_body": "torso", "contact_cost_weight": 0.0}
    ant = write_minari(tmp_path / "c", minari_keys(make_arrays("ant")), "Ant-v5", **kwargs)
    assert not any("collected" in note for note in import_file(ant, root=tmp_path, out="imported/c").card["notes"])
    huge = write_minari(tmp_path / "b", minari_keys(make_arrays("hopper")), "Hopper-v5", frame_skip=10**4000)
    assert "frame_skip 1000" in import_file(huge, root=tmp_path, out="imported/b").card["notes"][0]


def test_dynamics_in_the_arguments_of_our_own_environments(tmp_path: Path) -> None:
    keys = minari_keys(make_arrays("hopper"))
    folder = write_minari(tmp_path / "a", keys, "OffDyn/Hopper-v0", dynamics="gravity-0.5")
    assert import_file(folder, root=tmp_path).card["dynamics"] == "gravity-0.5"
    folder = write_minari(tmp_path / "b", keys, "OffDyn/Hopper-v0", dynamics="gravity-0.51")
    with pytest.raises(OffDynError, match=r"unknown dynamics of hopper 'gravity-0\.51'"):
        import_file(folder, root=tmp_path, out="imported/b")


@pytest.mark.parametrize("version", ["v2", "v3", "v4", "v5"])
def test_alive_bonus_on_the_fall(tmp_path: Path, version: str) -> None:
    arrays = make_arrays("hopper")
    folder = write_minari(tmp_path / "a", minari_keys(arrays), f"Hopper-{version}", healthy_reward=2.0)
    noted = any("pay the alive bonus of 2" in note for note in import_file(folder, root=tmp_path).card["notes"])
    assert noted == (version != "v5")
    options: dict[str, Any] = {"no_fall_bonus": True, "root": tmp_path, "out": "imported/b"}
    if version == "v5":
        with pytest.raises(OffDynError, match="pays no alive bonus on a fall; --no-fall-bonus is for rewards that do"):
            import_file(folder, **options)
        return
    data = read(import_file(folder, **options))
    np.testing.assert_array_equal(data.rewards, arrays.rewards - np.float32(2) * arrays.terminations)
    assert data.card["counted"]["falls whose rewards held an alive bonus of 2, taken off"] == arrays.terminations.sum()
    with pytest.raises(OffDynError, match="was imported with no_fall_bonus True, not False"):
        import_file(folder, root=tmp_path, out="imported/b")


@pytest.mark.parametrize("paid", [False, True])
@pytest.mark.parametrize("robot", ["hopper", "walker2d", "ant"])
def test_alive_bonus_on_the_fall_is_measured_in_flat_files(tmp_path: Path, robot: str, paid: bool) -> None:
    data = collect(robot, "gravity-0.5", "medium")
    data.rewards[data.falls] += paid
    file = write_target(tmp_path / "a.hdf5", data, data.following, data.falls)
    card = import_file(file, robot=robot, root=tmp_path).card
    assert any("pay the alive bonus of 1" in note for note in card["notes"]) == paid


def test_d4rl_without_next_observations_drops_final_rows(tmp_path: Path) -> None:
    arrays = make_arrays("hopper", (7, 1, 12, 5), (True, False, True, False))
    file = write(tmp_path / "a.hdf5", d4rl_keys(arrays, following=False))
    done = import_file(file, robot="hopper", root=tmp_path)
    data = read(done)
    assert done.card["dropped"] == {"final rows without next observation": 4, "terminations among them": 2}
    np.testing.assert_array_equal(data.lengths, [6, 11, 4])  # The episode of one row is gone.
    kept = ~(arrays.terminations | arrays.truncations)
    np.testing.assert_array_equal(data.observations, arrays.observations[kept])
    np.testing.assert_array_equal(data.next_observations, arrays.next_observations[kept])
    assert data.qpos is not None
    np.testing.assert_array_equal(data.qpos, arrays.qpos[arrays.state_rows][kept])
    assert not data.terminations.any()
    np.testing.assert_array_equal(np.flatnonzero(data.truncations), np.cumsum([6, 11, 4]) - 1)


def test_no_transition_leads_into_the_next_episode(tmp_path: Path) -> None:
    """The published loader takes observations[i + 1] for every next observation; no layout may do that here."""
    arrays = make_arrays("hopper", (5,) * 20, (False,) * 20)
    resets = {row.tobytes() for row in arrays.observations[arrays.starts]}
    keys = [d4rl_keys(arrays), d4rl_keys(arrays, following=False), odrl_keys(arrays)]
    for number, content in enumerate(keys):
        file = write(tmp_path / f"{number}.hdf5", content)
        data = read(import_file(file, robot="hopper", root=tmp_path))
        assert not any(row.tobytes() in resets for row in data.next_observations)


def test_break_without_a_flag_is_a_truncation(tmp_path: Path) -> None:
    arrays = make_arrays("hopper")
    keys = d4rl_keys(arrays)
    keys["timeouts"] = np.zeros_like(keys["timeouts"])
    data = read(import_file(write(tmp_path / "a.hdf5", keys), robot="hopper", root=tmp_path))
    assert_same(data, arrays)
    assert data.card["counted"] == {"ends of episodes without a flag": 2}


def test_fall_at_the_time_limit_keeps_both_flags(tmp_path: Path) -> None:
    keys = d4rl_keys(make_arrays("hopper"))
    keys["timeouts"] = keys["timeouts"] | keys["terminals"]
    data = read(import_file(write(tmp_path / "a.hdf5", keys), robot="hopper", root=tmp_path))
    np.testing.assert_array_equal(data.truncations, keys["timeouts"])
    np.testing.assert_array_equal(data.terminations, keys["terminals"])


def test_states_after_the_step_are_left_out(tmp_path: Path) -> None:
    arrays = make_arrays("hopper")
    keys = d4rl_keys(arrays)
    keys |= {"infos/qpos": arrays.qpos[arrays.state_rows + 1], "infos/qvel": arrays.qvel[arrays.state_rows + 1]}
    data = read(import_file(write(tmp_path / "a.hdf5", keys), robot="hopper", root=tmp_path))
    assert data.qpos is None
    assert "not the states that the observations show" in data.card["notes"][0]


def simulated(name: str, seed: int, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the observations of whole episodes under random actions, [episodes, T + 1, |S|], and the actions."""
    robot = get_robot(name)
    env = gymnasium.make_vec(f"OffDyn/{robot.title}-v0", num_envs=episodes)
    rng = np.random.default_rng(seed)
    shown = [env.reset(seed=seed)[0]]
    actions = rng.uniform(-1, 1, size=(robot.max_episode_steps, episodes, robot.action_dim)).astype(np.float32)
    shown += [env.step(action)[0] for action in actions[:-1]]
    env.close()
    return np.stack(shown, axis=1).astype(np.float32), np.swapaxes(actions, 0, 1)


def test_mixed_reset_rows_are_found_and_dropped(tmp_path: Path) -> None:
    """A file made by taking the following row as the next observation, with no mark at the time limit."""
    shown, actions = simulated("halfcheetah", 3, 3)
    observations, actions = np.concatenate(shown), np.concatenate(actions)
    keys = {
        "observations": observations[:-1],
        "next_observations": observations[1:],
        "actions": actions[:-1],
        "rewards": np.ones((len(actions) - 1, 1), np.float32),
        "terminals": np.zeros((len(actions) - 1, 1)),
    }
    data = read(import_file(write(tmp_path / "a.hdf5", keys), robot="halfcheetah", root=tmp_path))
    assert data.card["dropped"] == {"rows that lead into the next episode's reset": 2}
    np.testing.assert_array_equal(data.lengths, [999, 999, 999])
    np.testing.assert_array_equal(np.flatnonzero(data.truncations), [998, 1997, 2996])
    resets = {row.tobytes() for row in observations[::1000]}
    assert not any(row.tobytes() in resets for row in data.next_observations)


@pytest.mark.parametrize("robot", WALKERS)
@pytest.mark.parametrize("layout", ["odrl", "minari"])
def test_last_observations_that_are_repeated_are_no_next_ones(tmp_path: Path, robot: str, layout: str) -> None:
    """What pads the T observations of a collector that stored no last one, and np.append(obs[1:], obs[-1:])."""
    data = collect(robot, "gravity-0.5", "medium", steps=40, limit=20)
    last, keys = data.ends | data.cut, dict[str, np.ndarray]()
    following = np.where(last[:, None], data.observations, data.following)
    if layout == "odrl":
        file = write_target(tmp_path / "a.hdf5", data, following, data.falls)
    else:
        for number, rows in enumerate(np.split(np.arange(len(last)), np.flatnonzero(last)[:-1] + 1)):
            group = f"episode_{number}"
            keys[f"{group}/observations"] = data.observations[np.append(rows, rows[-1])]
            keys[f"{group}/actions"], keys[f"{group}/rewards"] = data.actions[rows], data.rewards[rows]
            keys[f"{group}/terminations"], keys[f"{group}/truncations"] = data.falls[rows], data.limits[rows]
        file = write(tmp_path / "a.hdf5", keys)
    done = import_file(file, robot=robot, root=tmp_path)
    assert sum(done.card["dropped"].values()) == last.sum()
    found = read(done)
    np.testing.assert_array_equal(found.observations, data.observations[~last])
    np.testing.assert_array_equal(found.next_observations, data.following[~last])
    assert not found.terminations.any()


@pytest.mark.parametrize("name", WALKERS)
def test_hidden_resets_are_told_from_steps(name: str) -> None:
    robot = get_robot(name)
    env = gymnasium.make(f"OffDyn/{robot.title}-v0")
    env.action_space.seed(1)
    before, after, resets = [], [], []
    shown, _ = env.reset(seed=1)
    for _ in range(600):
        following, _, terminated, _, _ = env.step(env.action_space.sample())
        before.append(shown)
        after.append(following)
        resets.append(False)
        shown = following
        if terminated or len(before) % 90 == 0:
            following, _ = env.reset()
            before.append(shown)
            after.append(following)
            resets.append(True)
            shown = following
    env.close()
    found = hidden_resets(robot, np.array(before, np.float32), np.array(after, np.float32))
    np.testing.assert_array_equal(found, resets)
    assert sum(resets) >= 6


def test_episode_longer_than_the_time_limit_is_refused(tmp_path: Path) -> None:
    arrays = make_arrays("hopper", (1001,), (False,))
    file = write(tmp_path / "a.hdf5", odrl_keys(arrays))
    with pytest.raises(OffDynError, match="an episode of 1001 steps that ends at row 1000; expected at most 1000"):
        import_file(file, robot="hopper", root=tmp_path)
    assert imported_ids(tmp_path) == []


def padded(arrays: Arrays, width: int, value: float = 0.0) -> dict[str, np.ndarray]:
    keys = odrl_keys(arrays)
    for key in ("observations", "next_observations"):
        keys[key] = np.pad(keys[key], ((0, 0), (0, width - 27)), constant_values=value)
    return keys


def test_ant_of_111_columns(tmp_path: Path) -> None:
    arrays = make_arrays("ant")
    data = read(import_file(write(tmp_path / "a.hdf5", padded(arrays, 111)), robot="ant", root=tmp_path))
    assert_same(data, arrays)
    keys = padded(arrays, 111)
    keys["next_observations"][4, 70] = 1e-6
    file = write(tmp_path / "b.hdf5", keys)
    with pytest.raises(
        OffDynError, match=r"'next_observations' holds contact forces at row 4; .*pass --contact-forces"
    ):
        import_file(file, robot="ant", root=tmp_path)
    data = read(import_file(file, robot="ant", contact_forces=True, root=tmp_path))
    assert_same(data, arrays)
    assert "contact cost" in data.card["notes"][0]


@pytest.mark.parametrize("layout", ["odrl", "minari"])
def test_ant_of_105_columns_needs_the_flag(tmp_path: Path, layout: str) -> None:
    arrays = make_arrays("ant")
    path = tmp_path / "a"
    if layout == "odrl":
        write(path, padded(arrays, 105, 0.5))
    else:
        keys = minari_keys(arrays)
        write_minari(path, {k: np.pad(v, ((0, 0), (0, 78))) if v.shape[1:] == (27,) else v for k, v in keys.items()})
        (path / "data" / "metadata.json").unlink()
    with pytest.raises(OffDynError, match=r"105 columns, 27 and 78 real contact forces.*pass --contact-forces"):
        import_file(path, robot="ant", root=tmp_path)
    data = read(import_file(path, robot="ant", contact_forces=True, root=tmp_path))
    assert_same(data, arrays)
    assert "contact cost" in data.card["notes"][0]
    assert data.card["contact_forces"] is True


def test_contact_forces_are_real_in_ant_v5(tmp_path: Path) -> None:
    """What the flag says, on the stock environment: 105 columns, forces, and a cost in the reward."""
    env = gymnasium.make("Ant-v5")
    shown, _ = env.reset(seed=0)
    env.action_space.seed(0)
    costs, forces = [], []
    for _ in range(40):
        shown, _, _, _, info = env.step(env.action_space.sample())
        costs.append(info["reward_contact"])
        forces.append(np.abs(shown[27:]).max())
    env.close()
    assert shown.shape == (105,)
    assert max(forces) > 0
    assert min(costs) < 0


def test_action_rounding(tmp_path: Path) -> None:
    arrays = make_arrays("hopper")
    keys = odrl_keys(arrays)
    keys["actions"][3, 1] = np.nextafter(np.float32(1), np.float32(2))
    keys["actions"][5, 0] = -1.000005
    data = read(import_file(write(tmp_path / "a.hdf5", keys), robot="hopper", root=tmp_path))
    assert data.actions[3, 1] == 1.0
    assert data.actions[5, 0] == -1.0
    assert data.card["counted"]["actions rounded to 1"] == 2
    keys["actions"][5, 0] = -1.0001
    with pytest.raises(OffDynError, match=r"'actions' has magnitude 1\.0001 at row 5; expected values in \[-1, 1\]"):
        import_file(write(tmp_path / "b.hdf5", keys), robot="hopper", root=tmp_path)


def test_the_same_file_twice(tmp_path: Path) -> None:
    file = write(tmp_path / "some.hopper_0.5 (new).hdf5", odrl_keys(make_arrays("hopper")))
    first = import_file(file, robot="hopper", dynamics="gravity-0.5", root=tmp_path)
    assert first.card["id"] == "imported/some-hopper-0p5-new"
    assert first.imported
    assert not import_file(file, robot="hopper", dynamics="gravity-0.5", root=tmp_path).imported
    with pytest.raises(OffDynError, match=r"imported with dynamics gravity-0\.5, not None; --force replaces it"):
        import_file(file, robot="hopper", root=tmp_path)
    other = write(tmp_path / "other.hdf5", odrl_keys(make_arrays("hopper", seed=1)))
    with pytest.raises(OffDynError, match="imported with sha256"):
        import_file(other, robot="hopper", dynamics="gravity-0.5", root=tmp_path, out=first.card["id"])
    assert read(first).card["source"]["file"] == file.name
    again = import_file(other, robot="hopper", root=tmp_path, out=first.card["id"], force=True)
    assert again.imported
    assert read(again).card["source"]["file"] == "other.hdf5"
    assert str(tmp_path) not in json.dumps(dict(again.card))  # The card may be published.
