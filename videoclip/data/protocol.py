"""Protocol cards: what a number was taken on and by which rules, checked before anything is scored.

A card is a file of ``configs/protocol``. A split is told by its counts and by hashes of its clips' ids and of its
captions, both in the order of the official file. A split that no card describes is allowed; its numbers are labelled
``custom``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from videoclip.config import Strict, dump, load_as
from videoclip.data.manifest import Clip
from videoclip.errors import DataError
from videoclip.files import hash_of
from videoclip.metrics.ranks import VideoToText


class SplitCard(Strict):
    """What a split must hold.

    Attributes:
        videos, texts: how many; texts None where no official file could be counted.
        files: names or patterns of the official files that define it.
        ids, content: hashes of its ids, and of ids with captions, see ``id_hash`` and ``content_hash``; None likewise.
    """

    videos: int
    texts: int | None = None
    files: tuple[str, ...] = ()
    ids: str | None = None
    content: str | None = None


class Protocol(Strict):
    """The rules a number is taken under.

    Attributes:
        name: of the card.
        reader: the reader of its data set's own files, see ``videoclip.data.readers``.
        queries: single ``sentence``, or all of a video's joined to a ``paragraph``.
        directions: what is ranked.
        video_to_text: see ``videoclip.metrics.ranks.rank``.
        ties: ``mean`` of the places that tied items share; there is no other.
        usual: what a manifest of this data set is checked against when nothing else is said.
        captions: the official file of captions, where the lists have none.
        classes: a shipped class list, or the official file of class names; lists that number classes are read by it.
        files: official file -> whom it comes from.
        about: what a reader of the card should know.
        splits: by name.
    """

    name: str = "custom"
    reader: str = ""
    queries: Literal["sentence", "paragraph"] = "sentence"
    directions: tuple[Literal["text_to_video", "video_to_text"], ...] = ("text_to_video", "video_to_text")
    video_to_text: VideoToText = "best_caption"
    ties: Literal["mean"] = "mean"
    usual: bool = False
    captions: str = ""
    classes: str = ""
    about: str = ""
    files: dict[str, str] = Field(default_factory=dict)
    splits: dict[str, SplitCard] = Field(default_factory=dict)

    @property
    def rule(self) -> VideoToText | None:
        """The rule for video to text, None where that direction is not ranked."""
        return self.video_to_text if "video_to_text" in self.directions else None

    def origin(self, file: str) -> str:
        """Whom an official file comes from."""
        return self.files.get(file, "the authors of the data set")

    @property
    def fingerprint(self) -> str:
        """Changes with every word of the card."""
        return hash_of([dump(self)])

    def label(self, split: str, clips: Sequence[Clip]) -> dict[str, object]:
        """What a report says about its numbers, of the whole split."""
        card = self if split in self.splits else CUSTOM  # nothing was checked
        rules = {"queries": self.queries, "video_to_text": self.rule, "ties": self.ties}
        return {
            "name": card.name,
            "fingerprint": card.fingerprint,
            "split": split,
            **rules,
            "content": content_hash(clips),
        }

    def check(self, split: str, clips: Sequence[Clip], source: str | Path, captions: bool = True) -> None:
        """Compare a split, whole and in order, with the card.

        Args:
            split: its name.
            clips: all of it, also those whose video is missing.
            source: what an error names.
            captions: also compare the captions.

        Raises:
            DataError: naming expected and found counts, or the hash that differs; or the card has no such split.
        """
        if self.name == "custom":
            return
        if split not in self.splits:
            raise DataError(f"{source}: protocol {self.name} has no split {split!r}; it has: {', '.join(self.splits)}.")
        card, texts = self.splits[split], sum(len(clip.captions) for clip in clips)
        counted = captions and card.texts is not None
        expected = f"{card.videos} videos" + (f" and {card.texts} texts" if counted else "")
        found = f"{len(clips)} videos" + (f" and {texts} texts" if counted else "")
        if expected != found:
            raise DataError(
                f"{source}: split {split!r} of protocol {self.name} has {expected}, but {found} were found; use the "
                "official file, or protocol custom."
            )
        hashes = [("ids", card.ids, id_hash(clips))]
        if captions:
            hashes.append(("captions", card.content, content_hash(clips)))
        for what, wanted, got in hashes:
            if wanted is not None and wanted != got:
                raise DataError(
                    f"{source}: split {split!r} has the {expected} of protocol {self.name}, but its {what} or their "
                    f"order are others (hash {got}, expected {wanted}); use the official file, or protocol custom."
                )


CUSTOM = Protocol()


def load_protocol(name: str) -> Protocol:
    """The card of a name, or of a file of one's own; ``custom`` checks nothing.

    Raises:
        ConfigError: there is no such card, or it has mistakes.
    """
    return CUSTOM if name == "custom" else load_as(name if name.endswith(".yaml") else f"protocol/{name}", Protocol)


def id_hash(clips: Sequence[Clip]) -> str:
    """Hash of the clips' ids in order."""
    return hash_of(clip.id for clip in clips)


def content_hash(clips: Sequence[Clip]) -> str:
    """Hash of ids and captions in order."""
    return hash_of(f"{clip.id}\t{caption}" for clip in clips for caption in clip.captions)
