"""Pictures: names, episodes, cameras, captions, files and the command without OpenGL; drawing where it works."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from offdyn_envs.cli import main
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, dynamics_fields
from offdyn_envs.rendering import files, gallery, gl
from offdyn_envs.rendering.camera import Angle, Box, bounds, enclose, fit
from offdyn_envs.rendering.captions import GAP, Panel, fitted, fixed_palette, grid, shared_palette
from offdyn_envs.rendering.names import Side, make_environment, read_shifts, robot_sides, sides_of
from offdyn_envs.rendering.playing import Actor, choose_actor, play
from offdyn_envs.rendering.posing import ranges_in_words, resting, sweep, swept_joints
from offdyn_envs.rendering.render import Request, compose, frame_stride
from offdyn_envs.rendering.staging import dressed, following_stage
from offdyn_envs.rendering.style import PALETTE, changed_geoms, moved_geoms
from offdyn_envs.rendering.titles import mass_in_words, model_in_words
from offdyn_envs.rendering.views import Cast, pose_panels, range_panels
from offdyn_envs.robots import WALKERS
from offdyn_envs.shipped import behaviour_path
from offdyn_envs.tasks import dynamics_of, list_env_ids, list_tasks

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"
RANDOM = Actor("uniform random actions")
ROOM = st.floats(-3.0, 3.0)


def gl_trouble():
    """Say why nothing can be drawn here, or nothing; asked in a process of its own, as a failure can spoil it."""
    code = "from offdyn_envs.rendering.gl import make_context\nmake_context(64, 64).free()"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


TROUBLE = gl_trouble()
needs_gl = pytest.mark.skipif(bool(TROUBLE), reason=f"nothing can be drawn here: {TROUBLE}")


@pytest.fixture
def drawn_with_gl(monkeypatch):
    """Choose the backend as the command does, for this test alone."""
    chosen = gl.default_backend(os.environ, sys.platform)
    if chosen is not None:
        monkeypatch.setenv("MUJOCO_GL", chosen)


class Recorder:
    """A painter without OpenGL: a grey picture whose shade is its number, and a note of what was asked."""

    asked: ClassVar[list] = []

    def __init__(self, model, width, height):
        self.model, self.size = model, (height, width, 3)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def paint(self, qpos, view, ghosts=(), moving=()):
        self.asked.append((self.model, qpos, view, list(ghosts), moving))
        return np.full(self.size, len(self.asked), dtype=np.uint8)


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(Recorder, "asked", [])
    return Recorder


# Names


def test_every_environment_and_task_has_sides():
    for name, (robot, slug) in list_env_ids().items():
        sides = sides_of(name)
        assert sides == sides_of(name.partition("/")[2].removesuffix("-v0"))
        expected = [("", "nominal")] if slug == "nominal" else [("source", "nominal"), ("target", slug)]
        assert [(side.role, side.dynamics) for side in sides] == expected
        assert {side.title for side in sides} == {robot.title}
    for task in list_tasks():
        sides = sides_of(task.name)
        assert sides[0].dynamics == task.source.dynamics and sides[-1].dynamics == task.scoring


def test_severe_task_starts_from_the_severe_robot():
    source, target = sides_of("ant-from-kinematic-severe-expert")
    assert (source.role, source.label) == ("source", "kinematic-severe")
    assert (target.role, target.label) == ("target", "nominal")


def test_adroit_names():
    source, target = sides_of("AdroitDoor-shrink-finger-hard")
    assert (source.body, source.dynamics, target.dynamics) == ("adroit-door", "nominal", "shrink-finger-hard")
    assert target.title == "AdroitDoor"


def test_further_shifts_go_to_the_target_and_into_its_caption():
    shifts = read_shifts(['{"kind": "gravity", "scale": 0.5}', '[{"kind": "kinematic", "joints": {"leg_joint": 0.3}}]'])
    source, target = sides_of("Hopper", shifts)
    assert source.extra == () and target.extra == shifts
    assert target.label == "gravity 0.5, kinematic leg_joint 0.3"
    env = make_environment(target)
    assert env.model.opt.gravity[2] == pytest.approx(-4.905)
    env.close()


@pytest.mark.parametrize("text", ("", "gravity", "3", "[]", '[{"kind": "gravity"}, 3]', "null", "{"))
def test_shifts_that_are_no_objects(text):
    with pytest.raises(OffDynError, match="--shift"):
        read_shifts([text])


# Episodes


def test_same_seed_and_same_random_actions_on_both_sides():
    sides = sides_of("HalfCheetah-gravity-2.0")
    source, target = play(sides, RANDOM, 12, seed=3)
    assert source.steps == target.steps == 12
    np.testing.assert_array_equal(source.actions, target.actions)
    np.testing.assert_array_equal(source.qpos[0], target.qpos[0])
    assert not np.array_equal(source.qpos[-1], target.qpos[-1])
    again = play(sides, RANDOM, 12, seed=3)
    np.testing.assert_array_equal(target.qpos, again[1].qpos)
    assert not np.array_equal(play(sides, RANDOM, 1, seed=4)[0].qpos[0], source.qpos[0])


def test_a_policy_acts_on_each_side_unless_its_actions_are_replayed():
    sides = sides_of("Hopper-gravity-0.5")
    actor = choose_actor(None, sides)
    assert actor.words == "medium policy of hopper nominal" and actor.act is not None
    source, target = play(sides, actor, 20, seed=0)
    assert not np.array_equal(source.actions, target.actions)
    _, replayed = play(sides, actor, 20, seed=0, replay=True)
    np.testing.assert_array_equal(replayed.actions, source.actions[: replayed.steps])


def test_an_episode_stops_where_the_robot_falls():
    recording = play(robot_sides("hopper", ["nominal"]), RANDOM, 500, seed=0)[0]
    assert recording.ended and recording.steps < 500 and len(recording.qpos) == recording.steps + 1


def test_policies_by_name_and_file(tmp_path):
    hopper, cheetah = sides_of("Hopper-gravity-0.5"), sides_of("HalfCheetah")
    assert choose_actor("random", hopper).act is None
    assert choose_actor("expert", hopper).words == "expert policy of hopper nominal"
    path = behaviour_path("hopper", "nominal", "medium")
    assert choose_actor(str(path), hopper).words == "policy medium.safetensors"
    for policy, side, words in (
        (str(path), cheetah, "takes 11 observations and gives 3 actions; HalfCheetah has 17 and 6"),
        ("best", hopper, "medium, expert, random or a .safetensors or .onnx file, got 'best'"),
        (str(tmp_path / "no.safetensors"), hopper, "no behaviour policy at"),
        ("medium", sides_of("AdroitPen"), "no shipped 'medium' behaviour policy for AdroitPen; there are: "),
    ):
        with pytest.raises(OffDynError, match=re.escape(words)):
            choose_actor(policy, side)


def test_a_task_without_a_shipped_policy_acts_at_random():
    assert choose_actor(None, sides_of("AdroitPen")).act is None


# Costumes and poses


@pytest.mark.parametrize(
    ("robot", "slug", "names"),
    (
        ("hopper", "morphology-torso-hard", {"torso_geom"}),
        ("walker2d", "morphology-severe", {"thigh_geom", "leg_geom", "foot_geom"}),
        ("ant", "morphology-halflegs-easy", {"left_ankle_geom", "right_ankle_geom"}),
        ("halfcheetah", "gravity-0.5", set()),
    ),
)
def test_what_a_shift_reshapes_is_orange(robot, slug, names):
    recording = play(robot_sides(robot, [slug]), RANDOM, 0, seed=0)[0]
    changed = changed_geoms(recording.model, recording.base)
    assert {recording.model.geom(geom).name for geom in changed} == names
    costume = dressed(Side("", robot, slug), recording)
    orange = {geom for geom in range(costume.ngeom) if costume.geom_rgba[geom][0] > 0.9 > costume.geom_rgba[geom][2]}
    assert orange == changed


def test_a_costume_changes_nothing_that_is_simulated():
    side = Side("", "ant", "nominal")
    base = compile_model(WALKERS["ant"], ())
    before = {name: value.copy() for name, value in dynamics_fields(base).items()}
    costume = dressed(side, play([side], RANDOM, 0, seed=0)[0])
    assert costume is not base
    for name, value in dynamics_fields(base).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    for name, value in dynamics_fields(costume).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_sweep_reaches_both_ends_of_every_changed_range():
    sides = sides_of("Ant-kinematic-ankle-hard")
    recordings = play(sides, RANDOM, 0, seed=0)
    joints = swept_joints(recordings)
    assert {recordings[0].model.joint(joint).name for joint in joints} == {f"ankle_{leg}" for leg in (1, 2, 3, 4)}
    for recording, swept in zip(recordings, sweep(sides, recordings, joints, np.array([0.0, 1.0])), strict=True):
        ends = swept.poses[:, recording.model.jnt_qposadr[joints]].T
        np.testing.assert_allclose(ends, recording.model.jnt_range[joints])
        assert min(box.low[2] for box in bounds(recording.model, swept.poses)) > 0.0
    assert ranges_in_words(recordings[0], joints).startswith("ankle_1: 30 to 70 deg")
    assert ranges_in_words(recordings[1], joints).startswith("ankle_1: 30 to 38 deg")
    moved = {recordings[0].model.geom(geom).name for geom in moved_geoms(recordings[0].model, joints)}
    assert moved == {f"{leg}_ankle_geom" for leg in ("left", "right", "third", "fourth")}


def test_legs_that_hide_each_other_are_put_apart():
    side = Side("", "walker2d", "nominal")
    recording = play([side], RANDOM, 0, seed=0)[0]
    pose = resting(side, recording)
    assert np.count_nonzero(pose != recording.start) == 3
    hopper = Side("", "hopper", "nominal")
    start = play([hopper], RANDOM, 0, seed=0)[0]
    np.testing.assert_array_equal(resting(hopper, start), start.start)


# Cameras


@given(
    st.lists(st.tuples(ROOM, ROOM, ROOM, ROOM, ROOM, ROOM), min_size=1, max_size=4),
    st.floats(0.0, 360.0),
    st.floats(-60.0, 0.0),
    st.floats(0.3, 3.0),
)
@settings(max_examples=50)
def test_everything_is_inside_the_picture(corners, azimuth, elevation, aspect):
    boxes = [Box(np.minimum(c[:3], c[3:]), np.maximum(c[:3], c[3:]) + 0.01) for c in corners]
    angle = Angle(azimuth, elevation)
    view = fit(boxes, angle, aspect)
    az, el = np.radians([azimuth, elevation])
    forward = np.array([np.cos(az) * np.cos(el), np.sin(az) * np.cos(el), np.sin(el)])
    right = np.array([np.sin(az), -np.cos(az), 0.0])
    up = np.cross(right, forward)
    eye = np.array(view.lookat) - view.distance * forward
    slope = np.tan(np.radians(angle.fovy) / 2.0)
    whole = enclose(boxes)
    np.testing.assert_allclose(view.lookat, (whole.low + whole.high) / 2.0)
    for box in boxes:
        for pick in np.ndindex(2, 2, 2):
            ray = np.where(pick, box.high, box.low) - eye
            depth = ray @ forward
            assert depth > 0.0
            assert abs(ray @ up) <= slope * depth and abs(ray @ right) <= slope * aspect * depth


def test_camera_follows_a_robot_that_runs_and_not_one_that_stays():
    sides = sides_of("HalfCheetah")
    running = play(sides, choose_actor("medium", sides), 40, seed=0)
    stage = following_stage(sides, running, 1.0)
    gone = running[0].qpos[-1, 0] - running[0].qpos[0, 0]
    assert gone > 1.0
    assert stage.view(0, 40).lookat[0] - stage.view(0, 0).lookat[0] == pytest.approx(gone)
    assert stage.view(0, 99) == stage.view(0, 40)
    resting_there = play(sides, RANDOM, 1, seed=0)
    assert following_stage(sides, resting_there, 1.0).view(0, 1) == following_stage(sides, resting_there, 1.0).view(
        0, 0
    )


# Panels, captions, files


def checkers(height, width, shade=200):
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[::2, ::2] = shade
    return pixels


def test_grid_places_panels_below_their_captions():
    picture = grid([[Panel(checkers(20, 30, 10), ("left", "a")), Panel(checkers(20, 30, 90), ("right", "b"))]], "foot")
    pixels = np.asarray(picture)
    line = 17
    assert picture.size == (64, 2 * line + 20 + line + 1)
    np.testing.assert_array_equal(pixels[2 * line : 2 * line + 20, :30], checkers(20, 30, 10))
    np.testing.assert_array_equal(pixels[2 * line : 2 * line + 20, 30 + GAP : 60 + GAP], checkers(20, 30, 90))
    for top, left in ((0, 0), (line, 0), (0, 30 + GAP), (line, 30 + GAP), (2 * line + 20, 0)):
        assert pixels[top : top + line, left : left + 30].min() < 150  # Something is written there.


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=80), st.integers(60, 400))
@settings(max_examples=40)
def test_captions_fit_their_panel(text, width):
    shown, font = fitted(text, 13, width)
    assert font.getlength(shown) <= width
    assert shown == text or (shown.endswith("...") and text.startswith(shown[:-3]))


@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=25)
def test_pages_have_even_sides(height, width, rows, columns):
    page = grid([[Panel(checkers(height, width), ("x",))] * columns] * rows)
    assert page.width % 2 == page.height % 2 == 0


def test_palettes():
    frames = [Image.fromarray(checkers(16, 16, shade)) for shade in (0, 80, 160)]
    for reduced in (shared_palette(frames, 8), fixed_palette(frames, PALETTE)):
        assert {frame.mode for frame in reduced} == {"P"}
        assert len({tuple(frame.getpalette()) for frame in reduced}) == 1
    colours = {
        tuple(c) for frame in fixed_palette(frames, PALETTE) for c in np.asarray(frame.convert("RGB")).reshape(-1, 3)
    }
    assert colours <= set(PALETTE)


def moving_square():
    frames = []
    for step in range(5):
        pixels = np.full((32, 48, 3), 240, dtype=np.uint8)
        pixels[8:20, 4 * step : 4 * step + 12] = (200, 60, 20)
        frames.append(Image.fromarray(pixels))
    return frames


def test_png_and_gif_read_back(tmp_path):
    frames = moving_square()
    files.write_png(tmp_path / "a.png", frames[0])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(frames[0]))
    files.write_movie(tmp_path / "a.gif", frames, 0.04)
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 5 and animation.info["loop"] == 0
        for number, frame in enumerate(frames):
            animation.seek(number)
            assert animation.info["duration"] == 40
            assert np.abs(np.asarray(animation.convert("RGB"), int) - np.asarray(frame, int)).max() <= 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "a.png"]


def test_mp4_reads_back(tmp_path):
    from imageio_ffmpeg import get_ffmpeg_exe

    frames = moving_square()
    files.write_movie(tmp_path / "a.mp4", frames, 0.04)
    command = [get_ffmpeg_exe(), "-i", str(tmp_path / "a.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    pixels = np.frombuffer(done.stdout, dtype=np.uint8).reshape(5, 32, 48, 3).astype(int)
    assert b"h264" in done.stderr and b"25 fps" in done.stderr
    wanted = np.stack([np.asarray(frame, int) for frame in frames])
    assert np.abs(pixels - wanted).mean() < 6  # Lossy, with colours at half the resolution.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_an_encoder_that_gives_up_is_one_line(tmp_path):
    odd = [Image.new("RGB", (31, 31))] * 50
    with pytest.raises(OffDynError, match="video encoder") as raised:
        files.write_mp4(tmp_path / "a.mp4", odd, 0.04)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_film_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no-such-program"))
    with pytest.raises(OffDynError, match="video encoder"):
        files.write_movie(tmp_path / "a.mp4", moving_square(), 0.04)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ("a.jpg", "a", "a.png.txt", ".gif"))
def test_other_suffixes_are_refused(name):
    with pytest.raises(OffDynError, match=r"allowed: \.png, \.gif, \.mp4"):
        files.check_suffix(Path(name))


# Requests


@given(st.floats(0.002, 0.2), st.integers(1, 100))
def test_animations_run_at_the_speed_of_the_world(dt, fps):
    stride = frame_stride(dt, fps)
    assert stride >= 1
    assert stride == 1 or 1.0 / (stride * dt) <= fps * (1 + 1e-9)
    assert stride == 1 or 1.0 / ((stride - 1) * dt) > fps * (1 - 1e-9)


def test_a_still_is_a_strip_of_both_sides(recorder, tmp_path):
    request = Request("HalfCheetah-gravity-0.5", tmp_path / "a.png", steps=8, width=100, height=80, policy="random")
    frames, _, words = compose(request, recorder)
    assert len(frames) == 1 and len(recorder.asked) == 10
    assert frames[0].size[0] == 5 * 100 + 4 * GAP
    assert words == "HalfCheetah: uniform random actions, seed 0"


def test_an_animation_has_a_frame_per_stride_and_stays_where_it_ends(recorder, tmp_path):
    request = Request("Hopper-gravity-0.5", tmp_path / "a.gif", steps=100, policy="random", fps=25)
    frames, seconds, _ = compose(request, recorder)
    assert seconds == pytest.approx(0.04)
    recordings = play(sides_of("Hopper-gravity-0.5"), RANDOM, 100, 0)
    last = max(recording.steps for recording in recordings)
    assert len(frames) == last // 5 + 1 + 15
    shorter = min(range(2), key=lambda side: recordings[side].steps)
    np.testing.assert_array_equal(recorder.asked[-2 + shorter][1], recordings[shorter].qpos[-1])


def test_views_of_poses_and_ranges(recorder, tmp_path):
    frames, _, _ = compose(Request("Hopper-morphology-torso-hard", tmp_path / "a.png", view="pose"), recorder)
    assert len(frames) == 1 and [len(asked[3]) for asked in recorder.asked] == [0, 0]
    recorder.asked.clear()
    compose(Request("Hopper-kinematic-leg-easy", tmp_path / "a.png", view="ranges"), recorder)
    assert [len(asked[3]) for asked in recorder.asked] == [5, 5]
    recorder.asked.clear()
    frames, _, _ = compose(Request("Hopper-kinematic-leg-easy", tmp_path / "a.gif", view="ranges"), recorder)
    assert len(frames) > 10 and not any(asked[3] for asked in recorder.asked)


BAD = (
    (("Hoper-gravity-0.5",), "did you mean 'Hopper-gravity-0.5'"),
    (("hopper-gravity-0.7-medium",), "unknown environment or task"),
    (("OffDyn/Refrigerator-v0",), "unknown environment or task"),
    (("Hopper", "--out", "a.jpg"), "allowed: .png, .gif, .mp4"),
    (("Hopper", "--shift", "gravity"), "--shift"),
    (("Hopper", "--shift", '{"kind": "gravty"}'), "did you mean 'gravity'"),
    (("Ant", "--shift", '{"kind": "morphology", "part": "torso", "level": 1}'), "part of Ant"),
    (("Hopper", "--view", "ranges"), "view 'ranges'"),
    (("Hopper", "--view", "poses"), "'poses' is not one of 'episode', 'pose', 'ranges'"),
    (("Hopper", "--width", "10"), "--width must be a whole number from 64 to 1920, got 10"),
    (("Hopper", "--height", "100000"), "--height"),
    (("Hopper", "--steps", "-1"), "--steps"),
    (("Hopper", "--seed", "-1"), "--seed"),
    (("Hopper", "--fps", "0"), "--fps"),
    (("Hopper", "--policy", "best"), "--policy"),
    ((), "give either NAME or --gallery"),
    (("Hopper", "--gallery", "folder"), "give either NAME or --gallery"),
)


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_input_is_one_line_and_writes_nothing(capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    # MuJoCo is loaded here already, so its backend need not be.
    monkeypatch.setattr(gl, "default_backend", lambda environ, platform: None)
    with pytest.raises(SystemExit) as ended:
        main(["render", *arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert err.startswith("offdyn: ") and err.count("\n") == 1 and words in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ("PIL", "imageio_ffmpeg"))
def test_missing_extra_is_named(tmp_path, package):
    code = f"""
import sys
sys.modules["{package}"] = None
from offdyn_envs.cli import main
import offdyn_envs.rendering.canvas as canvas
class Blank:
    def __init__(self, model, width, height): self.size = (height, width, 3)
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def paint(self, *arguments): import numpy; return numpy.zeros(self.size, dtype=numpy.uint8)
canvas.Canvas = Blank
main(["render", "Hopper", "--steps", "1", "--out", "a.mp4"])
"""
    environ = {**os.environ, "MUJOCO_GL": "off"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=environ
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and ".[render]" in done.stderr
    assert list(tmp_path.iterdir()) == []


# OpenGL


@pytest.mark.parametrize(
    ("environ", "platform", "chosen"),
    (
        ({}, "linux", "egl"),
        ({"MUJOCO_GL": " "}, "linux", "egl"),
        ({"MUJOCO_GL": "osmesa"}, "linux", None),
        ({"DISPLAY": ":0"}, "linux", None),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", None),
        ({"DISPLAY": ""}, "linux", "egl"),
        ({}, "darwin", None),
        ({}, "win32", None),
    ),
)
def test_egl_is_chosen_where_there_is_no_screen(environ, platform, chosen):
    assert gl.default_backend(environ, platform) == chosen


@pytest.mark.parametrize("backend", ("off", "glide"))
def test_unknown_backend_is_refused(monkeypatch, backend):
    monkeypatch.setenv("MUJOCO_GL", backend)
    with pytest.raises(OffDynError, match=f"unknown backend in the variable MUJOCO_GL '{backend}'; .*allowed: egl"):
        gl.make_context(64, 64)


def test_backend_that_mujoco_cannot_import_is_one_line(tmp_path):
    environ = {**os.environ, "MUJOCO_GL": "glide"}
    command = [sys.executable, "-m", "offdyn_envs.cli", "render", "Hopper", "--steps", "0", "--out", "a.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environ)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "glide" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_library_takes_the_choice_of_backend_back(monkeypatch):
    def broken(name):
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "default_backend", lambda environ, platform: "egl")
    monkeypatch.setattr(gl, "import_module", broken)
    with pytest.raises(OffDynError, match="apt-get install libegl1 libgl1"):
        gl.load_mujoco()
    assert "MUJOCO_GL" not in os.environ


def test_import_chooses_nothing():
    code = "import os, offdyn_envs, offdyn_envs.cli; offdyn_envs.cli.build_app(); print(os.environ.get('MUJOCO_GL'))"
    environ = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.strip() == "None"


@needs_gl
def test_drawn_pictures_are_bright_hold_the_robot_and_repeat(drawn_with_gl):
    sides = robot_sides("hopper", ["nominal", "morphology-torso-hard"])
    cast = Cast(sides, play(sides, RANDOM, 0, seed=0), 120, 120)
    plain, changed = (panel.pixels.astype(int) for panel in pose_panels(cast))
    for pixels in (plain, changed):
        assert pixels.mean() > 200
        robot = np.abs(pixels - pixels.mean(axis=2, keepdims=True)).max(axis=2) > 25
        rows, columns = np.nonzero(robot)
        assert 1 < rows.min() and rows.max() < 118 and 1 < columns.min() and columns.max() < 118
    assert np.count_nonzero(changed[..., 0] - changed[..., 2] > 60) > 100
    assert np.count_nonzero(plain[..., 0] - plain[..., 2] > 60) == 0
    again = pose_panels(cast)
    np.testing.assert_array_equal(again[1].pixels, changed)


@needs_gl
def test_ghosts_are_drawn(drawn_with_gl, tmp_path):
    request = Request("Hopper-kinematic-leg-hard", tmp_path / "a.png", view="ranges", width=120, height=120)
    pixels = np.asarray(compose(request)[0][0], dtype=int)
    bluish = (pixels[..., 2] - pixels[..., 0] > 15).astype(int)
    assert bluish[:, :120].sum() > 1.3 * bluish[:, 124:].sum()


@needs_gl
def test_command_writes_its_file(tmp_path):
    command = [sys.executable, "-m", "offdyn_envs.cli", "render", "hopper-from-morphology-severe-medium"]
    options = ["--steps", "20", "--width", "80", "--height", "80", "--out", str(tmp_path / "a.gif")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / "a.gif")) and done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 5


@needs_gl
def test_a_gallery_picture_is_drawn_again_byte_for_byte(drawn_with_gl, tmp_path):
    item = next(item for item in gallery.gallery_items(hands=False) if item.file == "ant-kinematic-hip-hard.png")
    contents = []
    for _ in range(2):
        gallery.draw_item(item, tmp_path)
        contents.append((tmp_path / item.file).read_bytes())
    assert contents[0] == contents[1]


# The gallery


@pytest.mark.parametrize(
    ("robot", "slug", "words"),
    [
        ("hopper", "nominal", "nominal, 15.8 kg"),
        ("hopper", "gravity-0.5", "gravity x0.5, 15.8 kg"),
        ("ant", "friction-5.0", "friction x5, 0.911 kg"),
        ("hopper", "morphology-torso-medium", "torso width x2, length x1.6, 36.4 kg"),
        ("hopper", "morphology-foot-hard", "foot x0.4, 10.8 kg"),
        ("walker2d", "morphology-leg-hard", "both legs length x0.2, +2 parts, 25.9 kg"),
        ("ant", "morphology-halflegs-medium", "2 ankles length x0.5, 0.854 kg"),
        ("halfcheetah", "morphology-severe", "both thighs length under x0.01, +3 parts, 14 kg"),
    ],
)
def test_titles_are_read_off_the_compiled_model(robot, slug, words):
    (recording,) = play(robot_sides(robot, [slug]), RANDOM, 0, seed=0)
    assert f"{model_in_words(recording.model, recording.base)}, {mass_in_words(recording.model)}" == words


def test_a_titled_picture_says_what_differs_and_where(recorder):
    sides = sides_of("Hopper-kinematic-foot-hard")
    cast = Cast(sides, play(sides, RANDOM, 0, seed=0), 64, 64, recorder, titled=True)
    (row,) = range_panels(cast, still=True)
    assert [panel.lines for panel in row] == [
        ("source: foot: -45 to 45 deg",), ("target: foot: -9 to 9 deg", "kinematic-foot-hard")
    ]  # fmt: skip
    assert pose_panels(cast)[0].lines == ("source: nominal, 15.8 kg",)


def test_the_gallery_has_every_reshaped_and_restrained_environment():
    items = gallery.gallery_items()
    assert len({item.file for item in items}) == len(items)
    shown = {(item.body, slug) for item in items for slug in item.slugs}
    assert shown >= {(robot, slug) for robot in WALKERS for slug in dynamics_of(robot)}
    alone = {(item.body, item.slugs[0]) for item in items if len(item.slugs) == 1}
    families = ("kinematic", "morphology")
    assert alone >= {(r, slug) for r in WALKERS for slug in dynamics_of(r) if slug.startswith(families)}
    assert sum(body in ("adroit-pen", "adroit-door") for body, _ in alone) == 12


def test_the_committed_gallery_is_whole_and_small():
    items = gallery.gallery_items()
    assert (GALLERY / "README.md").read_text(encoding="utf-8") == gallery.gallery_page(items)
    sizes = {path.name: path.stat().st_size for path in GALLERY.iterdir() if path.name != "README.md"}
    assert set(sizes) == {item.file for item in items}
    assert max(sizes.values()) <= 250_000
    assert sum(sizes.values()) < 4_000_000
    heroes = [item for item in items if item.kind == "hero"]
    assert {item.body for item in heroes} == set(WALKERS)
    for item in items:
        with Image.open(GALLERY / item.file) as picture:
            assert item.kind != "hero" or picture.n_frames >= 48
            assert picture.mode == "P" and np.asarray(picture.convert("L")).mean() > 120, item.file


def test_the_gallery_page_shows_every_picture_once():
    items = gallery.gallery_items()
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", gallery.gallery_page(items))
    assert sorted(shown) == sorted(item.file for item in items)
    assert json.dumps(shown).isascii()


WITHOUT_A_SCREEN = """
import os
import gymnasium, offdyn_envs
for attempt in range(3):
    env = gymnasium.make("OffDyn/{name}-v0", render_mode="{mode}", width=64, height=48)
    try:
        env.reset(seed=0)
        picture = env.render()
        env.step(env.action_space.sample())
        print(picture.shape, int(picture.max()) > 0, os.environ["MUJOCO_GL"])
        env.close()
    except offdyn_envs.OffDynError as error:
        print(str(error))
"""


def without_a_screen(mode, backend=None, name="Hopper"):
    """Draw with three environments, one after the other, in a process without a screen; return what it printed."""
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM")
    environ = {key: value for key, value in os.environ.items() if key not in hidden}
    environ |= {} if backend is None else {"MUJOCO_GL": backend}
    code = WITHOUT_A_SCREEN.format(mode=mode, name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    assert "GLFW" not in done.stderr
    return done.stdout.splitlines()


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have a screen")


@needs_gl
@on_linux
@pytest.mark.parametrize("name", ("Hopper", "AdroitPen"))
def test_environments_draw_with_egl_without_a_screen(name):
    if name == "AdroitPen":
        pytest.importorskip("gymnasium_robotics")
    assert without_a_screen("rgb_array", name=name) == ["(48, 64, 3) True egl"] * 3


@on_linux
@pytest.mark.parametrize(
    ("mode", "backend", "words"),
    (
        ("human", None, "there is no screen to open a window on; render_mode 'rgb_array' draws without one"),
        ("human", "egl", "there is no screen to open a window on; render_mode 'rgb_array' draws without one"),
        ("rgb_array", "glfw", "cannot draw with OpenGL backend 'glfw' (there is no screen)"),
    ),
)
def test_without_a_screen_every_attempt_is_refused_in_one_line(mode, backend, words):
    printed = without_a_screen(mode, backend)
    assert len(printed) == 3 and all(line.startswith(words) for line in printed)


@on_linux
def test_a_missing_egl_takes_the_choice_back(monkeypatch):
    def broken(name):
        raise ImportError("no libEGL")

    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    real = gl.import_module
    monkeypatch.setattr(gl, "import_module", lambda name: real(name) if name == "mujoco" else broken(name))
    for _ in range(2):
        with pytest.raises(OffDynError, match=r"backend 'egl' \(no libEGL\)"):
            gl.prepare_renderer()
        assert "MUJOCO_GL" not in os.environ


def test_with_a_screen_nothing_is_chosen(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    for window in (False, True):
        gl.prepare_renderer(window)
    assert "MUJOCO_GL" not in os.environ
