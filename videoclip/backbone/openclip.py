"""CLIP towers of open_clip. The only file that imports open_clip."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import Tensor, nn

from videoclip.backbone import source
from videoclip.backbone.source import CONFIG, FOLDER, HUB, brief, folder_of
from videoclip.backbone.text import PlainTextTower, has_words, projected, word_mask
from videoclip.backbone.transform import agreed_transform, checked_part, chosen_transform
from videoclip.errors import BackboneError, printable, writing
from videoclip.features import TextFeatures, as_texts
from videoclip.files import make_folder, reading, replace_text, replacing
from videoclip.video.preprocess import Preprocess

TINY_FOLDER = Path(__file__).parent.parent / "synthetic" / "tiny_clip"


class OpenClip(nn.Module):
    """A backbone on open_clip; see ``create_backbone`` for the arguments and ``Backbone`` for the interface.

    Weights are kept in float32. ``random_weights`` skips the check that weights were found: for training from
    scratch only. ``transform`` sets parts of the image transform, see ``create_backbone``.
    """

    def __init__(
        self,
        name: str,
        pretrained: str | None = None,
        random_weights: bool = False,
        transform: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        location = _resolve(name)
        _check_source(location, pretrained, random_weights)
        self._config = _model_config(location)
        chosen = chosen_transform(transform or {})
        if not random_weights:
            chosen = _complete_transform(chosen, location, pretrained, self._config)
        self.spec = {"name": name, "pretrained": pretrained, **chosen}

        with _quiet():
            self._tokenizer = _load_tokenizer(location, self._config)  # first: weights take minutes
            self.clip: Any = _create(location, pretrained, random_weights, self._config, chosen)
        self.clip.eval().requires_grad_(False)
        self.preprocess = _preprocess(open_clip.get_model_preprocess_cfg(self.clip), name)
        self.initial_logit_scale = float(self.clip.logit_scale.detach().max())
        self.width = _joint_width(self.clip, self._tokenizer.context_length)
        self.fingerprint = _fingerprint(self.clip, self.preprocess)

    @property
    def image_tower(self) -> nn.Module:
        """The module that holds every parameter of the image side."""
        tower: nn.Module = self.clip.visual
        return tower

    @property
    def text_tower(self) -> nn.Module:
        """The module that holds every parameter of the text side."""
        tower: nn.Module = self.clip.text if hasattr(self.clip, "text") else PlainTextTower(self.clip)
        return tower

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8, or float already normalised -> (N, D), not normalised."""
        if not pixels.is_floating_point():
            pixels = self.preprocess.normalize(pixels)
        features: Tensor = self.clip.encode_image(pixels, normalize=False)  # CoCa's default is True
        return features

    def encode_patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pixels (N, 3, S, S) uint8 as ``encode_image`` does, and into patch tokens (N, P, D).

        A patch token is what becomes of one square of the grid after the final norm and the projection, as the class
        token does.

        Raises:
            BackboneError: this image tower does not embed an image by the class token of a vision transformer.
        """
        visual: Any = self.image_tower
        by_class_token = getattr(visual, "pool_type", "") == "tok" and visual.attn_pool is None
        if not by_class_token or visual.final_ln_after_pool:
            raise BackboneError(
                f"{self.spec['name']}: this image tower has no patch embeddings in the joint space. "
                "Choose a model whose vision transformer is read at its class token, such as ViT-B-32."
            )
        visual.output_tokens, before = True, visual.output_tokens
        try:
            pooled, tokens = visual(self.preprocess.normalize(pixels))
        finally:
            visual.output_tokens = before
        return pooled, tokens if visual.proj is None else tokens @ visual.proj

    def encode_text(self, tokens: Tensor, words: bool = False) -> TextFeatures:
        """Encode token ids (Q, L) as sentences (Q, D), and with ``words`` also as words (Q, L, D) and mask (Q, L).

        Words are all tokens after the final norm and the projection, as the token that the sentence is read at. The
        mask leaves padding out.

        Raises:
            BackboneError: words were asked for and the sentence is not one of this text tower's tokens.
        """
        if not words:
            return TextFeatures(self.clip.encode_text(tokens, normalize=False))
        text: Any = self.text_tower
        if not has_words(text):
            raise BackboneError(
                f"{self.spec['name']}: this text tower has no word embeddings in the joint space. "
                "Choose a model with a CLIP text transformer, such as ViT-B-32."
            )
        caught: list[Tensor] = []
        hook = text.ln_final.register_forward_hook(lambda module, args, output: caught.append(output))
        try:
            sentence = self.clip.encode_text(tokens, normalize=False)
        finally:
            hook.remove()
        mask = word_mask(tokens, text, self._tokenizer)
        return TextFeatures(sentence, projected(caught[0], text), mask)

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Return token ids (Q, L) of Q texts, or of one; longer texts are cut."""
        tokens: Tensor = self._tokenizer(as_texts(texts))
        return tokens

    def save(self, folder: str | Path) -> None:
        """Write the towers as they are now, with their tokenizer, as a folder that ``create_backbone`` loads.

        The description is written last: without it nothing takes the folder for a model.

        Raises:
            StoreError: the folder cannot be written.
        """
        folder = make_folder(Path(folder))
        vocabulary = self._save_tokenizer(folder)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.clip.state_dict().items()}
        with replacing(folder / "open_clip_model.safetensors") as file:
            file.write(safetensors.torch.save(weights))

        text = {**self._config["text_cfg"], **vocabulary}
        model = {**self._config, "text_cfg": text}
        preprocess = open_clip.get_model_preprocess_cfg(self.clip)
        replace_text(folder / CONFIG, source.to_config(model, preprocess))

    def _save_tokenizer(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer's files, and a text tower's own config; return what changes in ``text_cfg``."""
        text = self._config["text_cfg"]
        vocabulary = _local_vocabulary(_resolve(str(self.spec["name"])), self._config)
        with writing(folder), tempfile.TemporaryDirectory(dir=folder) as aside:
            if text.get("hf_tokenizer_name"):
                self._tokenizer.save_pretrained(aside)
            if text.get("hf_model_name"):
                self.clip.text.config.save_pretrained(aside)
            for file in sorted(Path(aside).iterdir()):
                file.replace(folder / file.name)

        if not vocabulary:
            return {}
        original = Path(vocabulary["bpe_path"])
        content = original.read_bytes()
        with replacing(folder / original.name) as written:
            written.write(content)
        return {"tokenizer_kwargs": {**text["tokenizer_kwargs"], "bpe_path": original.name}}


def _resolve(name: str) -> str:
    """Return the name that open_clip understands: ``tiny`` and folders become its ``local-dir:`` schema."""
    if name == "tiny":
        return f"{FOLDER}{TINY_FOLDER}"
    path = name.removeprefix(FOLDER)
    return f"{FOLDER}{Path(path).resolve()}" if os.path.isdir(path) else name


def _check_source(location: str, pretrained: str | None, random_weights: bool) -> None:
    """Refuse names that lead nowhere, and architectures without weights."""
    folder = folder_of(location)
    if folder is not None or location.startswith(HUB):
        if pretrained:
            raise BackboneError(f"{location} brings its own weights; drop pretrained={pretrained!r}.")
        if folder is not None and not os.path.isdir(folder):
            raise BackboneError(f"{folder}: no such folder.")
        return
    if os.path.isfile(location):
        raise BackboneError(f"{location} is a file. Name the architecture as the model and this file as pretrained.")
    if location not in open_clip.list_models():
        near = get_close_matches(location, open_clip.list_models(), 3)
        raise BackboneError(
            f"{location!r} is neither a model folder nor an open_clip architecture; nearest: "
            f"{', '.join(near) or 'none'}."
        )
    if pretrained is None and not random_weights:
        raise BackboneError(f"{location}: no weights named; add a pretrained tag, one of {_tags(location)}, or a file.")
    if pretrained is not None and not get_pretrained_cfg(location, pretrained) and not os.path.isfile(pretrained):
        raise BackboneError(
            f"{pretrained!r} is neither a file nor a pretrained tag of {location}; its tags: {_tags(location)}."
        )


def _tags(architecture: str) -> str:
    return ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "(no tag is known)"


def _model_config(location: str) -> dict[str, Any]:
    """Return open_clip's description of the towers, for which a repository is asked.

    Raises:
        BackboneError: it cannot be read.
    """
    if (folder := folder_of(location)) is not None:
        found: dict[str, Any] = source.read_config(folder)["model_cfg"]
        return found
    if location.startswith(HUB):
        source.check_hub(location.removeprefix(HUB), "the model")
    try:
        with _quiet():
            found = open_clip.get_model_config(location)
        if not isinstance(found["text_cfg"], dict):
            raise TypeError("text_cfg must be an object")
    except Exception as error:  # the hub's client raises many kinds
        raise BackboneError(f"{location}: open_clip cannot read the model's config ({brief(error)}).") from error
    return found


def _complete_transform(
    chosen: dict[str, Any], location: str, pretrained: str | None, config: dict[str, Any]
) -> dict[str, Any]:
    """Check a file of weights, and find the image transform that belongs to it; other sources bring theirs.

    Raises:
        BackboneError: the weights are of another architecture, or their transform must be given.
    """
    folder = folder_of(location)
    if folder is not None and not source.records_transform(str(folder), None):
        return agreed_transform(chosen, [], location, str(folder / CONFIG))
    if pretrained is None:
        return chosen
    if tag := get_pretrained_cfg(location, pretrained):
        source.check_activation(bool(tag.get("quick_gelu")), pretrained, location, config)
        return chosen
    source.check_weights(Path(pretrained), location, config)
    return agreed_transform(chosen, _tag_transforms(location), location, pretrained)


def _tag_transforms(architecture: str) -> list[dict[str, Any]]:
    """Return the image transform of each pretrained tag of an architecture."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    return [merge_preprocess_dict(PreprocessCfg(), get_pretrained_cfg(architecture, tag)) for tag in tags]


def _load_tokenizer(location: str, config: dict[str, Any]) -> Any:
    """Load the tokenizer, and make sure that a text tower of transformers can be built.

    Raises:
        BackboneError: files, packages or the connection are missing.
    """
    folder, text = folder_of(location), config["text_cfg"]
    shown = location if folder is None else str(folder)
    source.check_transformers(config, shown)
    if text.get("hf_tokenizer_name") and folder is None:
        source.check_hub(text["hf_tokenizer_name"], f"{location}: the tokenizer")
    if text.get("hf_model_name") and not (folder and (folder / "config.json").is_file()):
        source.check_hub(text["hf_model_name"], f"{shown}: the text tower's config")
    try:
        return open_clip.get_tokenizer(location, **_local_vocabulary(location, config))
    except Exception as error:  # files that are missing or damaged: each library has kinds of its own
        wanted = text.get("hf_tokenizer_name")
        remedy = f" Copy the tokenizer files of {wanted} into the folder." if folder and wanted else ""
        raise BackboneError(f"{shown}: the tokenizer cannot be loaded ({brief(error)}).{remedy}") from error


def _create(
    location: str, pretrained: str | None, random_weights: bool, config: dict[str, Any], transform: dict[str, Any]
) -> Any:
    """Build the towers and load their weights."""
    folder, parts = folder_of(location), {}
    if folder is not None and config["text_cfg"].get("hf_model_name") and (folder / "config.json").is_file():
        # open_clip would look for the text tower's config on the hub even if the folder has it
        parts = {"text_cfg": {**config["text_cfg"], "hf_model_name": str(folder), "hf_model_pretrained": False}}
    try:
        return open_clip.create_model(
            location,
            pretrained=pretrained,
            precision="fp32",
            pretrained_text=False,
            require_pretrained=not random_weights,
            force_preprocess_cfg=transform,
            **parts,
        )
    except Exception as error:  # open_clip raises many kinds: missing files, hub failures, wrong shapes
        what = location if folder is None else str(folder)
        weights = f" with weights {pretrained!r}" if pretrained else ""
        raise BackboneError(f"open_clip cannot load {printable(what)}{weights}: {brief(error)}") from error


def _local_vocabulary(location: str, config: dict[str, Any]) -> dict[str, str]:
    """Return where a model folder's own byte-pair vocabulary is, which its config names relative to the folder."""
    folder = folder_of(location)
    name = (config["text_cfg"].get("tokenizer_kwargs") or {}).get("bpe_path")
    return {"bpe_path": str(folder / name)} if folder is not None and name else {}


def _preprocess(config: dict[str, Any], name: str) -> Preprocess:
    """Return the image transform that open_clip attached to a model.

    Raises:
        BackboneError: it is none that open_clip applies.
    """
    with reading(name, "a model with a known image transform", BackboneError):
        size = config["size"]
        if config["mode"] != "RGB":
            raise ValueError(f"its pictures are {config['mode']}, not RGB")
        return Preprocess(
            size=(size, size) if isinstance(size, int) else (size[0], size[1]),
            mean=tuple(checked_part("mean", config["mean"])),
            std=tuple(checked_part("std", config["std"])),
            interpolation=checked_part("interpolation", config["interpolation"]),
            resize_mode=checked_part("resize_mode", config["resize_mode"]),
            fill_color=config["fill_color"],
        )


def _joint_width(clip: Any, context_length: int) -> int:
    with torch.no_grad():
        return int(clip.encode_text(torch.zeros(1, context_length, dtype=torch.long)).shape[-1])


def _fingerprint(clip: Any, preprocess: Preprocess) -> str:
    """Return a hash of weights, preprocessing, and what the features are."""
    parameters = asdict(preprocess)
    del parameters["resize"]  # either way gives the same features, but for rounding
    del parameters["pixel_shape"]  # a choice about videos, not about the weights
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    if isinstance(clip, open_clip.CoCa):
        digest.update(b"not normalized")  # earlier versions stored CoCa's features normalized
    weights = clip.state_dict()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


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
