"The numbers of triplets in the line with which a run starts."

from types import SimpleNamespace

import pytest

from fashionern.training.run import _sizes


class Split(SimpleNamespace):
    "All that the line needs of a dataset."

    def __len__(self) -> int:
        return self.size


FEW, ALL = Split(size=235, found={"queries_expected": 240}), Split(size=4800, found={})


@pytest.mark.parametrize(
    ("train", "val", "line"),
    [
        (FEW, FEW, "235 of 240 training triplets, 235 of 240 validation queries (the others have missing images)"),
        (FEW, ALL, "235 of 240 training triplets, 4,800 validation queries (the others have missing images)"),
        (ALL, ALL, "4,800 training triplets, 4,800 validation queries"),
    ],
)
def test_missing_images_are_said_once(train, val, line):
    assert _sizes(train, val) == line
