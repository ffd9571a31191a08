"""Meanwhile: exact running averages of sensor streams, in constant space, over HTTP.

The folders are floors; each imports only lower ones:

    core/        what is computed: exact sums, summaries, names, shapes, times, keys, the bytes of a state
    formats/     bytes in, readings out: JSON, NDJSON, SenML, line protocol, MQTT messages
    telemetry/   counters, Prometheus text, logs, the clock
    storage/     all that knows Redis: the script, group commit, reads, listing, the embedded Valkey
    live/        changes as they happen: one poller for all subscriptions
    settings.py  what an operator can set
    api/         HTTP: connections, authorization, bodies, problems, and the routes; app.py wires it
    mqtt/        from a broker into streams, and averages back
    process/     the parent process and its workers
    cli/         the command ``meanwhile``
    web/         the page

A reading's way: ``api/routes/readings.py`` takes the body, ``formats/json_readings.py`` makes doubles of it,
``storage/committer.py`` lets them gather and sums them, ``storage/store.py`` sends the summaries,
``storage/commit.lua`` merges each into the state of its stream, and the state that comes back is the reply.

The promises: the average is the correctly rounded mean of everything received, whatever the order, batching or
workers; the state of a stream has constant size; what was answered with 200 is on disk; every reading is counted once.
"""
