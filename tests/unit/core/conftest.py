"""Property tests of the core: few examples each, no deadline (the unit level has no clock)."""

from hypothesis import HealthCheck, settings

settings.register_profile("core", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("core")
