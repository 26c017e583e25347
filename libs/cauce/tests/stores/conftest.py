"""For the tests of what is written down, on every store."""

import pytest

pytest.register_assert_rewrite("cauce.testing.store_contract")
