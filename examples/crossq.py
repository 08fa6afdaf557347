"""CrossQ in one file: off-policy learning without target networks, thanks to batch renorm in the critic.

    python examples/crossq.py

A mass in a box is thrown somewhere and must learn to come to rest in the middle. The critic sees (s, a) and
(s', a') in *one* batch, so that its norms see both, and no slowly following copy of it is needed. To stay short,
this sketch explores by noise on a deterministic policy, where CrossQ itself builds on SAC.

Source: Bhatt et al. (2024), "CrossQ: Batch Normalization in Deep Reinforcement Learning for Greater Sample
Efficiency and Simplicity", arXiv:1902.05605.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normsmith.layers import BatchRenorm1d

ENVIRONMENTS, HORIZON, UPDATES, BATCH, WIDTH = 16, 50, 1000, 128, 64
DISCOUNT, NOISE = 0.97, 0.3
CRITIC_ALONE = 300  # updates before the policy follows: by then the running statistics have caught up


class PointMasses:
    """Masses in the box [−1, 1]², pushed by forces in [−1, 1]²: reward 0 at rest in the middle, negative elsewhere."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.place = 2 * torch.rand(count, 2, generator=generator) - 1
        self.speed = torch.randn(count, 2, generator=generator)

    def observe(self) -> Tensor:
        """Shape (count, 4)."""
        return torch.cat([self.place, self.speed], 1)

    def step(self, force: Tensor) -> Tensor:
        """Apply forces of shape (count, 2) for 0.1 s; the rewards, of shape (count,)."""
        self.speed = self.speed + 0.2 * force
        to = self.place + 0.1 * self.speed
        self.place = to.clamp(-1, 1)
        self.speed = torch.where(to == self.place, self.speed, 0.0)  # a wall stops it
        return -(self.place.square().sum(1) + 0.1 * self.speed.square().sum(1))


def critic() -> nn.Sequential:
    """Q(s, a) with CrossQ's settings of renorm; its schedule is scaled to this short run."""

    def norm(width: int) -> BatchRenorm1d:
        return BatchRenorm1d(width, momentum=0.01, eps=1e-3, total_steps=UPDATES)

    return nn.Sequential(
        norm(6), nn.Linear(6, WIDTH), nn.ReLU(),
        norm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
        norm(WIDTH), nn.Linear(WIDTH, 1),
    )  # fmt: skip


def actor() -> nn.Sequential:
    """A deterministic policy, forces in [−1, 1]."""
    return nn.Sequential(
        nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2), nn.Tanh()
    )


def critic_loss(critics: list[nn.Sequential], policy: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """CrossQ's step: now and next go through the critics together; the next half is the target."""
    state, action, reward, after = batch
    with torch.no_grad():
        following = policy(after)
    both = torch.cat([torch.cat([state, action], 1), torch.cat([after, following], 1)])
    now, then = zip(*(q(both).chunk(2) for q in critics), strict=True)
    target = reward + DISCOUNT * torch.minimum(*then).detach()
    return sum((F.mse_loss(value, target) for value in now), torch.zeros(()))


def learn(seed: int = 0) -> nn.Module:
    """The policy after all updates, one for every step of the 16 masses."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    critics, policy = [critic(), critic()], actor()
    values = torch.optim.Adam([p for q in critics for p in q.parameters()], lr=1e-3, betas=(0.5, 0.999))
    choices = torch.optim.Adam(policy.parameters(), lr=1e-3, betas=(0.5, 0.999))
    memory = [torch.empty(UPDATES * ENVIRONMENTS, width) for width in (4, 2, 1, 4)]
    for update in range(UPDATES):
        if update % HORIZON == 0:
            world = PointMasses(ENVIRONMENTS, generator)
        state = world.observe()
        with torch.no_grad():
            action = policy(state) + NOISE * torch.randn(ENVIRONMENTS, 2, generator=generator)
        if update < HORIZON:  # the first episode at random
            action = 2 * torch.rand(ENVIRONMENTS, 2, generator=generator) - 1
        action = action.clamp(-1, 1)
        reward = world.step(action)[:, None]
        rows = slice(update * ENVIRONMENTS, (update + 1) * ENVIRONMENTS)
        for column, value in zip(memory, (state, action, reward, world.observe()), strict=True):
            column[rows] = value
        chosen = torch.randint(0, rows.stop, (BATCH,), generator=generator)

        values.zero_grad()
        critic_loss(critics, policy, tuple(column[chosen] for column in memory)).backward()
        values.step()
        if update < CRITIC_ALONE:
            continue

        for q in critics:  # the policy is judged by the running statistics, and must not move them
            q.eval()
        choices.zero_grad()
        at = memory[0][chosen]
        (-critics[0](torch.cat([at, policy(at)], 1)).mean()).backward()
        choices.step()
        for q in critics:
            q.train()
    return policy


@torch.no_grad()
def evaluate(policy: nn.Module, episodes: int = 64) -> float:
    """Mean return of whole episodes without noise, always from the same starts."""
    world = PointMasses(episodes, torch.Generator().manual_seed(1234))
    total = torch.zeros(episodes)
    for _ in range(HORIZON):
        total += world.step(policy(world.observe()))
    return total.mean().item()


class Random(nn.Module):
    """Forces at random: what to beat."""

    def forward(self, state: Tensor) -> Tensor:
        """Uniform in [−1, 1]."""
        return 2 * torch.rand(len(state), 2) - 1


def main() -> None:
    """Learn, and compare the returns."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"return of random forces: {evaluate(Random()):.1f}")
    policy = learn()
    print(f"return after {UPDATES} updates: {evaluate(copy.deepcopy(policy).eval()):.1f}")


if __name__ == "__main__":
    main()
