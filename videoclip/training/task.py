"""What one training step computes: from a batch to its loss, with the pairs of all processes as negatives."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.losses import symmetric_cross_entropy
from videoclip.model import VideoTextModel
from videoclip.similarity import matched
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
        """The contrastive losses of the joined batch, and what the modules declare beside them: a scalar."""
        text = batch.text if isinstance(batch.text, TextFeatures) else self.model.encode_text(batch.text)
        text = gather_text(text)
        video = self._encode(batch.video)
        similarity, logits = self.model.similarity, self.model.logits
        terms = similarity.terms(*similarity.prepared(text, video))
        rivals: list[Tensor | None] = [None] * len(terms)
        if self.reversed_negatives:
            own = matched(similarity, text, self._encode(backwards(batch.video)))
            rivals = [logits(scores)[:, None] for scores in own]
        ids = gather(batch.video_ids)
        losses = [
            weight * symmetric_cross_entropy(logits(scores), ids, rival)
            for (weight, scores), rival in zip(terms, rivals, strict=True)
        ]
        return torch.stack(losses + self.model.auxiliary_losses(text, video)).sum()

    def _encode(self, mine: VideoFeatures) -> VideoFeatures:
        """The encoded videos of all processes."""
        return self.model.encode_video(mine).map(gather)


def backwards(video: VideoFeatures) -> VideoFeatures:
    """The real frames of each clip, which must come first, in reverse order; padding stays where it is."""
    last = video.mask.sum(1, keepdim=True) - 1
    order = (last - torch.arange(video.mask.shape[1], device=last.device)).clamp(min=0)
    return video.reordered(order)


def gather_text(text: TextFeatures) -> TextFeatures:
    """Join the texts of all processes; words are padded to the longest of them all."""
    if text.words is None or text.mask is None:
        return TextFeatures(gather(text.sentence))
    length = torch.tensor([text.words.shape[1]], device=text.words.device)
    missing = int(gather(length).max()) - text.words.shape[1]
    words, mask = F.pad(text.words, (0, 0, 0, missing)), F.pad(text.mask, (0, missing))
    return TextFeatures(gather(text.sentence), gather(words), gather(mask))


def gather(part: Tensor) -> Tensor:
    """Join equal-shaped tensors of all processes along the first axis, in order of rank, with gradients."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return part
    if part.requires_grad:
        return torch.cat(list(all_gather(part.contiguous())))
    whole = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(whole, part.contiguous())
    return torch.cat(whole)
