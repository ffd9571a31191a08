"""How accurate averages and deviations are: this service, and what people use instead, on the same readings.

Every program gets the same doubles in the same order. Its mean and its standard deviation are compared with the exact
ones: rational arithmetic, rounded once to the nearest double. The error is counted in ulp (units in the last place) of
that double, so 0 means correctly rounded, and 2**52 or more means that not one digit is right.

    series.py        the readings: real, constructed, and one set in 20 random orders
    strd.py          the nine univariate sets of NIST's Statistical Reference Datasets, with their certified values
    reference.py     the exact results, and the two measures of an error
    peer.py          what is asked of a program
    formulas.py      what people write themselves: sums, Welford, and Python's own functions
    libraries.py     numpy, pandas, polars, River
    databases.py     SQLite, DuckDB, PostgreSQL, Valkey
    monitoring.py    Prometheus and InfluxDB
    ours.py          this service, over HTTP, with its embedded Valkey
    figures.py       asks each of them, and counts
    tables.py        the tables, on the terminal and in docs/accuracy.md

``make accuracy`` runs it in one to two minutes and writes ``results.json`` here and ``docs/accuracy.md``. Only that
target installs the libraries. Servers that are not installed are named in the page as not measured. All servers
listen on the loopback interface only.
"""
