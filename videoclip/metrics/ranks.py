"""Exact ranks from score matrices that never need to be whole.

Tie rule: a rank is 1 + (how many score higher) + (how many others score the same) / 2, the mean of the places that
the tied items share, counted in float32. Shapes: Q texts, B videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from videoclip.errors import DataError

VideoToText = Literal["best_caption", "all_captions"]
Join = Callable[[Tensor, Literal["sum", "max"]], Tensor]
REMEMBERED_BYTES = 2**30


def alone(part: Tensor, how: str) -> Tensor:
    """Join the parts of one process: nothing to do."""
    return part


class Scores:
    """Scores (Q, B) in float32, some rows at a time; the captions of one video always come together.

    Rows are computed when they are needed and remembered while they fit into a gigabyte. Several processes may share
    the rows; what they count is then joined.

    Args:
        rows: texts by number (q,) -> their scores (q, B).
        owner: (Q,) column of each text's video.
        videos: B.
        chunk: texts computed at a time, or one video's captions if these are more; or the numbers of such texts.
        share: which process this is, of how many.
        join: sums a tensor over all processes, or takes the maximum.
    """

    def __init__(
        self,
        rows: Callable[[Tensor], Tensor],
        owner: Tensor,
        videos: int,
        chunk: int | list[Tensor] = 256,
        share: tuple[int, int] = (0, 1),
        join: Join = alone,
    ) -> None:
        self.owner, self.videos, self.join = owner, videos, join
        self._rows, self._share = rows, share
        self._chunks = _chunks(owner, chunk) if isinstance(chunk, int) else chunk
        self._remembered: dict[int, Tensor] = {}

    @classmethod
    def of(cls, matrix: Tensor, owner: Tensor, chunk: int = 4096) -> Scores:
        """The rows of a matrix (Q, B)."""
        return cls(lambda index: matrix[index], owner, matrix.shape[1], chunk)

    def __len__(self) -> int:
        return len(self.owner)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's rows: text numbers (q,) and their scores (q, B).

        Raises:
            DataError: a score is not finite.
        """
        first, processes = self._share
        for number in range(first, len(self._chunks), processes):
            yield self._chunks[number], self._scored(number)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Scores:
        """The same with every block of rows (q, B) changed."""
        numbers = {int(index[0]): number for number, index in enumerate(self._chunks)}

        def rows(index: Tensor) -> Tensor:
            return change(self._scored(numbers[int(index[0])]))

        return Scores(rows, self.owner, self.videos, self._chunks, self._share, self.join)

    def whole(self) -> Tensor:
        """All of it, (Q, B), on every process."""
        matrix = torch.zeros(len(self), self.videos, device=self.owner.device)
        for index, rows in self.chunks():
            matrix[index] = rows
        return self.join(matrix, "sum")

    def top(self, depth: int) -> tuple[Tensor, Tensor]:
        """The best videos of each text, at most ``depth``: columns (Q, k), and their scores (Q, k)."""
        count = min(depth, self.videos)
        columns = torch.zeros(len(self), count, dtype=torch.long, device=self.owner.device)
        values = torch.zeros(len(self), count, device=self.owner.device)
        for index, rows in self.chunks():
            values[index], columns[index] = rows.topk(count, dim=1)
        return self.join(columns, "sum"), self.join(values, "sum")

    def _scored(self, number: int) -> Tensor:
        if number in self._remembered:
            return self._remembered[number]
        rows = self._rows(self._chunks[number]).float()
        if not torch.isfinite(rows).all():
            text, video = torch.nonzero(~torch.isfinite(rows))[0].tolist()
            raise DataError(
                f"The score of text {int(self._chunks[number][text])} and video {video} is {rows[text, video].item()} "
                "(NaN or infinite): the model or the features are broken; ranks would be meaningless."
            )
        if (len(self._remembered) + 1) * rows.numel() * rows.element_size() <= REMEMBERED_BYTES:
            self._remembered[number] = rows
        return rows


@dataclass(frozen=True)
class Ranks:
    """Ranks from 1, float64, and where the right one ties with another.

    Attributes:
        text, text_tied: (Q,) of each text's video among all videos.
        video, video_tied: (B,) of each video's best caption under the rule; None where not asked for.
    """

    text: Tensor
    text_tied: Tensor
    video: Tensor | None = None
    video_tied: Tensor | None = None


def rank(scores: Scores, video_to_text: VideoToText | None = "best_caption") -> Ranks:
    """Count ranks in both directions.

    Args:
        scores: every video needs a text, unless only texts are ranked.
        video_to_text: what a video's best own caption competes with: the best caption of each other video
            (``best_caption``, CLIP4Clip's rule), or every caption of other videos (``all_captions``). None: skip it.
    """
    device, owner = scores.owner.device, scores.owner
    higher = torch.zeros(len(scores), dtype=torch.long, device=device)
    equal = torch.zeros_like(higher)
    best = torch.full((scores.videos,), -torch.inf, device=device)
    for index, rows in scores.chunks():
        own = rows.gather(1, owner[index, None])
        higher[index] = (rows > own).sum(1)
        equal[index] = (rows == own).sum(1) - 1
        best.scatter_reduce_(0, owner[index], own[:, 0], "amax")
    text = mean_places(scores.join(higher, "sum"), scores.join(equal, "sum"))
    if video_to_text is None:
        return Ranks(*text)
    best = scores.join(best, "max")
    higher, equal = torch.zeros(2, scores.videos, dtype=torch.long, device=device)
    columns = torch.arange(scores.videos, device=device)
    for index, rows in scores.chunks():
        whose, rivals = (owner[index], rows) if video_to_text == "all_captions" else best_captions(rows, owner[index])
        others = whose[:, None] != columns
        higher += ((rivals > best) & others).sum(0)
        equal += ((rivals == best) & others).sum(0)
    return Ranks(*text, *mean_places(scores.join(higher, "sum"), scores.join(equal, "sum")))


def best_captions(rows: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """The videos (G,) that rows (q, B) of texts belong to, and the best score (G, B) of each one's captions."""
    videos, place = owner.unique(return_inverse=True)
    best = rows.new_full((len(videos), rows.shape[1]), -torch.inf)
    return videos, best.scatter_reduce(0, place[:, None].expand_as(rows), rows, "amax")


def mean_places(higher: Tensor, equal: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks and whether they are shared, of how many are higher and how many others are equal."""
    return 1 + higher.double() + equal.double() / 2, equal > 0


def _chunks(owner: Tensor, size: int) -> list[Tensor]:
    """Text numbers by video, cut where a video ends and ``size`` texts are together."""
    order = torch.argsort(owner, stable=True)
    chunks, start = [], 0
    ends = owner.bincount().cumsum(0).tolist()
    for number, end in enumerate(ends):
        full = number + 1 == len(ends) or ends[number + 1] - start > size
        if full and end > start:
            chunks.append(order[start:end])
            start = end
    return chunks
