"""What a segmentation network minimises: Dice, and a sum over voxels beside it.

Dice is soft, over the foreground classes and over the whole batch: a patch without a structure then
does not count as a failure.  MONAI computes both parts.
"""

from __future__ import annotations

from typing import Literal, get_args

from monai.losses import DiceCELoss, DiceLoss, FocalLoss
from torch import Tensor, nn

from core.errors import UsageError, unknown

LossName = Literal["dice_ce", "dice_focal"]
LOSSES: tuple[LossName, ...] = get_args(LossName)


def make_loss(name: LossName = "dice_ce") -> nn.Module:
    """``forward(logits (B, C, *S), classes (B, 1, *S)) -> ()``.

    ``dice_ce``: cross-entropy, as nnU-Net.  ``dice_focal``: its focal form (`DiceFocal`), for lesions
    that are small beside the background.  Raises UsageError for another name.
    """
    if name == "dice_ce":
        return DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    if name == "dice_focal":
        return DiceFocal()
    raise UsageError(unknown("loss", name, LOSSES))


class DiceFocal(nn.Module):
    """Dice of the foreground plus the focal loss -(1 - p)^gamma log p of every voxel's own class.

    Lin et al., "Focal Loss for Dense Object Detection", arXiv 1708.02002, equation 4 with softmax; gamma
    0 is cross-entropy.  Deviates from MONAI's ``DiceFocalLoss``, which with ``include_background=False``
    leaves background voxels out of the focal part, so that nothing but Dice speaks against a false
    alarm, and which divides by the classes besides the voxels.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.dice = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
        self.focal = FocalLoss(gamma=gamma, use_softmax=True, to_onehot_y=True, reduction="none")

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(B, C, *S), (B, 1, *S) -> ()."""
        voxels: Tensor = self.focal(logits, classes).sum(1)  # one class of C is not zero
        dice: Tensor = self.dice(logits, classes)
        return dice + voxels.mean()
