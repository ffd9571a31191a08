"""Meanwhile: exact running averages of sensor streams, in constant space, over HTTP.

A map for new readers. Read in this order; imports only ever point up this list:

    exact.py        exact sums of doubles: expansions
    summary.py      what is kept of a set of readings; summaries merge
    stream.py       names of streams, shapes of values
    times.py        times of readings
    heavy.py        work that takes long: in a thread
    idempotency.py  keys by which a reading is counted once
    formats/        bytes in, readings out
    state.py        the state of a stream, as bytes
    verdicts.py     what commit.lua says of each commit
    link.py         the way to Redis: in time, and a write once
    examination.py  what a Redis is and how it is set up, against what is promised
    store.py        states in Redis; commit.lua is the write
    counters.py     what the service counts of itself, over all workers
    turns.py        one batch on its way, the next one gathering
    outcomes.py     why streams refuse a request
    wide.py         streams that are too wide for the script
    slices.py       a request that is too large for one commit
    committer.py    group commit: one round trip for everything that waits
    reader.py       the same for reads
    watched.py      streams that somebody watches
    frames.py       what watchers are told
    subscription.py what one subscriber watches
    live.py         changes as they happen: one poller for all subscribers
    places.py       large requests: few at once
    key_file.py     the file of API keys
    access.py       who may do what
    metrics.py      what the service counts and the averages, for Prometheus
    problems.py     which exception is which HTTP answer
    deadlines.py    how long a connection may take
    head.py         what the head of a request may say
    hosts.py        which hosts an open service answers to
    protocol.py     connections that do not wait for ever
    api/            routes
    clock.py        the time
    logs.py         what the log looks like
    settings.py     what an operator can set
    app.py          wires all of this
    data_dir.py     the directory of a Valkey of our own
    append_only_file.py  whether the data in it are still there
    valkey.py       that server: start it, ask it, set it right
    keeper.py       keeps it running
    embedded.py     a Valkey of our own, where no other is given
    shared_directory.py  where the workers of a service count together
    worker.py       one process that serves
    server.py       socket, Valkey, workers: start and stop
    mqtt/           from a broker into streams, and averages back: ``meanwhile mqtt``
    client.py       the service's API for the commands that follow
    table.py        CSV files, for ``meanwhile send``
    demo.py         readings as a few sensors would send them: ``meanwhile demo``
    watch.py        the live table: ``meanwhile watch``
    options.py      settings as options of a command
    cli.py          the command ``meanwhile``

A reading's way: ``api/routes/readings.py`` takes the body, ``formats/json_readings.py`` makes doubles of it,
``committer.py`` lets them gather and sums them, ``store.py`` sends the summaries, ``commit.lua`` merges each into the
state of its stream, and the state that comes back is the reply.

The promises: the average is the correctly rounded mean of everything received, whatever the order, batching or
workers; the state of a stream has constant size; what was answered with 200 is on disk; every reading is counted once.
"""
