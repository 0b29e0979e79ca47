"""Kubernetes: a control plane of one's own to develop and test against, and what an engine needs of a real one."""
