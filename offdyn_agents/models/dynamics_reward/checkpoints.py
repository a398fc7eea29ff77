"""The cheaper deviation: discriminators against frozen states of the generator's pre-training, without PPO.

Each discriminator has one opponent: the generator as it was after so many steps of likelihood, from none to all of
them, rolled out for 1 to 20 steps. There is no game: nothing makes a generator better at what discriminators miss.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.networks import Params, mlp
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.termination import Termination, never
from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward, discriminator_loss, discriminator_network
from offdyn_agents.models.dynamics_reward.generator import Settle, as_drawn
from offdyn_agents.models.dynamics_reward.learned import Learned
from offdyn_agents.models.dynamics_reward.models import Models, parts_state, restore_parts
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings

__all__ = ["FrozenOpponents"]

LONGEST = 20
"""Steps of the longest rollouts."""
BLOCK = 10
"""Steps of the discriminators between two rounds of rollouts."""


class FrozenOpponents:
    """Discriminators, the generators that they are up against, and where their training stands.

    Args:
        settings: How they are trained.
        layout: Layout of packed rows.
        rows: Packed real rows [N, W] to learn from.
        seed: Decides everything that is drawn.
        terminated: Says which states end an episode.
        settle: Makes drawn actions such as real ones are, for example where a number of them is 0 or 1.
    """

    def __init__(
        self,
        settings: DynamicsRewardSettings,
        layout: Layout,
        rows: Tensor,
        seed: int = 0,
        terminated: Termination = never,
        settle: Settle = as_drawn,
    ) -> None:
        self.settings, self.count = settings, settings.kept
        self.random = torch.Generator().manual_seed(stream(seed, "dynamics-reward"))
        self.models = Models(settings, layout, rows, self.random, terminated, settle)
        network = discriminator_network(layout.observation_dim, layout.action_dim, self.count)
        judge = partial(_together, entropy=settings.entropy)
        self.discriminators = Learned(self.models.initial(network), judge, settings.discriminator_rate)
        self.opponents = [self._copy()]
        self.verdicts = torch.zeros(2, self.count, device=rows.device)

    @property
    def length(self) -> int:
        """Number of calls of `advance` in all."""
        return self.count - 1 + -(-self.settings.opponent_steps // BLOCK)

    @property
    def done(self) -> int:
        """Number of calls of `advance` made."""
        return len(self.opponents) - 1 + -(-self.discriminators.steps // BLOCK)

    def advance(self) -> dict[str, float]:
        """Pre-train up to the next opponent, or let every discriminator take some steps; return what was measured."""
        if len(self.opponents) < self.count:
            # Steps grow geometrically: early ones change the generator most.
            share = len(self.opponents) / (self.count - 1)
            wanted = round((self.settings.pretraining + 1) ** share) - 1
            self.models.pretrain(wanted - self.models.steps)
            self.opponents.append(self._copy())
            return {}
        fakes = [self._fakes(place, params) for place, params in enumerate(self.opponents)]
        for _ in range(min(BLOCK, self.settings.opponent_steps - self.discriminators.steps)):
            self.discriminators.step(*self._opposed(fakes))
        with torch.no_grad():
            self.verdicts = torch.stack(
                [mlp(self.discriminators.params, rows).mean((-2, -1)) for rows in self._opposed(fakes)]
            )
        expert, learner = self.verdicts.mean(1).tolist()
        return {"expert": expert, "learner": learner}

    def result(self) -> DynamicsReward:
        """Return all discriminators, also useless ones."""
        return DynamicsReward(self.discriminators.params, self.verdicts[0], self.verdicts[1], self.models.scaling)

    def _copy(self) -> Params:
        return [tensor.clone() for tensor in self.models.generator]

    def _fakes(self, place: int, opponent: Params) -> Tensor:
        """Return normalised generated transitions of one opponent, [M, 2 |S| + |A|]."""
        # 7 and 20 have no common divisor, so that opponents of every quality have short and long rollouts.
        horizon = 1 + 7 * place % LONGEST
        count = -(-self.settings.batch_size // horizon)
        played = self.models.play(opponent).roll_out(count, horizon, self.random)
        return self.models.scaling.inputs(played.observations, played.actions, played.following).flatten(0, 1)

    def _opposed(self, fakes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return for every discriminator a batch of real transitions and one of its opponent's."""
        size, real, draw = self.settings.batch_size, self.models.real, self.models.draw
        mine = torch.stack([rows[draw(len(rows), size)] for rows in fakes])
        return real[draw(len(real), self.count * size)].unflatten(0, (self.count, size)), mine

    def compile(self, threads: int) -> None:
        """Compile the steps of all networks."""
        self.models.compile(threads)
        rows = self.models.real[:1].expand(self.count, self.settings.batch_size, -1).clone()
        self.discriminators.compile((rows, rows), threads)

    @property
    def _parts(self) -> dict[str, Learned]:
        models = self.models
        return {"fitting": models.fitting, "cloning": models.cloning, "discriminators": self.discriminators}

    def state(self) -> dict[str, Tensor]:
        """Return a copy of everything that changes, by name."""
        own = {"verdicts": self.verdicts, "random": self.random.get_state()}
        frozen = {f"opponent.{i}": torch.stack(t) for i, t in enumerate(self._columns())}
        return {name: tensor.clone() for name, tensor in (own | parts_state(self._parts) | frozen).items()}

    def _columns(self) -> list[tuple[Tensor, ...]]:
        return list(zip(*self.opponents, strict=True))

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned.

        Raises:
            KeyError: Something is missing.
        """
        device = self.models.device
        columns = [state[f"opponent.{i}"].to(device) for i in range(len(self.models.generator))]
        self.opponents = [[column[place] for column in columns] for place in range(len(columns[0]))]
        restore_parts(self._parts, state)
        self.verdicts = state["verdicts"].to(device)
        self.random.set_state(state["random"].cpu())


def _together(params: Params, real: Tensor, generated: Tensor, *, entropy: float) -> Tensor:
    """Return the losses of all discriminators added: they share no parameters."""
    return discriminator_loss(params, real, generated, entropy).sum()
