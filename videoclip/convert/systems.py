"""What the checkpoints of each published system hold, and under which names; shapes tell the options.

Each function takes a state dict without the CLIP towers and gives a ``Head``; its ``KeyError`` names what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Weights = Mapping[str, Tensor]
Renames = tuple[tuple[str, str], ...]

LOGIT_SCALE = (r"(?:clip\.)?logit_scale", "logit_scale")
POSITIONS = (r"frame_position_embeddings\.weight", "temporal.positions.weight")
BLOCKS = (r"transformerClip\.resblocks\.(.+)", r"temporal.transformer.blocks.\1")
LSTM = (r"lstm_visual\.(.+)", r"temporal.lstm.\1")
CROSS = (
    (r"cross\.embeddings\.position_embeddings\.weight", "similarity.positions.weight"),
    (r"cross\.transformer\.resblocks\.(.+)", r"similarity.transformer.blocks.\1"),
    (r"cross\.pooler\.ln_pool\.(.+)", r"similarity.pooler.0.\1"),
    (r"cross\.pooler\.dense\.(.+)", r"similarity.pooler.1.\1"),
    (r"similarity_dense\.(.+)", r"similarity.read.\1"),
)


@dataclass(frozen=True)
class Head:
    """A system's head: components with their options, and how original parameter names become ours.

    Attributes:
        temporal, similarity: name and options.
        width: D.
        renames: pattern of a whole name -> our name; the first match counts.
        transposed: our names whose matrices the original stores transposed.
        unused: patterns of names that the original creates but does not use with this head.
        needs_scale: whether the checkpoint must bring the temperature.
    """

    temporal: tuple[str, dict[str, Any]]
    similarity: tuple[str, dict[str, Any]]
    width: int
    renames: Renames
    transposed: frozenset[str] = frozenset()
    unused: tuple[str, ...] = ()
    needs_scale: bool = True

    def ours(self, original: str) -> str | None:
        """Our name of an original parameter; None where there is none."""
        return ours_of(original, self.renames)

    def translate(self, state_dict: Weights) -> tuple[dict[str, Tensor], list[str]]:
        """Parameters under our names, in single precision, and the names for which there is no place."""
        weights, left_over = {}, []
        for original, tensor in state_dict.items():
            ours = self.ours(original)
            if ours is not None:
                matrix = tensor[0] if tensor.ndim == 3 else tensor  # a table that broadcasts over a batch
                weights[ours] = (matrix.T if ours in self.transposed else matrix).float().contiguous()
            elif not any(re.fullmatch(pattern, original) for pattern in self.unused):
                left_over.append(original)
        return weights, left_over


def clip4clip(weights: Weights) -> Head:
    """MeanP, seqLSTM, seqTransf and tightTransf."""
    if _has(weights, "cross."):
        return Head(
            ("none", {}), _cross(weights), _width_of_cross(weights), (LOGIT_SCALE, *CROSS), unused=(POSITIONS[0],)
        )
    temporal, renames, unused = _aggregation(weights)
    return Head(temporal, ("mean", {}), _width_of_frames(weights), (LOGIT_SCALE, *renames), unused=unused)


def clip2video(weights: Weights) -> Head:
    """The temporal difference block, alone or with the alignment block.

    Whether its coarse branch takes differences is not told by the weights: ``temporal={"coarse": "frames"}`` if not.
    """
    aligned = "weight_center" in weights
    projection = "mlp" if "frame2t_projection" in weights else "plain"
    if _has(weights, "frame2t_attention."):
        projection = "attention"
    unused = (r"trans_layernorm\..+",) if projection == "plain" else ()
    options = {"projection": projection, "difference_mask": "original", **_transformer_options(weights)}
    renames: Renames = (
        LOGIT_SCALE,
        BLOCKS,
        POSITIONS,
        (r"type_position_embeddings\.weight", "temporal.types.weight"),
        (r"frame2t_attention\.resblocks\.(.+)", r"temporal.difference_transformer.blocks.\1"),
        (r"frame2t_projection", "temporal.difference_linear.weight"),
        *(() if unused else ((r"trans_layernorm\.(.+)", r"temporal.difference_norm.\1"),)),
    )
    similarity: tuple[str, dict[str, Any]] = ("mean", {})
    if aligned:
        options["coarse"] = "difference"
        similarity = ("alignment", {"centres": len(weights["weight_center"])})
        renames += (
            (r"actionClip\.resblocks\.(.+)", r"temporal.coarse_transformer.blocks.\1"),
            ("weight_center", "similarity.assignment"),
            ("emb_center", "similarity.centres"),
        )
    transposed = frozenset({"temporal.difference_linear.weight"})
    return Head(("difference", options), similarity, _width_of_frames(weights), renames, transposed, unused)


def drl(weights: Weights) -> Head:
    """WTI, TI and XTI, on plain frames or behind a temporal encoder.

    TI and DP have no weights: ``similarity={"name": "mean"}`` for DP.
    """
    temporal, renames, unused = _aggregation(weights)
    if _has(weights, "cross."):
        name, options = _cross(weights)
        similarity = name, {**options, "heads": 8, "temperature": True}
        return Head(temporal, similarity, _width_of_cross(weights), (LOGIT_SCALE, *renames, *CROSS), unused=unused)
    similarity, of_networks = _token_networks(weights)
    return Head(temporal, similarity, _width_of_frames(weights), (LOGIT_SCALE, *renames, *of_networks), unused=unused)


def mug(weights: Weights) -> Head:
    """Mug-STAN's weighted token interaction ("drl_wti"); its other heads have no weights."""
    similarity, renames = _token_networks(weights)
    width = weights["text_weight_fc.weight"].shape[1]
    return Head(("none", {}), similarity, width, (LOGIT_SCALE, *renames), needs_scale=False)


def xclip(weights: Weights) -> Head:
    """Attention over similarity matrices, on plain frames or behind CLIP4Clip's encoders."""
    temporal, renames, unused = _aggregation(weights)
    names = {
        "global_mat_weight": "whole",
        "local_mat_weight": "part",
        "word_logit_weight": "words",
        "word_mat_weight": "words_first",
        "word_mat_weight2": "words_last",
        "frame_logit_weight": "frames",
        "frame_mat_weight": "frames_first",
        "frame_mat_weight2": "frames_last",
    }
    of_matrices = tuple((original, f"similarity.{ours}") for original, ours in names.items())
    sizes = {"max_words": len(weights["word_mat_weight"]), "max_frames": len(weights["frame_mat_weight"])}
    similarity = ("multigrained", {**sizes, "padding": "original"})
    width = len(weights["global_mat_weight"])
    return Head(temporal, similarity, width, (LOGIT_SCALE, *renames, *of_matrices), unused=unused)


def xpool(weights: Weights) -> Head:
    """The cross-attention pooling; the pools of the ablation have no weights."""
    parts = {"cross_attn.q_proj": "query", "cross_attn.k_proj": "key", "cross_attn.v_proj": "value"}
    parts |= {"cross_attn.out_proj": "out", "linear_proj": "residual"}
    parts |= {"layer_norm1": "norm_in", "layer_norm2": "norm_read", "layer_norm3": "norm_out"}
    renames = tuple((rf"pool_frames\.{re.escape(a)}\.(.+)", rf"similarity.{b}.\1") for a, b in parts.items())
    width = len(weights["pool_frames.linear_proj.bias"])
    return Head(("none", {}), ("attention", {"heads": 1}), width, (LOGIT_SCALE, *renames), needs_scale=False)


def contra(weights: Weights) -> Head:
    """The context transformer of one side without input projections; of the video where both are there."""
    side = "video" if _has(weights, "transformer_encoder_video.") else "text"
    prefix = rf"transformer_encoder_{side}\."
    renames = (
        (rf"{prefix}positional_embedding", "temporal.positions"),
        (rf"{prefix}transformer_encoder\.(.+)", r"temporal.encoder.\1"),
    )
    layers = f"transformer_encoder_{side}.transformer_encoder.layers."
    rows, width = weights[f"transformer_encoder_{side}.positional_embedding"].shape
    options = {"radius": rows // 2, "layers": count(weights, layers), "heads": 8}
    options["feedforward"] = len(weights[f"{layers}0.linear1.bias"])
    return Head(("context", options), ("mean", {}), width, (LOGIT_SCALE, *renames), needs_scale=False)


def tem_adapter(weights: Weights) -> Head:
    """Temporal and semantic aligner."""
    decoder = r"semantic_aligner\.context_decoder\."
    parts = {"self_attn.v_proj": "own", "self_attn.proj": "own_out", "cross_attn.q_proj": "query"}
    parts |= {"cross_attn.k_proj": "key", "cross_attn.v_proj": "value", "cross_attn.proj": "out"}
    parts |= {"norm1": "norm_own", "norm2": "norm_read", "norm3": "norm_mlp"}
    renames = (
        LOGIT_SCALE,
        (r"temp_aligner\.transformer_(encoder|decoder)\.(.+)", r"temporal.\1.\2"),
        (r"semantic_aligner\.gamma", "similarity.gamma"),
        (rf"{decoder}memory_proj\.(.+)", r"similarity.memory.\1"),
        (rf"{decoder}text_proj\.(.+)", r"similarity.enter.\1"),
        (rf"{decoder}out_proj\.0\.(.+)", r"similarity.norm_leave.\1"),
        (rf"{decoder}out_proj\.1\.(.+)", r"similarity.leave.\1"),
        (rf"{decoder}decoder\.0\.mlp\.(.+)", r"similarity.mlp.\1"),
        *((rf"{decoder}decoder\.0\.{re.escape(a)}\.(.+)", rf"similarity.{b}.\1") for a, b in parts.items()),
    )
    prefix = "temp_aligner.transformer_encoder.layers."
    options = {"layers": count(weights, prefix), "heads": 16, "feedforward": len(weights[f"{prefix}0.linear1.bias"])}
    hidden, width = weights["semantic_aligner.context_decoder.text_proj.1.weight"].shape
    unused = (rf"{decoder}decoder\.0\.self_attn\.[qk]_proj\.weight",)
    similarity = ("semantic", {"hidden": hidden, "heads": 16})
    return Head(("aligner", options), similarity, width, renames, unused=unused, needs_scale=False)


def xclip_videox(weights: Weights) -> Head:
    """The multi-frame integration transformer alone (``mit.``) of Microsoft's X-CLIP."""
    renames = (
        LOGIT_SCALE,
        (r"mit\.positional_embedding", "temporal.positions.weight"),
        (r"mit\.resblocks\.(.+)", r"temporal.transformer.blocks.\1"),
    )
    *_, frames, width = weights["mit.positional_embedding"].shape
    options = {"layers": count(weights, "mit.resblocks."), "heads": None, "max_positions": frames}
    return Head(("integration", options), ("mean", {"normalize_frames": False}), width, renames, needs_scale=False)


def ts2net(weights: Weights) -> Head:
    """TS2-Net's temporal transformer over frames and selected tokens, and its weighted mean of frames."""
    temporal = ("token_transformer", _transformer_options(weights))
    return Head(temporal, ("frame_softmax", {}), _width_of_frames(weights), (LOGIT_SCALE, POSITIONS, BLOCKS))


def _aggregation(weights: Weights) -> tuple[tuple[str, dict[str, Any]], Renames, tuple[str, ...]]:
    """The CLIP4Clip family's temporal encoder: component, renames, unused names."""
    if _has(weights, "transformerClip."):
        return ("transformer", _transformer_options(weights)), (POSITIONS, BLOCKS), ()
    if _has(weights, "lstm_visual."):
        return ("lstm", {}), (LSTM,), (POSITIONS[0],)
    return ("none", {}), (), (POSITIONS[0],)


def _transformer_options(weights: Weights) -> dict[str, Any]:
    positions = len(weights["frame_position_embeddings.weight"])
    return {"layers": count(weights, "transformerClip.resblocks."), "heads": None, "max_positions": positions}


def _token_networks(weights: Weights) -> tuple[tuple[str, dict[str, Any]], Renames]:
    """DRL's token interaction with the weight networks that are there."""
    options: dict[str, Any] = {"weights": "uniform", "padding": "original"}
    if not _has(weights, "text_weight_fc."):
        return ("tokens", options), ()
    single = "text_weight_fc.weight" in weights
    layers = 1 if single else count(weights, "text_weight_fc.")
    pattern = r"(text|video)_weight_fc\.(.+)"
    renames = ((pattern, r"similarity.\1_weights.0.\2" if single else r"similarity.\1_weights.\2"),)
    return ("tokens", {**options, "weights": "learned", "layers": layers}), renames


def _cross(weights: Weights) -> tuple[str, dict[str, Any]]:
    positions = len(weights["cross.embeddings.position_embeddings.weight"])
    layers = count(weights, "cross.transformer.resblocks.")
    return "cross", {"layers": layers, "heads": None, "max_positions": positions}


def _width_of_cross(weights: Weights) -> int:
    return int(weights["similarity_dense.weight"].shape[1])


def _width_of_frames(weights: Weights) -> int:
    """D from whatever tells it; 1 for a head that has no parameters."""
    tellers = (
        "frame_position_embeddings.weight",
        "lstm_visual.weight_hh_l0",
        "text_weight_fc.weight",
        "text_weight_fc.0.weight",
    )
    return next((int(weights[name].shape[1]) for name in tellers if name in weights), 1)


def ours_of(original: str, renames: Renames) -> str | None:
    """Our name of an original one, by the first pattern that fits; None where there is none."""
    return next((re.sub(old, new, original) for old, new in renames if re.fullmatch(old, original)), None)


def count(weights: Weights, prefix: str) -> int:
    """How many numbered parts there are below a prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _has(weights: Weights, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in weights)


SYSTEMS: dict[str, Callable[[Weights], Head]] = {
    maker.__name__: maker
    for maker in (clip4clip, clip2video, contra, drl, mug, tem_adapter, ts2net, xclip, xclip_videox, xpool)
}
