"""The files and packages that a backbone needs, looked at before anything is built or downloaded."""

from __future__ import annotations

import importlib.util
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoclip.errors import BackboneError, printable
from videoclip.files import read_json, reading

CONFIG = "open_clip_config.json"
HUB, FOLDER = "hf-hub:", "local-dir:"
OPENAI_ONLY_KEYS = ("input_resolution", "context_length", "vocab_size")  # only OpenAI's own export writes them
TIMEOUT = 10  # seconds until the hub counts as out of reach


def folder_of(location: str) -> Path | None:
    """Return the model folder that a location names, if it names one."""
    return Path(location.removeprefix(FOLDER)) if location.startswith(FOLDER) else None


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a model folder's ``open_clip_config.json``.

    Raises:
        BackboneError: there is none, or it does not describe two towers.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise BackboneError(f"{folder} is not a model folder: it has no {CONFIG}.")
    content: dict[str, Any] = read_json(path, BackboneError)
    with reading(path, "the description of an open_clip model", BackboneError):
        sections = [content["model_cfg"][name] for name in ("vision_cfg", "text_cfg")]
        if not all(isinstance(part, dict) for part in (*sections, content.get("preprocess_cfg", {}))):
            raise TypeError("its sections must be objects")
    return content


def records_transform(name: str, pretrained: str | None) -> bool:
    """Report whether a name alone says which image transform belongs to the weights.

    Pretrained tags, repositories and model folders do; a file of weights does not.

    Raises:
        BackboneError: ``name`` is a folder whose config cannot be read.
    """
    if pretrained is not None:
        return not os.path.isfile(pretrained)
    folder = Path(name.removeprefix(FOLDER))
    return not os.path.isdir(folder) or "preprocess_cfg" in read_config(folder)


def check_weights(path: Path, model: str, config: dict[str, Any]) -> None:
    """Refuse a file of weights that an architecture cannot load, or would load with a silent change.

    Raises:
        BackboneError: the file does not hold tensors by name, or those of another architecture.
    """
    scripted = is_torchscript(path)
    shapes = {} if scripted else weights_shapes(path)
    exported = scripted or all(key in shapes for key in OPENAI_ONLY_KEYS)
    check_activation(exported, str(path), model, config)
    if scripted:
        raise BackboneError(
            f"{path} is a TorchScript archive, which holds code. Use the pretrained tag openai, or save the model's "
            "state_dict() alone."
        )
    check_positions(path, shapes, model, config)


def check_activation(quick: bool, weights: str, model: str, config: dict[str, Any]) -> None:
    """Refuse weights that were trained with QuickGELU on an architecture with GELU.

    Raises:
        BackboneError: with the architecture to take.
    """
    if quick and not config.get("quick_gelu", False):
        raise BackboneError(
            f"The weights {weights!r} were trained with QuickGELU but {model} uses GELU, which gives wrong "
            f"features without an error; use {model}-quickgelu."
        )


def weights_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor in a file of weights, without reading the tensors.

    Raises:
        BackboneError: the file cannot be read, or does not hold tensors by name.
    """
    with reading(path, "a file of weights", BackboneError, "Save the model's state_dict() alone."):
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                names = file.keys()
                return {name: tuple(file.get_slice(name).get_shape()) for name in names}

        with path.open("rb") as stream:  # on "meta" no tensor's content is loaded
            content = torch.load(stream, "meta", weights_only=True)
        if isinstance(content, Mapping):
            content = content.get("state_dict", content)
        return {name: tuple(tensor.shape) for name, tensor in tensors_by_name(content).items()}


def tensors_by_name(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dict, which may hold other things as well.

    Raises:
        TypeError: it is not a state dict.
    """
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise TypeError("it does not hold tensors by name")
    tensors = {name: part for name, part in content.items() if isinstance(part, Tensor)}
    if not tensors:
        raise TypeError("it does not hold tensors by name")
    return tensors


def is_torchscript(path: Path) -> bool:
    """Report whether a file is a TorchScript archive, as OpenAI distributes its weights."""
    with reading(path, "a file of weights", BackboneError):
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())


def check_positions(path: Path, shapes: Mapping[str, tuple[int, ...]], model: str, config: dict[str, Any]) -> None:
    """Refuse weights whose towers read longer texts or larger pictures than an architecture does.

    open_clip interpolates position embeddings that do not fit, which changes every feature without a word.

    Raises:
        BackboneError: with both sizes.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    wanted = {"text": text.get("context_length", 77) + bool(text.get("embed_cls"))}
    if "timm_model_name" not in vision and not isinstance(vision.get("layers"), list):
        sizes, patches = _pair(vision.get("image_size", 224)), _pair(vision.get("patch_size", 16))
        wanted["visual"] = (sizes[0] // patches[0]) * (sizes[1] // patches[1]) + 1  # and the class token

    for name, shape in shapes.items():
        tower = "visual" if ".visual." in f".{name}" else "text"
        plain = name.removeprefix("module.").removeprefix(f"{tower}.") == "positional_embedding"
        if plain and tower in wanted and shape[:1] != (wanted[tower],):
            raise BackboneError(
                f"{path}: {name} has {shape[0] if shape else 0} positions, but {model} reads {wanted[tower]}. "
                "Name the architecture that the weights were trained with, or put them into a model folder whose "
                f"{CONFIG} describes them."
            )


def check_hub(repository: str, what: str) -> None:
    """Refuse at once what is neither cached nor within reach; the libraries retry for a minute first.

    Args:
        repository: name on the Hugging Face hub, or a local folder.
        what: the part that is needed, for the message.

    Raises:
        BackboneError: it cannot be downloaded.
    """
    from huggingface_hub import HfApi, constants

    cached = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "snapshots")
    if os.path.isdir(repository) or os.path.isdir(cached):
        return
    try:
        HfApi().model_info(repository, timeout=TIMEOUT)
    except Exception as error:  # the HTTP library's own kinds, and names that cannot be repositories
        raise BackboneError(
            f"{what} {printable(repository)} cannot be downloaded from Hugging Face ({brief(error)}). "
            "Check the name and the connection, or download it once where there is one."
        ) from error


def check_transformers(config: Mapping[str, Any], name: str) -> None:
    """Refuse a text tower or a tokenizer of the transformers library where that is not installed.

    Raises:
        BackboneError: with the packages to install.
    """
    wanted = config["text_cfg"].get("hf_tokenizer_name") or config["text_cfg"].get("hf_model_name")
    if wanted and importlib.util.find_spec("transformers") is None:
        raise BackboneError(
            f"{name} needs the package transformers for its tokenizer or text tower ({wanted}). "
            "Install it: pip install transformers sentencepiece."
        )


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, list | tuple) else (value, value)
    return int(height), int(width)


def brief(error: BaseException) -> str:
    """Return a library's message on one line, safe on a terminal and not longer than a sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return printable(text if len(text) <= 300 else f"{text[:300]} ...")


def to_config(model: Mapping[str, Any], preprocess: Mapping[str, Any]) -> str:
    """Return the content of an ``open_clip_config.json``."""
    return json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}, indent=2)
