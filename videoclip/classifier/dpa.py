"""DPA: class texts trained by what two sets of prototypes agree on, without labels."""

from __future__ import annotations

from collections import deque

import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.classifier import Classifier, Clips, Lesson, class_means
from videoclip.classifier.parts.learning import Schedule, leaf, learn
from videoclip.layers import unit

REMEMBERED = 32  # batches whose mean prediction evens the classes out


class Dpa(Classifier):
    """Pseudo-labels from class texts and from class means together, weighed by how far both agree, train the texts.

    Source: Ali et al., DPA, WACV 2025, arXiv:2408.08855, on features alone: there the image tower's LayerNorms learn,
    too, lr is 1e-5 and falls to 2e-6, and gradients are clipped. The strong view is another stored view of the clip,
    where there is one. No label is read.

    Args:
        mixture: of the class means' prediction in the pseudo-label.
        fairness: weight of the pull towards equally frequent classes.
        alignment: weight of the pull of texts and class means together.
        lr, epochs, batch: of AdamW with decay 0.1, falling as a cosine.
    """

    needs = frozenset({"unlabelled"})

    def __init__(
        self,
        mixture: float = 0.5,
        fairness: float = 1.0,
        alignment: float = 1.0,
        lr: float = 1e-3,
        epochs: int = 15,
        batch: int = 64,
    ) -> None:
        super().__init__()
        self.mixture, self.fairness, self.alignment = mixture, fairness, alignment
        self.schedule = Schedule(lr, epochs, batch, weight_decay=0.1)

    def fit(self, lesson: Lesson) -> None:
        """Train the class texts."""
        pool, texts, scale = lesson.pool, lesson.texts.weights, lesson.scale
        rows = unit(pool.pooled)
        weights, labels = leaf(texts), (rows @ texts.T).argmax(1)
        means, recent = prototypes(rows, labels, texts), deque[Tensor](maxlen=REMEMBERED)

        def backward(index: Tensor) -> None:
            classes, strong = unit(weights), unit(pool.drawn(index))
            with torch.no_grad():
                of_texts = (scale * rows[index] @ classes.T).softmax(1)
                recent.append(of_texts.mean(0))
                labels[index], trust = pseudo_labels(
                    of_texts,
                    torch.stack(list(recent)).mean(0),
                    (scale * rows[index] @ means.T).softmax(1),
                    self.mixture,
                )
            logits = scale * strong @ classes.T
            learned = (trust * F.cross_entropy(logits, labels[index], reduction="none")).mean()
            even = -logits.softmax(1).mean(0).log().mean()
            aligned = F.cross_entropy(scale * means @ classes.T, torch.arange(len(classes)))
            (learned + self.fairness * even + self.alignment * aligned).backward()

        def renew() -> None:
            means.copy_(prototypes(rows, labels, unit(weights.detach())))

        learn([weights], backward, len(pool), self.schedule, lesson.seed, after_epoch=renew)
        self.keep(scale=scale, weights=unit(weights))

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        return self.zero_shot(clips)


def prototypes(rows: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
    """Means of rows (N, D) by label (N,), (K, D) of unit length; the text where a class has none."""
    means = class_means(rows, labels, len(texts))
    return torch.where(means.any(1, keepdim=True), unit(means), texts)


def pseudo_labels(of_texts: Tensor, usual: Tensor, of_means: Tensor, mixture: float) -> tuple[Tensor, Tensor]:
    """Labels (n,) and how far they are to be trusted (n,), from two predictions (n, K) and the usual one (K,)."""
    evened = of_texts / usual.clamp(min=1e-7)
    mixed = mixture * of_means + (1 - mixture) * evened / evened.sum(1, keepdim=True)
    labels = mixed.argmax(1)
    shares = [part.gather(1, labels[:, None])[:, 0] / (part.amax(1) + 1e-7) for part in (of_texts, of_means)]
    return labels, shares[0] * shares[1]
