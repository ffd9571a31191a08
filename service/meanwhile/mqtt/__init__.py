"""From an MQTT broker into streams, each message once; and the averages back to the broker.

It records through the committer, as the service does, and not over HTTP. So every message can have a separate
idempotency key at 2,000 messages a second and more, a refusal concerns one message and not the request that it travels
in, and there is one hop less whose outcome can be unknown. The price: it needs access to Redis, and API keys do not
apply to it; it is a part of the service.

``docs/mqtt.md`` is for operators.
"""
