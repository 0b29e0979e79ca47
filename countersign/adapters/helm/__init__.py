"""Helm: releases planned against what is live, applied as they were agreed to, and accounted for after a crash.

Nothing here is loaded before the first release is asked for: its libraries take seconds.
"""
