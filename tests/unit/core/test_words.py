"""What people read of things that are named in several places."""

from countersign.core.engine import Release
from countersign.core.reconcile import kept_lock


def test_a_release_is_named_with_its_namespace() -> None:
    assert str(Release(namespace="shop", name="web")) == "shop/web"


def test_a_lock_in_a_backend_of_ones_own_is_told_with_what_frees_it() -> None:
    stop = kept_lock("by ana@laptop", "l-1", "tofu")

    assert stop.why.startswith("The state is locked in its own backend by ana@laptop.")
    assert stop.commands == ("tofu init && tofu force-unlock l-1",)
