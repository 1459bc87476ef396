"""Moving shapes: a benchmark of temporal order, written to disk as H.264 from a seed.

One coloured shape moves, grows, appears or changes colour. Every video of the splits ``val``, ``test`` and ``novel``
has a twin in the same split: the same pictures in reverse order, with the caption that this makes true. A method that
is blind to frame order sees no difference between twins and cannot exceed R@1 50 %. ``novel`` holds pairs of colour and
shape that no video of ``train``, ``val`` or ``test`` shows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from videoclip.data.manifest import Clip, write_manifest
from videoclip.errors import DataError, writing
from videoclip.files import make_folder, read_json, reading, replace_text
from videoclip.synthetic.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Array, Frames, draw
from videoclip.video.encode import write_video

SIDE = 96
FPS = 6.0
MARKER, VERSION = "moving_shapes.json", 1  # who made a folder; another version makes other videos from a seed
MANIFESTS = ("manifest.jsonl", "objects.jsonl")
FRAMES = 12  # taking every one leaves no sampling phase that could give the direction of time away

# Motion -> its reverse, and ways to say it. {a} and {b} are the colours before and after.
MOTIONS: dict[str, tuple[str, tuple[str, str, str]]] = {
    "right": ("left", ("moves from left to right", "slides to the right", "travels rightwards")),
    "left": ("right", ("moves from right to left", "slides to the left", "travels leftwards")),
    "down": ("up", ("moves down", "falls from the top to the bottom", "travels downwards")),
    "up": ("down", ("moves up", "rises from the bottom to the top", "travels upwards")),
    "clockwise": (
        "counter",
        ("circles clockwise", "goes round in a circle clockwise", "makes a clockwise turn"),
    ),
    "counter": (
        "clockwise",
        (
            "circles counter-clockwise",
            "goes round in a circle counter-clockwise",
            "makes a counter-clockwise turn",
        ),
    ),
    "grows": ("shrinks", ("grows", "becomes larger", "gets bigger and bigger")),
    "shrinks": ("grows", ("shrinks", "becomes smaller", "gets smaller and smaller")),
    "appears": ("disappears", ("appears", "shows up after a while", "is missing at first and then there")),
    "disappears": ("appears", ("disappears", "is gone after a while", "is there at first and then missing")),
    "recolours": (
        "recolours",
        ("turns from {a} to {b}", "changes colour from {a} to {b}", "is {a} first and then {b}"),
    ),
}
# Pairs of colour and shape kept for the split ``novel``: eight of forty-eight.
NOVEL = {(c, s) for (i, c), (j, s) in itertools.product(enumerate(COLOURS), enumerate(SHAPES)) if (i + 2 * j) % 6 == 0}


@dataclass(frozen=True)
class Counts:
    """Scenes per split; all but ``train`` come with their twins, so twice as many videos."""

    train: int = 2000
    val: int = 75
    test: int = 150
    novel: int = 60


@dataclass(frozen=True)
class Scene:
    """One video in words: what is seen and what happens to it.

    Attributes:
        after: the colour at the end; the same as ``colour`` unless the motion is ``recolours``.
        lane: where across its direction it moves, 0 to 1.
        turn: start angle of a circle, or the moment of an appearance, 0 to 1.
    """

    shape: str
    colour: str
    after: str
    size: str
    motion: str
    background: str
    fast: bool
    lane: float
    turn: float

    def reversed(self) -> Scene:
        """What the same pictures show in reverse order."""
        return replace(self, motion=MOTIONS[self.motion][0], colour=self.after, after=self.colour)

    def caption(self, phrasing: int, background: bool) -> str:
        """A sentence about the scene; ``phrasing`` 0 to 2 chooses the words."""
        what = f"{self.size} {self.shape}" if self.motion == "recolours" else f"{self.size} {self.colour} {self.shape}"
        how = MOTIONS[self.motion][1][phrasing].format(a=self.colour, b=self.after)
        return f"a {what} {how}" + (f" on a {self.background} background" if background else "")


def render(scene: Scene, frames: int = FRAMES, side: int = SIDE) -> Array:
    """The pictures of a scene: (frames, side, side, 3) uint8."""
    time = np.linspace(0, 1, frames)
    progress = np.clip(1.5 * time - 0.25, 0, 1) if scene.fast else time  # fast: all of it in the middle two thirds
    ahead = progress if scene.motion == _forward(scene.motion) else 1 - progress
    along, lane = 0.2 + 0.6 * ahead, np.full(frames, 0.35 + 0.3 * scene.lane)
    angle = 2 * np.pi * (ahead + scene.turn)
    paths = {
        "right": (along, lane),
        "down": (lane, along),
        "clockwise": (0.5 + 0.27 * np.cos(angle), 0.5 + 0.27 * np.sin(angle)),
    }
    x, y = paths.get(_forward(scene.motion), (lane, np.full(frames, 0.5)))
    radii = np.full(frames, SIZES[scene.size])
    if _forward(scene.motion) == "grows":
        radii = radii * (0.5 + ahead)
    if _forward(scene.motion) == "appears":
        radii = radii * (ahead > 0.3 + 0.4 * scene.turn)
    before, after = np.asarray(COLOURS[scene.colour], float), np.asarray(COLOURS[scene.after], float)
    colours = np.where((ahead > 0.5)[:, None], after, before)
    background = np.tile(np.asarray(BACKGROUNDS[scene.background], float), (frames, 1))
    return draw(Frames(scene.shape, np.stack([x, y], 1), radii, colours, background), side)


def write_moving_shapes(folder: str | Path, seed: int = 0, counts: Counts | None = None) -> Path:
    """Write all videos and ``manifest.jsonl`` into an empty folder, or anew into one that was made by this function.

    Labels are the motions. ``objects.jsonl`` holds the same clips labelled by colour and shape, without those whose
    colour changes.

    Returns:
        The manifest's path. A folder whose manifest is complete and of the same seed and counts is left alone.

    Raises:
        DataError: the folder contains something else.
        StoreError: a file cannot be written.
    """
    folder, counts = Path(folder), counts or Counts()
    manifest, marker = (folder / name for name in (MANIFESTS[0], MARKER))
    wanted = {"version": VERSION, "seed": seed, **asdict(counts)}
    if manifest.exists() and _made_of(folder) == {**wanted, "complete": True}:
        return manifest
    _check_own(folder)
    replace_text(marker, json.dumps(wanted))  # first: an interrupted run must recognize its own folder

    clips, objects = list[Clip](), list[Clip]()
    total = counts.train + 2 * (counts.val + counts.test + counts.novel)
    for split, name, scene, twin in track(_videos(seed, counts), "writing videos", total=total):
        path = folder / split / f"{name}.mp4"
        pictures = render(scene.reversed())[::-1] if twin else render(scene)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, pictures, FPS, options={"crf": "18", "preset": "veryfast"})
        captions, label = _captions(scene, split, name, seed), scene.motion
        clips.append(Clip(id=f"{split}/{name}", path=path, captions=captions, split=split, label=label))
        if scene.colour == scene.after:
            objects.append(clips[-1].model_copy(update={"label": f"{scene.colour} {scene.shape}"}))
    write_manifest(objects, folder / MANIFESTS[1])
    write_manifest(clips, manifest)
    replace_text(marker, json.dumps({**wanted, "complete": True}))  # last: everything else is whole
    return manifest


def seed_of(folder: str | Path) -> int | None:
    """Return the seed of the whole set of videos in a folder; None where there is none, or a part of one.

    Raises:
        DataError: the folder's marker cannot be read.
    """
    made = _made_of(Path(folder))
    return int(made["seed"]) if made is not None and made["complete"] else None


def _check_own(folder: Path) -> None:
    """Refuse a folder with files that this module did not make; one that is missing is made."""
    if _made_of(folder) is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} is not empty, and moving_shapes did not make what it contains: nothing is written there. "
            "Choose another folder, or train on your own data with data.synthetic=null."
        )
    make_folder(folder)


def _made_of(folder: Path) -> dict[str, Any] | None:
    """Return what the marker of a folder says; None where there is none."""
    path = folder / MARKER
    if not path.is_file():
        return None
    remedy = "Delete the folder to make its videos anew."
    values = read_json(path, remedy=remedy)
    with reading(path, "a marker of moving_shapes", remedy=remedy):
        # Markers without these two were written last, by version 1.
        return {"version": 1, "complete": "version" not in values, **values, "seed": int(values["seed"])}


def _videos(seed: int, counts: Counts) -> Iterator[tuple[str, str, Scene, bool]]:
    """Split, name, scene, and whether the video is the twin (its scene is already the reversed one)."""
    for number, (split, count) in enumerate(asdict(counts).items()):
        generator = np.random.default_rng([seed, number])
        for index, scene in enumerate(_scenes(generator, split, count)):
            yield split, f"{index:04d}", scene, False
            if split != "train":
                yield split, f"{index:04d}-twin", scene.reversed(), True


def _scenes(generator: np.random.Generator, split: str, count: int) -> list[Scene]:
    """Random scenes; outside ``train`` no two of them, nor their twins, are told apart only by speed or place."""
    scenes: list[Scene] = []
    seen: set[tuple[object, ...]] = set()
    while len(scenes) < count:
        scene = _scene(generator)
        pairs = {(scene.colour, scene.shape), (scene.after, scene.shape)}
        if (pairs <= NOVEL) if split == "novel" else not pairs & NOVEL:
            what = (scene.shape, scene.size, frozenset((scene.colour, scene.after)), _forward(scene.motion))
            if split == "train" or what not in seen:
                seen.add(what)
                scenes.append(scene)
    return scenes


def _scene(generator: np.random.Generator) -> Scene:
    motion = str(generator.choice(list(MOTIONS)))
    colour, other = (str(c) for c in generator.choice(list(COLOURS), 2, replace=False))
    return Scene(
        shape=str(generator.choice(list(SHAPES))),
        colour=colour,
        after=other if motion == "recolours" else colour,
        size=str(generator.choice(list(SIZES))),
        motion=motion,
        background=str(generator.choice(list(BACKGROUNDS))),
        fast=bool(generator.random() < 0.5),
        lane=float(generator.random()),
        turn=float(generator.random()),
    )


def _captions(scene: Scene, split: str, name: str, seed: int) -> tuple[str, ...]:
    """Three phrasings for training; one, chosen by the video's name, where queries are counted."""
    number = int(name.split("-", maxsplit=1)[0])
    if split == "train":
        return tuple(scene.caption(phrasing, background=(number + phrasing) % 2 == 0) for phrasing in range(3))
    return (scene.caption((number + seed) % 3, background=number % 2 == 0),)


def _forward(motion: str) -> str:
    """One name for a motion and its reverse: the one that comes first in the table."""
    other = MOTIONS[motion][0]
    return min(motion, other, key=list(MOTIONS).index)
