"""CLIP towers of open_clip. The only file that imports open_clip."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from safetensors.torch import save_file
from torch import Tensor, nn

from videoclip.errors import BackboneError
from videoclip.features import TextFeatures, as_texts
from videoclip.video.preprocess import Preprocess

CONFIG = "open_clip_config.json"
TINY_FOLDER = Path(__file__).parent.parent / "synthetic" / "tiny_clip"
OPENAI_ONLY_KEYS = (
    "input_resolution",
    "context_length",
    "vocab_size",
)  # written by OpenAI's own export alone


class OpenClip(nn.Module):
    """A backbone on open_clip; see ``create_backbone`` for the arguments and ``Backbone`` for the interface.

    Weights are kept in float32. ``random_weights`` skips the check that weights were found: for training from
    scratch only.
    """

    def __init__(self, name: str, pretrained: str | None = None, random_weights: bool = False) -> None:
        super().__init__()
        self.spec = {"name": name, "pretrained": pretrained}
        location = _resolve(name)
        _check_source(location, pretrained, random_weights)
        with _quiet():
            self.clip: Any = _create(location, pretrained, random_weights)
            self._tokenizer = open_clip.get_tokenizer(location, **_local_vocabulary(location))
        self.clip.eval().requires_grad_(False)
        self.preprocess = _preprocess(open_clip.get_model_preprocess_cfg(self.clip))
        self.initial_logit_scale = float(self.clip.logit_scale.detach().max())
        self.width = _joint_width(self.clip, self._tokenizer.context_length)
        self.fingerprint = _fingerprint(self.clip.state_dict(), self.preprocess)

    @property
    def image_tower(self) -> nn.Module:
        """The module that holds every parameter of the image side."""
        tower: nn.Module = self.clip.visual
        return tower

    @property
    def text_tower(self) -> nn.Module:
        """The module that holds every parameter of the text side."""
        tower: nn.Module = self.clip.text if hasattr(self.clip, "text") else _PlainTextTower(self.clip)
        return tower

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8, or float already normalised -> (N, D), not normalised."""
        if not pixels.is_floating_point():
            pixels = self.preprocess.normalize(pixels)
        features: Tensor = self.clip.encode_image(pixels)
        return features

    def encode_patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As ``encode_image`` (N, D), and every patch token (N, P, D) after the final norm and the projection.

        Raises:
            BackboneError: this image tower is no open_clip vision transformer with a class token.
        """
        visual: Any = self.image_tower
        if getattr(visual, "pool_type", "") != "tok" or getattr(visual, "final_ln_after_pool", True):
            raise BackboneError(f"{self.spec['name']}: this image tower gives no patch tokens; take a CLIP ViT.")
        visual.output_tokens, before = True, visual.output_tokens
        try:
            pooled, tokens = visual(self.preprocess.normalize(pixels))
        finally:
            visual.output_tokens = before
        return pooled, tokens if visual.proj is None else tokens @ visual.proj

    def encode_text(self, tokens: Tensor, words: bool = False) -> TextFeatures:
        """(Q, L) token ids -> sentence (Q, D), and with ``words`` also words (Q, L, D) and mask (Q, L).

        Raises:
            BackboneError: words were asked for and this text tower has no final LayerNorm to take them from.
        """
        if not words:
            return TextFeatures(self.clip.encode_text(tokens))
        text: Any = self.text_tower
        if not isinstance(getattr(text, "ln_final", None), nn.Module):
            raise BackboneError(
                f"{self.spec['name']}: this text tower gives no word embeddings; take a CLIP text tower."
            )
        caught: list[Tensor] = []
        hook = text.ln_final.register_forward_hook(lambda module, args, output: caught.append(output))
        try:
            sentence = self.clip.encode_text(tokens)
        finally:
            hook.remove()
        projection = text.text_projection
        projected = projection(caught[0]) if isinstance(projection, nn.Module) else caught[0] @ projection
        return TextFeatures(sentence, projected, _word_mask(tokens, text))

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Return token ids (Q, L) of Q texts, or of one; longer texts are cut."""
        tokens: Tensor = self._tokenizer(as_texts(texts))
        return tokens

    def save(self, folder: str | Path) -> None:
        """Write the towers as they are now, as a folder that ``create_backbone`` loads.

        Raises:
            BackboneError: open_clip has no description of this architecture to write down.
        """
        folder, location = Path(folder), _resolve(str(self.spec["name"]))
        folder.mkdir(parents=True, exist_ok=True)
        if location.startswith("local-dir:"):
            source = Path(location.removeprefix("local-dir:"))
            (folder / CONFIG).write_text((source / CONFIG).read_text())
            for vocabulary in _local_vocabulary(location).values():
                shutil.copy(vocabulary, folder)
        elif (architecture := open_clip.get_model_config(location)) is not None:
            transform = open_clip.get_model_preprocess_cfg(self.clip)
            (folder / CONFIG).write_text(json.dumps({"model_cfg": architecture, "preprocess_cfg": transform}, indent=2))
        else:
            raise BackboneError(f"{location} cannot be written as a folder: open_clip does not describe it by name.")
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.clip.state_dict().items()}
        save_file(weights, folder / "open_clip_model.safetensors")


class _PlainTextTower(nn.Module):
    """Groups the text parameters that open_clip's plain CLIP class keeps beside the image tower."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.pool_type = getattr(clip, "text_pool_type", "argmax")
        self._clip = (clip,)  # a tuple hides it from the list of modules

    @property
    def attn_mask(self) -> Tensor | None:
        """The causal mask (L, L), wherever the model lies now."""
        found: Tensor | None = self._clip[0].attn_mask
        return found


def _resolve(name: str) -> str:
    """The name that open_clip understands: ``tiny`` and folders become its ``local-dir:`` schema."""
    if name == "tiny":
        return f"local-dir:{TINY_FOLDER}"
    if Path(name).is_dir():
        return f"local-dir:{Path(name).resolve()}"
    return name


def _check_source(location: str, pretrained: str | None, random_weights: bool) -> None:
    if ":" in location:
        if pretrained:
            raise BackboneError(f"{location} brings its own weights; drop pretrained={pretrained!r}.")
        return
    if location not in open_clip.list_models():
        near = get_close_matches(location, open_clip.list_models(), 3)
        raise BackboneError(f"{location!r} is no open_clip architecture; nearest: {', '.join(near) or 'none'}.")
    if pretrained is None and not random_weights:
        raise BackboneError(f"{location}: no weights named; add a pretrained tag, one of {_tags(location)}, or a file.")
    if pretrained is not None:
        _check_weights(location, pretrained)


def _tags(architecture: str) -> str:
    return ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "(no tag is known)"


def _check_weights(architecture: str, pretrained: str) -> None:
    tag = get_pretrained_cfg(architecture, pretrained)
    if tag:
        wants_quick = bool(tag.get("quick_gelu", False))
    elif Path(pretrained).is_file():
        wants_quick = _is_openai_export(Path(pretrained))
    else:
        raise BackboneError(
            f"{pretrained!r} is neither a file nor a pretrained tag of {architecture}; its tags: {_tags(architecture)}."
        )
    if wants_quick and not open_clip.get_model_config(architecture).get("quick_gelu", False):
        raise BackboneError(
            f"The weights {pretrained!r} were trained with QuickGELU but {architecture} uses GELU, which gives wrong "
            f"features without an error; use {architecture}-quickgelu."
        )


def _is_openai_export(path: Path) -> bool:
    """OpenAI's files are TorchScript archives, or state dicts that still carry three sizes of the export."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            return all(key in file.keys() for key in OPENAI_ONLY_KEYS)  # noqa: SIM118 - safe_open is no dict
    if _is_torchscript(path):
        return True
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise many kinds for a file that holds no plain weights
        raise BackboneError(f"{path} cannot be read as a file of weights: {error}") from error
    content = content.get("state_dict", content)
    return all(key in content for key in OPENAI_ONLY_KEYS)


def _is_torchscript(path: Path) -> bool:
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _create(location: str, pretrained: str | None, random_weights: bool) -> Any:
    try:
        return open_clip.create_model(
            location, pretrained=pretrained, precision="fp32", require_pretrained=not random_weights
        )
    except Exception as error:  # open_clip raises many kinds: missing files, hub failures, wrong shapes
        what = f"{location} with weights {pretrained!r}" if pretrained else location
        raise BackboneError(f"open_clip cannot load {what}: {error}") from error


def _local_vocabulary(location: str) -> dict[str, str]:
    """A model folder may hold its own byte-pair vocabulary, named relative to the folder in its config."""
    if not location.startswith("local-dir:"):
        return {}
    folder = Path(location.removeprefix("local-dir:"))
    config = json.loads((folder / CONFIG).read_text())
    name = config["model_cfg"]["text_cfg"].get("tokenizer_kwargs", {}).get("bpe_path")
    return {"bpe_path": str(folder / name)} if name else {}


def _preprocess(config: dict[str, Any]) -> Preprocess:
    size = config["size"]
    return Preprocess(
        size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        resize_mode=config["resize_mode"],
        fill_color=config["fill_color"],
    )


def _joint_width(clip: Any, context_length: int) -> int:
    with torch.no_grad():
        return int(clip.encode_text(torch.zeros(1, context_length, dtype=torch.long)).shape[-1])


def _fingerprint(weights: dict[str, Tensor], preprocess: Preprocess) -> str:
    parameters = asdict(preprocess)
    del parameters["resize"]  # either way gives the same features, but for rounding
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _word_mask(tokens: Tensor, text: nn.Module) -> Tensor:
    """(Q, L) bool: up to and including the end token for CLIP's argmax pooling, else everything but padding."""
    if getattr(text, "pool_type", "argmax") == "argmax":
        return torch.arange(tokens.shape[1], device=tokens.device) <= tokens.argmax(-1, keepdim=True)
    return tokens != getattr(text, "pad_id", 0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """open_clip logs each step of loading through the root logger; users need only its errors."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def default_vocabulary() -> list[str]:
    """The lines of CLIP's byte-pair table as open_clip ships it: a header, then one merge a line."""
    with gzip.open(open_clip.tokenizer.default_bpe(), "rt", encoding="utf-8") as file:
        return file.read().split("\n")
