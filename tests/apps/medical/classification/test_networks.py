"""Every way from a backbone to tokens, at every rank; DeiT against transformers."""

from __future__ import annotations

import pytest
import torch

from apps.medical.classification.catalog import CLASSIFIERS
from apps.medical.classification.networks import Classifier, ClassifierNetwork, build_classifier
from core.errors import UsageError

TINY = {
    "swin_xs": {"dims": (8, 16), "depths": (1, 1), "heads": (1, 2), "patch": 2},
    "cswin_xs": {
        "dims": (8, 16), "depths": (1, 1), "heads": (3, 3), "stripes": (1, None), "patch": 2,
    },
    "convnext_xs": {"dims": (8, 16), "depths": (1, 1), "kernel": 3, "patch": 2},
    "deit_xs": {"dim": 12, "depth": 2, "patch": 4},
    "cvt_13": {"dims": (8, 16), "depths": (1, 1), "heads": (1, 2), "patch": 2},
    "vmamba_t": {"dims": (8, 16), "depths": (1, 1), "patch": 2},
    "vim_t": {"dims": (8,), "depths": (2,), "patch": 4, "position": 4},
    "vir_s": {"dims": (8,), "depths": (2,), "heads": (2,), "patch": 4, "position": 4},
    "pvtv2_b0": {
        "dims": (8, 16), "depths": (1, 1), "heads": (1, 2), "reductions": (2, 1),
        "ffn_ratios": (2, 2), "patch": 2,
    },
}  # fmt: skip
READING = dict.fromkeys(("deit_xs", "cvt_13", "vim_t", "vir_s"), "own")
SIZES = {1: (19,), 2: (19, 14), 3: (9, 8, 11)}


def network(name: str, rank: int, *, distilled: bool, classes: int = 3) -> Classifier:
    options = dict(TINY[name])
    if name == "cswin_xs":
        options |= {"dims": (6, 12), "heads": (rank, rank)}
    torch.manual_seed(0)
    return build_classifier(
        ClassifierNetwork(
            name=name,
            rank=rank,  # type: ignore[arg-type]
            in_channels=2,
            classes=classes,
            size=SIZES[rank],
            distilled=distilled,
            options=options,
        )
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", TINY)
def test_student_has_two_verdicts_that_both_learn(name: str, rank: int) -> None:
    student = network(name, rank, distilled=True)
    assert student.reading == READING.get(name, "class")
    x = torch.randn(2, 2, *SIZES[rank])
    both = student.train()(x)
    assert both.shape == (2, 2, 3)
    assert not torch.equal(both[:, 0], both[:, 1])
    both.square().sum().backward()
    dead = [n for n, p in student.named_parameters() if p.grad is None or not p.grad.any()]
    # Without influence by nature: biases before a norm or of keys, and in CvT what the grid asks in
    # the last block, where only the tokens' answers are read.
    assert [n for n in dead if not n.endswith("bias") and "conv_q." not in n] == []
    student.eval()
    with torch.no_grad():
        assert student(x).shape == (2, 3)
        assert student.features(x).shape == (2, student.backbone.channels[-1])


@pytest.mark.parametrize("name", TINY)
def test_the_answer_is_the_mean_of_both_heads(name: str) -> None:
    student = network(name, 2, distilled=True).eval()
    x = torch.randn(2, 2, *SIZES[2])
    with torch.no_grad():
        tokens = student.tokens(x)
        assert student.head_distilled is not None
        wanted = (student.head(tokens[:, 0]) + student.head_distilled(tokens[:, 1])) / 2
        torch.testing.assert_close(student(x), wanted)


@pytest.mark.parametrize("name", TINY)
def test_without_a_teacher_there_is_one_head(name: str) -> None:
    plain = network(name, 2, distilled=False)
    assert plain.reading == ("own" if name in READING else "pool")
    assert plain.train()(torch.randn(2, 2, *SIZES[2])).shape == (2, 3)
    assert not [n for n, _ in plain.named_parameters() if "distilled" in n]


@pytest.mark.parametrize("name", TINY)
def test_batch_mates_do_not_matter(name: str) -> None:
    student = network(name, 2, distilled=True).eval().double()
    x = torch.randn(3, 2, *SIZES[2], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(student(x)[1:2], student(x[1:2]))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_small_sizes_are_small(name: str) -> None:
    with torch.device("meta"):
        made = build_classifier(
            ClassifierNetwork(
                name=name, rank=2, in_channels=3, classes=2, size=(128, 128), distilled=True
            )
        )
    assert sum(p.numel() for p in made.parameters()) < 2.5e6


@pytest.mark.parametrize(
    ("name", "millions"), [("deit_t", 5.9), ("deit_s", 22.4), ("deit_b", 87.3)]
)
def test_deit_has_its_published_size(name: str, millions: float) -> None:
    """With a distillation token, 1000 classes and 224 pixels (the authors' model zoo)."""
    with torch.device("meta"):
        made = build_classifier(
            ClassifierNetwork(
                name=name, rank=2, in_channels=3, classes=1000, size=(224, 224), distilled=True
            )
        )
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_deit_equals_transformers() -> None:
    """Both tokens' logits, weights mapped."""
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    torch.manual_seed(0)
    theirs = DeiTForImageClassificationWithTeacher(
        DeiTConfig(
            hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96,
            image_size=32, patch_size=8, num_labels=5, layer_norm_eps=1e-6,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():  # fresh positions are zeros there
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.2)
    ours = build_classifier(
        ClassifierNetwork(
            name="deit_t", rank=2, in_channels=3, classes=5, size=(32, 32), distilled=True,
            options={"dim": 24, "depth": 3, "heads": 3, "patch": 8},
        )
    ).eval()  # fmt: skip
    state = theirs.state_dict()
    places = state["deit.embeddings.position_embeddings"]
    tokens = torch.cat(
        [state["deit.embeddings.cls_token"], state["deit.embeddings.distillation_token"]], 1
    )
    own = "backbone.stages.0."
    mapped = {
        own + "extra": tokens + places[:, :2],
        own + "position.table": places[:, 2:].reshape(1, 4, 4, 24),
    }
    for end in ("weight", "bias"):
        patches = "deit.embeddings.patch_embeddings.projection."
        mapped[own + f"down.conv.conv.{end}"] = state[patches + end]
        mapped[own + f"norm.{end}"] = state[f"deit.layernorm.{end}"]
        mapped[f"head.{end}"] = state[f"cls_classifier.{end}"]
        mapped[f"head_distilled.{end}"] = state[f"distillation_classifier.{end}"]
        for i in range(3):
            a, b = f"{own}blocks.{i}.", f"deit.layers.{i}."
            heads = [state[f"{b}attention.{part}_proj.{end}"] for part in "qkv"]
            mapped[f"{a}mixer.qkv.{end}"] = torch.cat(heads)
            mapped[f"{a}mixer.proj.{end}"] = state[f"{b}attention.o_proj.{end}"]
            for new, old in (
                ("norm1", "layernorm_before"), ("norm2", "layernorm_after"),
                ("ffn.fc1", "mlp.fc1"), ("ffn.fc2", "mlp.fc2"),
            ):  # fmt: skip
                mapped[f"{a}{new}.{end}"] = state[f"{b}{old}.{end}"]
    ours.load_state_dict(mapped)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = theirs(x)
        torch.testing.assert_close(ours(x), want.logits, rtol=1e-5, atol=1e-5)
        both = ours.train()(x)
    torch.testing.assert_close(both[:, 0], want.cls_logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(both[:, 1], want.distillation_logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "convnext_sx"}, "convnext_xs"),
        ({"options": {"dimms": (8, 16)}}, "dims"),
        ({"name": "deit_t", "options": {"window": 3}}, "option of backbone 'deit_t'"),
        ({"size": (32,)}, "one positive number an axis"),
        ({"classes": 1}, "two or more"),
    ],
)
def test_what_is_refused(changes: dict, said: str) -> None:
    values = {"name": "convnext_xs", "rank": 2, "in_channels": 3, "classes": 2, "size": (32, 32)}
    with pytest.raises(UsageError, match=said):
        build_classifier(ClassifierNetwork.model_validate(values | changes))
