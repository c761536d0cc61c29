"""The pytest plugin of this distribution: a failed assertion of the contract suite is explained as a test's own is.

pytest loads it wherever the distribution is installed, so it does and imports nothing else.
"""

import pytest

pytest.register_assert_rewrite("backends.testing.contract")
