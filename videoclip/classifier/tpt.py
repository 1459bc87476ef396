"""TPT: prompts that are tuned on each clip by itself, without its label."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson
from videoclip.classifier.parts.learning import leaf
from videoclip.classifier.parts.prompts import Layout, tower_of
from videoclip.errors import DataError
from videoclip.layers import unit


class Tpt(Classifier):
    """One step that makes the surest views of a clip agree, from the same words for every clip.

    Source: Shu et al., NeurIPS 2022, arXiv:2209.07511. Views are the clip's frames, in all crops that are stored; the
    authors take 63 augmentations of a picture. The prediction is that of the pooled clip under the tuned prompt.

    Args:
        words: that the vectors start from.
        confident: share of the views that count, those of lowest entropy; at least one.
        lr, steps: of AdamW.
    """

    needs = frozenset({"frames", "tower"})

    def __init__(self, words: str = "a photo of a", confident: float = 0.1, lr: float = 5e-3, steps: int = 1) -> None:
        super().__init__()
        self.words, self.confident, self.lr, self.steps = words, confident, lr, steps

    def fit(self, lesson: Lesson) -> None:
        """Arrange the prompts."""
        self.keep(scale=lesson.scale)
        self._arrange(lesson.texts)

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        if clips.frames is None or clips.mask is None:
            raise DataError("tpt reads the frames of a clip.")
        views = [clips.frames, *(clips.crops if clips.crops is not None else ())]
        rows, layout = [], Layout.kept(tower_of(self), self.tensors)
        for number, pooled in enumerate(clips.pooled):
            real = clips.mask[number]
            rows.append(self._tuned(torch.cat([view[number][real] for view in views]), pooled, layout))
        return torch.stack(rows)

    def transferred(self, texts: ClassTexts) -> Classifier:
        """The same with other class names."""
        other = Tpt(self.words, self.confident, self.lr, self.steps)
        other.keep(scale=self.tensors["scale"])
        other._arrange(texts)
        return other

    def _arrange(self, texts: ClassTexts) -> None:
        self.tower = tower_of(texts)
        vectors = self.tower.words(self.words)
        layout = Layout.of(self.tower, texts.names, len(vectors))
        self.keep(vectors=vectors, **layout.tensors())

    def _tuned(self, views: Tensor, pooled: Tensor, layout: Layout) -> Tensor:
        """Logits (K,) of a pooled clip (D,) after tuning on its views (V, D)."""
        tower, own = tower_of(self), self.tensors
        vectors = leaf(own["vectors"])
        optimizer = torch.optim.AdamW([vectors], self.lr)
        rows = own["scale"] * unit(views)

        def weights() -> Tensor:
            return unit(tower.encode(layout.filled(vectors), layout.tokens))

        chosen: Tensor | None = None
        with torch.enable_grad():
            for _ in range(self.steps):
                logits = rows @ weights().T
                if chosen is None:
                    chosen = surest(logits, self.confident)
                optimizer.zero_grad()
                entropy_of_mean(logits[chosen]).backward()
                optimizer.step()
        return own["scale"] * unit(pooled) @ weights().detach().T


def surest(logits: Tensor, share: float) -> Tensor:
    """Numbers of the views (V, K) of lowest entropy, a share of them, at least one."""
    log = logits.detach().log_softmax(1)
    return (-(log.exp() * log).sum(1)).argsort()[: max(1, int(share * len(logits)))]


def entropy_of_mean(logits: Tensor) -> Tensor:
    """Entropy of the mean probability of views (V, K): a scalar."""
    log = logits.log_softmax(1).logsumexp(0) - math.log(len(logits))
    log = log.clamp(min=torch.finfo(log.dtype).min)
    return -(log.exp() * log).sum()
