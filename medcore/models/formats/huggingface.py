"""transformers' SamModel: its configuration as an architecture and back, and its names of the tensors.

Both programs have the same tensors in the same shapes. The positions of image and prompts are one tensor, which
transformers keeps under two names.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medcore.errors import CheckpointError, shown
from medcore.models.architectures import ARCHITECTURES
from medcore.models.decoder.spec import DecoderSpec
from medcore.models.fields import is_number
from medcore.models.vit.arch import SamVit

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: Weights in several files, and as written before safetensors.
INDEX, OLD_WEIGHTS = "model.safetensors.index.json", "pytorch_model.bin"
#: Names of a copy, and the tensor of which it is one.
TIED = {"shared_image_embedding.positional_embedding": "prompt_encoder.shared_embedding.positional_embedding"}
#: Entry of `config.json` for what SamModel has no field for.
OWN = "medcore"

_PARTS = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.neck\.0\.", ".neck.conv1."),
    (r"\.neck\.1\.", ".neck.layer_norm1."),
    (r"\.neck\.2\.", ".neck.conv2."),
    (r"\.neck\.3\.", ".neck.layer_norm2."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
)
_RULES = tuple((re.compile(pattern), text) for pattern, text in _PARTS)
#: A layer of the IoU head or of a hyper-network.
_HEAD = re.compile(r"^(.*(?:iou_prediction_head|output_hypernetworks_mlps\.\d+)\.)layers\.(\d+)(\..*)$")

#: Values of transformers where a configuration leaves a field out.
_VISION = {
    "hidden_size": 768,
    "output_channels": 256,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 1024,
    "patch_size": 16,
    "mlp_ratio": 4.0,
    "mlp_dim": None,
    "window_size": 14,
    "global_attn_indexes": [2, 5, 8, 11],
    "num_pos_feats": 128,
}
_DECODER = {
    "hidden_size": 256,
    "mlp_dim": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "iou_head_depth": 3,
    "iou_head_hidden_dim": 256,
}
_PROMPT = {"hidden_size": 256, "image_size": 1024, "patch_size": 16}
#: What the model's code fixes, by section: the values with which both programs compute the same, the default first.
_FIXED: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "vision_config": {
        "num_channels": (3,),
        "hidden_act": ("gelu",),
        "layer_norm_eps": (1e-6,),
        "qkv_bias": (True,),
        "use_abs_pos": (True,),
        "use_rel_pos": (True,),
    },
    "prompt_encoder_config": {
        "mask_input_channels": (16,),
        "num_point_embeddings": (4,),
        "hidden_act": ("gelu",),
        "layer_norm_eps": (1e-6,),
    },
    "mask_decoder_config": {
        "hidden_act": ("relu",),
        # segment-anything's is 1e-5; the published conversions say 1e-6, which changes no mask
        "layer_norm_eps": (1e-6, 1e-5),
        "attention_downsample_rate": (2,),
        "num_multimask_outputs": (3,),
    },
}


def hf_names(names: Iterable[str]) -> dict[str, str]:
    """Return transformers' name of each of segment-anything's tensors."""
    listed = list(names)
    last: dict[str, int] = {}
    for name in listed:
        if head := _HEAD.match(name):
            last[head[1]] = max(last.get(head[1], 0), int(head[2]))
    return {name: _hf_name(name, last) for name in listed}


def _hf_name(name: str, last: Mapping[str, int]) -> str:
    if head := _HEAD.match(name):
        number = int(head[2])
        middle = f"layers.{number - 1}"
        place = "proj_in" if not number else "proj_out" if number == last[head[1]] else middle
        return f"{head[1]}{place}{head[3]}"
    for pattern, text in _RULES:
        name = pattern.sub(text, name)
    return name


def config_of(arch: SamVit) -> dict[str, Any]:
    """Return the `config.json` of a SamModel of this architecture.

    Colours are normalised by the caller of a SamModel, so their mean and deviation are kept under `OWN`.
    """
    return {
        "architectures": ["SamModel"],
        "model_type": "sam",
        "dtype": "float32",
        "vision_config": {
            "hidden_size": arch.embed_dim,
            "output_channels": arch.out_chans,
            "num_hidden_layers": arch.depth,
            "num_attention_heads": arch.num_heads,
            "image_size": arch.img_size,
            "patch_size": arch.patch_size,
            "mlp_ratio": float(arch.mlp_ratio),  # transformers refuses a whole number
            "mlp_dim": arch.mlp_dim,
            "window_size": arch.window_size,
            "global_attn_indexes": list(arch.global_attn_indexes),
            "num_pos_feats": arch.out_chans // 2,
        },
        "prompt_encoder_config": {
            "hidden_size": arch.out_chans,
            "image_size": arch.img_size,
            "patch_size": arch.patch_size,
        },
        "mask_decoder_config": {
            "hidden_size": arch.out_chans,
            "mlp_dim": arch.decoder.mlp_dim,
            "num_hidden_layers": arch.decoder.depth,
            "num_attention_heads": arch.decoder.num_heads,
            "iou_head_depth": arch.decoder.iou_head_depth,
            "iou_head_hidden_dim": arch.decoder.iou_head_hidden_dim,
            "layer_norm_eps": 1e-5,
        },
        OWN: {"name": arch.name, "pixel_mean": list(arch.pixel_mean), "pixel_std": list(arch.pixel_std)},
    }


def read_config(path: Path) -> SamVit:
    """Return the architecture that a `config.json` describes.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file cannot be read, is of another model, or sets what the ViT of medcore does not have.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable configuration ({shown(error)}); copy the folder again") from None
    kind = fields.get("model_type") if isinstance(fields, Mapping) else None
    if kind != "sam":
        raise CheckpointError(
            f"{path}: describes a model of type {shown(kind)}, not transformers' sam; give a SamModel"
        )
    sections = {name: _section(path, fields, name) for name in _FIXED}
    arch = _architecture(path, fields, sections)
    known = (each for each in ARCHITECTURES.values() if dataclasses.replace(arch, name=each.name) == each)
    return next((each for each in known if isinstance(each, SamVit)), arch)


def _section(path: Path, fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = fields.get(name) or {}
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{path}: {name} must be an object")
    for key, allowed in _FIXED[name].items():
        if (value := section.get(key, allowed[0])) not in allowed:
            raise CheckpointError(f"{path}: {name}.{key} is {shown(value)}; medcore's model has {allowed[0]}")
    return section


def _architecture(path: Path, fields: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> SamVit:
    vision, decoder = {**_VISION, **sections["vision_config"]}, {**_DECODER, **sections["mask_decoder_config"]}
    prompt = {**_PROMPT, **sections["prompt_encoder_config"]}
    for section in (vision, prompt):
        for key in ("image_size", "patch_size"):
            section[key] = _side(path, key, section[key])
    width, mlp_dim = vision["hidden_size"], vision["mlp_dim"]
    same = {
        "mask_decoder_config.hidden_size": (decoder["hidden_size"], vision["output_channels"]),
        "prompt_encoder_config.hidden_size": (prompt["hidden_size"], vision["output_channels"]),
        "prompt_encoder_config.image_size": (prompt["image_size"], vision["image_size"]),
        "prompt_encoder_config.patch_size": (prompt["patch_size"], vision["patch_size"]),
        "vision_config.num_pos_feats": (vision["num_pos_feats"], _half(vision["output_channels"])),
    }
    for name, (value, wanted) in same.items():
        if value != wanted:
            raise CheckpointError(
                f"{path}: {name} is {shown(value)}, which contradicts {shown(wanted)} elsewhere in it"
            )
    ratio = vision["mlp_ratio"]
    if is_number(mlp_dim, int) and is_number(width, int) and width > 0:
        given = is_number(ratio, int, float) and int(width * ratio) == mlp_dim
        ratio = ratio if given else (mlp_dim + 0.5) / width
    indexes = vision["global_attn_indexes"]
    own = fields.get(OWN)
    own = own if isinstance(own, Mapping) else {}
    try:
        return SamVit(
            name=own.get("name", "sam"),
            img_size=vision["image_size"],
            patch_size=vision["patch_size"],
            embed_dim=width,
            depth=vision["num_hidden_layers"],
            num_heads=vision["num_attention_heads"],
            mlp_ratio=ratio,
            out_chans=vision["output_channels"],
            window_size=vision["window_size"],
            global_attn_indexes=tuple(indexes) if isinstance(indexes, list) else indexes,
            decoder=DecoderSpec(
                depth=decoder["num_hidden_layers"],
                mlp_dim=decoder["mlp_dim"],
                num_heads=decoder["num_attention_heads"],
                iou_head_depth=decoder["iou_head_depth"],
                iou_head_hidden_dim=decoder["iou_head_hidden_dim"],
            ),
            pixel_mean=_colours(own.get("pixel_mean"), (0.0, 0.0, 0.0)),
            pixel_std=_colours(own.get("pixel_std"), (1.0, 1.0, 1.0)),
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _side(path: Path, key: str, value: Any) -> Any:
    """Return the one length of a square that may be written as two."""
    if isinstance(value, list):
        if len(value) != 2 or value[0] != value[1]:
            raise CheckpointError(f"{path}: {key} {shown(value)} is no square; medcore's models take squares")
        return value[0]
    return value


def _half(value: Any) -> Any:
    return value // 2 if is_number(value, int) else None


def _colours(value: Any, default: tuple[float, ...]) -> Any:
    return default if value is None else tuple(value) if isinstance(value, list) else value
