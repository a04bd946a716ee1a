"""The attentive probe: one learned query attends over frozen patch tokens, LayerNorm, linear → class scores.

    tokens of each sense (n, N, D) → pooled (n, D) each, side by side → (n, classes)

Trained on tokens held in memory as float16, with AdamW and a cosine over 30 epochs, of few clips over 1,000 steps:
nothing is chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

EPOCHS, FEWEST_STEPS, BATCH, LR, WEIGHT_DECAY = 30, 1000, 64, 1e-3, 0.05


class AttentiveProbe(nn.Module):
    """One pooling query per sense."""

    def __init__(self, senses: int, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(senses, 1, width))
        self.pools = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(senses))
        self.norm = nn.LayerNorm(senses * width)
        self.head = nn.Linear(senses * width, classes)

    def forward(self, tokens: list[Float[Tensor, "B N D"]]) -> Float[Tensor, "B classes"]:
        """Scores before softmax or sigmoid."""
        pairs = zip(self.pools, self.queries, tokens, strict=True)
        pooled = [pool(query.expand(len(x), -1, -1), x, x, need_weights=False)[0][:, 0] for pool, query, x in pairs]
        return self.head(self.norm(torch.cat(pooled, dim=1)))


def attentive_scores(
    train: list[Float[Tensor, "n N D"]],
    targets: Bool[Tensor, "n classes"],
    test: list[Float[Tensor, "m N D"]],
    *,
    heads: int,
    one_label: bool,
    seed: int = 0,
) -> Float[Tensor, "m classes"]:
    """Train on one set of clips, score another; the seed decides initialisation and order."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        probe = AttentiveProbe(len(train), train[0].shape[2], heads, targets.shape[1])
        per_epoch = -(-len(targets) // BATCH)
        epochs = max(EPOCHS, -(-FEWEST_STEPS // per_epoch))
        optimizer = torch.optim.AdamW(probe.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * per_epoch)
        for _ in range(epochs):
            for rows in torch.randperm(len(targets)).split(BATCH):
                scores, goal = probe([x[rows].float() for x in train]), targets[rows]
                if one_label:
                    loss = F.cross_entropy(scores, goal.int().argmax(1))
                else:
                    loss = F.binary_cross_entropy_with_logits(scores, goal.float())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    with torch.no_grad():
        parts = torch.arange(len(test[0])).split(BATCH)
        return torch.cat([probe.eval()([x[rows].float() for x in test]) for rows in parts])
