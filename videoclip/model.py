"""The model: backbone + tuning + temporal encoder + similarity, built from a config, saved and loaded.

Shapes: B videos, Q texts, T frames, L tokens, D joint width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from videoclip import config as configs
from videoclip import registry
from videoclip.backbone import Backbone, create_backbone, reopen_backbone
from videoclip.backbone.transform import chosen_transform
from videoclip.backbone.walk import Tower, walk_image, walk_text
from videoclip.config import BackboneConfig, Component, ModelConfig
from videoclip.errors import BackboneError, CheckpointError, printable
from videoclip.features import TextFeatures, VideoFeatures, VideoPixels, as_paths, as_texts
from videoclip.files import make_folder, parse_yaml, read_yaml, reading, replace_text, replacing
from videoclip.similarity import Similarity
from videoclip.store import FeatureStore
from videoclip.store.extract import read_clips
from videoclip.temporal import TemporalEncoder
from videoclip.tuning import Tuning
from videoclip.video.clip import FrameChoice, load_clip

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"  # the files of a checkpoint
MAX_LOGIT_SCALE = math.log(100)  # CLIP's own bound
LISTED = 8  # wrong parameters that a message names
VIDEOS_AT_ONCE = 64  # rounding depends on it, so everything that encodes a gallery takes the same

Videos = VideoFeatures | VideoPixels | FeatureStore | str | Path | Sequence[str | Path]


class VideoTextModel(nn.Module):
    """Scores texts against videos.

    Args:
        backbone: CLIP towers; None for a model that only ever sees features.
        temporal: frames -> frames.
        similarity: texts x videos -> scores.
        image_tuning, text_tuning: what is trained inside the towers.
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
        image_tuning: Sequence[Tuning] = (),
        text_tuning: Sequence[Tuning] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_tuning, self.text_tuning = nn.ModuleList(image_tuning), nn.ModuleList(text_tuning)
        self.temporal = temporal
        self.similarity = similarity
        self.config = config or ModelConfig()
        if logit_scale is None:
            logit_scale = backbone.initial_logit_scale if backbone else MAX_LOGIT_SCALE
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale), requires_grad=similarity.scale_logits)
        self.pretrained: frozenset[str] = frozenset()  # names of the weights that the towers were loaded with

    def encode_video(self, video: Videos) -> VideoFeatures:
        """Return frames (B, T, D) after the temporal encoder.

        Args:
            video: plain frames, pixels, a whole store, or one or several files, which are decoded now.

        Raises:
            DataError: it is none of these, or an empty list.
            DecodeError: a file cannot be read.
            StoreError: the store was made with another backbone, or lacks the pixels that a tuned tower needs.
        """
        if isinstance(video, VideoPixels):
            video = self.encode_pixels(video)
        if isinstance(video, VideoFeatures):
            encoded: VideoFeatures = self.temporal(video)
            return encoded
        if isinstance(video, FeatureStore):
            video.check_backbone(self._towers())
            return self.encode_store(video, video.ids)

        paths = as_paths(video)
        parts = [paths[i : i + VIDEOS_AT_ONCE] for i in range(0, len(paths), VIDEOS_AT_ONCE)]
        return VideoFeatures.cat([self.encode_video(self._read_files(part)) for part in parts])

    def encode_pixels(self, video: VideoPixels) -> VideoFeatures:
        """Plain frames through the image tower and what is trained inside it.

        Clips with equally many real frames pass together, so padding reaches neither tower nor tunings.
        """
        counts, length = video.mask.sum(1), video.mask.shape[1]
        order, every, further = list[Tensor](), list[Tensor](), list[Tensor]()
        for count in sorted(set(counts.tolist())):
            rows = (counts == count).nonzero()[:, 0]
            frames, tokens = self._run_image_tower(video.pixels[rows, : max(1, count)])
            missing = length - frames.shape[1]
            order.append(rows)
            every.append(F.pad(frames, (0, 0, 0, missing)))
            if tokens is not None:
                per_frame = tokens.ndim == 4
                further.append(F.pad(tokens, (0, 0, 0, 0, 0, missing)).flatten(1, 2) if per_frame else tokens)
        back = torch.cat(order).argsort()
        joined = torch.cat(every)[back]
        tokens = torch.cat(further)[back] if further else None
        return VideoFeatures(joined, video.mask, video.seconds, joined, tokens=tokens)

    def _run_image_tower(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pixels (B, T, 3, S, S), uint8 or normalised -> frames (B, T, D), and further tokens, see ``walk_image``."""
        towers, tunings = self._towers(), walking(self.image_tuning)
        if tunings:
            normed = pixels if pixels.is_floating_point() else towers.preprocess.normalize(pixels)
            return walk_image(tunings[0].tower, normed, tunings)
        return towers.encode_image(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]), None

    def _read_files(self, paths: Sequence[str | Path]) -> VideoFeatures | VideoPixels:
        towers, frames = self._towers(), self.config.frames
        if not self.config.live_images:
            return read_clips(towers, paths, frames).to(self.logit_scale.device)
        clips = [load_clip(path, FrameChoice(frames=frames), towers.preprocess) for path in paths]
        pixels = VideoPixels.pad([clip.pixels for clip in clips], [clip.seconds for clip in clips], frames)
        return pixels.to(self.logit_scale.device)

    def encode_store(self, store: FeatureStore, ids: Sequence[str]) -> VideoFeatures:
        """Clips of a store after the temporal encoder, a few hundred at a time: (B, ``config.frames``, D)."""
        if self.config.context:
            raise CheckpointError(
                "This model reads a clip among its neighbours in the long video: evaluate it with a manifest, whose "
                "clips share files and have start times."
            )
        starts = range(0, max(1, len(ids)), VIDEOS_AT_ONCE)
        return VideoFeatures.cat([self._read_store(store, ids[i : i + VIDEOS_AT_ONCE]) for i in starts])

    def _read_store(self, store: FeatureStore, ids: Sequence[str]) -> VideoFeatures:
        read = store.pixels if self.config.live_images else store.features
        return self.encode_video(read(ids, self.config.frames).to(self.logit_scale.device))

    def encode_text(self, texts: str | Sequence[str] | Tensor) -> TextFeatures:
        """Return embeddings of Q texts, of one, or of tokens (Q, L).

        Raises:
            DataError: something among the texts is not a string.
        """
        towers = self._towers()
        tokens = texts if isinstance(texts, Tensor) else towers.tokenize(as_texts(texts))
        tokens = tokens.to(self.logit_scale.device)
        words = self.similarity.needs_words
        tunings = walking(self.text_tuning)
        return walk_text(tunings[0].tower, tokens, tunings, words) if tunings else towers.encode_text(tokens, words)

    @torch.no_grad()
    def score(self, text: str | Sequence[str] | Tensor | TextFeatures, video: Videos) -> Tensor:
        """Return scores (Q, B) in cosine units, without gradients, of any memory size.

        Args:
            text: one or several texts, their tokens (Q, L), or their features.
            video: see ``encode_video``.

        Raises:
            VideoclipError: see ``encode_text`` and ``encode_video``.
        """
        features = text if isinstance(text, TextFeatures) else self.encode_text(text)
        return self.similarity(features, self.encode_video(video))

    def forward(self, text: TextFeatures | Tensor, video: VideoFeatures | VideoPixels) -> Tensor:
        """Logits (Q, B) of text features or tokens (Q, L) against plain frames or their pixels."""
        features = text if isinstance(text, TextFeatures) else self.encode_text(text)
        return self.logits(self.similarity(features, self.encode_video(video)))

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
        """Write ``model.safetensors`` (trained weights only) and ``config.yaml`` (rebuilds the model).

        Whenever the process is killed, the folder holds the former checkpoint or the new one, whole.

        Raises:
            StoreError: a file cannot be written.
        """
        folder = make_folder(Path(folder))
        weights = {name: tensor.detach().contiguous().cpu() for name, tensor in self.trained().items()}
        config = configs.dump(self.config) + f"fingerprint: {self._towers().fingerprint}\n"
        written = folder / CONFIG

        # Two files cannot be replaced at once. So the weights carry their config, which counts where config.yaml is
        # missing, and a config.yaml of other weights goes before these take their place: at every moment the weights
        # and the config that counts belong together.
        with replacing(folder / WEIGHTS) as file:
            file.write(serialize(weights, {"config": config}))
            if written.is_file() and written.read_bytes() != config.encode():
                written.unlink()
        replace_text(written, config)

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
    image_tuning: str | Component | Sequence[str | Component] = "none",
    text_tuning: str | Component | Sequence[str | Component] = "none",
    frames: int = 12,
) -> VideoTextModel:
    """Build a model by names.

    Args:
        backbone, pretrained: see ``videoclip.backbone.create_backbone``; or a backbone of your own.
        temporal, similarity: component names, or ``Component(name=..., options={...})``.
        image_tuning, text_tuning: likewise, or several of them.
        frames: how many frames a clip is reduced to.

    Raises:
        ConfigError: a name or an option is unknown.
        BackboneError: the backbone cannot be loaded.
    """
    given = None if isinstance(backbone, str) else backbone
    named = given.spec if given else {"name": str(backbone), "pretrained": pretrained}
    parts = {"temporal": temporal, "similarity": similarity, "image_tuning": image_tuning, "text_tuning": text_tuning}
    config = configs.parse({"backbone": named, "frames": frames, **_plain(parts)}, ModelConfig, "create_model")
    return build_model(config, given)


def walking(tunings: nn.ModuleList) -> list[Tuning]:
    """Those that step into a walk through a tower; the others change the tower's own weights."""
    return [tuning for tuning in tunings if isinstance(tuning, Tuning) and tuning.walks]


def _plain(value: Any) -> Any:
    if isinstance(value, Component):
        return value.model_dump()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def build_model(config: ModelConfig, backbone: Backbone | None = None) -> VideoTextModel:
    """Build a model from its config; ``backbone`` serves when it is loaded already, and is tuned in place."""
    towers = backbone or create_backbone(**config.backbone.model_dump())
    # A checkpoint brings the image transform along that a file of weights was given.
    chosen = BackboneConfig(**{**config.backbone.model_dump(), **chosen_transform(towers.spec)})
    config = config.model_copy(update={"backbone": chosen})
    temporal, similarity = build_head(config, towers.width)
    clip = {name: tensor.detach() for name, tensor in towers.text_tower.state_dict().items()}
    projection = getattr(towers.image_tower, "proj", None)
    for part in (temporal, similarity):
        part.start_from(clip if projection is None else {**clip, "visual.proj": projection.detach()})
    pretrained = {f"backbone.{name}" for name, _ in towers.named_parameters()} if isinstance(towers, nn.Module) else ()
    image_tuning, text_tuning = build_tunings(config, towers)
    model = VideoTextModel(towers, temporal, similarity, config, image_tuning=image_tuning, text_tuning=text_tuning)
    model.pretrained = frozenset(pretrained)
    return model


def build_tunings(config: ModelConfig, backbone: Backbone) -> tuple[list[Tuning], list[Tuning]]:
    """What a config trains inside the image tower, and inside the text tower, which are frozen otherwise."""
    name = str(backbone.spec["name"])
    found = []
    sides: tuple[tuple[Literal["image", "text"], nn.Module, Sequence[Component]], ...] = (
        ("image", backbone.image_tower, config.image_tuning),
        ("text", backbone.text_tower, config.text_tuning),
    )
    for kind, module, components in sides:
        module.requires_grad_(False)
        tower = Tower(kind, module, name, backbone.tokenize)
        found.append([registry.create("tuning", c.name, c.options, tower=tower) for c in components])
    return found[0], found[1]


def checkpoint_blocks(model: VideoTextModel) -> None:
    """Let the towers that are tuned keep their blocks' inputs alone, and run each block again for its gradient.

    Raises:
        BackboneError: a tower is no transformer of open_clip.
    """
    towers = model._towers()
    sides = ((towers.image_tower, model.config.live_images), (towers.text_tower, model.config.live_texts))
    for module in (module for module, live in sides if live):
        if not hasattr(getattr(module, "transformer", None), "grad_checkpointing"):
            raise BackboneError(f"{towers.spec['name']}: a tower has no blocks for train.gradient_checkpointing.")
        module.transformer.grad_checkpointing = True  # type: ignore[union-attr]


def build_head(config: ModelConfig, width: int) -> tuple[TemporalEncoder, Similarity]:
    """A config's temporal encoder and similarity for features of a width."""
    temporal = registry.create("temporal", config.temporal.name, config.temporal.options, width=width)
    similarity = registry.create("similarity", config.similarity.name, config.similarity.options, width=width)
    return temporal, similarity


def load_model(folder: str | Path, backbone: Backbone | None = None) -> VideoTextModel:
    """Rebuild a saved model in evaluation mode, its weights loaded onto its backbone.

    Args:
        folder: a checkpoint, or the folder of a run, whose best epoch is meant.
        backbone: serves when it is loaded already.

    Raises:
        CheckpointError: the folder is not a checkpoint, a file of it is damaged, or the backbone is not the one it was
            trained on.
        ConfigError: its config has mistakes.
    """
    folder = Path(folder)
    if (folder / "best" / WEIGHTS).is_file():  # a run folder: its best epoch
        folder = folder / "best"
    values = read_checkpoint_config(folder)
    expected = values.pop("fingerprint")
    config = configs.parse(values, ModelConfig, str(folder / CONFIG))
    if (folder / config.backbone.name).is_dir():  # a converted checkpoint brings its towers along
        inside = config.backbone.model_copy(update={"name": str(folder / config.backbone.name)})
        config = config.model_copy(update={"backbone": inside})
    model = build_model(config, backbone or reopen_backbone(config.backbone.model_dump()))
    found = model._towers().fingerprint
    if found != expected:
        raise CheckpointError(f"{folder} was trained on backbone {expected}, but {config.backbone.name} is {found}.")
    with reading(folder / WEIGHTS, "a file of weights", CheckpointError):
        weights = load_file(folder / WEIGHTS)
    load_trained(model, weights, str(folder / WEIGHTS))
    return model.eval()


def read_checkpoint_config(folder: Path) -> dict[str, Any]:
    """Return the values of a checkpoint's config: ``config.yaml``, or where that is missing what its weights carry.

    Raises:
        CheckpointError: the folder is not a checkpoint, or its config cannot be read.
    """
    path, weights = folder / CONFIG, folder / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it needs {CONFIG} and {WEIGHTS}.")
    if path.exists():
        values = read_yaml(path, CheckpointError)
    else:
        with reading(weights, "a file of weights", CheckpointError), safe_open(weights, "pt") as file:
            carried = (file.metadata() or {}).get("config")
            if carried is None:
                raise CheckpointError(f"{folder} is not a checkpoint: {CONFIG} is missing.")
            values = parse_yaml(carried)
    if not isinstance(values, dict) or "fingerprint" not in values:
        raise CheckpointError(f"{path} is not the config of a checkpoint, or is truncated: it has no fingerprint.")
    return values


def load_trained(model: VideoTextModel, weights: dict[str, Tensor], source: str) -> None:
    """Load what ``VideoTextModel.trained`` gave.

    Raises:
        CheckpointError: listing names that are missing, left over, or of another shape.
    """
    wanted = model.trained()
    wrong = [
        *(f"missing {name}" for name in sorted(wanted.keys() - weights.keys())),
        *(f"left over {name}" for name in sorted(weights.keys() - wanted.keys())),
        *(
            f"{name} is {tuple(weights[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in sorted(wanted.keys() & weights.keys())
            if weights[name].shape != wanted[name].shape
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise CheckpointError(f"{source} does not fit the model: {printable(', '.join(wrong[:LISTED]))}{more}.")
    model.load_state_dict(weights, strict=False)
