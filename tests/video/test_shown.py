"""Pictures as a player shows them: upright, with square pixels, each at its own size; by both decoders alike."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from videoclip.backbone.openclip import OpenClip
from videoclip.data.manifest import Clip
from videoclip.describe import describe
from videoclip.errors import StoreError
from videoclip.store import FeatureStore
from videoclip.store.extract import Extras, cache_features
from videoclip.store.source import PixelSource
from videoclip.video.clip import FrameChoice
from videoclip.video.decode import Video, probe, read_frames
from videoclip.video.picture import Orientation, sane, shown_size
from videoclip.video.preprocess import Preprocess
from videoclip.video.probe import Decoder, has_decord
from videoclip.video.views import make_views, view_names

DECODERS: list[Decoder] = ["auto", "pyav"]
COLORS = np.array([[(220, 30, 30), (30, 200, 60)], [(30, 60, 220), (240, 240, 240)]], np.uint8)
SHARP = {"crf": "10", "g": "5", "bf": "2"}
Matrix = tuple[int, int, int, int]
MATRICES: dict[Matrix, str] = {
    (1, 0, 0, 1): "upright",
    (-1, 0, 0, 1): "mirrored",
    (1, 0, 0, -1): "turned by 180 degrees clockwise, then mirrored",
    (-1, 0, 0, -1): "turned by 180 degrees clockwise",
    (0, 1, -1, 0): "turned by 90 degrees clockwise",
    (0, -1, 1, 0): "turned by 270 degrees clockwise",
    (0, 1, 1, 0): "turned by 90 degrees clockwise, then mirrored",
    (0, -1, -1, 0): "turned by 270 degrees clockwise, then mirrored",
}


def quarters(height: int = 96, width: int = 128) -> np.ndarray:
    """A picture of four colors (H, W, 3), one in each corner."""
    return COLORS.repeat(height // 2, 0).repeat(width // 2, 1)


def disc(height: int, width: int) -> np.ndarray:
    """A red disc off the center of a dark picture (H, W, 3), round where pixels are square."""
    y, x = np.mgrid[:height, :width]
    inside = (x - width * 0.45) ** 2 + (y - height * 0.5) ** 2 < (0.35 * min(height, width)) ** 2
    return np.where(inside[..., None], np.uint8([220, 30, 30]), np.uint8([20, 20, 20]))


def squeezed(picture: np.ndarray, width: int) -> np.ndarray:
    """A picture (H, W, 3) at another width."""
    return np.array(Image.fromarray(picture).resize((width, len(picture)), Image.Resampling.BICUBIC))


def write(
    path: Path,
    pictures: Sequence[np.ndarray],
    aspect: Fraction | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    kind: str | None = None,
) -> Path:
    """Encode pictures of one size, 10 a second, in pixels of an aspect."""
    with av.open(str(path), "w", format=kind) as container:
        stream: Any = container.add_stream(codec, 10, options=options or SHARP)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


def set_matrix(path: Path, matrix: Matrix) -> None:
    """Write a display matrix [a b; c d] into the track header of an MP4 file."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    a, b, c, d = (number << 16 for number in matrix)
    numbers = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    content[at : at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    path.write_bytes(content)


def placed(matrix: Matrix) -> np.ndarray:
    """The colors (2, 2, 3) of the corners after each stored place (p, q) went to (a p + c q, b p + d q)."""
    a, b, c, d = matrix
    shown = np.zeros_like(COLORS)
    for p in (0, 1):
        for q in (0, 1):
            x, y = a * (2 * p - 1) + c * (2 * q - 1), b * (2 * p - 1) + d * (2 * q - 1)
            shown[(y + 1) // 2, (x + 1) // 2] = COLORS[q, p]
    return shown


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("matrix", MATRICES, ids=MATRICES.get)
def test_display_matrices_are_applied(tmp_path: Path, matrix: Matrix, decoder: Decoder) -> None:
    path = write(tmp_path / "v.mp4", [quarters()] * 6)
    set_matrix(path, matrix)
    picture = read_frames(path, indices=[3], decoder=decoder).pixels[0]
    height, width = (128, 96) if matrix[0] == 0 else (96, 128)
    assert picture.shape == (height, width, 3)
    corners = picture[height // 4 :: height // 2, width // 4 :: width // 2].astype(int)
    assert np.abs(corners - placed(matrix)).max() < 12
    assert describe(path)["orientation"] == MATRICES[matrix]


def test_decord_reads_turned_but_not_mirrored_files(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", [quarters()] * 6)
    set_matrix(path, (0, 1, -1, 0))
    assert probe(path).decoder == ("decord" if has_decord() else "pyav")
    set_matrix(path, (0, 1, 1, 0))
    assert probe(path).decoder == "pyav"


def test_a_matrix_of_nothing_leaves_the_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", [quarters()] * 2)
    set_matrix(path, (0, 0, 0, 0))
    assert probe(path).orientation == Orientation() and read_frames(path).pixels.shape[1:] == (96, 128, 3)


# Pixels that are not square -------------------------------------------------------------------------------------------

WIDE = Fraction(64, 45)


@pytest.mark.parametrize(
    ("aspect", "expected"),
    [(WIDE, WIDE), (None, 1), (Fraction(0), 1), (Fraction(1, 65535), 1), (Fraction(9), 1), (Fraction(1, 2), 1 / 2)],
)
def test_aspects_that_cannot_be_meant_are_square(aspect: Fraction | None, expected: Fraction) -> None:
    assert sane(aspect) == expected


def test_one_side_is_enlarged() -> None:
    assert shown_size(144, 180, 64 / 45) == (144, 256)
    assert shown_size(180, 144, 45 / 64) == (256, 144)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts"])
def test_anamorphic_files_are_named(tmp_path: Path, name: str, decoder: Decoder) -> None:
    path = write(tmp_path / name, [disc(144, 180)] * 4, WIDE)
    frames = read_frames(path, decoder=decoder)
    assert frames.pixels.shape[1:3] == (144, 180) and frames.aspect == pytest.approx(64 / 45)
    assert [picture.shape for picture in frames.square()] == [(144, 256, 3)] * 4
    facts = describe(path)
    assert facts["picture"] == "256x144, stored as 180x144" and facts["pixel shape"] == "64:45"


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_turned_anamorphic_picture(tmp_path: Path, decoder: Decoder) -> None:
    path = write(tmp_path / "v.mp4", [disc(144, 180)] * 4, WIDE)
    set_matrix(path, (0, 1, -1, 0))
    frames = read_frames(path, decoder=decoder)
    assert frames.square()[0].shape == (256, 144, 3) and probe(path).shown_size == (256, 144)


def test_the_aspect_may_change_from_picture_to_picture(tmp_path: Path) -> None:
    parts = [
        write(tmp_path / f"{n}.m2v", [disc(144, 180)] * 6, aspect, "mpeg2video", {"g": "3", "b": "4M"}, "mpeg2video")
        for n, aspect in enumerate((Fraction(16, 15), WIDE, Fraction(16, 15)))
    ]
    whole = tmp_path / "whole.m2v"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    with Video(whole) as video:
        chunks = list(video.iterate(range(18)))
    assert [(len(chunk.pixels), round(chunk.aspect, 3)) for chunk in chunks] == [(6, 1.067), (6, 1.422), (6, 1.067)]
    squared = read_frames(whole)
    assert squared.aspect == 1 and {p.shape for p in squared.pixels} == {(144, 192, 3), (144, 256, 3)}


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("aspect", [64 / 45, 0.5, 1.09])
def test_one_resize_takes_the_picture_to_its_shape(mode: str, size: tuple[int, int], aspect: float) -> None:
    """It differs from resizing a picture in square pixels by no more than that picture's own resampling."""
    stored = disc(144, 180)
    height, width = shown_size(144, 180, aspect)
    square = np.array(Image.fromarray(stored).resize((width, height), Image.Resampling.BICUBIC))
    preprocess = Preprocess(size=size, resize_mode=mode)
    got, twice = preprocess(stored[None], aspect).int(), preprocess(square[None]).int()
    assert (got - twice).abs().float().mean() < 0.6
    exact = Preprocess(size=size, resize_mode=mode, resize="pillow")
    assert (got - exact(stored[None], aspect).int()).abs().max() <= 2
    if mode != "squash":
        assert (got - preprocess(stored[None]).int()).abs().float().mean() > 0.6


def test_stored_pixels_ignore_the_aspect() -> None:
    stored = disc(144, 180)[None]
    preprocess = Preprocess(size=(64, 64), pixel_shape="stored")
    assert torch.equal(preprocess(stored, 64 / 45), Preprocess(size=(64, 64))(stored))


def test_views_have_the_shape_of_the_picture() -> None:
    names, preprocess = view_names(crops=True, augmentations=2), Preprocess(size=(64, 64))
    got = make_views(squeezed(disc(144, 256), 180)[None], preprocess, names, "a", 256 / 180).int()
    expected = make_views(disc(144, 256)[None], preprocess, names, "a").int()
    assert got.shape == (1, 6, 3, 64, 64)
    assert (got - expected).abs().float().mean((0, 2, 3, 4)).max() < 1.5


def test_a_crop_stays_inside() -> None:
    """Whatever is drawn, rounding never reaches past the stored picture, where torchvision would paint black."""
    white = np.full((1, 37, 53, 3), 255, np.uint8)
    for key in map(str, range(50)):
        views = make_views(white, Preprocess(size=(16, 16)), view_names(True, 1), key, 64 / 45)
        assert views.min() == 255


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """A picture in wide pixels, and the same in square ones."""
    folder = tmp_path_factory.mktemp("two")
    full = disc(144, 256)
    write(folder / "wide.mp4", [squeezed(full, 180)] * 4, WIDE)
    write(folder / "square.mp4", [full] * 4)
    return [Clip(id=name, path=folder / f"{name}.mp4") for name in ("wide", "square")]


def cosine(store: FeatureStore) -> float:
    one, other = (store[name].frames.float().mean(0) for name in ("wide", "square"))
    return float(torch.nn.functional.cosine_similarity(one, other, 0))


def test_features_are_those_of_square_pixels(two: list[Clip], tmp_path: Path, tiny: OpenClip) -> None:
    choice = FrameChoice(frames=2)
    cache_features(two, tmp_path / "square", tiny, choice, workers=0)
    cache_features(two, tmp_path / "stored", tiny, choice, workers=0, pixel_shape="stored")
    square, stored = FeatureStore(tmp_path / "square"), FeatureStore(tmp_path / "stored")
    assert cosine(square) > 0.995 > cosine(stored)
    assert describe(tmp_path / "square")["pixel shape"] == "square"
    assert describe(tmp_path / "stored")["pixel shape"] == "stored"


def test_a_store_keeps_its_pixel_shape(two: list[Clip], tmp_path: Path, tiny: OpenClip) -> None:
    """Stores from before there was a choice lack the field: they keep their fingerprint and stay as they are."""
    choice, folder = FrameChoice(frames=2), tmp_path / "old"
    cache_features(two[1:], folder, tiny, choice, workers=0, pixel_shape="stored")
    before = FeatureStore(folder)
    assert "pixel_shape" not in before.recipe.preprocess
    cache_features(two, folder, tiny, choice, workers=0)
    after = FeatureStore(folder)
    assert after.fingerprint == before.fingerprint and len(after) == 2
    with pytest.raises(StoreError, match=r"pixel_shape: stored / square"):
        cache_features(two, folder, tiny, choice, workers=0, pixel_shape="square")


# Pictures that change their size --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One H.264 stream of 6 pictures of 128x128 and 6 of 256x144, in three containers."""
    folder = tmp_path_factory.mktemp("changing")
    options = {"crf": "10", "tune": "zerolatency"}
    parts = [
        write(folder / f"part{n}.h264", [disc(*size)] * 6, None, "libx264", options, "h264").read_bytes()
        for n, size in enumerate(((128, 128), (144, 256)))
    ]
    paths = {kind: folder / f"whole.{kind}" for kind in ("h264", "mkv", "ts")}
    paths["h264"].write_bytes(b"".join(parts))
    for kind in ("mkv", "ts"):
        with av.open(str(paths["h264"])) as source, av.open(str(paths[kind]), "w") as target:
            stream = source.streams.video[0]
            copy = target.add_stream_from_template(stream)
            for number, packet in enumerate(p for p in source.demux(stream) if p.size):
                packet.stream, packet.time_base = copy, Fraction(1, 1000)
                packet.pts, packet.dts, packet.duration = number * 100, number * 100, 100
                target.mux(packet)
    return paths


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["h264", "mkv", "ts"])
def test_each_picture_keeps_its_size(changing: dict[str, Path], kind: str, decoder: Decoder) -> None:
    with Video(changing[kind], decoder) as video:
        chunks = list(video.iterate(range(12)))
        assert video.errors == 0
    assert [chunk.pixels.shape[:3] for chunk in chunks] == [(6, 128, 128), (6, 144, 256)]
    mixed = read_frames(changing[kind], indices=[8, 2], decoder=decoder).pixels
    for picture, size in zip(mixed, ((144, 256), (128, 128)), strict=True):
        assert np.abs(picture.astype(int) - disc(*size)).mean() < 3


def test_decord_never_squashes_them(changing: dict[str, Path]) -> None:
    assert probe(changing["mkv"]).decoder == "pyav"


@pytest.mark.parametrize("kind", ["h264", "mkv", "ts"])
def test_clips_of_two_sizes_are_cached(changing: dict[str, Path], kind: str, tmp_path: Path, tiny: OpenClip) -> None:
    clips = [Clip(id="a", path=changing[kind])]
    extras = Extras(pixels="uint8", crops=True, augmentations=1)
    cache_features(clips, tmp_path / "s", tiny, FrameChoice(frames=4), extras=extras, workers=0)
    store = FeatureStore(tmp_path / "s")
    pixels = store.pixels(["a"], 4).pixels[0]
    expected = torch.cat([tiny.preprocess(disc(*size)[None]) for size in ((128, 128), (144, 256))])
    assert (pixels[[0, 3]].int() - expected.int()).abs().float().mean() < 4
    assert store["a"].notes["status"] == "ok"


def test_a_random_crop_fits_every_size(changing: dict[str, Path], tiny: OpenClip) -> None:
    source = PixelSource.of([Clip(id="a", path=changing["mkv"])], None, tiny.preprocess, "crop_flip", workers=0)
    found = source.pixels(["a"], 4, [np.random.default_rng(3)]).pixels[0]
    assert found.shape == (4, 3, *tiny.preprocess.size)
    assert (found[0].int() - found[1].int()).abs().float().mean() < 2  # one crop for the pictures of one size


def test_interlaced_files_are_reported(tmp_path: Path, tiny: OpenClip) -> None:
    options = {"g": "5", "flags": "+ilme+ildct", "x264-params": "tff=1"}
    path = write(tmp_path / "v.mp4", [quarters()] * 4, None, "libx264", options)
    assert describe(path)["scan"].startswith("interlaced")
    cache_features([Clip(id="a", path=path)], tmp_path / "s", tiny, FrameChoice(frames=2), workers=0)
    assert FeatureStore(tmp_path / "s")["a"].notes["interlaced"] is True
    assert describe(tmp_path / "s")["interlaced clips"] == 1
