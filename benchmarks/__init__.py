"""Benchmarks: how fast the service is beside what a user would take instead, and beside doing nothing at all.

A figure of one machine on one day says little, and on a busy machine it says nothing. So everything is measured in
the same run, in short interleaved rounds (A, B, C, A, B, C, ...): whatever else the machine does hits all of them
alike, and the *ratios* hold. A ratio is the median of the ratios of each round.

    workloads.py     what is asked: HTTP requests, as bytes
    replay.lua       sends them from inside wrk
    load.py          drives wrk, and refuses to report a round in which anything went wrong
    targets.py       who is asked: starts and stops them, and knows what processor time they took
    conventional.py  the alternative: FastAPI and Redis as everybody writes them
    history.py       the approach that constant state replaces: every reading kept, averaged on demand
    bare.py          the floor: what uvicorn costs when the application does nothing
    script.py        the other floor: Valkey and the script alone, through a client that pipelines
    sizes.py         bytes that a stream takes
    plan.py          what is measured, in rounds; and whether what was acknowledged was recorded
    bars.py          what is compared with what, and what the comparison should show
    report.py        the machine, the tables, the JSON, and the figures of docs/performance.md
    formats.py       what the body formats cost, by CPU time

    attack.py        honest clients beside attackers: ``make bench-attack``, with a table of its own
    attacks.py       what the attackers send
    attackers.py     sends it, in a process of its own
    honest.py        the honest clients, in another one
    raw_http.py      requests as bytes, for both

    accuracy/        how exact averages and deviations are, compared with other programs: ``make accuracy``

``make bench`` runs it; ``make bench ARGS="--rounds 9 --seconds 5"`` runs it for longer. It listens on the loopback
interface only, and ends by itself. A new figure is one more entry in ``plan.measurements``, and a new comparison one
in ``bars.BARS``.
"""
