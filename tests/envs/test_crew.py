"""Threads that share the physics: equal numbers for any count of them, and no thread or job left behind."""

import gc
import multiprocessing
import os
import threading
import time

import mujoco
import numpy as np
import pytest

from offdyn_envs.batching.crew import Crew, rows_at_a_time
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model
from offdyn_envs.robots import WALKERS
from offdyn_envs.vector import OffDynVectorEnv

HOPPER = WALKERS["hopper"]
MODELS = [compile_model(HOPPER, ())]


def batch(rows, seed=0):
    """Return states and controls of rows, and where their trajectories go."""
    rng = np.random.default_rng(seed)
    state = np.concatenate([np.zeros((rows, 1)), rng.uniform(-0.1, 0.1, (rows, 12))], axis=1)
    state[:, 2] += 1.25
    control = np.repeat(rng.uniform(-1, 1, (rows, 1, 3)), HOPPER.frame_skip, axis=1)
    return state, control, np.full((rows, HOPPER.frame_skip, 13), np.nan)


def simulated(crew, rows, seed=0):
    state, control, trajectory = batch(rows, seed)
    crew.simulate(MODELS * rows, state, control, trajectory)
    return trajectory


def helpers():
    return [thread for thread in threading.enumerate() if thread.name == "offdyn-physics"]


def wait_for(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("rows", (1, 2, 7, 64))
def test_every_row_is_simulated_alike_by_any_number_of_threads(rows):
    expected = np.empty_like(batch(rows)[2])
    state, control, _ = batch(rows)
    data = mujoco.MjData(MODELS[0])
    for row in range(rows):
        mujoco.mj_setState(MODELS[0], data, state[row], mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
        data.qacc_warmstart[:] = 0.0
        data.ctrl[:] = control[row, 0]
        for step in range(HOPPER.frame_skip):
            mujoco.mj_step(MODELS[0], data)
            mujoco.mj_getState(MODELS[0], data, expected[row, step], mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
    for threads in (1, 2, 3, 5):
        crew = Crew(MODELS[0], rows, threads)
        for _ in range(3):
            np.testing.assert_array_equal(simulated(crew, rows), expected)
        crew.close()


@pytest.mark.parametrize("threads", range(1, 33))
def test_helpings_are_shared_out(threads):
    for rows in (threads, threads + 1, 64, 256, 1024):
        size = rows_at_a_time(rows, threads)
        assert 1 <= size <= -(-rows // threads) or size == rows // (8 * threads)
        assert -(-rows // size) >= min(threads, rows) / 2


def test_helpers_leave_when_closed_or_forgotten():
    before = set(helpers())
    env = OffDynVectorEnv("hopper", 4, num_threads=3)
    started = set(helpers()) - before
    assert len(started) == 2
    env.close()
    assert wait_for(lambda: started.isdisjoint(helpers()))
    with pytest.raises(OffDynError, match="closed"):
        env.step(np.zeros((4, 3), np.float32))
    before = set(helpers())
    forgotten = OffDynVectorEnv("hopper", 4, num_threads=3)
    forgotten.reset(seed=0)
    forgotten.step(np.zeros((4, 3), np.float32))
    started = set(helpers()) - before
    assert len(started) == 2
    del forgotten
    gc.collect()
    assert wait_for(lambda: started.isdisjoint(helpers()))


class Interrupted:
    """Simulates nothing: somebody pressed Ctrl-C."""

    def rollout(self, *args, **kwargs):
        raise KeyboardInterrupt


def test_an_interrupted_step_leaves_nothing_behind():
    crew = Crew(MODELS[0], 40, 2)
    expected = simulated(crew, 40, seed=1)
    own = crew._own
    crew._own = own[0], Interrupted()
    with pytest.raises(KeyboardInterrupt):
        simulated(crew, 40)
    crew._own = own
    np.testing.assert_array_equal(simulated(crew, 40, seed=1), expected)
    crew.close()


def test_an_error_of_a_helper_reaches_the_caller():
    crew = Crew(MODELS[0], 40, 3)
    _, control, trajectory = batch(40)
    with pytest.raises(TypeError, match="not subscriptable"):
        crew.simulate(MODELS * 40, None, control, trajectory)
    assert np.isfinite(simulated(crew, 40)).all()
    crew.close()


def test_rows_that_blow_up_are_told_apart_in_every_thread():
    env = OffDynVectorEnv("hopper", 40, num_threads=3, autoreset_mode="disabled")
    env.reset(seed=0)
    qpos, qvel = env.qpos, env.qvel
    wild = np.arange(40) % 3 == 0
    qvel[wild, 3] = 1e12
    env.set_state(qpos, qvel)
    _, _, terminations, _, infos = env.step(np.zeros((40, 3), np.float32))
    np.testing.assert_array_equal(infos["diverged"], wild)
    assert terminations[wild].all() and not terminations[~wild].any()
    np.testing.assert_array_equal(env.qpos[wild], qpos[wild])
    env.close()


def stepped(env, queue):
    queue.put(np.stack([env.step(np.full(env.action_space.shape, 0.1, np.float32))[0] for _ in range(30)]))
    queue.put(len(helpers()))


def in_a_fork(env, work=stepped):
    """Run something in a forked process; return what it put into its queue, twice."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=work, args=(env, queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0, "the child hangs" if child.is_alive() else child.exitcode
    return queue.get(), queue.get()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("threads", (1, 2, 3))
def test_a_fork_steps_with_helpers_of_its_own(threads):
    assert wait_for(lambda: not helpers()), "those of earlier tests go home"
    env = OffDynVectorEnv("hopper", 8, num_threads=threads)
    env.reset(seed=0)
    env.step(np.zeros((8, 3), np.float32))
    running = len(helpers())
    for _ in range(2):
        observations, started = in_a_fork(env)
        assert started == threads - 1
    assert len(helpers()) == running, "the parent keeps its own"
    expected = np.stack([env.step(np.full((8, 3), 0.1, np.float32))[0] for _ in range(30)])
    np.testing.assert_array_equal(observations, expected)
    env.close()
    assert wait_for(lambda: len(helpers()) == running - threads + 1)


def forked_again(env, queue):
    for answer in in_a_fork(env):
        queue.put(answer)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_of_a_fork_steps_and_a_closed_environment_stays_closed():
    env, closed = (OffDynVectorEnv("hopper", 8, num_threads=2) for _ in range(2))
    env.reset(seed=0)
    closed.reset(seed=0)
    closed.close()
    assert in_a_fork(env, forked_again)[1] == 1

    def refused(_, queue):
        with pytest.raises(OffDynError, match="closed"):
            closed.step(np.zeros((8, 3), np.float32))
        queue.put(0)
        queue.put(0)

    in_a_fork(env, refused)
    env.close()


class Interrupting:
    """A queue whose `put` is interrupted after the job lies in it, or before."""

    def __init__(self, queue, after):
        self.queue, self.after = queue, after

    def put(self, job):
        if self.after:
            self.queue.put(job)
        raise KeyboardInterrupt

    def get(self):
        return self.queue.get()


@pytest.mark.parametrize("after", (True, False))
def test_an_interruption_while_jobs_are_handed_out_leaves_the_crew_whole(after):
    """Whether a helper has the job or not: nobody waits for it, and the next step is as it should be."""
    expected = simulated(Crew(MODELS[0], 16, 1), 16)
    crew = Crew(MODELS[0], 16, 3)
    jobs = crew._jobs
    for _ in range(5):
        crew._jobs = Interrupting(jobs, after)
        with pytest.raises(KeyboardInterrupt):
            simulated(crew, 16)
        crew._jobs = jobs
        np.testing.assert_array_equal(simulated(crew, 16), expected)
    crew.close()
