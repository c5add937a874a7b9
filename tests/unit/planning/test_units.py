"""Bytes as people write them."""

import pytest

from realuid_lightning.errors import UserError
from realuid_lightning.planning.units import parse_size, show


def test_units():
    assert [parse_size(text) for text in ("24GiB", "24G", "1.5 kib", "80GB", "512", "1TB", "2MB")] == [
        *(24 * 2**30, 24 * 2**30, 1536, 80 * 10**9, 512, 10**12, 2 * 10**6)
    ]
    for text in ("much", "-3GiB", "0", "GiB", ""):
        with pytest.raises(UserError, match="expected a size such as 24GiB"):
            parse_size(text)
    assert (show(512), show(3 * 2**30), show(2**41)) == ("512 B", "3.00 GiB", "2.00 TiB")
