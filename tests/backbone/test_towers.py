"""Every kind of tower that open_clip builds: features, words, masks and patches are right, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.helpers.small_towers import TEXTS, build_small
from videoclip.backbone import create_backbone
from videoclip.backbone.openclip import OpenClip
from videoclip.errors import BackboneError


class Kind(NamedTuple):
    """What an architecture is expected to give; ``lengths`` are the tokens of TEXTS without padding."""

    words: bool
    patches: bool
    tokenizer: str | None = None
    text_model: str | None = None
    lengths: tuple[int, ...] = ()


KINDS = {
    "ViT-B-32": Kind(words=True, patches=True),
    "EVA02-B-16": Kind(words=True, patches=False),
    "RN50": Kind(words=True, patches=False),
    "convnext_base": Kind(words=True, patches=False),
    "ViTamin-S": Kind(words=True, patches=False),
    "MobileCLIP-S1": Kind(words=True, patches=False),
    "PE-Core-B-16": Kind(words=True, patches=False),
    "coca_base": Kind(words=False, patches=True),
    "coca_ViT-B-32": Kind(words=False, patches=False),
    "coca_roberta-ViT-B-32": Kind(words=False, patches=True, tokenizer="xlm", text_model="roberta"),
    "ViT-B-16-SigLIP": Kind(words=True, patches=False, tokenizer="siglip", lengths=(3, 4, 1)),
    "ViT-B-16-SigLIP2": Kind(words=True, patches=False, tokenizer="siglip2", lengths=(3, 4, 1)),
    "ViT-L-14-CLIPA": Kind(words=True, patches=False, tokenizer="bert", lengths=(3, 4, 1)),
    "ViT-H-14-worldwide": Kind(words=True, patches=True, tokenizer="xlm", lengths=(4, 5, 2)),
    "roberta-ViT-B-32": Kind(words=False, patches=True, tokenizer="xlm", text_model="roberta"),
    "mt5-base-ViT-B-32": Kind(words=False, patches=True, tokenizer="siglip2", text_model="mt5"),
    "nllb-clip-base": Kind(words=False, patches=True, tokenizer="xlm", text_model="nllb"),
    "nllb-clip-base-siglip": Kind(words=False, patches=False, tokenizer="xlm", text_model="nllb"),
}
LARGE = ("EVA02-B-16", "ViTamin-S", "MobileCLIP-S1")  # seconds each: timm has no smaller ones of these kinds
WITH_FILES = [name for name, kind in KINDS.items() if kind.tokenizer]


def chosen(**wanted: bool) -> list[Any]:
    """Architectures whose kind is as wanted, the large ones marked as slow."""
    names = [name for name, kind in KINDS.items() if all(getattr(kind, k) == v for k, v in wanted.items())]
    return [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in names]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OpenClip]:
    return {}


@pytest.fixture
def backbone(request: Any, built: dict[str, OpenClip], tmp_path_factory: pytest.TempPathFactory) -> OpenClip:
    name = request.param
    if name not in built:
        folder = tmp_path_factory.mktemp("models") / name
        built[name] = build_small(folder, name, KINDS[name].tokenizer, KINDS[name].text_model)
    return built[name]


def pixels(backbone: OpenClip) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size = backbone.preprocess.size
    return torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=generator)


def the_tower_s_own(found: Any) -> torch.Tensor:
    pooled: torch.Tensor = found[0] if isinstance(found, tuple) else found
    return pooled


@pytest.mark.parametrize("backbone", chosen(), indirect=True)
def test_features_are_the_towers_own_before_normalization(backbone: OpenClip) -> None:
    tokens = backbone.tokenize(TEXTS)
    with torch.inference_mode():
        images = backbone.encode_image(pixels(backbone))
        own = the_tower_s_own(backbone.image_tower(backbone.preprocess.normalize(pixels(backbone))))
        sentences = backbone.encode_text(tokens).sentence
        unit = torch.nn.functional.normalize(sentences, dim=-1)
        torch.testing.assert_close(unit, backbone.clip.encode_text(tokens, normalize=True))
    torch.testing.assert_close(images, own)
    assert images.shape == (1, backbone.width)
    for features in (images, sentences):
        assert not torch.allclose(features.norm(dim=-1), torch.ones(len(features)), atol=1e-3)


@pytest.mark.parametrize("backbone", chosen(patches=True), indirect=True)
def test_there_is_one_patch_for_each_square_of_the_grid(backbone: OpenClip) -> None:
    visual: Any = backbone.image_tower
    with torch.inference_mode():
        pooled, patches = backbone.encode_patches(pixels(backbone))
        torch.testing.assert_close(pooled, backbone.encode_image(pixels(backbone)))
        # The law of a patch: exchange it with the class token before the final norm, and it is the feature.
        caught: list[torch.Tensor] = []
        hook = visual.transformer.register_forward_hook(lambda module, args, output: caught.append(output))
        backbone.encode_image(pixels(backbone))
        hook.remove()
        turned = visual._pool(caught[0].roll(-1, 1))[0] @ visual.proj
    rows, columns = visual.grid_size
    assert patches.shape == (1, rows * columns, backbone.width)
    torch.testing.assert_close(patches[:, 0], turned)


@pytest.mark.parametrize("backbone", chosen(patches=False), indirect=True)
def test_patches_of_other_image_towers_are_refused(backbone: OpenClip) -> None:
    with pytest.raises(BackboneError, match=r"this image tower has no patch embeddings"):
        backbone.encode_patches(pixels(backbone))


@pytest.mark.parametrize("backbone", chosen(words=True), indirect=True)
def test_the_sentence_is_one_of_the_words_and_padding_is_none(backbone: OpenClip, request: Any) -> None:
    tokens, text = backbone.tokenize(TEXTS), backbone.text_tower
    with torch.inference_mode():
        found = backbone.encode_text(tokens, words=True)
    assert found.words is not None and found.mask is not None
    end = tokens.argmax(-1)
    if text.pool_type == "last":
        end = torch.full_like(end, tokens.shape[1] - 1)
    elif text.pool_type == "eos":
        end = (tokens == 2).int().argmax(-1)
    assert found.words.shape == (len(TEXTS), tokens.shape[1], backbone.width)
    torch.testing.assert_close(found.words[torch.arange(len(TEXTS)), end], found.sentence)
    lengths = KINDS[request.node.callspec.params["backbone"]].lengths or tuple((end + 1).tolist())
    expected = torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None]
    assert torch.equal(found.mask, expected)


@pytest.mark.parametrize("backbone", chosen(words=False), indirect=True)
def test_words_of_other_text_towers_are_refused(backbone: OpenClip) -> None:
    with pytest.raises(BackboneError, match=r"this text tower has no word embeddings"):
        backbone.encode_text(backbone.tokenize(TEXTS), words=True)


@pytest.mark.parametrize("backbone", ["ViT-B-32", "coca_base", *WITH_FILES], indirect=True)
def test_a_written_folder_brings_its_tokenizer(backbone: OpenClip, tmp_path: Path) -> None:
    """Twice: the copy of a copy too."""
    source = backbone
    for name in ("once", "twice"):
        source.save(tmp_path / name)
        source = create_backbone(str(tmp_path / name))  # type: ignore[assignment]
    assert source.fingerprint == backbone.fingerprint
    assert torch.equal(source.tokenize(TEXTS), backbone.tokenize(TEXTS))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("tmp") or path.suffix == ".tmp"]


def test_the_end_of_a_text_is_found_whatever_it_says(tmp_path: Path) -> None:
    """CLIP's "!" has the id of the padding; a text that fills the context has no padding."""
    backbone = build_small(tmp_path / "model", "ViT-B-32")
    tokens = backbone.tokenize(["! dog !", "dog " * 200])
    mask = backbone.encode_text(tokens, words=True).mask
    assert mask is not None
    assert mask.sum(1).tolist() == [int(tokens[0].argmax()) + 1, tokens.shape[1]]
