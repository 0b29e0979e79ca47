"""The composition root of a Temporal worker: the only place that knows which adapters stand behind which steps."""
