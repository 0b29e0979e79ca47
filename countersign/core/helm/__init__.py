"""What Helm and Kubernetes write, understood: manifests, what is secret in them, what differs, and what failures mean."""
