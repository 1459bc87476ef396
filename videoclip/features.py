"""What everything passes: features of videos and of texts.

Shapes: B videos, Q texts, T frames, L words, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.errors import DataError
from videoclip.layers import gathered


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """Return texts as a list; a single string is one text, not a list of letters.

    Raises:
        DataError: something in it is not a string.
    """
    listed = [texts] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
    if wrong := [type(text).__name__ for text in listed if not isinstance(text, str)]:
        raise DataError(f"Texts must be strings, but {len(wrong)} of {len(listed)} are not ({wrong[0]}).")
    return listed


def as_paths(videos: Any) -> list[str | Path]:
    """Return the paths of videos as a list; a single one is one video.

    Raises:
        DataError: something in it is not a path, or there is none.
    """
    listed = list(videos) if isinstance(videos, list | tuple) else [videos]
    if wrong := sorted({type(video).__name__ for video in listed if not isinstance(video, str | Path)}):
        raise DataError(f"Videos must be paths, VideoFeatures, VideoPixels or a FeatureStore, not {', '.join(wrong)}.")
    if not listed:
        raise DataError("The list of videos is empty: name at least one.")
    return listed


@dataclass(frozen=True)
class VideoFeatures:
    """CLIP embeddings of the frames of B videos.

    Attributes:
        frames: (B, T, D) image embeddings after projection, not normalised.
        mask: (B, T) bool, True where a frame is real.
        seconds: (B, T) presentation time of each frame within its file.
        source: (B, T, D) the frames before any temporal encoder; the same tensor until one ran.
        coarse: (B, T', D) every second frame, ``source[:, ::2]``, through a branch of its own that some temporal
            encoders have; real where ``mask[:, ::2]`` is True.
        tokens: (B, K, D) further tokens of a clip, which some tunings of the image tower give: all of them real, or of
            a frame each (K a multiple of T, frame by frame) and real where the frame is.
    """

    frames: Tensor
    mask: Tensor
    seconds: Tensor
    source: Tensor
    coarse: Tensor | None = None
    tokens: Tensor | None = None

    @classmethod
    def from_frames(cls, frames: Tensor, mask: Tensor | None = None, seconds: Tensor | None = None) -> VideoFeatures:
        """Wrap frames (B, T, D); without a mask every frame is real, without seconds they count 0, 1, 2 ..."""
        batch, length = frames.shape[:2]
        if mask is None:
            mask = torch.ones(batch, length, dtype=torch.bool, device=frames.device)
        if seconds is None:
            seconds = torch.arange(length, dtype=torch.float32, device=frames.device).expand(batch, length)
        return cls(frames, mask.bool(), seconds, frames)

    @classmethod
    def pad(cls, clips: Sequence[Tensor], seconds: Sequence[Tensor], length: int | None = None) -> VideoFeatures:
        """Stack clips of unequal length, frames (T_i, D) and seconds (T_i,), with zeros under a False mask.

        T is ``length``, or the longest clip's when not given.
        """
        length = length or max(len(clip) for clip in clips)
        frames = torch.stack([F.pad(clip, (0, 0, 0, length - len(clip))) for clip in clips])
        times = torch.stack([F.pad(time, (0, length - len(time))) for time in seconds])
        mask = torch.arange(length) < torch.tensor([len(clip) for clip in clips])[:, None]
        return cls(frames, mask, times, frames)

    @classmethod
    def cat(cls, parts: Sequence[VideoFeatures]) -> VideoFeatures:
        """Join batches of the same T along B."""
        names = [f.name for f in fields(cls) if getattr(parts[0], f.name) is not None]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: slice | Tensor) -> VideoFeatures:
        """The videos that ``index`` names along B."""
        return self.map(lambda part: part[index])

    def reordered(self, order: Tensor) -> VideoFeatures:
        """The plain frames that ``order`` (B, T) names, at the times of those whose place they take."""
        frames = gathered(self.frames, order)
        return VideoFeatures(frames, self.mask, self.seconds, frames)

    def cleaned(self) -> VideoFeatures:
        """The same with zeros in padded slots, whatever lay there."""
        padded = ~self.mask[..., None]
        coarse = None if self.coarse is None else self.coarse.masked_fill(padded[:, ::2], 0)
        frames, source = self.frames.masked_fill(padded, 0), self.source.masked_fill(padded, 0)
        return replace(self, frames=frames, source=source, coarse=coarse)

    def map(self, change: Callable[[Tensor], Tensor]) -> VideoFeatures:
        """The same with every tensor changed."""
        parts = (getattr(self, f.name) for f in fields(self))
        return VideoFeatures(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]

    def to(self, target: torch.device | str | torch.dtype) -> VideoFeatures:
        """Move to a device, or cast frames and source to a dtype; the mask stays bool, seconds keep theirs."""
        if isinstance(target, torch.dtype):
            parts = {name: getattr(self, name) for name in ("frames", "source", "coarse", "tokens")}
            return replace(self, **{name: part.to(target) for name, part in parts.items() if part is not None})
        return self.map(lambda part: part.to(target))


@dataclass(frozen=True)
class VideoPixels:
    """Frames of B clips as pixels, for an image tower that is run now.

    Attributes:
        pixels: (B, T, 3, S, S) uint8.
        mask: (B, T) bool, True where a frame is real; real ones come first.
        seconds: (B, T) presentation time of each frame within its file.
    """

    pixels: Tensor
    mask: Tensor
    seconds: Tensor

    @classmethod
    def pad(cls, clips: Sequence[Tensor], seconds: Sequence[Tensor], length: int | None = None) -> VideoPixels:
        """Stack clips of unequal length, pixels (T_i, 3, S, S) and seconds (T_i,), with black frames behind."""
        length = length or max(map(len, clips))
        pixels = clips[0].new_zeros(len(clips), length, *clips[0].shape[1:])
        times, mask = torch.zeros(len(clips), length), torch.zeros(len(clips), length, dtype=torch.bool)
        for number, (clip, shown) in enumerate(zip(clips, seconds, strict=True)):
            pixels[number, : len(clip)], times[number, : len(clip)], mask[number, : len(clip)] = clip, shown, True
        return cls(pixels, mask, times)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Tensor) -> VideoPixels:
        """The clips that ``index`` names along B."""
        return VideoPixels(self.pixels[index], self.mask[index], self.seconds[index])

    def reordered(self, order: Tensor) -> VideoPixels:
        """The frames that ``order`` (B, T) names, at the times of those whose place they take."""
        rows = torch.arange(len(self), device=order.device)[:, None]
        return VideoPixels(self.pixels[rows, order], self.mask, self.seconds)

    def to(self, device: torch.device | str) -> VideoPixels:
        """Move to a device."""
        return VideoPixels(self.pixels.to(device), self.mask.to(device), self.seconds.to(device))


@dataclass(frozen=True)
class TextFeatures:
    """CLIP embeddings of Q texts.

    Attributes:
        sentence: (Q, D) the pooled text embedding after projection, not normalised.
        words: (Q, L, D) every token's embedding after projection, not normalised; only where asked for.
        mask: (Q, L) bool, True where a word is real, start and end token included.
    """

    sentence: Tensor
    words: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def cat(cls, parts: Sequence[TextFeatures]) -> TextFeatures:
        """Join along Q; words are padded to the longest."""
        longest = max(0 if part.words is None else part.words.shape[1] for part in parts)
        padded = [part.padded(longest) for part in parts]
        words = [part.words for part in padded if part.words is not None]
        masks = [part.mask for part in padded if part.mask is not None]
        sentence = torch.cat([part.sentence for part in parts])
        return cls(sentence, torch.cat(words), torch.cat(masks)) if words else cls(sentence)

    def padded(self, length: int) -> TextFeatures:
        """The same with words (Q, length, D), none of them real beyond the present ones."""
        if self.words is None or self.mask is None:
            return self
        missing = length - self.words.shape[1]
        return TextFeatures(self.sentence, F.pad(self.words, (0, 0, 0, missing)), F.pad(self.mask, (0, missing)))

    def __len__(self) -> int:
        return len(self.sentence)

    def __getitem__(self, index: slice | Tensor) -> TextFeatures:
        """The texts that ``index`` names along Q."""
        words = None if self.words is None else self.words[index]
        return TextFeatures(self.sentence[index], words, None if self.mask is None else self.mask[index])

    def to(self, target: torch.device | str | torch.dtype) -> TextFeatures:
        """Move to a device, or cast sentence and words to a dtype; the mask stays bool."""
        mask = self.mask if self.mask is None or isinstance(target, torch.dtype) else self.mask.to(target)
        return TextFeatures(self.sentence.to(target), None if self.words is None else self.words.to(target), mask)
