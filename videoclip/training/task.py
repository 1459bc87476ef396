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
    """

    def __init__(self, model: VideoTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """The symmetric cross-entropy of the joined batch, a scalar."""
        text = batch.text if isinstance(batch.text, TextFeatures) else self.model.encode_text(batch.text)
        video, video_ids = self.model.encode_video(batch.video), batch.video_ids
        if dist.is_initialized() and dist.get_world_size() > 1:
            words, mask = (None if part is None else gather(part) for part in (text.words, text.mask))
            text = TextFeatures(gather(text.sentence), words, mask)
            video = VideoFeatures(*(gather(getattr(video, f.name)) for f in fields(video)))
            video_ids = gather(video_ids)
        logits = self.model.logit_scale.exp() * self.model.similarity(text, video)
        return symmetric_cross_entropy(logits, video_ids)


def gather(part: Tensor) -> Tensor:
    """Join equal-shaped tensors of all processes along the first axis, in order of rank, with gradients."""
    if part.requires_grad:
        return torch.cat(list(all_gather(part.contiguous())))
    whole = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(whole, part.contiguous())
    return torch.cat(whole)
