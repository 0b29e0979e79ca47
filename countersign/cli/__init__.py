"""The `countersign` command: what operators, and people who agree, have in their hands."""
