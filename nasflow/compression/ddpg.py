"""A reinforcement-learning agent that walks through a network layer by layer: the search of AMC and of HAQ.

In an episode the agent takes one decision for each layer, an action between 0 and 1, seeing a few numbers about the
layer and what was decided before. The network that comes of it is evaluated, and every decision of the episode is
rewarded with the result. The agent is DDPG (Lillicrap et al., 2016, arXiv:1509.02971): an actor that says what to do,
and a critic that learns what that is worth and tells the actor which way to change.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor, nn
from torch.nn import functional

from nasflow.space import Point, Space
from nasflow.study import Proposal, Trial
from nasflow.training import seeded

REDRAWS = 50
WIDEST = 2.0  # noise with which every action is about as likely
LEAST = 1e-3  # of the noise, below which drawing from it only costs precision


class Walk(Protocol):
    """An episode under way."""

    def features(self) -> Sequence[float] | None:
        """What is known about the next decision, as many numbers in [0, 1] every time; None when all are taken."""

    def take(self, action: float) -> float:
        """Take the next decision; the action in [0, 1] that was really taken, where limits left no other."""

    def point(self) -> Point:
        """What came of it, when all decisions are taken."""


Reward = Callable[[Trial], float | None]
"""What a finished trial is worth, higher is better; None where it tells nothing."""


@dataclass(frozen=True)
class Episode:
    """The decisions of one walk: what was seen (features) and done (an action) at each."""

    seen: tuple[tuple[float, ...], ...]
    actions: tuple[float, ...]


class Agent:
    """Actor and critic of two hidden layers, each with a slow copy that its targets are computed with.

    The settings are those of AMC (He et al., 2018, arXiv:1802.03494) and HAQ (Wang et al., 2019, arXiv:1811.08886):
    Adam with one rate for each, copies that follow by `tau` per step, no discount, rewards less their moving average,
    of which the mean of each batch makes up the share `smoothing`. It remembers the last `replay` decisions.
    """

    def __init__(
        self,
        features: int,
        seed: int,
        *,
        hidden: int = 300,
        actor_rate: float = 1e-4,
        critic_rate: float = 1e-3,
        tau: float = 0.01,
        discount: float = 1.0,
        batch: int = 64,
        replay: int = 2000,
        smoothing: float = 0.5,
    ) -> None:
        with seeded(seed):
            self._actor, self._critic = _Actor(features, hidden), _Critic(features, hidden)
        self._slow_actor, self._slow_critic = copy.deepcopy(self._actor), copy.deepcopy(self._critic)
        self._actor_step = torch.optim.Adam(self._actor.parameters(), actor_rate, fused=True)
        self._critic_step = torch.optim.Adam(self._critic.parameters(), critic_rate, fused=True)
        self._tau, self._discount, self._batch, self._smoothing = tau, discount, batch, smoothing
        # state, following state, action, reward, whether there is a following one
        self._memory = np.zeros((replay, 2 * features + 3), np.float32)
        self._features, self._remembered = features, 0
        self._baseline: float | None = None

    def act(self, seen: Sequence[float]) -> float:
        """The action in (0, 1) that it would take, without noise."""
        with torch.no_grad():
            return float(self._actor(torch.tensor([seen], dtype=torch.float32)))

    def remember(self, episode: Episode, reward: float) -> None:
        """Each decision of an episode, with the reward of the whole."""
        nothing = (0.0,) * self._features
        for seen, following, action in itertools.zip_longest(episode.seen, episode.seen[1:], episode.actions):
            row = [*seen, *(following or nothing), action, reward, float(following is not None)]
            self._memory[self._remembered % len(self._memory)] = row
            self._remembered += 1

    def learn(self, rng: np.random.Generator) -> None:
        """One step of critic and actor, on a batch drawn from what is remembered."""
        known = min(self._remembered, len(self._memory))
        drawn = rng.choice(known, size=min(self._batch, known), replace=False)
        rows = torch.from_numpy(self._memory[drawn])
        seen, following = rows[:, : self._features], rows[:, self._features : 2 * self._features]
        action, reward, goes_on = (rows[:, [column]] for column in (-3, -2, -1))
        mean = float(reward.mean())
        self._baseline = mean if self._baseline is None else self._baseline
        self._baseline += self._smoothing * (mean - self._baseline)
        with torch.no_grad():
            later = self._slow_critic(following, self._slow_actor(following))
            target = reward - self._baseline + self._discount * goes_on * later
        self._critic_step.zero_grad()
        functional.mse_loss(self._critic(seen, action), target).backward()  # type: ignore[no-untyped-call]
        self._critic_step.step()
        self._actor_step.zero_grad()
        (-self._critic(seen, self._actor(seen)).mean()).backward()
        self._actor_step.step()
        with torch.no_grad():
            for slow, fast in ((self._slow_actor, self._actor), (self._slow_critic, self._critic)):
                torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), self._tau)


class Episodes:
    """A strategy whose every proposal is an episode, told of which the agent learns one step for each decision.

    Actions are drawn around the agent's, from a normal distribution cut off at 0 and 1; its deviation is `noise`
    for the first `warm_up` episodes, in which nothing is learned, and `decay` times as much in each after that.
    An episode that ends in a point that was asked for before is walked again, with more and more noise, where the
    papers evaluate it again; when nothing new comes of REDRAWS walks there is nothing more to ask. `begin` starts a
    walk of always the same number of decisions.
    """

    def __init__(
        self,
        space: Space,
        begin: Callable[[], Walk],
        reward: Reward,
        make: Callable[[int], Agent],
        seed: int,
        *,
        warm_up: int = 100,
        noise: float = 0.5,
        decay: float = 0.95,
    ) -> None:
        self._space, self._begin, self._reward, self._seed = space, begin, reward, seed
        self._warm_up, self._noise, self._decay = warm_up, noise, decay
        self._agent = make(len(begin().features() or ()))
        self._asked, self._told = 0, 0
        self._seen: set[str] = set()
        self._pending: list[tuple[str, Episode]] = []

    def ask(self, count: int) -> list[Proposal]:
        return [proposal for _ in range(count) if (proposal := self._next()) is not None]

    def tell(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            key = self._space.key(trial.point)
            self._seen.add(key)
            mine = next((entry for entry in self._pending if entry[0] == key), None)
            if mine is None:
                continue  # somebody else's
            self._pending.remove(mine)
            reward = self._reward(trial)
            if reward is not None:
                self._learn(mine[1], reward)

    def _learn(self, episode: Episode, reward: float) -> None:
        self._agent.remember(episode, reward)
        self._told += 1
        if self._told <= self._warm_up:
            return
        rng = np.random.default_rng((self._seed, self._told, 1))  # not what episodes are drawn from
        for _ in episode.actions:
            self._agent.learn(rng)

    def _next(self) -> Proposal | None:
        rng = np.random.default_rng((self._seed, self._asked))
        noises = self._noises()
        self._asked += 1
        for noise in noises:
            episode, point = self._walk(noise, rng)
            key = self._space.key(point)
            if key not in self._seen:
                self._seen.add(key)
                self._pending.append((key, episode))
                return Proposal(point)
        return None

    def _noises(self) -> list[float]:
        """That of the next episode, then more and more of it."""
        usual = self._noise * self._decay ** max(0, self._asked + 1 - self._warm_up)
        return [max(usual, WIDEST * (again / REDRAWS) ** 2) for again in range(REDRAWS)]

    def _walk(self, noise: float, rng: np.random.Generator) -> tuple[Episode, Point]:
        walk = self._begin()
        seen: list[tuple[float, ...]] = []
        actions: list[float] = []
        while (features := walk.features()) is not None:
            seen.append(tuple(features))
            actions.append(walk.take(around(self._agent.act(features), noise, rng)))
        return Episode(tuple(seen), tuple(actions)), walk.point()


def around(mean: float, deviation: float, rng: np.random.Generator) -> float:
    """A number drawn from the normal distribution around `mean` that is cut off at 0 and 1."""
    if deviation < LEAST:
        return mean
    low, high = ndtr((np.array([0.0, 1.0]) - mean) / deviation)
    return float(np.clip(mean + deviation * ndtri(rng.uniform(low, high)), 0.0, 1.0))


def scaled(columns: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Array (decisions, features) of the static features of all decisions, each scaled by its least and its greatest
    value to [0, 1]; 0 for one that never differs."""
    values = np.array(columns, dtype=np.float64)
    low, spread = values.min(axis=0), np.ptp(values, axis=0)
    return np.where(spread > 0, (values - low) / np.where(spread > 0, spread, 1.0), 0.0)


class _Actor(nn.Module):
    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, seen: Tensor) -> Tensor:
        action: Tensor = self.last(self.second(self.first(seen).relu()).relu()).sigmoid()
        return action


class _Critic(nn.Module):
    """What an action is worth; state and action have projections of their own, which are added."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.first, self.action = nn.Linear(features, hidden), nn.Linear(1, hidden)
        self.second, self.last = nn.Linear(hidden, hidden), nn.Linear(hidden, 1)

    def forward(self, seen: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.last(self.second((self.first(seen) + self.action(action)).relu()).relu())
        return value
