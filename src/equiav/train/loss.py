"""The three contrastive losses:  EquiAVOutput + weights -> {"loss": scalar, its parts, accuracies}.

    intra (per modality): NT-Xent between predicted p and augmented u, both ways (EquiAV eq. of the intra-modal loss;
        loss/simclr.py):  l(p -> u)_i = -log e^{p_i·u_i/t} / (sum_k e^{p_i·u_k/t} + sum_{k != i} e^{p_i·p_k/t})
    inter: symmetric InfoNCE between the audio and the visual embedding (loss/ntxent.py)

The similarities of a large batch are computed a chunk of anchors at a time, and again in the backward pass: no (2B, 2B)
matrix is ever whole in memory. All in float32 on L2-normalised embeddings. With several processes every one computes
the loss of the whole batch from embeddings gathered with their gradient; averaged by DDP, the gradient equals that of
one process. Deliberate difference from the release, whose inter-modal gather is cut from the gradient (utils.py:262).

B batch · E embedding width
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from equiav.errors import ModelError
from equiav.metrics.health import alignment, uniformity

if TYPE_CHECKING:
    from jaxtyping import Float

    from equiav.config import Loss
    from equiav.model.equiav import EquiAVOutput


CHUNK_ENTRIES = 1 << 24  # similarities held at once: 64 MB of float32


def nt_xent(
    predicted: Float[Tensor, "B E"], augmented: Float[Tensor, "B E"], temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Intra-modal loss, and how often the positive is an anchor's nearest, both averaged over both directions.

    Negatives of an anchor are all other embeddings of both sides; the positive is in the denominator.
    """
    _check_batch(predicted)
    n = len(predicted)
    both = F.normalize(torch.cat([predicted, augmented]).float(), dim=-1)
    target = torch.arange(2 * n, device=both.device).roll(n)
    return _cross_entropy(both, both, target, temperature, leave_out_self=True)


def info_nce(
    audio: Float[Tensor, "B E"], visual: Float[Tensor, "B E"], temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Inter-modal loss, and how often the positive is an anchor's nearest, averaged over audio->visual and back."""
    _check_batch(audio)
    a, v = F.normalize(audio.float(), dim=-1), F.normalize(visual.float(), dim=-1)
    target = torch.arange(len(a), device=a.device)
    (there, found_there), (back, found_back) = (
        _cross_entropy(x, y, target, temperature, leave_out_self=False) for x, y in ((a, v), (v, a))
    )
    return (there + back) / 2, (found_there + found_back) / 2


def _cross_entropy(
    anchors: Float[Tensor, "n E"],
    candidates: Float[Tensor, "m E"],
    target: Tensor,
    temperature: float,
    *,
    leave_out_self: bool,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean over anchors of -log softmax of their target's similarity, and how often the target is the nearest."""
    rows = max(1, CHUNK_ENTRIES // len(candidates))

    def part(anchors: Tensor, candidates: Tensor, start: int) -> tuple[Tensor, Tensor]:
        logits = anchors @ candidates.T / temperature
        if leave_out_self:
            own = torch.arange(len(anchors), device=anchors.device)[:, None] + start
            logits = logits.masked_fill(own == torch.arange(len(candidates), device=own.device), float("-inf"))
        wanted = target[start : start + len(anchors)]
        hits = (logits.detach().argmax(dim=1) == wanted).sum()
        return F.cross_entropy(logits, wanted, reduction="sum"), hits

    if rows >= len(anchors):
        loss, hits = part(anchors, candidates, 0)
        return loss / len(anchors), hits / len(anchors)
    parts = [
        checkpoint(part, anchors[i : i + rows], candidates, i, use_reentrant=False)
        for i in range(0, len(anchors), rows)
    ]
    losses, hits = zip(*parts, strict=True)  # type: ignore[arg-type]
    return torch.stack(losses).sum() / len(anchors), torch.stack(hits).sum() / len(anchors)


def equiav_loss(output: EquiAVOutput, settings: Loss) -> dict[str, Tensor]:
    """Weighted sum under "loss"; beside it its parts "loss_inter", "loss_intra_audio", "loss_intra_visual", the
    "accuracy_…" of each, and "alignment" and "uniformity" of the inter-modal embeddings.

    Without augmented views (method plain) there is the inter-modal part alone.

    Raises:
        ModelError: fewer than two clips in all processes: such a loss is 0 whatever the model does.
    """
    # autocast would take the similarities to half precision
    with torch.autocast(output.audio_inter.device.type, enabled=False):
        t = settings.temperature
        shares = shares_of_batch(len(output.audio_inter), output.audio_inter.device)
        audio, visual = _gathered(output.audio_inter, shares), _gathered(output.visual_inter, shares)
        inter, accuracy = info_nce(audio, visual, t)
        found = {"loss": settings.inter * inter, "loss_inter": inter, "accuracy_inter": accuracy}
        found |= {"alignment": alignment(audio, visual), "uniformity": (uniformity(audio) + uniformity(visual)) / 2}
        for name, weight, predicted, augmented in (
            ("intra_audio", settings.intra_audio, output.audio_predicted, output.audio_augmented),
            ("intra_visual", settings.intra_visual, output.visual_predicted, output.visual_augmented),
        ):
            if predicted is not None and augmented is not None:
                intra, accuracy = nt_xent(_gathered(predicted, shares), _gathered(augmented, shares), t)
                found |= {f"loss_{name}": intra, f"accuracy_{name}": accuracy}
                found["loss"] = found["loss"] + weight * intra
        return found


def _check_batch(x: Tensor) -> None:
    if len(x) < 2:
        raise ModelError(f"a contrastive loss needs other clips to compare with: a batch of 2 or more, found {len(x)}")


def shares_of_batch(rows: int, device: torch.device) -> list[int]:
    """How many clips of a batch each process has, in rank order; this one has `rows`. Every process has to ask."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [rows]
    own = torch.tensor([rows], device=device)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return torch.cat(found).tolist()


def weight_of_share(rows: int, device: torch.device) -> float:
    """What makes the mean over processes of their means that over all clips: 1 where all have as many."""
    shares = shares_of_batch(rows, device)
    return rows * len(shares) / sum(shares)


def _gathered(x: Float[Tensor, "b E"], shares: list[int]) -> Float[Tensor, "B E"]:
    """The embeddings of all processes in float32, in rank order, with gradient; its own where there is one process."""
    x = x.float()
    if len(shares) == 1:
        return x
    gathered: Tensor = _AllGather.apply(x, shares)  # type: ignore[assignment]
    return gathered


class _AllGather(torch.autograd.Function):
    """all_gather of `shares` rows whose backward sums what every process asks of this process's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: list[int]) -> Tensor:
        ctx.shares = shares
        padded = F.pad(x, (0, 0, 0, max(shares) - len(x)))  # gloo gathers equal sizes only
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded.contiguous())
        return torch.cat([part[:rows] for part, rows in zip(parts, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total.split(ctx.shares)[dist.get_rank()], None
