from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from videoclip.backbone import create_backbone
from videoclip.backbone.openclip import TINY_FOLDER, OpenClip, default_vocabulary
from videoclip.errors import BackboneError
from videoclip.synthetic import stills


def test_tiny_names_the_exact_caption(tiny: OpenClip) -> None:
    """Its own mark: the right caption of 480 for at least 95 % of fresh pictures."""
    pictures, answers, captions = stills.measuring_set(seed=123, images=800)
    with torch.inference_mode():
        image = tiny.encode_image(torch.from_numpy(pictures).permute(0, 3, 1, 2))
        text = tiny.encode_text(tiny.tokenize(captions)).sentence
    scores = torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
    assert len(captions) == len(set(captions)) == 480
    assert (scores.argmax(-1) == torch.from_numpy(answers)).float().mean() >= 0.95


def test_tiny_is_small_and_reads_any_text(tiny: OpenClip) -> None:
    assert sum(f.stat().st_size for f in TINY_FOLDER.iterdir()) < 8_000_000
    tokens = tiny.tokenize(["Ein völlig anderer Satz: 42 €!", "", "word " * 100])
    assert tokens.shape == (3, 32) and (tokens.max(-1).values == 4095).all()
    assert tiny.encode_text(tokens).sentence.isfinite().all()
    assert default_vocabulary()[1] == "i n"


def test_equals_open_clip_itself(tiny: OpenClip) -> None:
    """Embeddings against open_clip's own model, transform and normalisation, un-normalised."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{TINY_FOLDER}")
    from PIL import Image

    pictures, *_ = stills.measuring_set(seed=5, images=4, side=64)
    tokens = tiny.tokenize(["a small red circle on the left", "a ring"])
    with torch.inference_mode():
        expected = model.eval().encode_image(torch.stack([transform(Image.fromarray(p)) for p in pictures]))
        torch.testing.assert_close(tiny.encode_image(tiny.preprocess(pictures)), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tiny.encode_text(tokens).sentence, model.encode_text(tokens))


@pytest.mark.parametrize("custom_text", [False, True])
def test_words_are_projected_and_the_sentence_is_one_of_them(custom_text: bool, tmp_path: Path) -> None:
    config = json.loads((TINY_FOLDER / "open_clip_config.json").read_text())
    config["model_cfg"]["custom_text"] = custom_text
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "bpe.txt.gz").write_bytes((TINY_FOLDER / "bpe.txt.gz").read_bytes())
    backbone = OpenClip(str(tmp_path), random_weights=True)
    tokens = backbone.tokenize(["a small red circle", "a ring!"])
    with torch.inference_mode():
        text = backbone.encode_text(tokens, words=True)
    assert text.words is not None and text.mask is not None
    end = tokens.argmax(-1)
    assert text.words.shape == (2, 32, backbone.width) and torch.equal(text.mask.sum(1), end + 1)
    torch.testing.assert_close(text.words[torch.arange(2), end], text.sentence)


def test_the_fingerprint_tells_weights_and_preprocessing_apart(tiny: OpenClip, tmp_path: Path) -> None:
    assert create_backbone("tiny").fingerprint == tiny.fingerprint

    def variant(name: str, weights: dict[str, torch.Tensor], config: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(config)
        (folder / "bpe.txt.gz").write_bytes((TINY_FOLDER / "bpe.txt.gz").read_bytes())
        save_file(weights, folder / "open_clip_model.safetensors")
        return create_backbone(str(folder)).fingerprint

    weights = load_file(TINY_FOLDER / "open_clip_model.safetensors")
    config = (TINY_FOLDER / "open_clip_config.json").read_text()
    assert variant("same", weights, config) == tiny.fingerprint
    changed = weights | {"ln_final.bias": weights["ln_final.bias"] + 0.01}
    assert variant("weights", changed, config) != tiny.fingerprint
    assert variant("preprocess", weights, config.replace("0.25", "0.3")) != tiny.fingerprint


def openai_export(path: Path, scripted: bool) -> None:
    """A file in OpenAI's own format: a state dict with three sizes in it, or a TorchScript archive."""
    module = torch.nn.Linear(2, 2)
    if scripted:
        torch.jit.script(module).save(str(path))
    else:
        sizes = {k: torch.tensor(1) for k in ("input_resolution", "context_length", "vocab_size")}
        torch.save(module.state_dict() | sizes, path)


@pytest.mark.parametrize("scripted", [False, True])
def test_openai_weights_on_a_gelu_architecture_are_refused(tmp_path: Path, scripted: bool) -> None:
    openai_export(tmp_path / "w.pt", scripted)
    with pytest.raises(BackboneError, match="use ViT-B-32-quickgelu"):
        create_backbone("ViT-B-32", str(tmp_path / "w.pt"))


def test_openai_tag_on_a_gelu_architecture_is_refused() -> None:
    with pytest.raises(BackboneError, match="use ViT-B-32-quickgelu"):
        create_backbone("ViT-B-32", "openai")


def test_a_local_weights_file_loads(tmp_path: Path) -> None:
    """A plain file for a built-in architecture, as a user would have it."""
    torch.manual_seed(0)
    original = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    torch.save(original.state_dict(), tmp_path / "w.pt")
    transform: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    backbone = create_backbone("ViT-S-32-alt", str(tmp_path / "w.pt"), resize_mode="squash", **transform)
    tokens = backbone.tokenize(["a dog"])
    with torch.inference_mode():
        torch.testing.assert_close(backbone.encode_text(tokens).sentence, original.eval().encode_text(tokens))


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B32", "openai", "nearest: .*ViT-B-32"),
        ("ViT-B-32", None, "no weights named.*laion2b_s34b_b79k"),
        ("ViT-B-32", "laion2b", "neither a file nor a pretrained tag.*laion2b_s34b_b79k"),
        ("tiny", "openai", "brings its own weights"),
    ],
)
def test_mistakes_name_what_exists(name: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        create_backbone(name, pretrained)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    for name in ("open_clip_config.json", "bpe.txt.gz"):
        (tmp_path / name).write_bytes((TINY_FOLDER / name).read_bytes())
    with pytest.raises(BackboneError, match="cannot load"):
        create_backbone(str(tmp_path))
