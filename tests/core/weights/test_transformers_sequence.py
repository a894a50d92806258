"""Whole language models of transformers: random weights, mapped; outputs and gradients compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import core
from core.backbones.sequence import MAMBA2_HYBRID_8B, SequenceTrunk, hybrid_pattern
from core.errors import DataError
from core.weights.transformers import load_pretrained, map_state

transformers = pytest.importorskip("transformers")

VOCABULARY = 31


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights that keep activations near 1 and make every mix-up visible.

    Decays and step sizes start where the models start them, a few and 1e-3 to 1e-1, but a half
    more or less of that.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith(("A_log", "dt_bias", "dt_proj.bias")):
                value.add_(0.5 * noise)
            elif value.ndim > 1:
                value.copy_(noise * value[0].numel() ** -0.5)
            elif name.endswith("bias"):
                value.copy_(0.1 * noise)
            else:
                value.copy_(1 + 0.2 * noise)


def mamba(cls: str = "MambaModel", **sizes: Any) -> nn.Module:
    options = {
        "vocab_size": VOCABULARY,
        "hidden_size": 20,  # two steps of 16 in the step size's rank, and no power of two
        "num_hidden_layers": 3,
        "state_size": 5,
        "use_cache": False,
        **sizes,
    }
    return getattr(transformers, cls)(transformers.MambaConfig(**options))


def mamba2(cls: str = "Mamba2Model", **sizes: Any) -> nn.Module:
    options = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "state_size": 5,
        "num_heads": 6,
        "head_dim": 8,
        "n_groups": 2,
        "use_cache": False,
        "chunk_size": 16,
        "pad_token_id": 0,
        **sizes,
    }
    return getattr(transformers, cls)(transformers.Mamba2Config(**options))


def hybrid(
    cls: str = "NemotronHModel", pattern: str = hybrid_pattern(14), **sizes: Any
) -> nn.Module:
    options = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "hybrid_override_pattern": pattern,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "mlp_hidden_act": "gelu",
        "ssm_state_size": 5,
        "mamba_num_heads": 8,
        "time_step_min": 1e-9,  # they clamp steps to this; neither the study nor we do
        "mamba_head_dim": 8,
        "n_groups": 2,
        "chunk_size": 16,
        "use_cache": False,
        **sizes,
    }
    return getattr(transformers, cls)(transformers.NemotronHConfig(**options))


CASES: list[Any] = [
    pytest.param(
        mamba, {}, "mamba_130m", {"dim": 20, "depth": 3, "d_state": 5}, [1, 3, 17, 70], id="mamba"
    ),
    pytest.param(
        mamba,
        {"expand": 3, "conv_kernel": 2},
        "mamba_130m",
        {"dim": 20, "depth": 3, "d_state": 5, "expand": 3, "d_conv": 2},
        [9],
        id="mamba-expand-3",
    ),
    pytest.param(
        mamba2,
        {},
        "mamba2_130m",
        {"dim": 24, "depth": 3, "d_state": 5, "head_dim": 8, "groups": 2},
        [1, 3, 17, 70],
        id="mamba2",
    ),
    pytest.param(
        hybrid,
        {},
        "mamba2_hybrid_8b",
        {
            "dim": 32, "pattern": hybrid_pattern(14), "heads": 4, "kv_heads": 2, "d_state": 5,
            "head_dim": 8, "groups": 2, "ffn_ratio": 2,
        },
        [1, 3, 17, 70],
        id="hybrid",
    ),
]  # fmt: skip
every_model = pytest.mark.parametrize(("build", "theirs_sizes", "name", "sizes", "lengths"), CASES)


def pair(build: Any, theirs_sizes: Any, name: str, sizes: Any) -> tuple[Any, SequenceTrunk]:
    torch.manual_seed(0)
    theirs = build(**theirs_sizes).eval()
    randomise(theirs)
    ours = core.create(name, rank=1, in_channels=2, **sizes).eval()
    assert isinstance(ours, SequenceTrunk)
    load_pretrained(ours, theirs.state_dict())
    return theirs, ours


@every_model
@torch.no_grad()
def test_outputs_equal_transformers(
    build: Any, theirs_sizes: Any, name: str, sizes: Any, lengths: list[int]
) -> None:
    theirs, ours = pair(build, theirs_sizes, name, sizes)
    for length in lengths:
        ids = torch.randint(1, VOCABULARY, (2, length))
        want = theirs(ids).last_hidden_state
        assert 0.1 < want.abs().mean() < 10
        got = ours.encode(theirs.get_input_embeddings()(ids))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@every_model
@torch.no_grad()
def test_steps_equal_transformers(
    build: Any, theirs_sizes: Any, name: str, sizes: Any, lengths: list[int]
) -> None:
    theirs, ours = pair(build, theirs_sizes, name, sizes)
    ids = torch.randint(1, VOCABULARY, (2, 11))
    want, state = theirs(ids).last_hidden_state, ours.initial_state(2)
    for t, token in enumerate(theirs.get_input_embeddings()(ids).unbind(1)):
        got, state = ours.encode_step(token, state)
        torch.testing.assert_close(got, want[:, t], rtol=1e-5, atol=1e-5)


@every_model
def test_gradients_equal_transformers(
    build: Any, theirs_sizes: Any, name: str, sizes: Any, lengths: list[int]
) -> None:
    """Every parameter's, where ours stands for several of theirs or has another shape too."""
    theirs, ours = pair(build, theirs_sizes, name, sizes)
    tokens = torch.randn(2, 19, ours.channels[0])
    weight = torch.randn_like(tokens)
    (theirs(inputs_embeds=tokens).last_hidden_state * weight).sum().backward()
    (ours.encode(tokens) * weight).sum().backward()
    wanted = map_state({k: p.grad for k, p in theirs.named_parameters() if p.grad is not None})
    found = {k: p.grad for k, p in ours.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    assert {k for k, _ in ours.named_parameters()} - found.keys() == {
        "stages.0.down.conv.conv.weight",
        "stages.0.down.conv.conv.bias",
    }
    for key, want in wanted.items():
        assert (found[key] - want).norm() <= 1e-4 * want.norm(), key


def test_the_published_shape_of_mamba() -> None:
    """mamba-130m's configuration: 24 blocks of 768 channels."""
    sizes = {"hidden_size": 768, "num_hidden_layers": 24, "state_size": 16}
    theirs, ours = pair(mamba, sizes, "mamba_130m", {})
    ids = torch.randint(0, VOCABULARY, (1, 5))
    with torch.no_grad():
        want = theirs(ids).last_hidden_state
        got = ours.encode(theirs.get_input_embeddings()(ids))
    assert (got - want).norm() < 1e-5 * want.norm()


def blocks(trunk: nn.Module) -> int:
    return sum(p.numel() for k, p in trunk.named_parameters() if ".down." not in k)


@pytest.mark.parametrize("name", core.list("mamba_*") + core.list("mamba2_*"))
def test_parameters_of_published_sizes(name: str) -> None:
    with torch.device("meta"):
        ours = core.create(name, rank=1, in_channels=1)
        dim, depth = ours.channels[0], ours.config.stages[0].depth
        if name.startswith("mamba_"):
            theirs = mamba(hidden_size=dim, num_hidden_layers=depth, state_size=16)
        elif name == "mamba2_hybrid_8b":
            theirs = transformers.NemotronHModel(
                transformers.NemotronHConfig(
                    hybrid_override_pattern=MAMBA2_HYBRID_8B,
                    intermediate_size=16384,
                    vocab_size=VOCABULARY,
                )
            )
        else:
            theirs = mamba2(
                hidden_size=dim, num_hidden_layers=depth, state_size=128, head_dim=64,
                num_heads=dim // 32, n_groups=1,
            )  # fmt: skip
    assert blocks(ours) == theirs.num_parameters() - VOCABULARY * dim


def test_a_file_with_a_head(tmp_path: Path) -> None:
    """The prefix, the table of tokens and the head are taken off; the stem stays as it was."""
    torch.manual_seed(0)
    model = mamba("MambaForCausalLM").eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    ours = core.create("mamba_130m", rank=1, in_channels=2, dim=20, depth=3, d_state=5).eval()
    assert isinstance(ours, SequenceTrunk)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    load_pretrained(ours, tmp_path / "model.safetensors")
    kept = {k for k, v in ours.state_dict().items() if torch.equal(v, before[k])}
    assert kept == {"stages.0.down.conv.conv.weight", "stages.0.down.conv.conv.bias"}
    ids = torch.randint(1, VOCABULARY, (2, 9))
    with torch.no_grad():
        want = model(ids).logits
        got = model.lm_head(ours.encode(model.get_input_embeddings()(ids)))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "cls"), [(mamba2, "Mamba2ForCausalLM"), (hybrid, "NemotronHForCausalLM")]
)
def test_models_with_a_head_map_as_those_without(build: Any, cls: str) -> None:
    model = build(cls)
    randomise(model)
    whole, plain = map_state(model.state_dict()), map_state(model.base_model.state_dict())
    assert whole.keys() == plain.keys()
    assert all(torch.equal(whole[key], plain[key]) for key in plain)
    assert not [key for key in whole if "embed" in key or "head" in key]


def test_weights_of_other_models_are_refused() -> None:
    ours = core.create("mamba_130m", rank=1, in_channels=2, dim=20, depth=3, d_state=5)
    before = {k: v.clone() for k, v in ours.state_dict().items()}

    def refused(state: dict[str, Tensor]) -> str:
        with pytest.raises(DataError, match="another architecture") as error:
            load_pretrained(ours, state)
        assert all(torch.equal(before[k], v) for k, v in ours.state_dict().items())
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "stages.0.blocks.3" in refused(mamba(num_hidden_layers=4).state_dict())
    assert "of another shape" in refused(mamba(state_size=6).state_dict())
    assert "dt_weight" in refused(mamba2(hidden_size=20, num_heads=5).state_dict())
    refused(transformers.ConvNextModel(transformers.ConvNextConfig(depths=[1] * 4)).state_dict())


def test_an_incomplete_projection_is_missing() -> None:
    _, ours = pair(*CASES[-1].values[:4])
    state = dict(hybrid().state_dict())
    del state["layers.7.mixer.k_proj.weight"]
    with pytest.raises(DataError, match=r"1 missing: stages\.0\.blocks\.7\.mixer\.qkv\.weight"):
        load_pretrained(ours, state)
