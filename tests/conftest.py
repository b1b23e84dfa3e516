"Fixtures shared by all tests."
import pytest

from dogdepth.depth import data_root


@pytest.fixture(scope="session")
def data():
    "The folder of real data, or a skip that says how to get one."
    root = data_root()
    if root is None:
        pytest.skip("needs real data: set DOGDEPTH_DATA to the folder that holds nyu/")
    return root
