"""A fitted classifier in one small file: tensors as safetensors, and beside them all that says what they are for."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from videoclip import registry
from videoclip.backbone import Backbone, reopen_backbone
from videoclip.backbone.trust import confirm_source
from videoclip.classifier import Classifier
from videoclip.config import Component, Strict, parse
from videoclip.data.classes import ClassList
from videoclip.errors import BackboneError, CheckpointError, ConfigError
from videoclip.files import make_place, reading, replacing
from videoclip.limits import LARGEST_COUNT
from videoclip.model import VideoTextModel, create_model, load_model

FORMAT = "videoclip classifier 1"


class NamedClasses(Strict):
    """The classes of a classifier, as its file has them."""

    name: str
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    phrases: tuple[str, ...]


class NamedBackbone(Strict):
    """The backbone of a classifier, as its file has it."""

    name: str
    pretrained: str | None = None
    fingerprint: str


class NamedCheckpoint(Strict):
    """The model that pools a classifier's clips, as its file has it."""

    folder: str
    weights: str


class FittedOn(Strict):
    """The clips of a classifier, as its file has them, and more that is only shown."""

    model_config = ConfigDict(extra="allow")

    support: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()


class About(Strict):
    """What a classifier's file says of its tensors."""

    format: Literal["videoclip classifier 1"]
    method: Component
    classes: NamedClasses
    backbone: NamedBackbone
    frames: Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
    checkpoint: NamedCheckpoint | None
    sentences: dict[str, str]
    fitted_on: FittedOn


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
        source: the file it was read from; None for one that was fitted here.
    """

    classifier: Classifier
    method: Component
    classes: ClassList
    backbone: dict[str, Any]
    frames: int
    checkpoint: dict[str, str] | None
    sentences: dict[str, str]
    fitted_on: dict[str, Any] = field(default_factory=dict)
    source: Path | None = None

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            VideoclipError: it cannot be written.
        """
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
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in self.classifier.tensors.items()}
        with replacing(make_place(path)) as file:
            file.write(save(tensors, {"videoclip": json.dumps(about)}))

    def facts(self) -> dict[str, Any]:
        """Method, sentences, and what it was fitted on, in numbers; ready for JSON."""
        fitted = {name: len(value) if isinstance(value, list) else value for name, value in self.fitted_on.items()}
        return {"method": self.method.model_dump(), "sentences": self.sentences, "fitted_on": fitted}

    def fits(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which tensors that do not fit the method are errors of the classifier's file.

        Raises:
            CheckpointError: in the context.
        """
        if self.source is None:
            return contextlib.nullcontext()
        return reading(self.source, "a whole classifier", CheckpointError, "Fit it again.")

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

    def model(self, backbone: Backbone | None = None, trust: bool = False) -> VideoTextModel:
        """Load the model that pools clips as those were that the classifier was fitted on.

        Args:
            backbone: the one that the classifier names, where it is loaded already.
            trust: whether a classifier that was read from a file may choose folders and repositories to load from.

        Raises:
            BackboneError: ``trust`` is needed.
            CheckpointError: its backbone cannot be loaded, or is another one, or so is the checkpoint.
        """
        if self.source is not None:
            named = self.backbone["name"], self.backbone["pretrained"]
            confirm_source(*named, self.source, trust or backbone is not None)
            if self.checkpoint is not None:
                confirm_source(self.checkpoint["folder"], None, self.source, trust)
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
        CheckpointError: the file is not a classifier, is damaged, or names a method that is not here.
    """
    path = Path(path)
    about, tensors = _read(path)
    try:
        classifier: Classifier = registry.create("classifier", about.method.name, about.method.options)
    except ConfigError as error:
        raise CheckpointError(f"{path}: was fitted by a method that is not here: {error}") from error
    classifier.tensors = tensors
    classes = ClassList(about.classes.name, about.classes.labels, about.classes.phrases)
    rest = about.model_dump(mode="json", include={"backbone", "frames", "checkpoint", "sentences", "fitted_on"})
    return Head(classifier, about.method, classes, **rest, source=path)


def _read(path: Path) -> tuple[About, dict[str, Tensor]]:
    with reading(path, "a classifier", CheckpointError, "Make one with `videoclip classify fit`."):
        with path.open("rb"):  # says in the system's words what safetensors does not
            pass
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("videoclip", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise CheckpointError(f"{path}: is not a classifier of `videoclip classify fit`.")
    try:
        checked = parse(about, About, str(path))
    except ConfigError as error:
        raise CheckpointError(f"{path}: is a damaged classifier: {'; '.join(error.problems)}.") from error
    wrong = next((name for name, tensor in tensors.items() if tensor.isnan().any()), None)
    if wrong is not None or len(checked.classes.labels) != len(checked.classes.phrases):
        what = "classes and their phrases differ in number" if wrong is None else f"tensor {wrong!r} holds NaN"
        raise CheckpointError(f"{path}: is a damaged classifier: {what}. Fit it again.")
    return checked, tensors


def weights_hash(checkpoint: Path) -> str:
    """Return a hash of the weights and the config of a run or a checkpoint.

    Raises:
        CheckpointError: the folder has none.
    """
    for folder in (checkpoint, checkpoint / "best"):
        file = folder / "model.safetensors"
        if file.is_file():
            with reading(folder, "a checkpoint", CheckpointError):
                return hashlib.sha256(file.read_bytes() + (folder / "config.yaml").read_bytes()).hexdigest()[:16]
    raise CheckpointError(f"{checkpoint} is no checkpoint; train one with `videoclip train`.")
