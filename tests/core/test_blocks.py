from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.blocks import BlockConfig, BlockContext, DropPath, Mlp, PositionEmbedding
from core.down import ConvDownConfig, MergeDownConfig
from core.errors import UsageError
from core.mixers import mixer_config
from core.mixers.conv_attention import ConvAttentionConfig
from core.mixers.depthwise import DepthwiseConfig

CONTEXT = BlockContext(dim=8, rank=2)
MIXER = DepthwiseConfig(size=3)


def test_drop_path_drops_examples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    y = drop(x)
    kept = y[:, 0, 0] > 0
    assert torch.equal(y, kept[:, None, None] * x / 0.75)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert drop.eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_mlp_is_linear_gelu_linear() -> None:
    mlp = Mlp(4, 2.5, 2)
    x = torch.randn(1, 3, 5, 4)
    assert mlp.fc1.out_features == 10
    torch.testing.assert_close(mlp(x), mlp.fc2(F.gelu(mlp.fc1(x))))
    deep = Mlp(4, 2, 2, depthwise=True)
    hidden = deep.fc1(x).movedim(-1, 1)
    conv = deep.depthwise.conv
    hidden = F.conv2d(hidden, conv.weight, conv.bias, padding=1, groups=8).movedim(1, -1)
    torch.testing.assert_close(deep(x), deep.fc2(F.gelu(hidden)))


def test_residual_block() -> None:
    block = BlockConfig(mixer=MIXER, layer_scale=0.5).build(CONTEXT)
    x = torch.randn(1, 5, 6, 8)
    y = x + 0.5 * block.mixer(block.norm1(x))
    torch.testing.assert_close(block(x), y + 0.5 * block.ffn(block.norm2(y)))
    bare = BlockConfig(mixer=MIXER, ffn_ratio=None).build(CONTEXT)
    torch.testing.assert_close(bare(x), x + bare.mixer(bare.norm1(x)))
    assert not any("ffn" in name or "norm2" in name for name, _ in bare.named_parameters())


def test_fused_block_is_convnexts() -> None:
    block = BlockConfig(mixer=MIXER, layer_scale=0.5, form="fused").build(CONTEXT)
    x = torch.randn(1, 5, 6, 8)
    torch.testing.assert_close(block(x), x + 0.5 * block.ffn(block.norm(block.mixer(x))))


def test_extra_tokens_go_through_the_same_block() -> None:
    block = BlockConfig(mixer=ConvAttentionConfig(heads=2)).build(CONTEXT).eval()
    x, extra = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 8)
    y, tokens = block.forward_extra(x, extra)
    a, b = block.mixer.forward_extra(block.norm1(x), block.norm1(extra))
    torch.testing.assert_close(y, block.feed_forward(x + a))
    torch.testing.assert_close(tokens, block.feed_forward(extra + b))


def test_a_dropped_block_is_the_identity() -> None:
    block = BlockConfig(mixer=MIXER).build(CONTEXT, drop_path=0.999999)
    x = torch.randn(2, 5, 6, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(4, 4, 0), (7, 4, 2), (7, 4, 3), (3, 2, 1), (3, 1, 1)]
)
def test_convolutions_give_the_ceiling(rank: int, kernel: int, stride: int, padding: int) -> None:
    down = ConvDownConfig(kernel=kernel, stride=stride, padding=padding).build(2, 3, rank)
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    weight, bias = down.conv.conv.weight, down.conv.conv.bias
    for size in (1, 2, 3, 5, 7, 8, 13):
        S = (size, 8, 9)[:rank]
        x = torch.randn(1, *S, 2)
        n = tuple(-(-s // stride) for s in S)
        y = down(x)
        assert y.shape == (1, *n, 3)
        # Zeros after the end, as many as one could wish for, change nothing.
        far = F.pad(x, [0, 0] + [0, 20] * rank).movedim(-1, 1)
        wanted = conv(far, weight, bias, stride=stride, padding=padding).movedim(1, -1)
        wanted = wanted[(slice(None), *(slice(0, v) for v in n))]
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6)


def test_anisotropic_convolution_and_its_norms() -> None:
    config = ConvDownConfig(
        kernel=(1, 3), stride=(1, 2), padding=(0, 1), norm_before="layer", norm_after="layer"
    )
    down = config.build(2, 4, 2)
    x = torch.randn(1, 3, 5, 2)
    y = F.conv2d(
        F.layer_norm(x, (2,)).movedim(-1, 1),
        down.conv.conv.weight,
        down.conv.conv.bias,
        stride=(1, 2),
        padding=(0, 1),
    )
    torch.testing.assert_close(down(x), F.layer_norm(y.movedim(1, -1), (4,)), rtol=1e-5, atol=1e-5)


def test_a_kernel_that_would_skip_input_is_refused() -> None:
    with pytest.raises(UsageError, match="unread"):
        ConvDownConfig(kernel=3, stride=3, padding=1).build(2, 3, 2)


ORDERS = {
    ("first", 2): [(0, 0), (1, 0), (0, 1), (1, 1)],
    ("last", 2): [(0, 0), (0, 1), (1, 0), (1, 1)],
    ("first", 3): [(i, j, k) for k, j, i in itertools.product((0, 1), repeat=3)],
    ("last", 3): [*itertools.product((0, 1), repeat=3)],
    ("monai", 3): [
        (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1),
        (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("order", "rank"), ORDERS)
def test_merging_order_of_neighbours(order: str, rank: int) -> None:
    down = MergeDownConfig(order=order).build(1, 3, rank)  # type: ignore[arg-type]
    down.norm, down.proj = nn.Identity(), nn.Identity()
    x = torch.randn(2, *(4, 6, 2)[:rank], 1)
    y = down(x)
    for at in itertools.product(*(range(s // 2) for s in x.shape[1:-1])):
        cell = [
            x[(slice(None), *(2 * a + o for a, o in zip(at, offset, strict=True)), 0)]
            for offset in ORDERS[order, rank]
        ]
        assert torch.equal(y[(slice(None), *at)], torch.stack(cell, -1))


def test_merging_pads_and_keeps_an_axis_of_stride_1() -> None:
    down = MergeDownConfig(stride=(1, 2, 2)).build(2, 5, 3)
    x = torch.randn(1, 3, 5, 4, 2)
    assert down(x).shape == (1, 3, 3, 2, 5)
    torch.testing.assert_close(down(x), down(F.pad(x, (0, 0, 0, 0, 0, 1))))
    assert down.proj.bias is None


def test_activations_of_the_feed_forward() -> None:
    x = torch.randn(1, 3, 4)
    mlp = Mlp(4, 2, 1, act="squared_relu", bias=False)
    expected = F.relu(x @ mlp.fc1.weight.T).square() @ mlp.fc2.weight.T
    torch.testing.assert_close(mlp(x), expected)
    with pytest.raises(UsageError, match="Did you mean 'gelu'"):
        Mlp(4, 2, 1, act="gellu")


def test_a_block_without_mixer_is_its_feed_forward() -> None:
    block = BlockConfig(mixer=None, ffn_ratio=2.0).build(CONTEXT)
    x, extra = torch.randn(2, 3, 5, 8), torch.randn(2, 1, 8)
    torch.testing.assert_close(block(x), x + block.ffn(block.norm2(x)))
    assert torch.equal(block.forward_extra(x, extra)[0], block(x))
    for config in (BlockConfig(mixer=None, ffn_ratio=None), BlockConfig(mixer=None, form="fused")):
        with pytest.raises(UsageError, match="block without mixer"):
            config.build(CONTEXT)


def test_position_embedding_is_added_and_interpolated() -> None:
    position = PositionEmbedding(4, (2, 3), rank=2)
    with torch.no_grad():
        position.table.copy_(torch.arange(24.0).view(1, 2, 3, 4))
    x = torch.randn(2, 2, 3, 4)
    torch.testing.assert_close(position(x), x + position.table)
    wide = position(torch.zeros(1, 4, 6, 4))
    table = position.table.movedim(-1, 1)
    expected = F.interpolate(table, (4, 6), mode="bilinear").movedim(1, -1)
    torch.testing.assert_close(wide, expected)
    with pytest.raises(UsageError, match="position"):
        PositionEmbedding(4, (2, 3), rank=3)


def test_a_post_norm_block_is_the_first_transformers_layer() -> None:
    config = BlockConfig(
        mixer=mixer_config("attention", heads=2), ffn_ratio=2.0, ffn_act="relu", form="post"
    )
    block = config.build(BlockContext(dim=8, rank=1)).eval()
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    theirs.self_attn.in_proj_weight.data = block.mixer.qkv.weight.data
    theirs.self_attn.in_proj_bias.data = block.mixer.qkv.bias.data
    theirs.self_attn.out_proj.load_state_dict(block.mixer.proj.state_dict())
    theirs.linear1.load_state_dict(block.ffn.fc1.state_dict())
    theirs.linear2.load_state_dict(block.ffn.fc2.state_dict())
    theirs.norm1.load_state_dict(block.norm1.state_dict())
    theirs.norm2.load_state_dict(block.norm2.state_dict())
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(block(x), theirs(x))


@pytest.mark.parametrize("form", ["residual", "post"])
def test_a_block_read_step_by_step_is_the_whole_block(form: str) -> None:
    config = BlockConfig(mixer=mixer_config("attention", heads=2, causal=True), form=form)
    block = config.build(BlockContext(dim=8, rank=1)).eval()
    x = torch.randn(2, 6, 8)
    state, steps = block.mixer.initial_state(2), []
    for t in range(6):
        y, state = block.step(x[:, t], state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), block(x))


@pytest.mark.parametrize("form", ["residual", "fused", "post"])
def test_dropout_acts_in_training_alone(form: str) -> None:
    config = BlockConfig(
        mixer=mixer_config("attention", heads=2, dropout=0.5), form=form, dropout=0.5
    )
    block = config.build(BlockContext(dim=8, rank=1))
    x = torch.randn(2, 6, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))
