"""open_clip's architectures with shrunken towers and random weights, as model folders that need no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import M2M100Config, MT5Config, PreTrainedTokenizerFast, RobertaConfig

from videoclip.backbone.openclip import TINY_FOLDER, OpenClip

TEXTS = ["a dog", "a dog runs", ""]
VOCABULARY = 16
TIMM = {  # the smallest model of each kind
    "vit_base_patch16_siglip_224": "test_vit",
    "vit_base_patch16_siglip_384": "test_vit",
    "eva02_base_patch16_clip_224": "eva02_tiny_patch14_224",
    "convnext_base": "test_convnext",
    "fastvit_mci1": "fastvit_t8",
    "vit_pe_core_base_patch16_224": "test_vit",
}
IMAGE_SIZES = {"test_vit": 160, "fastvit_t8": 64, "test_convnext": 64}
SMALL_TEXT = {"width": 32, "heads": 2, "layers": 2}
TOKENIZERS: dict[str, tuple[list[str], str]] = {  # special tokens by id, and the template of a text
    "siglip": (["<pad>", "</s>", "<unk>"], "$A </s>"),  # pads with its end token
    "siglip2": (["<pad>", "</s>", "<unk>"], "$A </s>"),
    "bert": (["<pad>", "<s>", "</s>", "<unk>"], "<s> $A </s>"),
    "xlm": (["<s>", "<pad>", "</s>", "<unk>"], "<s> $A </s>"),
}
TEXT_MODELS: dict[str, Any] = {
    "roberta": lambda: RobertaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    ),
    "mt5": lambda: MT5Config(vocab_size=VOCABULARY, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2),
    "nllb": lambda: M2M100Config(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=64,
    ),
}  # fmt: skip


def write_tokenizer(folder: Path, kind: str) -> None:
    """A tokenizer of transformers that knows three words."""
    special, template = TOKENIZERS[kind]
    vocabulary = {token: number for number, token in enumerate([*special, "a", "dog", "runs"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single=template, special_tokens=list(vocabulary.items()))
    wrapper: Any = PreTrainedTokenizerFast
    wrapper(
        tokenizer_object=inner,
        pad_token="</s>" if kind == "siglip" else "<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)


def small(architecture: str) -> dict[str, Any]:
    """open_clip's description of an architecture, two narrow blocks a tower."""
    config: dict[str, Any] = open_clip.get_model_config(architecture)
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = 32
    if "timm_model_name" in vision:
        vision["timm_model_name"] = TIMM.get(vision["timm_model_name"], vision["timm_model_name"])
        vision["image_size"] = IMAGE_SIZES.get(vision["timm_model_name"], 224)
    elif isinstance(vision["layers"], list):
        vision.update(layers=[1, 1, 1, 1], width=8, image_size=64)
    else:
        vision.update(layers=2, width=32, head_width=16, image_size=32, patch_size=8, attn_pooler_heads=2)
        vision["mlp_ratio"] = 2.0
    if vision.get("timm_pool") == "map":
        config["embed_dim"] = 64 if vision["timm_model_name"] == "test_vit" else 32
    if "hf_model_name" not in text:
        text.update(SMALL_TEXT, mlp_ratio=2.0)
    if "multimodal_cfg" in config:
        config["multimodal_cfg"].update(SMALL_TEXT)
    return config


def write_small(folder: Path, architecture: str, tokenizer: str | None = None, text_model: str | None = None) -> Path:
    """A model folder without weights; names on the hub are replaced by some that are not there."""
    folder.mkdir()
    config = small(architecture)
    text = config["text_cfg"]
    if tokenizer is None:
        text["tokenizer_kwargs"] = {"bpe_path": "bpe.txt.gz"}
        text["vocab_size"] = 4096
        (folder / "bpe.txt.gz").write_bytes((TINY_FOLDER / "bpe.txt.gz").read_bytes())
    else:
        text["hf_tokenizer_name"] = "videoclip-tests/absent"
        text["vocab_size"] = VOCABULARY
        write_tokenizer(folder, tokenizer)
    if text_model is not None:
        text["hf_model_name"] = "videoclip-tests/absent"
        TEXT_MODELS[text_model]().save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return folder


def build_small(
    folder: Path, architecture: str, tokenizer: str | None = None, text_model: str | None = None
) -> OpenClip:
    """A backbone with random weights."""
    torch.manual_seed(0)
    return OpenClip(str(write_small(folder, architecture, tokenizer, text_model)), random_weights=True)
