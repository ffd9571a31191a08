"""What the service says of itself: counters, Prometheus text, logs."""
