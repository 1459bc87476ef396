"""A single string is one text wherever a list of texts is taken; what is no text or no video is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import videoclip as vc
from videoclip.backbone.openclip import OpenClip
from videoclip.errors import DataError
from videoclip.features import as_texts
from videoclip.model import create_model
from videoclip.retrieval.search import search
from videoclip.store import FeatureStore
from videoclip.training.evaluate import encode_texts

TEXT = "a small red circle grows"


@pytest.fixture(scope="module")
def model(tiny: OpenClip) -> vc.VideoTextModel:
    return create_model(tiny, frames=4).eval()


@pytest.fixture
def files(shapes: Path, shapes_store: FeatureStore) -> list[Path]:
    return [shapes.parent / f"{clip}.mp4" for clip in shapes_store.ids[:2]]


def test_a_string_is_one_text(model: vc.VideoTextModel, tiny: OpenClip, files: list[Path]) -> None:
    expected = model.score([TEXT], files)
    assert expected.shape == (1, 2)
    assert torch.equal(model.score(TEXT, files), expected)
    assert torch.equal(model.encode_text(TEXT).sentence, model.encode_text([TEXT]).sentence)
    assert torch.equal(tiny.tokenize(TEXT), tiny.tokenize([TEXT]))
    assert len(encode_texts(model, None, TEXT)) == 1


def test_a_string_is_one_caption_of_a_store(shapes_store: FeatureStore) -> None:
    caption = sorted(shapes_store.captions)[0]
    assert torch.equal(shapes_store.text(caption).sentence, shapes_store.text([caption]).sentence)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_one_video(kind: type, model: vc.VideoTextModel, files: list[Path]) -> None:
    assert torch.equal(model.score(TEXT, kind(files[0])), model.score(TEXT, files[:1]))


@pytest.mark.parametrize("texts", [7, None, [TEXT, 7], [[TEXT]], [None], (b"x",), b"x"])
def test_what_is_not_a_text_is_named(texts: Any, model: vc.VideoTextModel, shapes_store: FeatureStore) -> None:
    with pytest.raises(DataError, match="Texts must be strings"):
        model.score(texts, shapes_store)
    with pytest.raises(DataError, match="Texts must be strings"):
        shapes_store.text(texts)


def test_a_search_takes_one_text(shapes_store: FeatureStore, model: vc.VideoTextModel) -> None:
    with pytest.raises(DataError, match="Texts must be strings"):
        search(shapes_store, [TEXT], model=model)  # type: ignore[arg-type]


def test_texts_are_listed_in_order() -> None:
    assert as_texts(("b", "a")) == ["b", "a"]
    assert as_texts(text for text in "ab") == ["a", "b"]  # type: ignore[arg-type]
    assert as_texts([]) == []


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "list of videos is empty"),
        ((), "list of videos is empty"),
        (7, "not int"),
        (None, "not NoneType"),
        ([None], "not NoneType"),
        (["a.mp4", 7], "not int"),
        (torch.zeros(1, 2, 8), "not Tensor"),
        ({"a.mp4": 1}, "not dict"),
    ],
)
def test_what_is_not_a_video_is_named(videos: Any, message: str, model: vc.VideoTextModel) -> None:
    with pytest.raises(DataError, match=message):
        model.score(TEXT, videos)


def test_stored_clips_are_named(model: vc.VideoTextModel, shapes_store: FeatureStore) -> None:
    clips = vc.StoredClips(shapes_store, shapes_store.ids[:2], 4)
    for videos in (clips, [shapes_store[shapes_store.ids[0]]]):
        with pytest.raises(DataError, match="Videos must be paths, VideoFeatures"):
            model.score(TEXT, videos)
