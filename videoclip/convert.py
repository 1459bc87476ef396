"""Checkpoints of the original repositories -> models of this one: one mapping of names per system."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from videoclip import registry
from videoclip.config import ModelConfig
from videoclip.errors import CheckpointError
from videoclip.model import VideoTextModel, load_trained

BLOCKS = (r"transformerClip\.resblocks\.(.+)", r"temporal.transformer.blocks.\1")
LOGIT_SCALE = (r"clip\.logit_scale", r"logit_scale")


@dataclass(frozen=True)
class Names:
    """How an original's parameter names become ours.

    Attributes:
        renames: pattern of a whole name -> our name; the first match counts.
        transposed: our names whose matrices the original stores transposed.
        unused: patterns of names that the original creates but does not use with this head.
    """

    renames: tuple[tuple[str, str], ...]
    transposed: frozenset[str] = frozenset()
    unused: tuple[str, ...] = ()

    def ours(self, original: str) -> str | None:
        """Our name of an original parameter; None where there is none."""
        for pattern, replacement in self.renames:
            if re.fullmatch(pattern, original):
                return re.sub(pattern, replacement, original)
        return None


def original_names(system: str, state_dict: Mapping[str, Tensor]) -> Names:
    """The mapping for a checkpoint; which of the system's heads it holds is read off its names.

    Raises:
        CheckpointError: the system is not known.
    """
    makers = {"clip4clip": _clip4clip_names, "clip2video": _clip2video_names}
    if system not in makers:
        raise CheckpointError(registry.unknown("system", system, list(makers), "no such system"))
    return makers[system](state_dict)


def load_original(system: str, state_dict: Mapping[str, Tensor], heads: int | None = None) -> VideoTextModel:
    """Build the model that a head of an original repository is, with its weights, for features as input.

    Args:
        system: ``clip4clip`` (meanP, seqLSTM, seqTransf) or ``clip2video`` (temporal difference block).
        state_dict: the original's parameters under their original names, without the CLIP towers.
        heads: attention heads; width / 64, the originals' rule, when not given.

    Raises:
        CheckpointError: the system is unknown; names are left over or missing, all of them listed.
    """
    names = original_names(system, state_dict)
    weights, left_over = {}, []
    for original, tensor in state_dict.items():
        ours = names.ours(original)
        if ours is not None:
            weights[ours] = tensor.T if ours in names.transposed else tensor
        elif not any(re.fullmatch(pattern, original) for pattern in names.unused):
            left_over.append(original)
    if left_over:
        raise CheckpointError(f"{system}: no place for {', '.join(left_over)}.")
    model = _HEADS[system](state_dict, heads)
    load_trained(model, weights, f"the {system} checkpoint")
    return model.eval()


def _clip4clip_names(state_dict: Mapping[str, Tensor]) -> Names:
    lstm = (r"lstm_visual\.(.+)", r"temporal.lstm.\1")
    positions = r"frame_position_embeddings\.weight"
    if _has(state_dict, "transformerClip."):
        return Names((LOGIT_SCALE, BLOCKS, (positions, "temporal.positions.weight")))
    return Names((LOGIT_SCALE, lstm), unused=(positions,))


def _clip4clip(state_dict: Mapping[str, Tensor], heads: int | None) -> VideoTextModel:
    if _has(state_dict, "lstm_visual."):
        return _head("lstm", {}, state_dict["lstm_visual.weight_hh_l0"].shape[1])
    if not _has(state_dict, "transformerClip."):
        return _head("none", {}, 1)
    return _head("transformer", _transformer_options(state_dict, heads), _width(state_dict))


def _clip2video_names(state_dict: Mapping[str, Tensor]) -> Names:
    plain = not _has(state_dict, "frame2t_attention.") and "frame2t_projection" not in state_dict
    return Names(
        (
            LOGIT_SCALE,
            BLOCKS,
            (r"frame_position_embeddings\.weight", "temporal.positions.weight"),
            (r"type_position_embeddings\.weight", "temporal.types.weight"),
            (r"frame2t_attention\.resblocks\.(.+)", r"temporal.difference_transformer.blocks.\1"),
            (r"frame2t_projection", "temporal.difference_linear.weight"),
            *(() if plain else ((r"trans_layernorm\.(.+)", r"temporal.difference_norm.\1"),)),
        ),
        transposed=frozenset({"temporal.difference_linear.weight"}),
        unused=(r"trans_layernorm\..+",) if plain else (),
    )


def _clip2video(state_dict: Mapping[str, Tensor], heads: int | None) -> VideoTextModel:
    projection = "mlp" if "frame2t_projection" in state_dict else "plain"
    if _has(state_dict, "frame2t_attention."):
        projection = "attention"
    options = {
        "projection": projection,
        "difference_mask": "original",
        **_transformer_options(state_dict, heads),
    }
    return _head("difference", options, _width(state_dict))


def _head(temporal: str, options: Mapping[str, object], width: int) -> VideoTextModel:
    config = ModelConfig.model_validate(
        {"temporal": {"name": temporal, "options": dict(options)}, "similarity": "mean"}
    )
    return VideoTextModel(
        None,
        registry.create("temporal", temporal, options, width=width),
        registry.create("similarity", "mean", width=width),
        config,
    )


def _transformer_options(state_dict: Mapping[str, Tensor], heads: int | None) -> dict[str, int | None]:
    layers = {name.split(".")[2] for name in state_dict if name.startswith("transformerClip.resblocks.")}
    return {
        "layers": len(layers),
        "heads": heads,
        "max_positions": len(state_dict["frame_position_embeddings.weight"]),
    }


def _width(state_dict: Mapping[str, Tensor]) -> int:
    if "frame_position_embeddings.weight" not in state_dict:
        raise CheckpointError("The checkpoint has no frame_position_embeddings.weight.")
    return int(state_dict["frame_position_embeddings.weight"].shape[1])


def _has(state_dict: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in state_dict)


_HEADS = {"clip4clip": _clip4clip, "clip2video": _clip2video}
