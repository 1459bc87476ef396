"""The model: backbone + tuning + temporal encoder + similarity, built from a config, saved and loaded.

Shapes: B videos, Q texts, T frames, L tokens, D joint width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from videoclip import config as configs
from videoclip import registry
from videoclip.backbone import Backbone, create_backbone
from videoclip.config import Component, ModelConfig
from videoclip.errors import CheckpointError
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.similarity import Similarity
from videoclip.store.dataset import StoredClips
from videoclip.store.extract import read_clips
from videoclip.temporal import TemporalEncoder

if TYPE_CHECKING:
    from videoclip.store import FeatureStore

MAX_LOGIT_SCALE = math.log(100)  # CLIP's own bound
VIDEOS_AT_ONCE = 64  # rounding depends on it, so everything that encodes a gallery takes the same


class VideoTextModel(nn.Module):
    """Scores texts against videos.

    Args:
        backbone: CLIP towers; None for a model that only ever sees features.
        temporal: frames -> frames.
        similarity: texts x videos -> scores.
        config: what the parts were built from; needed by ``save``.
        logit_scale: initial logarithm of the factor between scores and logits; the backbone's when not given.
    """

    def __init__(
        self,
        backbone: Backbone | None,
        temporal: TemporalEncoder,
        similarity: Similarity,
        config: ModelConfig | None = None,
        logit_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.temporal = temporal
        self.similarity = similarity
        self.config = config or ModelConfig()
        if logit_scale is None:
            logit_scale = backbone.initial_logit_scale if backbone else MAX_LOGIT_SCALE
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale), requires_grad=similarity.scale_logits)

    def encode_video(self, video: VideoFeatures | FeatureStore | Sequence[str | Path]) -> VideoFeatures:
        """Frames after the temporal encoder: of plain frames, of a whole store, or of files that are decoded now.

        Raises:
            DecodeError: a file cannot be read.
            StoreError: the store was made with another backbone.
        """
        if isinstance(video, VideoFeatures):
            encoded: VideoFeatures = self.temporal(video)
            return encoded
        if isinstance(video, Sequence):
            return self.encode_video(read_clips(self._towers(), video, self.config.frames).to(self.logit_scale.device))
        video.check_backbone(self._towers())
        return self.encode_store(video, video.ids)

    def encode_store(self, store: FeatureStore, ids: Sequence[str]) -> VideoFeatures:
        """Clips of a store after the temporal encoder, a few hundred at a time: (B, ``config.frames``, D)."""
        if self.config.context:
            raise CheckpointError(
                "This model reads a clip among its neighbours in the long video: evaluate it with a manifest, whose "
                "clips share files and have start times."
            )
        clips = StoredClips(store, ids, self.config.frames)
        starts = range(0, max(1, len(clips)), VIDEOS_AT_ONCE)
        parts = (clips.__getitems__(range(i, min(i + VIDEOS_AT_ONCE, len(clips)))) for i in starts)
        return VideoFeatures.cat([self.encode_video(part.to(self.logit_scale.device)) for part in parts])

    def encode_text(self, texts: Sequence[str] | Tensor) -> TextFeatures:
        """Embeddings of Q texts or of their tokens (Q, L)."""
        towers = self._towers()
        tokens = texts if isinstance(texts, Tensor) else towers.tokenize(texts)
        return towers.encode_text(tokens.to(self.logit_scale.device), self.similarity.needs_words)

    @torch.no_grad()
    def score(
        self,
        text: Sequence[str] | TextFeatures,
        video: VideoFeatures | FeatureStore | Sequence[str | Path],
    ) -> Tensor:
        """Scores (Q, B) in cosine units, without gradients, of any memory size; see ``encode_video`` for videos."""
        features = text if isinstance(text, TextFeatures) else self.encode_text(text)
        return self.similarity(features, self.encode_video(video))

    def forward(self, text: TextFeatures | Tensor, video: VideoFeatures) -> Tensor:
        """Logits (Q, B) of text features or tokens (Q, L) against plain frames."""
        features = text if isinstance(text, TextFeatures) else self.encode_text(text)
        return self.logits(self.similarity(features, self.temporal(video)))

    def logits(self, scores: Tensor) -> Tensor:
        """Scores times the learned temperature's inverse, where the similarity wants that."""
        return self.logit_scale.exp() * scores if self.similarity.scale_logits else scores

    def auxiliary_losses(self, text: TextFeatures, video: VideoFeatures) -> list[Tensor]:
        """What temporal encoder and similarity declare beside the contrastive loss: scalars, of encoded videos (B) and
        the texts (B) that belong to them.
        """
        text, video = self.similarity.prepared(text, video)
        guided = replace(text, sentence=self.similarity.guided(text, video))
        found = [self.temporal.auxiliary_loss(guided, video), self.similarity.auxiliary_loss(text, video)]
        return [loss for loss in found if loss is not None]

    def trained(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the parts outside the backbone, and what is trained inside it."""
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        state = self.state_dict()
        return {n: t for n, t in state.items() if n in names or not n.startswith("backbone.")}

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` (trained weights only) and ``config.yaml`` (rebuilds the model)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {n: t.detach().contiguous().cpu() for n, t in self.trained().items()},
            folder / "model.safetensors",
        )
        fingerprint = f"fingerprint: {self._towers().fingerprint}\n"
        (folder / "config.yaml").write_text(configs.dump(self.config) + fingerprint)

    def _towers(self) -> Backbone:
        if self.backbone is None:
            raise CheckpointError("This model has no backbone: give it features, or build it with create_model.")
        return self.backbone


def create_model(
    backbone: str | Backbone = "tiny",
    pretrained: str | None = None,
    *,
    temporal: str | Component = "none",
    similarity: str | Component = "mean",
    text_tuning: str | Component = "none",
    frames: int = 12,
) -> VideoTextModel:
    """Build a model by names.

    Args:
        backbone, pretrained: see ``videoclip.backbone.create_backbone``; or a backbone of your own.
        temporal, similarity, text_tuning: component names, or ``Component(name=..., options={...})``.
        frames: how many frames a clip is reduced to.

    Raises:
        ConfigError: a name or an option is unknown.
        BackboneError: the backbone cannot be loaded.
    """
    given = None if isinstance(backbone, str) else backbone
    named = given.spec if given else {"name": str(backbone), "pretrained": pretrained}
    parts = {"temporal": temporal, "similarity": similarity, "text_tuning": text_tuning}
    values = {k: v.model_dump() if isinstance(v, Component) else v for k, v in parts.items()}
    config = configs.parse({"backbone": named, "frames": frames, **values}, ModelConfig, "create_model")
    return build_model(config, given)


def build_model(config: ModelConfig, backbone: Backbone | None = None) -> VideoTextModel:
    """Build a model from its config; ``backbone`` serves when it is loaded already."""
    towers = backbone or create_backbone(config.backbone.name, config.backbone.pretrained)
    registry.create("tuning", "none").apply(towers.image_tower)
    registry.create("tuning", config.text_tuning.name, config.text_tuning.options).apply(towers.text_tower)
    temporal, similarity = build_head(config, towers.width)
    clip = {name: tensor.detach() for name, tensor in towers.text_tower.state_dict().items()}
    projection = getattr(towers.image_tower, "proj", None)
    for part in (temporal, similarity):
        part.start_from(clip if projection is None else {**clip, "visual.proj": projection.detach()})
    return VideoTextModel(towers, temporal, similarity, config)


def build_head(config: ModelConfig, width: int) -> tuple[TemporalEncoder, Similarity]:
    """A config's temporal encoder and similarity for features of a width."""
    temporal = registry.create("temporal", config.temporal.name, config.temporal.options, width=width)
    similarity = registry.create("similarity", config.similarity.name, config.similarity.options, width=width)
    return temporal, similarity


def load_model(folder: str | Path, backbone: Backbone | None = None) -> VideoTextModel:
    """Rebuild a saved model in evaluation mode, its weights loaded onto its backbone.

    Raises:
        CheckpointError: the folder is no checkpoint, or the backbone is not the one it was trained on.
    """
    folder = Path(folder)
    if (folder / "best" / "config.yaml").is_file():  # a run folder: its best epoch
        folder = folder / "best"
    if not (folder / "config.yaml").is_file() or not (folder / "model.safetensors").is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it needs config.yaml and model.safetensors.")
    values = yaml.safe_load((folder / "config.yaml").read_text())
    expected = values.pop("fingerprint")
    config = configs.parse(values, ModelConfig, str(folder / "config.yaml"))
    if (folder / config.backbone.name).is_dir():  # a converted checkpoint brings its towers along
        inside = config.backbone.model_copy(update={"name": str(folder / config.backbone.name)})
        config = config.model_copy(update={"backbone": inside})
    model = build_model(config, backbone)
    found = model._towers().fingerprint
    if found != expected:
        raise CheckpointError(f"{folder} was trained on backbone {expected}, but {config.backbone.name} is {found}.")
    load_trained(model, load_file(folder / "model.safetensors"), str(folder))
    return model.eval()


def load_trained(model: VideoTextModel, weights: dict[str, Tensor], source: str) -> None:
    """Load what ``VideoTextModel.trained`` gave.

    Raises:
        CheckpointError: listing names that are missing or left over.
    """
    wanted = set(model.trained())
    wrong = [f"missing {n}" for n in sorted(wanted - set(weights))] + [
        f"left over {n}" for n in sorted(set(weights) - wanted)
    ]
    if wrong:
        raise CheckpointError(f"{source} does not fit the model: {', '.join(wrong)}.")
    model.load_state_dict(weights, strict=False)
