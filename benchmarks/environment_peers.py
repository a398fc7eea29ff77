"""What `environments.py` compares: every peer does the control steps of one recording, each in its own way.

The batched environment is recorded first, untimed: its states before and after every control step. The timed
environment, with the same seeds and actions, visits these states again. The bare peers are handed these states and
controls and compute the same steps: nothing but physics, and at the end all must stand, bit for bit, where the
recording ends. Gymnasium starts from the same seeds with the same actions; EnvPool draws its own starts.

Whatever makes the batched environment's physics fast, it shares with the bare peers: models that do not search for
islands and, except in Gymnasium, which runs as its users run it, MuJoCo without step timers. EnvPool has none either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import mujoco.rollout
import numpy as np

from offdyn_envs.batching.crew import rows_at_a_time
from offdyn_envs.batching.step_timers import start_step_timers, stop_step_timers
from offdyn_envs.robots import Robot
from offdyn_envs.robots.goals import goal_size, write_goal
from offdyn_envs.shifts import Gravity, Shift
from offdyn_envs.tasks import dynamics_of
from offdyn_envs.vector import OffDynVectorEnv

ASYNC_ROWS = 64
# The v5 classes of EnvPool with the same physics, without the contact forces that nobody observes here.
_ENVPOOL_KWARGS: dict[str, dict[str, Any]] = {
    "walker2d": {"xml_file": "walker2d.xml"},
    "ant": {"use_contact_force": False, "contact_cost_weight": 0.0},
}


class Unavailable(Exception):
    """A peer that cannot run here; the message says why."""


@dataclass(frozen=True)
class Recording:
    """T control steps of N rows, as the batched environment did them.

    Attributes:
        robot: The robot.
        row_shifts: The shifts of each row, N.
        threads: Threads for every peer that has threads.
        actions: [T, N, |A|], float32.
        before: Simulator states (time = 0, qpos, qvel) before each step, [T, N, 1 + nq + nv].
        after: The same right after each step, before any reset.
        whole: Rows that the simulator carried through the step, [T, N]; the others blew up.
        goals: What the last reset had written into each row's model, [T, N, G]; G is 0 for most robots.
    """

    robot: Robot
    row_shifts: Sequence[tuple[Shift, ...]]
    threads: int
    actions: np.ndarray
    before: np.ndarray
    after: np.ndarray
    whole: np.ndarray
    goals: np.ndarray

    @property
    def rows(self) -> int:
        """N."""
        return self.actions.shape[1]

    @property
    def controls(self) -> np.ndarray:
        """What the motors get, [T, N, |A|], float64."""
        return np.asarray(self.robot.control(self.actions), dtype=np.float64)

    @property
    def chunk(self) -> int:
        """Rows that a thread takes at a time, as in the batched environment."""
        return rows_at_a_time(self.rows, self.threads)

    def models(self) -> list[mujoco.MjModel]:
        """Return the model of each row, as the batched environment has them."""
        env = self.environment()
        env.close()
        return list(env.models)

    def environment(self) -> OffDynVectorEnv:
        """Return the batched environment at the start of the recording."""
        row_shifts = [shifts or None for shifts in self.row_shifts]
        env = OffDynVectorEnv(self.robot, self.rows, row_shifts=row_shifts, num_threads=self.threads)
        env.reset(seed=0)
        return env

    def aims(self) -> list[list[int]]:
        """Return the rows whose goals are not those of the step before, for each step; none of most robots."""
        moved = np.full(self.whole.shape, bool(self.robot.goal))
        moved[1:] = (self.goals[1:] != self.goals[:-1]).any(axis=-1)
        return [np.flatnonzero(rows).tolist() for rows in moved]

    def aim(self, models: Sequence[mujoco.MjModel], number: int, rows: Sequence[int]) -> None:
        """Write the goals of a step into the models of some rows, which are their own."""
        for row in rows:
            write_goal(models[row], self.robot.goal, self.goals[number, row])

    def ends_at(self, states: np.ndarray) -> bool:
        """Tell whether (qpos, qvel), [N, nq + nv], is where the last step ends."""
        whole = self.whole[-1]
        return np.array_equal(states[whole], self.after[-1, whole, 1:])


def different_rows(robot: Robot, rows: int) -> list[tuple[Shift, ...]]:
    """A model of its own for every row: the robot's named dynamics of all kinds in turn, each at its own gravity."""
    named = list(dynamics_of(robot.name).values())
    return [(*named[row % len(named)], Gravity(0.75 + 0.5 * row / rows)) for row in range(rows)]


def record(robot: Robot, row_shifts: Sequence[tuple[Shift, ...]], actions: np.ndarray, threads: int) -> Recording:
    """Run the batched environment through actions, [T, N, |A|], and keep its states."""
    shape = (*actions.shape[:2], 1 + robot.nq + robot.nv)
    before, after, whole = np.zeros(shape), np.zeros(shape), np.ones(shape[:2], dtype=bool)
    goals = np.zeros((*actions.shape[:2], goal_size(robot.goal)))
    recording = Recording(robot, row_shifts, threads, actions, before, after, whole, goals)
    env = recording.environment()
    for step, action in enumerate(actions):
        before[step, :, 1:] = np.concatenate((env.qpos, env.qvel), axis=1)
        goals[step] = env.goal[:, : goals.shape[-1]]
        infos = env.step(action)[4]
        after[step, :, 1:] = np.concatenate((env.last_qpos, env.last_qvel), axis=1)
        whole[step] = ~infos.get("diverged", np.zeros(env.num_envs, dtype=bool))
    env.close()
    return recording


class Peer:
    """Something that does recorded control steps; it is given their numbers in order.

    Attributes:
        set_timers: Sets MuJoCo's step timers as this peer has them.
    """

    set_timers: Callable[[], object] = staticmethod(stop_step_timers)

    def step(self, number: int) -> None:
        """Do one control step of all rows."""
        raise NotImplementedError

    def agrees(self) -> bool:
        """Tell whether the last recorded step ended where it must, for peers that compute the same numbers."""
        return True

    def close(self) -> None:
        """Stop threads and processes."""


class OffDyn(Peer):
    """The batched environment itself."""

    def __init__(self, recording: Recording) -> None:
        self.recording, self.env = recording, recording.environment()

    def step(self, number: int) -> None:
        self.env.step(self.recording.actions[number])

    def agrees(self) -> bool:
        return self.recording.ends_at(np.concatenate((self.env.last_qpos, self.env.last_qvel), axis=1))

    def close(self) -> None:
        self.env.close()


class BareRollout(Peer):
    """Nothing but `mujoco.rollout`, from ready-made states and controls: what the physics costs."""

    def __init__(self, recording: Recording) -> None:
        self.recording, self.models, self.aims = recording, recording.models(), recording.aims()
        robot, threads = recording.robot, recording.threads
        self.datas = [mujoco.MjData(self.models[0]) for _ in range(threads)]
        self.pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
        self.trajectory = np.zeros((recording.rows, robot.frame_skip, recording.before.shape[-1]))
        self.controls = np.repeat(recording.controls[:, :, None], robot.frame_skip, axis=2)

    def step(self, number: int) -> None:
        self.recording.aim(self.models, number, self.aims[number])
        self.pool.rollout(
            self.models,
            self.datas,
            self.recording.before[number],
            self.controls[number],
            control_spec=mujoco.mjtState.mjSTATE_CTRL.value,
            skip_checks=True,
            nstep=self.recording.robot.frame_skip,
            state=self.trajectory,
            chunk_size=self.recording.chunk,
        )

    def agrees(self) -> bool:
        return self.recording.ends_at(self.trajectory[:, -1, 1:])

    def close(self) -> None:
        self.pool.close()


class ThreadPool(Peer):
    """One lasting `MjData` a row and `mj_step` from a pool of threads; a state is written where an episode starts."""

    def __init__(self, recording: Recording) -> None:
        self.recording, self.models, self.aims = recording, recording.models(), recording.aims()
        rows, chunk = recording.rows, recording.chunk
        self.datas = [mujoco.MjData(model) for model in self.models]
        self.fields = [(data.qpos, data.qvel, data.ctrl, data.qacc_warmstart) for data in self.datas]
        self.controls = recording.controls
        starts = np.ones(recording.whole.shape, dtype=bool)
        starts[1:] = (recording.before[1:] != recording.after[:-1]).any(axis=-1) | ~recording.whole[:-1]
        self.starts = starts.tolist()
        self.executor = ThreadPoolExecutor(recording.threads)
        self.chunks = [range(first, min(rows, first + chunk)) for first in range(0, rows, chunk)]

    def step(self, number: int) -> None:
        self.recording.aim(self.models, number, self.aims[number])
        list(self.executor.map(lambda rows: self._advance(number, rows), self.chunks))

    def _advance(self, number: int, rows: range) -> None:
        recording = self.recording
        nq, frame_skip = recording.robot.nq, recording.robot.frame_skip
        for row in rows:
            qpos, qvel, control, warm_start = self.fields[row]
            if self.starts[number][row]:
                state = recording.before[number, row, 1:]
                qpos[:], qvel[:] = state[:nq], state[nq:]
            control[:] = self.controls[number, row]
            warm_start[:] = 0.0  # As in the environments, whose results depend on nothing but the state.
            mujoco.mj_step(self.models[row], self.datas[row], nstep=frame_skip)

    def agrees(self) -> bool:
        return self.recording.ends_at(np.stack([np.concatenate(fields[:2]) for fields in self.fields]))

    def close(self) -> None:
        self.executor.shutdown()


class GymnasiumVector(Peer):
    """Gymnasium's own vector environment of its own robot."""

    set_timers = staticmethod(start_step_timers)

    def __init__(self, recording: Recording, mode: str) -> None:
        if mode == "async" and recording.rows > ASYNC_ROWS:
            raise Unavailable(f"starts a process per row; measured up to {ASYNC_ROWS} rows")
        self.recording, robot = recording, recording.robot
        name = f"{robot.title}-v5"
        if name not in gymnasium.registry:
            raise Unavailable(f"Gymnasium has no {name}")
        self.set_timers()  # Worker processes keep what they start with.
        self.env = gymnasium.make_vec(
            name,
            recording.rows,
            mode,
            disable_env_checker=True,
            **getattr(robot, "stock_kwargs", {}),
        )
        self.env.reset(seed=0)

    def step(self, number: int) -> None:
        self.env.step(self.recording.actions[number])

    def close(self) -> None:
        self.env.close()


class EnvPool(Peer):
    """EnvPool's own robot."""

    def __init__(self, recording: Recording) -> None:
        try:
            import envpool
        except ImportError:
            raise Unavailable("not installed; `pip install envpool` adds it") from None
        name = f"{recording.robot.title}-v5"
        if name not in envpool.list_all_envs():
            raise Unavailable(f"EnvPool has no {name}")
        self.env = envpool.make(
            name,
            env_type="gymnasium",
            num_envs=recording.rows,
            num_threads=recording.threads,
            seed=0,
            post_constraint=False,
            **_ENVPOOL_KWARGS.get(recording.robot.name, {}),
        )
        self.env.reset()
        self.actions = recording.actions.astype(np.float64)

    def step(self, number: int) -> None:
        self.env.step(self.actions[number])

    def close(self) -> None:
        self.env.close()
