from __future__ import annotations

from pathlib import Path

import numpy as np

from videoclip.data.manifest import read_manifest
from videoclip.synthetic import moving_shapes
from videoclip.synthetic.moving_shapes import MOTIONS, NOVEL, Counts, Scene, _videos, render, write_moving_shapes
from videoclip.video.decode import probe, read_frames

SMALL = Counts(train=40, val=6, test=12, novel=6)


def scenes(split: str, counts: Counts = SMALL) -> list[tuple[str, Scene, bool]]:
    return [(name, scene, twin) for s, name, scene, twin in _videos(3, counts) if s == split]


def test_every_motion_has_a_reverse() -> None:
    for motion, (other, phrases) in MOTIONS.items():
        assert MOTIONS[other][0] == motion and len(set(phrases)) == 3


def test_reversed_pictures_show_the_reversed_scene() -> None:
    """Rendering the reversed scene equals reversing the pictures, wherever the start is the same."""
    for motion in ("right", "down", "grows"):
        scene = Scene("bar", "red", "red", "small", motion, "black", False, 0.5, 0.5)
        assert np.array_equal(render(scene)[::-1], render(scene.reversed()))


def test_objects_go_where_their_motion_says() -> None:
    def centre(picture: np.ndarray) -> np.ndarray:
        return np.argwhere((picture != picture[0, 0]).any(-1)).mean(0)

    for motion, axis, sign in (("right", 1, 1), ("left", 1, -1), ("down", 0, 1), ("up", 0, -1)):
        pictures = render(Scene("circle", "red", "red", "small", motion, "white", True, 0.5, 0.0))
        way = centre(pictures[-1]) - centre(pictures[0])
        assert sign * way[axis] > 40 and abs(way[1 - axis]) < 2
    pictures = render(Scene("circle", "red", "red", "small", "clockwise", "white", False, 0.5, 0.0))
    first, second = centre(pictures[0]), centre(pictures[2])
    assert first[1] > 60 and second[0] > first[0] + 5  # from the right, downwards


def test_twins_are_reversed_and_captioned_so() -> None:
    test = {name: (scene, twin) for name, scene, twin in scenes("test")}
    assert len(test) == 24
    for name, (scene, twin) in test.items():
        if twin:
            assert scene == test[name.removesuffix("-twin")][0].reversed()


def test_queries_of_a_gallery_are_told_apart_by_their_words() -> None:
    for split in ("val", "test", "novel"):
        plain = [scene.caption(0, background=False) for _, scene, _ in scenes(split)]
        assert len(plain) == len(set(plain))


def test_novel_pairs_are_never_seen_before() -> None:
    def pairs(split: str) -> set[tuple[str, str]]:
        return {(c, s.shape) for _, s, _ in scenes(split, Counts()) for c in (s.colour, s.after)}

    assert pairs("novel") == NOVEL and len(NOVEL) == 8
    assert not (pairs("train") | pairs("val") | pairs("test")) & NOVEL


def test_files_are_h264_and_the_same_from_the_same_seed(tmp_path: Path) -> None:
    counts = Counts(train=2, val=1, test=1, novel=1)
    first = write_moving_shapes(tmp_path / "a", seed=7, counts=counts)
    second = write_moving_shapes(tmp_path / "b", seed=7, counts=counts)
    assert first.read_text() == second.read_text()
    clips, others = read_manifest(first), read_manifest(second)
    assert [clip.split for clip in clips] == ["train"] * 2 + ["val"] * 2 + ["test"] * 2 + ["novel"] * 2
    for clip, other in zip(clips, others, strict=True):
        assert clip.path.read_bytes() == other.path.read_bytes()
    info = probe(clips[0].path)
    assert info.codec == "h264" and len(info.times) == moving_shapes.FRAMES


def test_decoded_twins_are_each_other_backwards(shapes: Path) -> None:
    for original in sorted((shapes.parent / "test").glob("*-twin.mp4")):
        twin = read_frames(original.with_name(original.name.replace("-twin", ""))).pixels.astype(int)
        difference = np.abs(read_frames(original).pixels[::-1].astype(int) - twin)
        assert difference.mean() < 3


def test_a_complete_folder_is_left_alone_and_an_interrupted_one_finished(tmp_path: Path) -> None:
    counts = Counts(train=1, val=1, test=1, novel=1)
    manifest = write_moving_shapes(tmp_path, counts=counts)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    write_moving_shapes(tmp_path, counts=counts)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")} == before
    next(iter(before)).unlink()
    manifest.unlink()  # as if the run had been killed before its last step
    write_moving_shapes(tmp_path, counts=counts)
    assert all(path.exists() for path in before)
