"""Where a backbone comes from: its image transform, and files, packages and repositories that are missing or damaged."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.small_towers import write_small
from videoclip.backbone import create_backbone, reopen_backbone
from videoclip.backbone.openclip import TINY_FOLDER, OpenClip, _tag_transforms
from videoclip.backbone.transform import UNRECORDED, agreed_transform
from videoclip.cli import main
from videoclip.config import BackboneConfig, ModelConfig
from videoclip.errors import BackboneError, VideoclipError
from videoclip.model import create_model, load_model
from videoclip.retrieval.search import default_model
from videoclip.store import FeatureStore

HALF = [0.5, 0.5, 0.5]
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
OPENAI = (UNRECORDED["mean"], UNRECORDED["std"])
SIGLIP: dict[str, Any] = {"mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"}
WEIGHTS = TINY_FOLDER / "open_clip_model.safetensors"


@pytest.mark.parametrize(
    ("architecture", "mean", "std", "interpolation", "resize_mode"),
    [
        ("ViT-B-32-quickgelu", *OPENAI, "bicubic", "shortest"),
        ("ViT-B-16-SigLIP", HALF, HALF, "bicubic", "squash"),
        ("ViT-SO400M-16-SigLIP2-384", HALF, HALF, "bicubic", "squash"),
        ("ViT-H-14-CLIPA-336", *IMAGENET, "bilinear", "squash"),
        ("MobileCLIP-S2", [0.0] * 3, [1.0] * 3, "bilinear", "shortest"),
        ("PE-Core-L-14-336", HALF, HALF, "bilinear", "squash"),
        ("ViT-H-14-378-quickgelu", *OPENAI, "bicubic", "squash"),
    ],
)
def test_a_file_gets_the_transform_of_its_architectures_tags(
    architecture: str, mean: Any, std: Any, interpolation: str, resize_mode: str
) -> None:
    found = agreed_transform({}, _tag_transforms(architecture), architecture, "w.pt")
    assert found == {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": resize_mode}


@pytest.mark.parametrize(
    ("architecture", "asked"),
    [
        ("ViT-L-14", "--mean R G B --std R G B (in"),
        ("ViT-H-14", "--resize-mode shortest|longest|squash (in"),
        ("ViT-S-32", "--mean R G B --std R G B --interpolation bicubic|bilinear --resize-mode"),
    ],
)
def test_a_transform_that_is_not_agreed_on_is_asked_for(architecture: str, asked: str) -> None:
    with pytest.raises(BackboneError) as caught:
        agreed_transform({}, _tag_transforms(architecture), architecture, "w.pt")
    assert asked in str(caught.value) and "w.pt" in str(caught.value)
    assert agreed_transform(SIGLIP, _tag_transforms(architecture), architecture, "w.pt") == SIGLIP


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tiny CLIP as an architecture ``small`` of open_clip, whose one tag has SigLIP's transform."""
    config = json.loads((TINY_FOLDER / "open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"]["tokenizer_kwargs"]["bpe_path"] = str(TINY_FOLDER / "bpe.txt.gz")
    tags = {"first": {"hf_hub": "absent/absent/", **SIGLIP}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", tags)
    return tags


def other_tag(tags: dict[str, Any]) -> None:
    tags["second"] = {**tags["first"], **UNRECORDED}


def test_an_option_wins_part_by_part(small: dict[str, Any]) -> None:
    backbone = create_backbone("small", str(WEIGHTS), std=[0.25, 0.25, 0.25], resize_mode="longest")
    assert backbone.preprocess.mean == (0.5, 0.5, 0.5) and backbone.preprocess.std == (0.25, 0.25, 0.25)
    assert backbone.preprocess.resize_mode == "longest"
    assert backbone.fingerprint != create_backbone("small", str(WEIGHTS)).fingerprint
    folder = create_backbone("tiny", interpolation="bilinear")
    assert folder.preprocess.interpolation == "bilinear"
    assert folder.spec == {"name": "tiny", "pretrained": None, "interpolation": "bilinear"}


def store_of(video: Path, folder: Path, *options: str) -> FeatureStore:
    (folder / "videos").mkdir(parents=True)
    (folder / "videos" / "a.mp4").write_bytes(video.read_bytes())
    command = ["cache", str(folder / "videos"), "--out", str(folder / "store"), "--model", "small"]
    assert main([*command, "--pretrained", str(WEIGHTS), "--frames", "2", "--workers", "0", *options]) == 0
    return FeatureStore(folder / "store")


def test_a_store_opens_its_backbone_with_its_own_transform(
    small: dict[str, Any], numbered_mp4: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agreed = store_of(numbered_mp4, tmp_path / "agreed")
    other_tag(small)
    assert default_model(agreed, trust=True).backbone.fingerprint == agreed.recipe.backbone  # type: ignore[union-attr]
    with pytest.raises(AssertionError):
        store_of(numbered_mp4, tmp_path / "asked")
    assert "--mean R G B --std R G B --resize-mode" in capsys.readouterr().err
    options = ["--mean", "0", "0", "0", "--std", "1", "1", "1", "--resize-mode", "squash"]
    given = store_of(numbered_mp4, tmp_path / "given", *options)
    assert given.recipe.preprocess["mean"] == [0, 0, 0]
    assert main(["search", str(given.folder), "a red circle", "--trust"]) == 0


def test_a_store_without_a_transform_still_opens(small: dict[str, Any], numbered_mp4: Path, tmp_path: Path) -> None:
    """Of a version that gave every file open_clip's default."""
    numbers = [[str(part) for part in UNRECORDED[name]] for name in ("mean", "std")]
    store = store_of(numbered_mp4, tmp_path, "--mean", *numbers[0], "--std", *numbers[1], "--resize-mode", "shortest")
    path = store.folder / "store.json"
    content = json.loads(path.read_text())
    content["backbone"] = {name: content["backbone"][name] for name in ("name", "pretrained")}
    path.write_text(json.dumps(content))
    old = FeatureStore(store.folder)
    old.check_backbone(reopen_backbone(old.backbone_spec))


def test_a_checkpoint_brings_its_transform(small: dict[str, Any], tmp_path: Path) -> None:
    model = create_model("small", str(WEIGHTS), temporal="lstm")
    model.save(tmp_path / "model")
    assert model.config.backbone.resize_mode == "squash"
    other_tag(small)
    assert load_model(tmp_path / "model").backbone.fingerprint == model.backbone.fingerprint  # type: ignore[union-attr]
    given = ModelConfig.model_validate({"backbone": {"name": "small", "mean": HALF}}).model_dump()["backbone"]
    assert given == {"name": "small", "pretrained": None, "mean": (0.5, 0.5, 0.5)}
    assert "mean" not in ModelConfig(backbone=BackboneConfig(name="tiny")).model_dump()["backbone"]


@pytest.mark.parametrize(
    "transform",
    [{"mean": [0.5, 0.5]}, {"std": [0.5, 0.5, 0]}, {"mean": [0.5, 0.5, float("nan")]}, {"resize_mode": "stretch"}],
)
def test_values_that_are_none_are_refused(transform: dict[str, Any]) -> None:
    with pytest.raises(BackboneError, match="of the image transform must be"):
        create_backbone("tiny", **transform)


def test_a_folder_that_does_not_say_is_asked_too(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", lambda config: config.pop("preprocess_cfg"))
    with pytest.raises(BackboneError, match=r"open_clip_config.json.*Add --mean R G B --std R G B"):
        create_backbone(str(folder))
    assert create_backbone(str(folder), **SIGLIP).preprocess.resize_mode == "squash"
    assert reopen_backbone({"name": str(folder), "pretrained": None}).preprocess.resize_mode == "shortest"


def test_positions_are_never_interpolated(small: dict[str, Any], tmp_path: Path) -> None:
    weights = load_file(WEIGHTS)
    for name in ("positional_embedding", "visual.positional_embedding"):
        longer = weights | {name: torch.cat([weights[name]] * 2)}
        save_file(longer, tmp_path / "w.safetensors")
        with pytest.raises(BackboneError, match=rf"w.safetensors: {name} has {len(longer[name])} positions"):
            create_backbone("small", str(tmp_path / "w.safetensors"))


def folder_with(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    folder.mkdir()
    for file in TINY_FOLDER.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "open_clip_config.json").read_text())
    change(config)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def text_of(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["model_cfg"]["text_cfg"]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("model_cfg"), "model_cfg"),
        (lambda c: c["model_cfg"].pop("text_cfg"), "text_cfg"),
        (lambda c: c["model_cfg"].update(vision_cfg=[]), "must be objects"),
        (lambda c: c.update(preprocess_cfg=3), "must be objects"),
        (lambda c: c["preprocess_cfg"].update(mean="gray"), "mean of the image transform"),
        (lambda c: c["preprocess_cfg"].update(resize_mode="stretch"), "resize_mode of the image transform"),
        (lambda c: c["preprocess_cfg"].update(mode="L"), "not RGB"),
        (lambda c: text_of(c).update(unheard=1), "unheard"),
        (lambda c: text_of(c).update(width=96), "cannot load"),
        (lambda c: text_of(c).update(tokenizer_kwargs={"bpe_path": "absent.gz"}), "tokenizer cannot be loaded.*absent"),
        (lambda c: text_of(c).update(hf_tokenizer_name="some/tokenizer"), "Copy the tokenizer files of some/tokenizer"),
    ],
)
def test_a_folder_with_a_wrong_config_is_refused_in_one_sentence(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path / "model", change)
    with pytest.raises(BackboneError, match=message) as caught:
        create_backbone(str(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


CONTENTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "list": lambda path: torch.save([torch.ones(2)], path),
    "numbers for names": lambda path: torch.save({1: torch.ones(2)}, path),
    "no tensors": lambda path: torch.save({"epoch": 3}, path),
    "truncated": lambda path: path.write_bytes(WEIGHTS.read_bytes()[:1000]),
    "truncated content": lambda path: path.write_bytes(WEIGHTS.read_bytes()[:-1000]),
    "another model": lambda path: torch.save({"weight": torch.ones(2)}, path),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_that_holds_no_weights_is_refused_in_one_sentence(
    content: str, suffix: str, small: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"weights{suffix}"
    CONTENTS[content](path)
    with pytest.raises(BackboneError) as caught:
        create_backbone("small", str(path))
    for system in ("clip4clip", "st_adapter"):
        command = ["convert", str(path), "--system", system, "--model", "tiny", "--out", str(tmp_path / "out")]
        assert main(command) == 1
        printed = capsys.readouterr()
        assert str(path) in printed.err and len(printed.err.splitlines()) == 1 and not printed.out
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("model.safetensors"))


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"{", b"\xff\xfe", b"null"])
def test_a_config_that_is_no_config_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", lambda config: None)
    (folder / "open_clip_config.json").write_bytes(content)
    with pytest.raises(BackboneError, match="open_clip_config.json") as caught:
        create_backbone(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local-dir:/absent/folder", "no such folder"),
        ("some/absent/folder", "neither a model folder nor an open_clip architecture"),
        ("foo:bar", "neither a model folder nor"),
        (str(WEIGHTS), "is a file. Name the architecture"),
        ("a\0b", "neither a model folder nor"),
        ("x" * 5000, "neither a model folder nor"),
    ],
)
def test_names_that_lead_nowhere_are_refused(name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        create_backbone(name)


def test_a_folder_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    """The safetensors library cannot open such a path."""
    place = folder_with(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")), lambda config: None)
    with pytest.raises(BackboneError, match=r"cannot load .*/caf\\udce9: .*not valid UTF-8"):
        create_backbone(str(place))


def test_a_vocabulary_in_a_subfolder_is_written_along(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "a", lambda c: text_of(c)["tokenizer_kwargs"].update(bpe_path="deep/bpe.txt.gz"))
    (folder / "deep").mkdir()
    (folder / "bpe.txt.gz").rename(folder / "deep" / "bpe.txt.gz")
    source = OpenClip(str(folder))
    source.save(tmp_path / "b")
    assert create_backbone(str(tmp_path / "b")).fingerprint == source.fingerprint


def test_a_kill_before_the_config_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = OpenClip("tiny")
    monkeypatch.setattr("videoclip.backbone.openclip.replace_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        backbone.save(tmp_path / "model")
    with pytest.raises(BackboneError, match="is not a model folder"):
        create_backbone(str(tmp_path / "model"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub out of reach, whatever the machine's network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf-hub:absent/model", "the model absent/model cannot be downloaded"),
        ("ViT-B-16-SigLIP", "ViT-B-16-SigLIP: the tokenizer timm/ViT-B-16-SigLIP cannot be downloaded"),
        ("roberta-ViT-B-32", "the tokenizer roberta-base cannot be downloaded"),
    ],
)
def test_what_is_out_of_reach_is_said_before_a_model_is_built(
    name: str, message: str, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videoclip.backbone.openclip.open_clip.create_model", None)  # is never called
    with pytest.raises(BackboneError, match=message) as caught:
        OpenClip(name, random_weights=True)
    assert "\n" not in str(caught.value)


def test_transformers_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_small(tmp_path / "model", "ViT-B-16-SigLIP", "siglip")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BackboneError, match="needs the package transformers .*pip install"):
        OpenClip(str(folder), random_weights=True)


@pytest.mark.parametrize(
    ("architecture", "parts", "command"),
    [
        ("ViT-B-16-SigLIP", ("siglip", None), ["merge", "run"]),
        ("roberta-ViT-B-32", ("xlm", "roberta"), ["blend", "run", "run"]),
    ],
)
def test_merged_and_blended_models_hold_their_tokenizer(
    architecture: str,
    parts: tuple[str, str | None],
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write_small(tmp_path / "source", architecture, *parts)
    OpenClip(str(source), random_weights=True).save(source)
    model = create_model(str(source)).eval()
    model.save(tmp_path / "run")
    assert main([*command, "--out", "written"]) == 0
    source.rename(tmp_path / "no longer there")
    written = load_model((tmp_path / "written").rename(tmp_path / "moved"))
    torch.testing.assert_close(written.encode_text(["a dog"]).sentence, model.encode_text(["a dog"]).sentence)


def test_towers_of_others_are_refused_before_anything_is_folded() -> None:
    from videoclip.weights import merge

    model = create_model("tiny")
    model.backbone = torch.nn.Identity()  # type: ignore[assignment]
    with pytest.raises(VideoclipError, match="Only towers of open_clip"):
        merge(model, "absent")
