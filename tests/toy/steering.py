"""A test's hand on the toy engine of a service: what it shall find to do, and how far its applies get."""

from pathlib import Path

from tests.service import Service, eventually
from tests.toy.engine import ToyEngine


def toy(it: Service) -> ToyEngine:
    assert isinstance(it.engine, ToyEngine)
    return it.engine


async def launched(it: Service, number: int = 0) -> Path:
    """The folder of the apply that began as that one, counted from 0, as soon as its process would run."""

    async def there() -> bool:
        return len(toy(it).launched) > number

    await eventually(there, f"apply {number} to be launched")
    return toy(it).where(toy(it).launched[number])
