"""From an MQTT broker into streams, each message once; and the averages back to the broker.

    journal.py   what has to outlive a crash so that nothing is counted twice
    broker.py    the connection: deliveries in, acknowledgements and averages out
    filters.py   which copy counts where filters overlap
    bridge.py    deliveries become commits, in order; acknowledged when they are on disk
    averages.py  publishes averages, with discovery messages for Home Assistant
    run.py       wires all of this: ``meanwhile mqtt``

It records through the committer, as the service does, and not over HTTP. So every message can have an idempotency key
of its own at 2,000 messages a second and more, what is refused concerns one message and not the request it travels in,
and there is one hop less whose outcome can be unknown. The price: it has to reach the Redis, and API keys do not
concern it; it is a part of the service.

``docs/mqtt.md`` has what an operator has to know.
"""
