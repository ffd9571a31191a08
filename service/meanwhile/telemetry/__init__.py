"""Counters, metrics for Prometheus, and logs."""
