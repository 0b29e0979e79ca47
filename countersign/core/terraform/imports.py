"""The text of `countersign_import.tf`: objects that a lost apply made, taken into the state by the next plan.

The file is removed after planning; the plan carries what it says. Ids come from a journal or a cloud, so they are escaped as
Terraform itself writes text, and an address goes in only if it could be nothing but an address.
"""

import re
from collections.abc import Mapping

from countersign.core.terraform.state import quoted

FILE = "countersign_import.tf"
_STEP = r'[^\W\d][\w-]*(?:\[(?:\d+|"(?:[^"\\\x00-\x1f]|\\.)*")\])?'
_ADDRESS = re.compile(rf"{_STEP}(?:\.{_STEP})+")
_TEMPLATE = re.compile(r"(?<!\$)\$\{|(?<!%)%\{")


def is_importable(address: str) -> bool:
    return _ADDRESS.fullmatch(address) is not None and _TEMPLATE.search(address) is None


def import_blocks(imports: Mapping[str, str]) -> str:
    """One block for each address → id; empty where there is none."""
    return "\n".join(f"import {{\n  to = {address}\n  id = {quoted(id)}\n}}\n" for address, id in sorted(imports.items()))
