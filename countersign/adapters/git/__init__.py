"""Reading from Git: bare mirrors of the operator's repositories, fetched by the git executable in an environment of ours."""

from countersign.adapters.git.environment import Keys, Remotes, environment
from countersign.adapters.git.failures import Broken
from countersign.adapters.git.mirror import Attempt, Checkout, Entry, Revision
from countersign.adapters.git.mirrors import Mirrors

__all__ = ["Attempt", "Broken", "Checkout", "Entry", "Keys", "Mirrors", "Remotes", "Revision", "environment"]
