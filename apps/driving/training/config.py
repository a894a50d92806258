"""How a driver is trained, as data: the recipe, written into the run's config.yaml. No torch here.

Changes are ``key=value`` texts (``augment.view_dropout=0``, ``model.steps=4``), see ``core.config``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from core.config import StrictModel, load_config

TASKS = (
    "semantics",
    "waypoints",
    "steer",
    "throttle",
    "brake",
    "red_light",
    "stop_sign",
    "speed",
)
"""The losses of LeTFuser (arXiv 2310.13135; x13/train.py), in the order of every vector of them."""

BalanceName = Literal["gradnorm", "fixed", "uncertainty"]


class Weights(StrictModel):
    """Factor on each loss: constant, or where a balancing starts. 0 leaves a task out.

    With these the gradients at the last shared layer of ``small``, 150 steps into toy drives, are 0.1
    (waypoints), 0.04 (semantics), 0.03 and 0.02 (light, sign, steer), 0.002 (pedals). The paper
    starts with 1 each.
    Validation adds losses by these too, so that runs with different balancing can be compared.
    """

    semantics: float = Field(1.0, ge=0)
    waypoints: float = Field(1.0, ge=0)
    steer: float = Field(4.0, ge=0)
    throttle: float = Field(2.0, ge=0)
    brake: float = Field(2.0, ge=0)
    red_light: float = Field(2.0, ge=0)
    stop_sign: float = Field(1.0, ge=0)
    speed: float = Field(0.05, ge=0)

    @property
    def vector(self) -> list[float]:
        """In the order of ``TASKS``."""
        return [float(getattr(self, name)) for name in TASKS]

    @model_validator(mode="after")
    def _some(self) -> Weights:
        if not any(self.vector):
            raise ValueError("every weight is 0; there is nothing to learn")
        return self


class GradNormConfig(StrictModel):
    """Chen et al. 2018, section 3; see ``balance.GradNorm``."""

    alpha: float = Field(1.0, ge=0)  # how strongly a task that learns slowly is pushed
    lr: float = Field(0.01, gt=0)  # largest relative change of an average weight in a step
    every: int = Field(1, ge=1)  # steps between two changes of the weights; the paper's is 1
    warmup: int = Field(50, ge=1)  # steps over which the initial losses are averaged
    smoothing: float = Field(0.95, ge=0, lt=1)  # of the losses in the ratios
    span: float = Field(20.0, gt=1)  # between a weight and its start, as a factor


class Sampling(StrictModel):
    """Shares of the drawn frames: driving straight ahead is most of the data, and the least of it.

    A kind rarer than its ``at least`` is drawn more often, each frame at most ``most`` times as
    often as a plain one; frames in which the car stands, near copies of one another, make up at
    most ``standing``.
    """

    slowing: float = Field(0.15, ge=0, lt=1)  # soon goes at two thirds of its speed or less
    yielding: float = Field(0.1, ge=0, lt=1)  # to a vehicle or a walker
    starting: float = Field(0.05, ge=0, lt=1)  # stands or crawls, and is about to go
    turning: float = Field(0.3, ge=0, lt=1)
    red_light: float = Field(0.15, ge=0, lt=1)  # rolls towards one
    stop_sign: float = Field(0.05, ge=0, lt=1)
    standing: float = Field(0.25, gt=0, le=1)
    most: float = Field(8.0, ge=1)


class AugmentConfig(StrictModel):
    """Probabilities per sample and strengths; see ``augment``."""

    colour: float = Field(0.8, ge=0, le=1)
    brightness: float = Field(0.3, ge=0, lt=1)
    contrast: float = Field(0.3, ge=0, lt=1)
    gamma: float = Field(0.3, ge=0)  # in log
    tint: float = Field(0.08, ge=0, lt=1)  # each channel on its own: light cool or warm
    noise: float = Field(0.3, ge=0, le=1)
    noise_level: int = Field(10, ge=1, le=64)  # of 255, standard deviation at most
    view_dropout: float = Field(0.03, ge=0, le=1)  # one camera beside the front's sees nothing
    depth_noise: float = Field(0.5, ge=0, le=1)
    depth_error: float = Field(0.02, ge=0, lt=1)  # relative, standard deviation at most
    depth_holes: float = Field(0.3, ge=0, le=1)  # rectangles and pixels without depth
    target_error: float = Field(0.3, ge=0)  # m, of the route point: GNSS is no better
    speed_error: float = Field(0.1, ge=0)  # m/s
    # The speed is not told: or it learns to stand because it stands (de Haan et al., NeurIPS 2019).
    speed_dropout: float = Field(0.3, ge=0, le=1)

    @classmethod
    def none(cls) -> AugmentConfig:
        """Nothing is changed."""
        off = ("colour", "noise", "view_dropout", "depth_noise", "depth_holes", "speed_dropout")
        return cls(**dict.fromkeys(off, 0.0), target_error=0.0, speed_error=0.0)


class Recipe(StrictModel):
    """Everything about a training but its data, budget, seed and network."""

    batch: int = Field(16, ge=1)
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(200, ge=0)
    # Against outliers only: the waypoints' recurrence alone has a norm of 50 to 100, and a limit
    # below that would scale all other tasks by the luck of the batch.
    grad_clip: float | None = Field(200.0, gt=0)
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    ema_decay: float | None = Field(0.999, gt=0, lt=1)
    precision: Literal["float32", "bf16", "auto"] = "auto"  # bf16 where it is fast
    accumulate: int = Field(1, ge=1)

    weights: Weights = Weights()
    gradnorm: GradNormConfig = GradNormConfig()
    dice: float = Field(0.5, ge=0)  # beside cross-entropy, in the loss of semantics
    rare: float = Field(5.0, ge=1)  # largest weight of a rare yes (red light, stop sign)
    sampling: Sampling | None = Sampling()  # null: every frame alike
    augment: AugmentConfig | None = AugmentConfig()  # null: as recorded

    val_every: int | None = Field(500, ge=1)
    val_frames: int = Field(300, ge=1)  # at each validation, evenly spread
    test_frames: int = Field(1000, ge=1)  # for the metrics of model.json
    patience: int | None = Field(None, ge=1)
    save_minutes: float | None = Field(5.0, gt=0)
    log_every: int = Field(20, ge=1)


def read_options(options: Sequence[str] = ()) -> tuple[Recipe, list[str]]:
    """The recipe with its ``key=value`` changes, and those that begin with ``model.``, without it.

    UsageError for a key that does not exist, naming the nearest, and for a value of a wrong kind.
    """
    model = [text.removeprefix("model.") for text in options if text.startswith("model.")]
    return load_config(Recipe, None, [t for t in options if not t.startswith("model.")]), model
