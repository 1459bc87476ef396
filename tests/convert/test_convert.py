"""A user's checkpoint of an original repository: towers and head, read, refused, and scored as the original would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from videoclip import convert
from videoclip.cli import main
from videoclip.convert.towers import from_huggingface
from videoclip.errors import CheckpointError
from videoclip.features import VideoFeatures
from videoclip.model import load_model

SMALL = Path(__file__).parents[1] / "golden" / "data"
CASES = {
    "clip4clip": "clip4clip_seqtransf",
    "clip2video": "clip2video_tab_tdb",
    "drl": "drl_wti_cdcr3",
    "xclip": "xclip_aosm_seqtransf",
    "xpool": "xpool_transformer",
}
WIDTH, VOCABULARY = 32, 49408


def towers() -> dict[str, Tensor]:
    """A CLIP of two blocks a side, 32 wide, under OpenAI's names."""
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    weights = {
        "visual.class_embedding": some(WIDTH),
        "visual.positional_embedding": some(5, WIDTH),
        "visual.proj": some(WIDTH, WIDTH),
        "visual.conv1.weight": some(WIDTH, 3, 8, 8),
        "positional_embedding": some(77, WIDTH),
        "text_projection": some(WIDTH, WIDTH),
        "token_embedding.weight": some(VOCABULARY, WIDTH),
        "logit_scale": torch.tensor(3.0),
    }
    norms = ["visual.ln_pre", "visual.ln_post", "ln_final"]
    for block in (f"{side}transformer.resblocks.{i}" for side in ("visual.", "") for i in range(2)):
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        weights |= {
            f"{block}.attn.in_proj_weight": some(3 * WIDTH, WIDTH),
            f"{block}.attn.in_proj_bias": some(3 * WIDTH),
        }
        weights |= {f"{block}.attn.out_proj.weight": some(WIDTH, WIDTH), f"{block}.attn.out_proj.bias": some(WIDTH)}
        weights |= {f"{block}.mlp.c_fc.weight": some(4 * WIDTH, WIDTH), f"{block}.mlp.c_fc.bias": some(4 * WIDTH)}
        weights |= {f"{block}.mlp.c_proj.weight": some(WIDTH, 4 * WIDTH), f"{block}.mlp.c_proj.bias": some(WIDTH)}
    return weights | {f"{n}.weight": 1 + some(WIDTH) for n in norms} | {f"{n}.bias": some(WIDTH) for n in norms}


def checkpoint(system: str) -> dict[str, Tensor]:
    head = load_file(SMALL / CASES[system] / "weights.safetensors")
    return {
        **{f"clip.{n}": t for n, t in towers().items()},
        **{n: t for n, t in head.items() if "logit_scale" not in n},
    }


@pytest.mark.parametrize("system", CASES)
def test_a_checkpoint_becomes_a_model_that_scores_alike(
    system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As published: torch.save of half-precision towers under DataParallel's prefix, beside other things."""
    weights = checkpoint(system)
    halved = {f"module.{n}": t.half() if n.startswith("clip.visual.conv1") else t for n, t in weights.items()}
    torch.save({"state_dict": halved, "epoch": 3}, tmp_path / "pytorch_model.bin")
    out = tmp_path / "converted"
    assert main(["convert", str(tmp_path / "pytorch_model.bin"), "--system", system, "--out", str(out)]) == 0
    assert "backbone" in capsys.readouterr().out
    moved = out.rename(tmp_path / "elsewhere")
    model = load_model(moved)
    head = convert.load_original(
        system,
        {n: t for n, t in weights.items() if not n.startswith("clip.")} | {"clip.logit_scale": torch.tensor(3.0)},
    )
    frames = torch.randn(3, 6, WIDTH)
    text = model.encode_text(["a dog jumps", "a cat"])
    video = VideoFeatures.from_frames(frames)
    with torch.no_grad():
        torch.testing.assert_close(model(text, video), head(text, video), atol=1e-4, rtol=1e-4)
    assert model.logit_scale.item() == pytest.approx(3.0)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert model.backbone is not None and model.backbone.encode_image(pixels).shape == (2, WIDTH)


def test_names_left_over_or_missing_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = checkpoint("clip4clip")
    missing = {n: t for n, t in weights.items() if n != "transformerClip.resblocks.1.ln_1.bias"}
    for given, message in (
        (weights | {"extra.weight": torch.zeros(2)}, "no place for extra.weight"),
        (missing, "missing temporal.transformer.blocks.1.ln_1.bias"),
        (weights | {"clip.visual.conv2.weight": torch.zeros(2)}, "visual.conv2.weight"),
        ({n: t for n, t in weights.items() if n != "clip.ln_final.bias"}, "ln_final.bias"),
        ({n: t for n, t in weights.items() if not n.startswith("clip.")}, "has no CLIP towers"),
    ):
        save_file(given, tmp_path / "given.safetensors")
        command = [
            "convert",
            str(tmp_path / "given.safetensors"),
            "--system",
            "clip4clip",
            "--out",
            str(tmp_path / "out"),
        ]
        assert main(command) == 1
        assert message in capsys.readouterr().err


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="is not a checkpoint of plain weights"):
        convert.convert_checkpoint(tmp_path / "a.bin", "xpool", tmp_path / "out")
    with pytest.raises(CheckpointError, match="did you mean 'clip4clip'"):
        convert.convert_checkpoint(tmp_path / "a.bin", "clip4clp", tmp_path / "out")
    with pytest.raises(CheckpointError, match="no such system"):
        convert.load_original("unknown", {})
    with pytest.raises(CheckpointError, match="has no frame_position_embeddings"):
        convert.load_original("clip4clip", {"transformerClip.resblocks.0.ln_1.bias": torch.zeros(2)})


def test_towers_of_the_transformers_library() -> None:
    """X-Pool trains on those: queries, keys and values apart, projections the other way round."""
    expected = towers()
    theirs: dict[str, Tensor] = {"text_model.embeddings.position_ids": torch.arange(77)}
    names = {
        "visual.proj": "visual_projection.weight",
        "text_projection": "text_projection.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "logit_scale": "logit_scale",
    }
    for name, tensor in expected.items():
        if name in names:
            theirs[names[name]] = tensor.T if name in ("visual.proj", "text_projection") else tensor
            continue
        kind = name.rsplit(".", 1)[1]
        side = "vision_model" if name.startswith("visual.") else "text_model"
        inner = name.removeprefix("visual.").replace("transformer.resblocks.", f"{side}.encoder.layers.")
        inner = inner.replace("ln_pre", f"{side}.pre_layrnorm").replace("ln_post", f"{side}.post_layernorm")
        inner = (
            inner.replace("ln_final", f"{side}.final_layer_norm")
            .replace("ln_1", "layer_norm1")
            .replace("ln_2", "layer_norm2")
        )
        inner = (
            inner.replace("mlp.c_fc", "mlp.fc1")
            .replace("mlp.c_proj", "mlp.fc2")
            .replace("attn.out_proj", "self_attn.out_proj")
        )
        if "attn.in_proj" in inner:
            block = inner.split(".attn.")[0]
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                theirs[f"{block}.self_attn.{part}_proj.{kind.removeprefix('in_proj_')}"] = piece
        else:
            theirs[inner] = tensor
    found = from_huggingface(theirs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("clip.visual.conv1.weight", torch.zeros(3)),
        ("clip.positional_embedding", torch.tensor(1.0)),
        ("clip.text_projection", torch.zeros(0, 0)),
        ("clip.visual.positional_embedding", torch.zeros(0)),
        ("frame_position_embeddings.weight", torch.zeros(2, 3, 4)),
        ("transformerClip.resblocks.0.ln_1.bias", torch.zeros(1)),
    ],
)
def test_tensors_of_wrong_shapes_are_refused_with_the_file(
    name: str, tensor: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "given.safetensors"
    save_file({**checkpoint("clip4clip"), name: tensor}, file)
    assert main(["convert", str(file), "--system", "clip4clip", "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert str(tmp_path) in printed and len(printed.splitlines()) == 1
    assert not (tmp_path / "out" / "model.safetensors").exists()
