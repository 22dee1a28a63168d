"""A SamModel of transformers and a model of medcore give the same logits, in both directions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medcore.compat import import_torchvision
from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.checkpoint import file_hash, load
from medcore.models.export import write_huggingface
from medcore.models.formats.huggingface import config_of, hf_names, read_config
from medcore.models.sam import MedSam, build, build_empty
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY, spec_of

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[4.0, 8.0, 40.0, 50.0], [10.0, 2.0, 60.0, 33.0]])
PRUNED = spec_of(TINY, (2, 0, 3, 1), (48, 5, 0, 1))


@pytest.fixture(scope="module")
def transformers() -> Any:
    import_torchvision()  # as transformers does, but also where its operators do not fit this torch
    return pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(11)
    write_huggingface(tmp_path, build(ModelSpec.dense(TINY)))
    return tmp_path


def logits(model: MedSam) -> torch.Tensor:
    with torch.no_grad():
        return model.segment(IMAGES, BOXES)[:, 0]


def theirs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IMAGES, input_boxes=BOXES[:, None], multimask_output=False).pred_masks
    return found[:, 0, 0]


@pytest.mark.parametrize("spec", [ModelSpec.dense(TINY), PRUNED])
def test_out_and_back(spec: ModelSpec, transformers: Any, tmp_path: Path) -> None:
    torch.manual_seed(11)
    model = build(spec)
    write_huggingface(tmp_path, model, {"row": "{}"})
    sam, info = transformers.SamModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    expected = logits(model)
    assert expected.std() > 1e-3 and (theirs(sam.eval()) - expected).abs().max() < 1e-5
    assert torch.equal(theirs(sam) > 0, expected > 0)
    for name, options in {"back": {}, "shards": {"max_shard_size": "40KB"}}.items():
        sam.save_pretrained(tmp_path / name, **options)
        back = load(tmp_path / name)
        assert back.arch == TINY and back.spec.is_dense and (logits(back) - expected).abs().max() < 1e-5
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert file_hash(tmp_path / "back") != file_hash(tmp_path / "shards")


def test_a_model_that_transformers_made(transformers: Any, tmp_path: Path) -> None:
    """With its defaults, such as another epsilon in the decoder, and in half precision as well."""
    fields = {key: value for key, value in config_of(TINY).items() if key != "medcore"}
    del fields["mask_decoder_config"]["layer_norm_eps"]
    torch.manual_seed(4)
    sam = transformers.SamModel(transformers.SamConfig(**fields)).eval()
    for parameter in sam.parameters():  # its own start is nearly 0 everywhere
        torch.nn.init.normal_(parameter, std=0.2)
    sam.save_pretrained(tmp_path / "a")
    loaded = load(tmp_path / "a")
    assert loaded.arch.name == "sam" and theirs(sam).std() > 1e-3
    assert (logits(loaded) - theirs(sam)).abs().max() < 1e-4
    assert torch.equal(logits(load(tmp_path / "a" / "model.safetensors")), logits(loaded))
    torch.save(sam.state_dict(), tmp_path / "b.bin")
    assert torch.equal(logits(load(tmp_path / "b.bin", TINY)), logits(loaded))
    sam.half().save_pretrained(tmp_path / "c")
    assert {tensor.dtype for tensor in load(tmp_path / "c").state_dict().values()} == {torch.float32}


def test_names_are_those_of_a_full_size_model(transformers: Any) -> None:
    arch: Any = ARCHITECTURES["vit_b"]
    ours = build_empty(ModelSpec.dense(arch)).state_dict()
    with torch.device("meta"):
        other = transformers.SamModel(transformers.SamConfig(**config_of(arch))).state_dict()
    names = hf_names(ours)
    assert set(other) - set(names.values()) == {"shared_image_embedding.positional_embedding"}
    assert all(other[names[name]].shape == tensor.shape for name, tensor in ours.items())


def test_known_architectures_have_their_names(tmp_path: Path) -> None:
    for name, fields in {"vit_b": {}, "vit_h": {"hidden_size": 1280, "num_hidden_layers": 32}}.items():
        more = {} if name == "vit_b" else {"num_attention_heads": 16, "global_attn_indexes": [7, 15, 23, 31]}
        config = {"model_type": "sam", "vision_config": {**fields, **more, "mlp_dim": None}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert read_config(tmp_path / "config.json") == ARCHITECTURES[name]


def test_colours_of_an_architecture_survive(tmp_path: Path) -> None:
    arch = dataclasses.replace(TINY, pixel_mean=(0.1, 0.2, 0.3), pixel_std=(0.5, 0.4, 0.3))
    write_huggingface(tmp_path, build(ModelSpec.dense(arch)))
    assert load(tmp_path).arch == load(tmp_path, arch).arch == arch
    with pytest.raises(MedcoreError, match="not the tiny asked for"):
        load(tmp_path, TINY)


def edited(section: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config[section].update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.update(model_type="sam2_video"), "sam2_video"),
        (lambda config: config.update(vision_config=[1]), "vision_config"),
        (edited("vision_config", layer_norm_eps=1e-3), "vision_config.layer_norm_eps is 0.001"),
        (edited("vision_config", use_rel_pos=False), "use_rel_pos"),
        (edited("vision_config", hidden_act="relu"), "hidden_act"),
        (edited("vision_config", image_size=[64, 32]), "no square"),
        (edited("vision_config", num_attention_heads=5), "num_heads"),
        (edited("vision_config", num_hidden_layers=10**9), "depth"),
        (edited("vision_config", hidden_size="wide"), "embed_dim"),
        (edited("vision_config", num_pos_feats=7), "num_pos_feats"),
        (edited("vision_config", output_channels=[1]), "contradicts"),
        (edited("vision_config", global_attn_indexes=3), "global_attn_indexes"),
        (edited("mask_decoder_config", attention_downsample_rate=4), "attention_downsample_rate"),
        (edited("mask_decoder_config", num_hidden_layers=2), "missing"),
        (edited("prompt_encoder_config", image_size=128), "prompt_encoder_config.image_size"),
        (edited("medcore", pixel_std=[0, 0, 0]), "pixel_std"),
        (edited("medcore", name=["x"]), "name"),
    ],
)
def test_configurations_of_other_models(change: Callable[[dict[str, Any]], None], words: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MedcoreError) as caught:
        load(folder)
    assert words in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_two_different_copies_of_the_positions(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    copy = "shared_image_embedding.positional_embedding"
    save_file({name: tensor for name, tensor in state.items() if name != copy}, folder / "model.safetensors")
    assert load(folder).arch == TINY
    save_file({**state, copy: state[copy] + 1}, folder / "model.safetensors")
    with pytest.raises(MedcoreError, match="differ"):
        load(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "", "absent.safetensors", 5, ".."])
def test_an_index_names_files_of_its_own_folder_only(name: object, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(MedcoreError, match=r"index\.json"):
        load(folder)
    for text in ("{}", "[", '{"weight_map": {}}', '{"weight_map": [1]}', "[" * 100_000):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(MedcoreError, match=r"index\.json"):
            load(folder)
