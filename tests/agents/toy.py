"""A small agent that uses all that a model-based one can: stages, rollouts, noise, phases, its own rates."""

from dataclasses import dataclass

import torch

from offdyn_agents.engine.agent import AgentSettings
from offdyn_agents.engine.networks import Constant, detached, policy, twin
from offdyn_agents.engine.rollouts import ModelBased
from offdyn_agents.engine.rows import RowColumns, RowCounts
from offdyn_agents.engine.settings import build, setting
from offdyn_agents.engine.stage_cache import cached
from offdyn_agents.engine.stages import StageResults
from tests.agents.synthetic import A, S


@dataclass(frozen=True)
class ToySettings(AgentSettings):
    every: int = setting(20, low=1)
    rows: int = setting(50, low=1)
    capacity: int = setting(120, low=1)
    fail_seed: int = setting(-1)
    fail_at: int = setting(0)


@dataclass(frozen=True)
class ModelSettings:
    ridge: float = setting(1e-3)


class Toy(ModelBased):
    name = "toy"
    settings_class = ToySettings
    metrics = ("critic_loss", "actor_loss", "scale")
    averaged = ("critic",)
    fitted: list[int] = []  # noqa: RUF012

    @property
    def phases(self):
        return ("critic", "critic", "both")

    @property
    def noise_width(self):
        return self.action_dim

    @property
    def polyak(self):
        return 0.1

    @property
    def refill_every(self):
        return self.settings.every

    @property
    def capacity(self):
        return self.settings.capacity

    def networks(self):
        s, a = self.observation_dim, self.action_dim
        return {"critic": self.hidden(s + a, 1, copies=2), "actor": self.hidden(s, a), "scale": Constant(-1.0)}

    def trained(self, phase):
        return ("critic",) if phase == "critic" else ("critic", "actor", "scale")

    def averaging(self, phase):
        return () if phase == "critic" else ("critic",)

    @property
    def rates(self):
        return {"scale": 1e-2, "actor": 1e-3, "critic": 1e-3}

    def rows(self):
        return RowCounts(12, 12, 8)

    def stages(self, context):
        """A linear model of s' for each seed, and a reward for being there."""

        def fit(seeds, keep):
            self.fitted.extend(seeds)
            s, a, following, *_ = context.layout.split(context.target)
            x = torch.cat([s, a], -1)
            solved = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1], device=x.device), x.T @ following)
            for seed in seeds:
                keep(seed, {"weight": solved * (1.0 + 0.01 * seed)})

        models = cached("toy", ModelSettings(), context.target, context.seeds, context.cache, fit)
        return StageResults(
            results=[model["weight"].to(context.target.device) for model in models],
            frozen={"model": [torch.stack([model["weight"] for model in models])]},
            columns=[RowColumns(context.source.new_full((len(context.source),), 0.1 * seed)) for seed in context.seeds],
            report={"models": len(models)},
        )

    def loss(self, params, batch):
        assert batch.fake_rows == 8
        noisy = (batch.actions + 0.1 * batch.noise).clamp(-1.0, 1.0)
        with torch.no_grad():
            following = torch.cat([batch.observations, noisy], -1) @ params["model"][0]
            best = twin(params["critic_target"], following, policy(params["actor"], following)).amin(-2)
            y = batch.rewards + 0.9 * batch.continues * best
        critic_loss = (twin(params["critic"], batch.observations, noisy) - y.unsqueeze(-2)).square().mean((-2, -1))
        if batch.phase == "critic":
            return critic_loss, {"critic_loss": critic_loss.detach()}
        actions = policy(params["actor"], batch.observations)
        q = twin(detached(params["critic"]), batch.observations, actions).amin(-2)
        scale = params["scale"][0]
        actor_loss = -q.mean(-1) + (scale.exp() * (actions.detach().square().mean((-2, -1)) - 0.2))
        told = {"critic_loss": critic_loss, "actor_loss": actor_loss, "scale": scale}
        return critic_loss + actor_loss, {name: value.detach() for name, value in told.items()}

    def refill(self, run, generator):
        source = torch.cat([run.source, run.target])
        chosen = source[torch.randint(len(source), (self.settings.rows + run.updates // 20,), generator=generator)]
        s, *_ = run.layout.split(chosen)
        actions = policy(run.params["actor"], s)
        following = torch.cat([s, actions], -1) @ run.stages
        assert torch.equal(run.stages, run.params["model"][0])
        following = following + 0.01 * torch.randn(following.shape, generator=generator).to(s.device)
        run.report["mean"] = float(following.mean())
        rewards = -following.square().mean(-1)
        if run.seed == self.settings.fail_seed and run.updates >= self.settings.fail_at:
            rewards = rewards * torch.inf
        return run.layout.join(s, actions, following, rewards, run.terminated(following))


def make_toy(**settings):
    return Toy(build(ToySettings, {"width": 16, "batch_size": 32} | settings), S, A)
