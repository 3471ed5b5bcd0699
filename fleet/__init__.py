"""The control host: registry, rollouts, guards, telemetry."""
