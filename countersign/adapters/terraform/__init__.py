"""Terraform and OpenTofu as an engine: `TerraformEngine` fulfils `countersign.core.engine.Engine`."""

from countersign.adapters.terraform.engine import TerraformEngine

__all__ = ["TerraformEngine"]
