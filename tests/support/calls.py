"""Requests to servers of this machine: httpx without the certificates, which take it 50 ms a request to load."""

from functools import partial

import httpx

get = partial(httpx.get, verify=False, trust_env=False, timeout=20)
post = partial(httpx.post, verify=False, trust_env=False, timeout=20)
delete = partial(httpx.delete, verify=False, trust_env=False, timeout=20)
stream = partial(httpx.stream, verify=False, trust_env=False)
client = partial(httpx.Client, verify=False, trust_env=False)
async_client = partial(httpx.AsyncClient, verify=False, trust_env=False)
