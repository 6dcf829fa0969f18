"The message of the error that a call raises, for several tests."

import pytest

from fashionern.errors import ErnError


def sentence(call, *args, **options) -> str:
    "The message of the `ErnError` that a call raises, which must be one line."
    with pytest.raises(ErnError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
