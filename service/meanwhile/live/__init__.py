"""Changes of streams as they happen: the poller and its subscriptions."""
