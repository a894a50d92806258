"""What a student learns from its labels and from a teacher (Touvron et al. 2021, section 4).

Letters: Z_s student logits, Z_t the teacher's, y label, y_t = argmax Z_t, psi softmax, tau
temperature, alpha weight of the teacher.

    soft (equation 2)   (1 - alpha) CE(psi(Z_s), y) + alpha tau^2 KL(psi(Z_t / tau) || psi(Z_s / tau))
    hard (equation 3)   (1 - alpha) CE(psi(Z_s), y) + alpha CE(psi(Z_s'), y_t)

With a distillation token the teacher's term is taken of its head, Z_s', the label's of the class
token's.  The paper's alpha and tau: 1/2 for "hard", 0.1 and 3.0 for "soft".  Labels are smoothed by
0.1, the teacher's verdicts never (section 4, "Label smoothing").

Deviates from the authors' code, not from the paper: KL is the mean over the batch; the code divides
by the number of classes as well.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from core.config import StrictModel

ALPHA = {"soft": 0.1, "hard": 0.5}


class Distillation(StrictModel):
    """``alpha`` None: the paper's for ``kind``."""

    kind: Literal["hard", "soft"] = "hard"
    alpha: float | None = Field(None, ge=0, le=1)
    tau: float = Field(3.0, gt=0)

    @property
    def weight(self) -> float:
        """Alpha."""
        return ALPHA[self.kind] if self.alpha is None else self.alpha


def distillation_loss(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor,
    settings: Distillation,
    smoothing: float = 0.1,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of logits (B, 2, K), or (B, K) without a distillation token, and its two parts.

    ``labels`` (B,), ``teacher`` logits (B, K), through which no gradient flows.
    """
    by_label, by_teacher = logits.unbind(1) if logits.ndim == 3 else (logits, logits)
    teacher = teacher.detach()
    own = F.cross_entropy(by_label, labels, label_smoothing=smoothing)
    if settings.kind == "hard":
        taught = F.cross_entropy(by_teacher, teacher.argmax(-1))
    else:
        tau = settings.tau
        taught = tau**2 * F.kl_div(
            F.log_softmax(by_teacher / tau, -1),
            F.log_softmax(teacher / tau, -1),
            reduction="batchmean",
            log_target=True,
        )
    total = (1 - settings.weight) * own + settings.weight * taught
    return total, {"label_loss": float(own.detach()), "teacher_loss": float(taught.detach())}
