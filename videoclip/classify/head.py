"""A fitted classifier in one small file: tensors as safetensors, and beside them all that says what they are for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from videoclip import registry
from videoclip.backbone import Backbone, reopen_backbone
from videoclip.classifier import Classifier
from videoclip.config import Component
from videoclip.data.classes import ClassList
from videoclip.errors import BackboneError, CheckpointError, ConfigError, writing
from videoclip.model import VideoTextModel, create_model, load_model

FORMAT = "videoclip classifier 1"


@dataclass
class Head:
    """A fitted classifier and what it knows.

    Attributes:
        classifier: fitted.
        method: its name and options.
        classes: in the order of its logits.
        backbone: name, pretrained tag and fingerprint of the backbone whose features it reads.
        frames: of a clip that are pooled.
        checkpoint: folder of the model that pools them, and a hash of its weights; None for the plain mean.
        sentences: name and fingerprint of what was said about the classes.
        fitted_on: protocol: shots, seed, ids of the clips, what was searched.
    """

    classifier: Classifier
    method: Component
    classes: ClassList
    backbone: dict[str, Any]
    frames: int
    checkpoint: dict[str, str] | None
    sentences: dict[str, str]
    fitted_on: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        about = {
            "format": FORMAT,
            "method": self.method.model_dump(),
            "classes": {"name": self.classes.name, "labels": self.classes.labels, "phrases": self.classes.phrases},
            "backbone": self.backbone,
            "frames": self.frames,
            "checkpoint": self.checkpoint,
            "sentences": self.sentences,
            "fitted_on": self.fitted_on,
        }
        temporary = path.with_name(path.name + ".tmp")
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in self.classifier.tensors.items()}
            save_file(tensors, temporary, {"videoclip": json.dumps(about)})
            temporary.replace(path)

    def facts(self) -> dict[str, Any]:
        """Method, sentences, and what it was fitted on, in numbers; ready for JSON."""
        fitted = {name: len(value) if isinstance(value, list) else value for name, value in self.fitted_on.items()}
        return {"method": self.method.model_dump(), "sentences": self.sentences, "fitted_on": fitted}

    def check_backbone(self, fingerprint: str, whose: str) -> None:
        """Refuse features of another backbone.

        Raises:
            CheckpointError: with both fingerprints.
        """
        if fingerprint != self.backbone["fingerprint"]:
            raise CheckpointError(
                f"The classifier was fitted on features of backbone {self.backbone['fingerprint']} "
                f"({self.backbone['name']}), but {whose} has those of {fingerprint}; use features of the "
                "same backbone, or fit again."
            )

    def model(self, backbone: Backbone | None = None) -> VideoTextModel:
        """The model that pools clips as those were that the classifier was fitted on.

        Raises:
            CheckpointError: its backbone cannot be loaded, or is another one, or so is the checkpoint.
        """
        backbone = backbone or self._load_backbone()
        self.check_backbone(backbone.fingerprint, f"{backbone.spec['name']} as it is here")
        if self.checkpoint is None:
            mean = Component(name="mean", options={"normalize_frames": False})
            return create_model(backbone, similarity=mean, frames=self.frames).eval()
        folder = Path(self.checkpoint["folder"])
        if weights_hash(folder) != self.checkpoint["weights"]:
            raise CheckpointError(f"{folder} is not the model that pooled the clips of this classifier; fit again.")
        return load_model(folder, backbone)

    def _load_backbone(self) -> Backbone:
        name, tag = str(self.backbone["name"]), self.backbone["pretrained"]
        try:
            return reopen_backbone(self.backbone)
        except BackboneError as error:
            raise CheckpointError(
                f"The classifier reads features of backbone {name!r} (pretrained {tag!r}, fingerprint "
                f"{self.backbone['fingerprint']}), which cannot be loaded here: {error}"
            ) from error


def load_head(path: str | Path) -> Head:
    """Read what ``Head.save`` wrote.

    Raises:
        CheckpointError: the file is none, or names a method that is not here.
    """
    path = Path(path)
    about, tensors = _read(path)
    method = Component.model_validate(about["method"])
    try:
        classifier: Classifier = registry.create("classifier", method.name, method.options)
    except ConfigError as error:
        raise CheckpointError(f"{path}: was fitted by a method that is not here: {error}") from error
    classifier.tensors = tensors
    names = about["classes"]
    classes = ClassList(names["name"], tuple(names["labels"]), tuple(names["phrases"]))
    rest = {name: about[name] for name in ("backbone", "frames", "checkpoint", "sentences", "fitted_on")}
    return Head(classifier, method, classes, **rest)


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such classifier; make one with `videoclip classify fit`.")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("videoclip", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as a classifier ({error}).") from error
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is no classifier of `videoclip classify fit`.")
    return about, tensors


def weights_hash(checkpoint: Path) -> str:
    """Of a run's or a checkpoint's weights.

    Raises:
        CheckpointError: the folder holds none.
    """
    for folder in (checkpoint, checkpoint / "best"):
        file = folder / "model.safetensors"
        if file.is_file():
            return hashlib.sha256(file.read_bytes() + (folder / "config.yaml").read_bytes()).hexdigest()[:16]
    raise CheckpointError(f"{checkpoint} is no checkpoint; train one with `videoclip train`.")
