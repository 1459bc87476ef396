"""Equality with the authors' own code: every recording of a supported system is reproduced within its tolerance.

Recordings are folders ``CASE`` or ``CASE-1``, ``CASE-2``, ...; the folder ``golden`` next to that of
``VIDEOCLIP_DATA`` holds them.
A small set lies in ``data`` beside this file and is always checked.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.golden.classifiers import RUNNERS as CLASSIFIERS
from tests.golden.recording import Recording, pairs_loss
from tests.golden.scores import RUNNERS as SCORES
from tests.golden.scores import check_metrics
from tests.golden.towers import RUNNERS as TOWERS
from tests.helpers.backbones import backbone_of
from tests.helpers.data import RECORDINGS
from videoclip import loss as losses
from videoclip import metrics
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.registry import create
from videoclip.video import sampling

SMALL = Path(__file__).parent / "data"


def openai_clip(recording: Recording, folder: Path) -> None:
    o = recording.options
    backbone = backbone_of(folder, recording.weights, o["vision_heads"], o["text_heads"])
    backbone.requires_grad_(True)
    mine = {"image_features": backbone.encode_image(recording.inputs["image"])}
    mine["text_features"] = backbone.encode_text(recording.inputs["text"]).sentence
    sentence, image = (torch.nn.functional.normalize(mine[n], dim=-1) for n in ("text_features", "image_features"))
    mine["logits_per_image"] = backbone.clip.logit_scale.exp() * image @ sentence.T
    mine["loss"] = pairs_loss(mine["logits_per_image"])
    mine["loss"].backward()
    mine |= {f"grad.{n}": p.grad for n, p in backbone.clip.named_parameters()}
    recording.check(mine, list(recording.outputs))


def clip4clip(recording: Recording, folder: Path) -> None:
    model = recording.model("clip4clip")
    mine = {"sim": model(recording.text(), recording.video())}
    mine["loss"] = pairs_loss(mine["sim"])
    mine |= recording.gradients("clip4clip", model, mine["loss"])
    if "video_embedding" in recording.outputs:
        mine["video_embedding"] = model.similarity.pool(model.encode_video(recording.video()))
    recording.check(mine)


def clip2video(recording: Recording, folder: Path) -> None:
    """The ``maskfix`` outputs; gradients are those of the uncorrected loss, so they count where both losses agree."""
    options: dict[str, dict[str, object]] = {}
    if "weight_center" in recording.weights:
        coarse = {"TAB": "frames", "TAB_TDB": "difference"}[recording.options["center_proj"]]
        weight = recording.options["center_weight"]
        options = {"temporal": {"coarse": coarse}, "similarity": {"mean_weight": weight}}
    model = recording.model("clip2video", **options)
    text, video = recording.text(), recording.video()
    encoded = model.encode_video(video)
    terms = model.similarity.terms(*model.similarity.prepared(text, encoded))
    logits = [model.logit_scale.exp() * scores for _, scores in terms]
    each = [pairs_loss(part) for part in logits]
    mine = {"sim": model(text, video), "loss": sum(w * loss for (w, _), loss in zip(terms, each, strict=True))}
    if len(terms) == 2:
        mine |= {"sim_tdb": logits[0], "loss_tdb": each[0], "loss_tab": each[1]}
        mine["tab_video_embedding"] = model.similarity.gather_video(encoded)
        mine["tab_text_embedding"] = model.similarity.gather_text(text)
    mine |= recording.gradients("clip2video", model, mine["loss"])
    tokens, added, mask = model.temporal.tokens(video.frames, video.mask)
    kinds = model.temporal.types(1 - torch.arange(tokens.shape[1]) % 2).expand_as(tokens)
    mine |= {
        "tdb_tokens": tokens,
        "tdb_mask": mask,
        "tdb_type_embedding": kinds,
        "tdb_position_embedding": added - kinds,
    }
    mine |= {f"maskfix.{name}": tensor for name, tensor in mine.items()}
    names = list(recording.outputs)
    if not torch.equal(recording.outputs["sim"], recording.outputs["maskfix.sim"]):
        masked = ("tdb_position_embedding", "tdb_type_embedding", "tdb_mask", "tab_text_embedding")
        names = [n for n in names if n.startswith("maskfix.") or n in masked]
    recording.check(mine, names)


def drl(recording: Recording, folder: Path) -> None:
    o = recording.options
    channel = {"decorrelation": o["cdcr_lambda"] if o.get("cdcr") else 0.0}
    channel |= {"diagonal": o["cdcr_alpha1"], "off_diagonal": o["cdcr_alpha2"]}
    similarity = {"dp": {"name": "mean", **channel}, "xti": {}}.get(o["inter"], channel)
    if o["inter"] in ("ti", "wti"):
        similarity = {**similarity, "decorrelation_weights": "learned" if o.get("cdcr") == 3 else "uniform"}
    model = recording.model("drl", similarity=similarity)
    text, video = recording.text(), recording.video()
    if model.config.temporal.name != "none":  # which would empty padded frames, but the authors' loss may choose them
        video = model.encode_video(video)
    mine = {"sim": model.similarity(text, video)}
    mine["loss"] = mine["loss_sim"] = pairs_loss(model.logit_scale.exp() * mine["sim"])
    count = min(mine["sim"].shape)
    own = model.similarity.auxiliary_loss(*model.similarity.prepared(text[:count], video[:count]))
    if own is not None:
        mine |= {"cdcr": own / o["cdcr_lambda"], "loss": mine["loss"] + own}
    mine |= recording.gradients("drl", model, mine["loss"])
    recording.check(mine)


def xclip_aosm(recording: Recording, folder: Path) -> None:
    model = recording.model("xclip", similarity={"temperature": recording.options["temperature"]})
    text, video = recording.text(), recording.video()
    mine = {"sim": model(text, video), "frame_word": model.similarity.words_with_frames(text, video)}
    mine["loss"] = pairs_loss(mine["sim"])
    mine |= recording.gradients("xclip", model, mine["loss"])
    recording.check(mine)


def xpool_transformer(recording: Recording, folder: Path) -> None:
    model = recording.model("xpool", heads=recording.options["num_mha_heads"])
    text, video, owner = recording.text(), recording.video(), recording.inputs["text_video"]
    sims = model.similarity(text, video)
    mine = {"sims": sims, "sims_train": sims[recording.inputs["first_text"]]}
    mine["loss"] = pairs_loss(recording.inputs["logit_scale"].exp() * mine["sims_train"])
    mine["pooled"] = model.similarity.pool_by_text(text.sentence, video.frames, video.mask).transpose(0, 1)
    of_video = [sims[owner == v] for v in range(len(video))]
    missing = max(map(len, of_video))
    mine["sims_inference"] = torch.stack([F.pad(s, (0, 0, 0, missing - len(s)), value=torch.nan) for s in of_video])
    mine |= recording.gradients("xpool", model, mine["loss"])
    recording.check(mine)
    found = metrics.retrieval_metrics(sims.detach(), owner)
    for direction, ours in (("t2v_metrics", "text_to_video"), ("v2t_metrics", "video_to_text")):
        expected = recording.case["expected"][direction]
        check_metrics(found, {**expected, "MedianR": expected["MedR"]}, ours)


def xpool_baseline_pooling(recording: Recording, folder: Path) -> None:
    o, text, video = recording.options, recording.text(), recording.video()
    frames = F.normalize(video.frames, dim=-1)
    attention = {"temperature": o["attention_temperature"], "normalize_frames": True}
    parts = {
        "avg": ("mean", {}, 1),
        "topk": ("top_k", {"k": o["k"]}, o["k"]),
        "attention": ("query_scoring", attention, 1),
    }
    mine = {}
    for name, (component, options, times) in parts.items():
        module = create("similarity", component, options, width=1)
        mine[f"sims_{name}"] = module(text, video)
        pooled = times * torch.einsum("qbt,btd->bqd", module.frame_weights(text, video), frames)
        mine[f"pooled_{name}"] = pooled[:, 0] if name == "avg" else pooled
    recording.check(mine)


def hitchhiker_query_scoring(recording: Recording, folder: Path) -> None:
    """The ``scores`` mode multiplies weights with norms in place of cosines; it is written out here, on our weights."""
    text, video, mine = recording.text(), recording.video(), {}
    for t in recording.options["temperatures"]:
        module = create("similarity", "query_scoring", {"temperature": t}, width=1)
        mine[f"query_scoring_feats_t{t}"] = module(text, video)
        weighted_norms = (module.frame_weights(text, video) * video.frames.norm(dim=-1)).sum(-1)
        mine[f"query_scoring_scores_t{t}"] = F.normalize(text.sentence, dim=-1).sum(-1, keepdim=True) * weighted_norms
    mine["mean_pooling"] = create("similarity", "mean", {"normalize_frames": False}, width=1)(text, video)
    recording.check(mine)


def mug_alignment(recording: Recording, folder: Path) -> None:
    words, mask, mine = recording.inputs["token_features"], recording.inputs["text_mask"].bool(), {}
    last = recording.inputs["text_mask"].argmin(1) - 1  # -1, the last token, where no place is padded
    text, video = TextFeatures(words[torch.arange(len(words)), last], words, mask), recording.video()
    for name, form in (("frame_token_simple", "simple"), ("frame_token", "full"), ("frame_text", "sentence")):
        options = {"form": form, "sharpness": recording.options["tau"], "padding": "original"}
        mine[f"sim_mug_{name}"] = create("similarity", "mutual", options, width=1)(text, video)
        mine[f"loss_mug_{name}"] = 2 * pairs_loss(recording.options["loss_scale"] * mine[f"sim_mug_{name}"])
    mine["loss"] = mine["loss_mug_frame_token_simple"]
    mine["loss"].backward()
    mine |= {f"grad.input:{name}": x.grad for name, x in recording.inputs.items() if x.grad is not None}
    recording.check(mine)


def mug_drl_wti(recording: Recording, folder: Path) -> None:
    model = recording.model("mug")
    mine = {"sim": model.similarity(recording.text(), recording.video())}
    mine["loss"] = mine["sim"].square().sum()
    mine |= recording.gradients("mug", model, mine["loss"])
    recording.check(mine)


def contra_context_transformer(recording: Recording, folder: Path) -> None:
    """Both sides pass the same module; the text's weights are loaded by themselves."""
    mine: dict[str, Tensor] = {}
    embeddings, found = [], {}
    for side in ("text", "video"):
        weights = {n: w for n, w in recording.weights.items() if n.startswith(f"transformer_encoder_{side}.")}
        model = recording.model("contra", weights, heads=recording.options[f"heads_{side}"])
        clips = VideoFeatures.from_frames(recording.inputs[f"{side}_context"])
        found[side] = (weights, model)
        embeddings.append(model.similarity.pool(model.encode_video(clips)))
        mine[f"{side}_embedding"] = embeddings[-1]
        mine[f"{side}_tokens"] = model.temporal.read(clips.frames, clips.mask).transpose(0, 1)
    mine["loss"] = (embeddings[0] * embeddings[1]).sum() + mine["video_tokens"].pow(3).mean()
    mine["loss"].backward()
    for weights, model in found.values():
        recording.weights = weights
        mine |= recording.gradients("contra", model, torch.zeros((), requires_grad=True))
    recording.check(mine)


def tem_adapter(recording: Recording, folder: Path) -> None:
    """The authors' slip, by which row r reads video r mod B, is made by the order of the videos that are given."""
    o = recording.options
    heads = {"temporal": {"heads": o["temporal_heads"]}, "similarity": {"heads": o["semantic_heads"]}}
    model = recording.model("tem_adapter", **heads)
    frames = recording.inputs["video"].flatten(1, 2)
    candidates, answers = recording.inputs["candidates"], recording.inputs["answers"]
    batch, count, _ = candidates.shape
    tiled = VideoFeatures.from_frames(frames.repeat(count, 1, 1))
    refined = model.similarity.refine(candidates.reshape(batch * count, 1, -1), tiled)
    encoded = model.encode_video(VideoFeatures.from_frames(frames))
    scores = torch.einsum("bcd,bd->bc", refined.view(batch, count, -1), encoded.frames.mean(1))
    right = refined.view(batch, count, -1)[torch.arange(batch), answers]
    mine = {"semantic": refined, "scores": scores.reshape(-1, 1)}
    mine["reconstruction"] = model.temporal.rebuild(frames, encoded, right)
    mine["hinge"] = losses.multiple_choice_hinge(scores, answers)
    own = model.temporal.auxiliary_loss(TextFeatures(right), encoded)
    assert own is not None
    mine["loss"] = 0.01 * mine["hinge"] + own
    mine |= recording.gradients("tem_adapter", model, mine["loss"])
    recording.check(mine)


def tem_adapter_without_the_slip(recording: Recording) -> None:
    """One video at a time, where the order of rows cannot be mistaken: ``choose`` against the same module."""
    o = recording.options
    heads = {"temporal": {"heads": o["temporal_heads"]}, "similarity": {"heads": o["semantic_heads"]}}
    model = recording.model("tem_adapter", **heads)
    video = model.encode_video(VideoFeatures.from_frames(recording.inputs["video"].flatten(1, 2)))
    candidates = recording.inputs["candidates"]
    together = model.similarity.choose(candidates, video)
    scores = [model.similarity(TextFeatures(c), video[b : b + 1])[:, 0] for b, c in enumerate(candidates)]
    torch.testing.assert_close(together, torch.stack(scores), atol=1e-4, rtol=1e-4)


def clip4clip_frame_sampling(recording: Recording, folder: Path) -> None:
    expected = recording.case["expected"]
    assert expected["decode"] and expected["slice"]
    for one in expected["decode"]:
        arguments = (
            one["frame_count"],
            one["fps"],
            one["feature_framerate"],
            one["start_time"],
            one["end_time"],
        )
        assert sampling.clip4clip_candidates(*arguments).tolist() == one["frame_indices"]
    keep = {0: "first", 1: "last", 2: "spread"}
    for one in expected["slice"]:
        # A file of n frames at 1 frame a second: every frame is a candidate.
        mine = sampling.clip4clip(one["num_frames"], 1, one["max_frames"], keep=keep[one["slice_framepos"]])
        kept = mine.real[::-1] if one["frame_order"] == 1 else mine.real
        padded = np.full(one["max_frames"], -1)
        padded[: len(kept)] = kept
        assert padded.tolist() == one["indices_padded_with_minus1"]
        assert mine.mask.astype(int).tolist() == one["video_mask"]


RUNNERS = {
    "openai_clip": openai_clip,
    "clip4clip_meanp": clip4clip,
    "clip4clip_seqlstm": clip4clip,
    "clip4clip_seqtransf": clip4clip,
    "clip4clip_tighttransf": clip4clip,
    "clip4clip_frame_sampling": clip4clip_frame_sampling,
    "clip2video_tdb": clip2video,
    "clip2video_tdb_mlp": clip2video,
    "clip2video_tdb_plain": clip2video,
    "clip2video_tab": clip2video,
    "clip2video_tab_tdb": clip2video,
    "drl_dp": drl,
    "drl_dp_cdcr": drl,
    "drl_ti": drl,
    "drl_ti_cdcr2": drl,
    "drl_wti": drl,
    "drl_wti_arch1": drl,
    "drl_wti_arch3": drl,
    "drl_wti_cdcr2": drl,
    "drl_wti_cdcr3": drl,
    "drl_wti_seqtransf_cdcr3": drl,
    "drl_xti": drl,
    "xpool_transformer": xpool_transformer,
    "xpool_baseline_pooling": xpool_baseline_pooling,
    "hitchhiker_query_scoring": hitchhiker_query_scoring,
    "xclip_aosm_meanp": xclip_aosm,
    "xclip_aosm_seqtransf": xclip_aosm,
    "mug_alignment": mug_alignment,
    "mug_drl_wti": mug_drl_wti,
    "contra_context_transformer": contra_context_transformer,
    "tem_adapter": tem_adapter,
    **SCORES,
    **TOWERS,
    **CLASSIFIERS,
}


def system_of(folder: Path) -> str:
    return re.sub(r"-\d+$", "", folder.name)


def cases() -> list[Path]:
    """Return every recording of a supported system once: the small set lies in both places."""
    found = {f.name: f for place in (RECORDINGS, SMALL) for f in place.glob("*") if (f / "case.json").exists()}
    return sorted(f for f in found.values() if system_of(f) in RUNNERS)


CASES = cases()


def test_recordings_were_found() -> None:
    assert len([case for case in CASES if case.parent == SMALL]) == len(list(SMALL.iterdir())) > 10
    if RECORDINGS.is_dir():
        assert any(case.parent == RECORDINGS for case in CASES), (
            f"{RECORDINGS} holds no recording of {', '.join(RUNNERS)}"
        )


@pytest.mark.parametrize("folder", CASES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_equals_the_authors_code(folder: Path, tmp_path: Path) -> None:
    RUNNERS[system_of(folder)](Recording(folder), tmp_path)


@pytest.mark.parametrize("folder", [f for f in CASES if system_of(f) == "tem_adapter"], ids=lambda f: f.name)
def test_tem_adapter_without_the_slip(folder: Path) -> None:
    tem_adapter_without_the_slip(Recording(folder))
