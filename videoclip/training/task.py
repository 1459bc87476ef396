"""What one training step computes: from a batch to gradients, with the pairs of all processes as negatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from videoclip import registry
from videoclip.config import TrainConfig
from videoclip.errors import DataError
from videoclip.features import TextFeatures, VideoFeatures, VideoPixels
from videoclip.layers import unit
from videoclip.loss import Loss, Pairs, distillation, geodesic_mixup
from videoclip.model import VideoTextModel
from videoclip.similarity import Similarity, matched
from videoclip.store.dataset import Batch
from videoclip.training.processes import average_gradients, gather, gather_text


@dataclass(frozen=True)
class Encoded:
    """The encoded pairs of a batch; ``rivals`` are its videos played backwards, where they are asked for."""

    text: TextFeatures
    video: VideoFeatures
    rivals: VideoFeatures | None

    def tensors(self) -> list[Tensor]:
        """Everything that a gradient can flow through, always in the same order."""
        parts = (self.text, self.video, self.rivals)
        found = [getattr(part, field.name) for part in parts if part is not None for field in fields(part)]
        return [tensor for tensor in found if tensor is not None and tensor.is_floating_point()]


class ContrastiveTask(nn.Module):
    """Encodes a process's own pairs, gathers everybody's, and contrasts all of them.

    Each process computes the whole loss; gradients flow through the gathering to where a pair was encoded. Averaged
    over processes they equal those of one process with the joined batch.

    Args:
        model: what is trained.
        config: of the loss and what is added to it, and of parts.
        teacher: the model as it was loaded, for distillation.

    Raises:
        DataError: mixup is asked for, and the similarity has no vector of a video alone.
    """

    def __init__(self, model: VideoTextModel, config: TrainConfig, teacher: VideoTextModel | None = None) -> None:
        super().__init__()
        if config.mixup and type(model.similarity).pool is Similarity.pool:
            raise DataError(
                "train.mixup mixes a text with one vector of its video, which this similarity does not have: use a "
                "similarity such as mean, or train.mixup=0."
            )
        self.model = model
        self.loss: Loss = registry.create("loss", config.loss.name, config.loss.options)
        self._config = config
        self._teacher = (teacher,)  # a tuple hides it from what is trained and saved
        own = {name: p for name, p in model.named_parameters() if p.requires_grad and name in model.pretrained}
        self._anchors = {name: p.detach().clone() for name, p in own.items()} if config.anchor else {}

    def forward(self, batch: Batch, share: float = 0.5) -> Tensor:
        """The losses of the joined batch, and what the modules declare beside them: a scalar.

        Args:
            batch: this process's pairs, equally many on each.
            share: see ``videoclip.loss.geodesic_mixup``; the same on all processes.
        """
        return self._contrast(self._encode(batch), batch, share)

    def backward(
        self, batch: Batch, share: float = 0.5, backward: Callable[[Tensor], None] = Tensor.backward
    ) -> Tensor:
        """Add the gradients of the joined batch to those of the parameters; the loss, a scalar.

        With ``encode_at_once`` the parts are encoded without gradients, the loss gives the gradients of their
        features, and each part is encoded once more to carry them on (GradCache, Gao et al., 2021, arXiv:2101.06983).

        Args:
            backward: takes the loss, which it may scale, back to its leaves.
        """
        size = self._config.encode_at_once or len(batch)
        if size >= len(batch):
            loss = self(batch, share)
            backward(loss)
            return loss.detach()
        parts = [batch[i : i + size] for i in range(0, len(batch), size)]
        device = self.model.logit_scale.device
        devices = [device] if device.type == "cuda" else []
        states, found = [], []
        with torch.no_grad():
            for part in parts:
                states.append([torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in devices)])
                found.append(self._encode(part))
        torch.clear_autocast_cache()  # weights that were cast without gradients must not serve with them
        whole = _leaves(found)
        loss = self._contrast(whole, batch, share)
        backward(loss)
        sizes = [len(part) for part in parts]
        wanted = [[None] * len(parts) if t.grad is None else t.grad.split(sizes) for t in whole.tensors()]
        for number, (part, state) in enumerate(zip(parts, states, strict=True)):
            with torch.random.fork_rng(devices):  # the same dropout as before
                torch.set_rng_state(state[0])
                for d, cuda in zip(devices, state[1:], strict=True):
                    torch.cuda.set_rng_state(cuda, d)
                again = self._encode(part).tensors()
            pairs = [
                (t, g[number]) for t, g in zip(again, wanted, strict=True) if t.requires_grad and g[number] is not None
            ]
            torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
        return loss.detach()

    def prepared(self, batch: Batch) -> Batch:
        """A batch as the losses take it; to be called once before ``backward``."""
        return batch

    def extra_state(self) -> dict[str, Tensor]:
        """Weights that are trained beside model and loss."""
        return {}

    def load_extra_state(self, state: dict[str, Tensor]) -> None:
        """What ``extra_state`` gave."""

    def average_gradients(self) -> None:
        """Over processes; after the last ``backward`` of a step."""
        average_gradients(self.parameters())

    def _encode(self, batch: Batch) -> Encoded:
        text = batch.text if isinstance(batch.text, TextFeatures) else self.model.encode_text(batch.text)
        video = self.model.encode_video(batch.video)
        reverse = self._config.reversed_negatives
        return Encoded(text, video, self.model.encode_video(backwards(batch.video)) if reverse else None)

    def _distance(self) -> Tensor:
        """Half the anchor's pull times the squared distance of the towers' own weights from where they started."""
        moved = [
            (parameter - self._anchors[name].to(parameter.device)).square().sum()
            for name, parameter in self.model.named_parameters()
            if name in self._anchors
        ]
        return self._config.anchor / 2 * torch.stack(moved).sum()

    def _lessons(self, batch: Batch, scores: Tensor, scale: Tensor) -> Tensor:
        """FitCLIP's distance of the student's scores (B, B) from the teacher's, see ``distillation``."""
        teacher = self._teacher[0]
        assert teacher is not None
        with torch.no_grad():
            text = batch.text if isinstance(batch.text, TextFeatures) else teacher.encode_text(batch.text)
            video = teacher.encode_video(batch.video)
            taught = teacher.similarity(TextFeatures(gather(text.sentence)), video.map(gather))
        return distillation(scores, taught, scale)

    def _contrast(self, mine: Encoded, batch: Batch, share: float) -> Tensor:
        """The loss of everybody's pairs."""
        text, video = gather_text(mine.text), mine.video.map(gather)
        similarity, logits = self.model.similarity, self.model.logits
        terms = similarity.terms(*similarity.prepared(text, video))
        rivals: list[Tensor | None] = [None] * len(terms)
        if mine.rivals is not None:
            rivals = [logits(scores)[:, None] for scores in matched(similarity, text, mine.rivals.map(gather))]
        same = _equal(gather(batch.video_ids)) | _equal(gather(batch.text_ids))
        positive = self._config.same_pairs == "positive"
        scale = logits(torch.ones_like(self.model.logit_scale))
        losses = [
            weight * self.loss(Pairs.of(logits(scores), same, positive, scale, rival))
            for (weight, scores), rival in zip(terms, rivals, strict=True)
        ]
        if self._config.mixup:
            mixed = geodesic_mixup(unit(text.sentence), similarity.pool(video), share, same)
            losses.append(self._config.mixup * mixed)
        loss = torch.stack(losses + self.model.auxiliary_losses(text, video)).sum()
        if self._teacher[0] is not None:
            taught = self._config.distillation
            loss = (1 - taught) * loss + taught * self._lessons(batch, terms[0][1], scale)
        return loss + self._distance() if self._anchors else loss


def backwards(video: VideoFeatures | VideoPixels) -> VideoFeatures | VideoPixels:
    """The real frames of each clip, which must come first, in reverse order; padding stays where it is."""
    last = video.mask.sum(1, keepdim=True) - 1
    order = (last - torch.arange(video.mask.shape[1], device=last.device)).clamp(min=0)
    return video.reordered(order)


def _equal(ids: Tensor) -> Tensor:
    return ids[:, None] == ids[None, :]


def _leaves(parts: list[Encoded]) -> Encoded:
    """Parts as one, its tensors cut off from what made them and ready to receive gradients."""
    rivals = [part.rivals for part in parts if part.rivals is not None]
    text, video = TextFeatures.cat([part.text for part in parts]), VideoFeatures.cat([part.video for part in parts])
    whole = Encoded(text, video, VideoFeatures.cat(rivals) if rivals else None)
    for tensor in whole.tensors():
        tensor.requires_grad_(True)
    return whole
