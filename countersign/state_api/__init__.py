"""The fenced Terraform state backend: its own process, so that a worker that dies does not take the state with it."""
