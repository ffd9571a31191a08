"""Meanwhile: exact running averages of sensor streams, in constant space, over HTTP.

The folders are layers, called floors. Each one imports only from those above it in this list:

    core/        the computation: exact sums, summaries, names, shapes, times, keys, the stored form of a state
    formats/     parsers: JSON, NDJSON, SenML, line protocol, MQTT messages
    telemetry/   counters, metrics for Prometheus, logs, the clock
    storage/     everything that uses Redis: the script, group commit, reads, listing, the embedded Valkey
    live/        changes of streams: one poller for all subscriptions
    settings.py  the settings
    api/         HTTP: connections, API keys, request bodies, problems and routes; app.py connects the parts
    mqtt/        recording from a broker, and publishing averages
    process/     the parent process and its workers
    cli/         the command ``meanwhile``
    web/         the web page

The path of a reading: ``api/routes/readings.py`` receives the body, ``formats/json_readings.py`` parses it,
``storage/committer.py`` collects the readings for the next commit and sums them, ``storage/store.py`` sends the
summaries, and ``storage/commit.lua`` merges each one into the state of its stream. The new state is the reply.

The promises: the average is the correctly rounded mean of all readings, in any order and batches, with any number of
workers; the state of a stream has a constant size; a reading that was answered with 200 is on disk; and a reading with
an idempotency key is counted once.
"""
