import pytest

from tests.support.both import imports as imports_of


@pytest.fixture
def imports(both):
    """The steps of an import into the memory `both`, in the same form."""
    return imports_of(both)
