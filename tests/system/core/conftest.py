"""A server that is replaced by a standby or another one, behind one URL."""

from __future__ import annotations

import pytest

from pgmem import migrate
from tests.support.clusters import reopened, standby_of
from tests.support.places import SETTINGS, Place
from tests.support.relay import Relay


@pytest.fixture
def place(tmp_path):
    """A data folder's name, a server in it, and a way there that outlives the server."""
    server = reopened(tmp_path / "first", settings=SETTINGS)
    migrate.upgrade(server.url)
    place = Place(tmp_path, server)
    yield place
    place.close()


@pytest.fixture
def standby(place):
    """Start a hot standby of the place's server behind a relay."""
    with Relay(place.server.url) as stream:
        standby = standby_of(place.server, place.folder / "second", stream.url)
        yield standby, stream
        standby.stop()
