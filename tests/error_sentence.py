"What several tests need: the sentence of the error that a call ends in."

import pytest

from fashionern.errors import ErnError


def sentence(call, *args, **options) -> str:
    "The text of the `ErnError` a call ends in: one line."
    with pytest.raises(ErnError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
