"""What one training step computes: from a batch to its loss, with the pairs of all processes as negatives."""

from __future__ import annotations

from dataclasses import fields

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.losses import symmetric_cross_entropy
from videoclip.model import VideoTextModel
from videoclip.store.dataset import Batch


class ContrastiveTask(nn.Module):
    """Encodes a process's own pairs, gathers everybody's, and contrasts all of them.

    Each process computes the whole loss; gradients flow through the gathering to where a pair was encoded. After
    DistributedDataParallel's averaging they equal those of one process with the joined batch.

    Args:
        model: what is trained.
        reversed_negatives: see ``videoclip.config.TrainConfig``.
    """

    def __init__(self, model: VideoTextModel, reversed_negatives: bool = False) -> None:
        super().__init__()
        self.model = model
        self.reversed_negatives = reversed_negatives

    def forward(self, batch: Batch) -> Tensor:
        """The symmetric cross-entropy of the joined batch, a scalar."""
        text = batch.text if isinstance(batch.text, TextFeatures) else self.model.encode_text(batch.text)
        text = TextFeatures(*(None if x is None else gather(x) for x in (text.sentence, text.words, text.mask)))  # type: ignore[arg-type]
        logits = self._logits(text, batch.video)
        negatives = None
        if self.reversed_negatives:
            negatives = self._logits(text, backwards(batch.video)).diagonal()[:, None]
        return symmetric_cross_entropy(logits, gather(batch.video_ids), negatives)

    def _logits(self, text: TextFeatures, mine: VideoFeatures) -> Tensor:
        """All texts (B,) against all processes' videos (B,): (B, B)."""
        video = self.model.encode_video(mine)
        video = VideoFeatures(*(gather(getattr(video, f.name)) for f in fields(video)))
        logits: Tensor = self.model.logit_scale.exp() * self.model.similarity(text, video)
        return logits


def backwards(video: VideoFeatures) -> VideoFeatures:
    """The real frames of each clip, which must come first, in reverse order; padding stays where it is."""
    last = video.mask.sum(1, keepdim=True) - 1
    order = (last - torch.arange(video.mask.shape[1], device=last.device)).clamp(min=0)
    frames = video.frames.gather(1, order[..., None].expand_as(video.frames))
    return VideoFeatures(frames, video.mask, video.seconds, frames)


def gather(part: Tensor) -> Tensor:
    """Join equal-shaped tensors of all processes along the first axis, in order of rank, with gradients."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return part
    if part.requires_grad:
        return torch.cat(list(all_gather(part.contiguous())))
    whole = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(whole, part.contiguous())
    return torch.cat(whole)
