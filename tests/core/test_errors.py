from __future__ import annotations

import pickle

import pytest

from core import errors
from core.errors import DataError, ResourceError, TriptychError, UsageError


@pytest.mark.parametrize(
    ("kind", "code"), [(TriptychError, 1), (UsageError, 2), (DataError, 3), (ResourceError, 4)]
)
def test_exit_codes(kind, code):
    assert kind("x").exit_code == code
    assert issubclass(kind, TriptychError)


def test_a_message_is_one_line_and_keeps_its_spaces():
    assert str(DataError("a  b.nii.gz: broken\nby x\r\n")) == "a  b.nii.gz: broken by x"


def test_errors_survive_a_process_boundary():
    error = pickle.loads(pickle.dumps(DataError("a.nii.gz: broken")))
    assert (type(error), str(error)) == (DataError, "a.nii.gz: broken")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("swim_unetr", " Did you mean 'swin_unetr'?"),
        ("SWIN_UNETR", " Did you mean 'swin_unetr'?"),
        ("zzz", ""),
    ],
)
def test_nearest(name, said):
    assert errors.nearest(name, ["swin_unetr", "unet"]) == said


def test_nearest_of_nothing():
    assert errors.nearest("a", []) == ""


def test_unknown_names_the_kind_the_nearest_and_all():
    text = errors.unknown("model", "dynunt", ["unet", "dynunet"])
    assert text == "unknown model 'dynunt'. Did you mean 'dynunet'? Known: dynunet, unet"


def test_need_returns_the_module_or_names_the_extra():
    assert errors.need("json", "dicom").dumps([1]) == "[1]"
    with pytest.raises(UsageError, match=r"'no_such_package'.*'\.\[dicom\]'"):
        errors.need("no_such_package.inner", "dicom")
