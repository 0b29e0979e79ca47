"""One control plane for the session, and a namespace for each test.

A namespace takes ten seconds and more to go, so that nobody waits for it: it is told to, and the plane ends with the session.
"""

import itertools
import re
from collections.abc import Iterator

import pytest

from tests.kubernetes.plane import Plane, running

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """The one all tests share; break another one (`own_plane`)."""
    with running(tmp_path_factory.mktemp("kubernetes")) as it:
        yield it


@pytest.fixture
def own_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A plane for a test that kills or freezes parts of it; three seconds."""
    with running(tmp_path_factory.mktemp("kubernetes")) as it:
        yield it


@pytest.fixture
def namespace(request: pytest.FixtureRequest, plane: Plane) -> Iterator[str]:
    """A namespace of the test's own on the shared plane."""
    slug = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    name = plane.namespace(f"t{next(_numbers)}-{slug}")
    yield name
    plane.delete(f"/api/v1/namespaces/{name}")
