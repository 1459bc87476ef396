"""Losses. Contrastive ones are components, one file each, chosen by ``train.loss``; the file's name is the name.

The functions below are what some modules train beside it. Shapes: B pairs, N rows, C candidates, D joint width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Pairs:
    """What a contrastive loss compares: the texts (rows) of a batch with its videos (columns).

    Attributes:
        logits: (B, B), row i is the text of column i's video, already multiplied by the temperature.
        positive: (B, B) bool, what belongs together: the diagonal, and more where it is known.
        ignored: (B, B) bool, neither right nor wrong: left out of every sum.
        scale: what cosines were multiplied by to become logits.
        text_negatives: (B, N) logits of each text with N more videos that it does not describe.
    """

    logits: Tensor
    positive: Tensor
    ignored: Tensor
    scale: Tensor
    text_negatives: Tensor | None = None

    @classmethod
    def of(
        cls,
        logits: Tensor,
        same: Tensor | None = None,
        as_positives: bool = False,
        scale: Tensor | float = 1.0,
        text_negatives: Tensor | None = None,
    ) -> Pairs:
        """Pairs of logits (B, B).

        Args:
            same: (B, B) bool, texts that also belong to a column besides their own: of the same video, or the same
                sentence. They are left out, or positives as well.
        """
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        more = torch.zeros_like(own) if same is None else same & ~own
        nothing = torch.zeros_like(own)
        positive, ignored = (own | more, nothing) if as_positives else (own, more)
        return cls(logits, positive, ignored, torch.as_tensor(scale).to(logits), text_negatives)


class Loss(nn.Module):
    """Base of every contrastive loss: the mean of texts over videos and of videos over texts.

    A subclass takes its options as keyword arguments and implements ``one_way``, or ``forward`` where its directions
    cannot be told apart.
    """

    def one_way(self, logits: Tensor, positive: Tensor, ignored: Tensor, scale: Tensor) -> Tensor:
        """The loss (B,) of each row of logits (B, C), of whose columns the first B belong to the rows."""
        raise NotImplementedError

    def forward(self, pairs: Pairs) -> Tensor:
        """A scalar."""
        rows, columns = (
            (pairs.logits, pairs.positive, pairs.ignored),
            (pairs.logits.T, pairs.positive.T, pairs.ignored.T),
        )
        if pairs.text_negatives is not None:
            more = torch.zeros_like(pairs.text_negatives, dtype=torch.bool)
            parts = (pairs.text_negatives, more, more)
            rows = tuple(torch.cat([own, extra], 1) for own, extra in zip(rows, parts, strict=True))  # type: ignore[assignment]
        return (self.one_way(*rows, pairs.scale).mean() + self.one_way(*columns, pairs.scale).mean()) / 2


def log_softmax_without(logits: Tensor, ignored: Tensor) -> Tensor:
    """Log-probabilities over each row of logits (B, C); ignored entries take no part and get 0."""
    return logits.masked_fill(ignored, -torch.inf).log_softmax(1).masked_fill(ignored, 0)


def shared_evenly(chosen: Tensor, logits: Tensor) -> Tensor:
    """Targets (B, C), of the logits' dtype, that share each row's probability among what is chosen; 0 if nothing is."""
    weights = chosen.to(logits.dtype)
    return weights / weights.sum(1, keepdim=True).clamp(min=1)


def geodesic_mixup(text: Tensor, video: Tensor, share: float, same: Tensor, temperature: float = 0.07) -> Tensor:
    """m2-Mixup: texts and videos against points between them, which are harder negatives than either.

    Source: Oh et al., 2022, arXiv:2203.03897. Each of the two cross-entropies counts whole, as in the authors' script.

    Args:
        text, video: (B, D) of unit length, row i of one belongs to row i of the other.
        share: of the way that the points lie from text to video; the authors draw it from Beta(0.5, 0.5) per batch.
        same: (B, B) bool, pairs that belong together besides the diagonal; they are left out.
        temperature: of this loss alone.
    """
    angle = (text * video).sum(1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6).arccos()
    mixed = (torch.sin(share * angle) * video + torch.sin((1 - share) * angle) * text) / angle.sin()
    own, target = (text * video).sum(1), torch.arange(len(text), device=text.device)
    left_out = same & ~torch.eye(len(text), dtype=torch.bool, device=text.device)
    total = text.new_zeros(())
    for side in (video, text):
        cosines = (side @ mixed.T).diagonal_scatter(own).masked_fill(left_out, -torch.inf)
        total = total + F.cross_entropy(cosines / temperature, target)
    return total


def one_negative(positive: Tensor, negative: Tensor) -> Tensor:
    """ConTra's neighbour loss: cross-entropy of each pair's logit (N,) against one hard negative's (N,)."""
    return F.softplus(negative - positive).mean()


def distillation(student: Tensor, teacher: Tensor, scale: Tensor) -> Tensor:
    """FitCLIP's teacher-student loss (Castro and Caba Heilbron, BMVC 2022, arXiv:2203.13371).

    The divergences of the student's softmax from the teacher's over each row and over each column are summed, and
    multiplied by the squared temperature, so that gradients keep their size at any of it.

    Args:
        student, teacher: cosines (B, B); no gradient flows to the teacher.
        scale: factor between cosines and logits.
    """
    taught, learned = scale.detach() * teacher.detach(), scale * student
    both = [
        F.kl_div(learned.log_softmax(axis), taught.log_softmax(axis), reduction="sum", log_target=True) / len(student)
        for axis in (0, 1)
    ]
    return torch.stack(both).sum() * scale.detach() ** 2


def uniformity(embeddings: Tensor) -> Tensor:
    """How evenly embeddings (N, D) of unit length lie on the sphere: log of the mean of exp(-2 squared distance).

    Over all pairs of rows (Wang and Isola, 2020, arXiv:2005.10242), as ConTra uses it.
    """
    squared = F.pdist(embeddings).square()
    return (-2 * squared).exp().mean().log()


def channel_decorrelation(first: Tensor, second: Tensor, diagonal: float, off_diagonal: float) -> Tensor:
    """DRL's channel decorrelation regulariser (arXiv:2203.07111) of paired rows (N, D).

    Channels are standardised over the rows; their cross-correlation should be the identity.

    Args:
        first, second: row i of one belongs to row i of the other.
        diagonal, off_diagonal: weights of the squared distances from one and from zero.
    """
    correlation = standardised(first).T @ standardised(second) / len(first)
    return distance_from_identity(correlation, diagonal, off_diagonal)


def standardised(rows: Tensor) -> Tensor:
    """rows (N, D), each channel with mean 0 and unbiased deviation 1 over the rows."""
    return (rows - rows.mean(0)) / rows.std(0).clamp(min=1e-12)


def distance_from_identity(matrix: Tensor, diagonal: float, off_diagonal: float) -> Tensor:
    """Weighted squared distances of a matrix (D, D) from the identity, summed."""
    squares = matrix.square()
    own = matrix.diagonal()
    return diagonal * (own - 1).square().sum() + off_diagonal * (squares.sum() - squares.diagonal().sum())


def multiple_choice_hinge(scores: Tensor, answers: Tensor) -> Tensor:
    """Tem-Adapter's hinge loss (arXiv:2308.08414): sum over all candidates of max(0, 1 + score - the right score).

    As in the authors' code the right candidate takes part, so that B is the least the loss can be.

    Args:
        scores: (B, C) of C candidates a video.
        answers: (B,) index of the right one.
    """
    right = scores.gather(1, answers[:, None])
    return (1 + scores - right).clamp(min=0).sum()


def margin_softmax(
    features: Tensor, classes: Tensor, labels: Tensor, margin: float = 0.3, temperature: float = 0.01
) -> Tensor:
    """CLIPood's margin metric softmax (arXiv:2302.00864): every wrong class gains by how unlike the right one it is.

    Args:
        features: (B, D) of unit length; classes: (C, D) likewise, one text each; labels: (B,) index of the right one.
        margin: times 1 - cosine of the two classes is the advantage of a wrong one.
    """
    moved = features - margin * classes[labels]
    return F.cross_entropy(moved @ classes.T / temperature, labels)
