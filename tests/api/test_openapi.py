"""The document that clients are generated from: complete, consistent in itself, and true to what the service does."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from meanwhile.api.problems import TABLE

# The routes of the design's section 6, what their 200 is, and the other statuses that each may have.
KEYS = {401, 403}
READ = {404, 422, 503} | KEYS
WRITE = KEYS | {400, 409, 411, 413, 415, 422, 503, 504}
TEXT = None  # Not JSON: what Prometheus reads has no model.
ROUTES: dict[tuple[str, str], tuple[str | None, set[int]]] = {
    ("post", "/v1/streams/{stream}/readings"): ("Recorded", WRITE),
    ("post", "/v1/readings"): ("BatchRecorded", WRITE | {408}),
    ("put", "/v1/readings"): ("BatchRecorded", WRITE | {408}),
    ("post", "/api/v2/write"): (None, KEYS | {400, 413, 415, 503, 504}),
    ("post", "/write"): (None, KEYS | {400, 413, 415, 503, 504}),
    ("get", "/ping"): (None, set()),
    ("get", "/health"): ("InfluxHealth", {503}),
    ("get", "/v1/streams/{stream}"): ("StreamState", READ),
    ("get", "/v1/streams/{stream}/average"): ("StreamAverage", READ),
    ("get", "/v1/streams/{stream}/count"): ("StreamCount", READ),
    ("delete", "/v1/streams/{stream}"): ("StreamState", READ | {504}),
    ("get", "/v1/streams/{stream}/events"): ("StreamEvent", READ),
    ("get", "/v1/events"): ("StreamEvent", {422, 503} | KEYS),
    ("get", "/v1/streams"): ("StreamNames", {400, 422, 503} | KEYS),
    ("get", "/metrics"): (TEXT, KEYS),
    ("get", "/metrics/streams"): (TEXT, {422, 503} | KEYS),
    ("get", "/openapi.json"): ("Document", KEYS),
    ("get", "/livez"): ("Status", set()),
    ("get", "/readyz"): ("Status", {503}),
}
INFLUX = {"/api/v2/write", "/write", "/ping", "/health"}


@pytest.fixture(scope="module")
def replies() -> list[httpx.Response]:
    """The reply with the document, once a test has asked for it: an application takes 0.1 s to make its document."""
    return []


@pytest.fixture
async def document(client: httpx.AsyncClient, replies: list[httpx.Response]) -> dict[str, Any]:
    if not replies:
        replies.append(await client.get("/openapi.json"))
    assert 200 == replies[0].status_code
    assert "application/json" == replies[0].headers["content-type"]
    contents: dict[str, Any] = replies[0].json()
    return contents


def operations(document: dict[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield (method, path), operation


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every object inside ``node``."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What a ``$ref`` stands for."""
    while "$ref" in schema:
        at: Any = document
        for token in schema["$ref"].removeprefix("#/").split("/"):
            at = at[token]
        schema = at
    return schema


def accepts(document: dict[str, Any], schema: Any, value: Any) -> bool:  # noqa: PLR0911  # One line a keyword.
    """Whether ``value`` satisfies ``schema``, by the keywords of JSON Schema that the document uses."""
    schema = resolve(document, schema)
    if schema.get("type") == "number" and (not isinstance(value, int | float) or isinstance(value, bool)):
        return False
    if "anyOf" in schema:
        return any(accepts(document, one, value) for one in schema["anyOf"])
    if "const" in schema:
        return bool(value == schema["const"])
    if "minimum" in schema and "type" not in schema:
        return bool(schema["minimum"] <= value <= schema["maximum"])
    if "oneOf" in schema:
        return sum(accepts(document, one, value) for one in schema["oneOf"]) == 1
    match schema["type"]:
        case "null":
            return value is None
        case "string":
            return isinstance(value, str)
        case "integer" | "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "array":
            return (
                isinstance(value, list)
                and len(value) >= schema.get("minItems", 0)
                and all(accepts(document, schema["items"], item) for item in value)
            )
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    return (
        isinstance(value, dict)
        and set(schema.get("required", ())) <= value.keys()
        and len(value) >= schema.get("minProperties", 0)
        and all(
            accepts(document, known.get(name, others), member) if name in known or isinstance(others, dict) else others
            for name, member in value.items()
        )
    )


async def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert "Meanwhile" == document["info"]["title"]
    assert document["info"]["version"]
    assert {"openapi", "info", "paths", "components"} <= document.keys()


async def test_every_route_of_the_contract_is_documented_and_no_other(document: dict[str, Any]) -> None:
    assert ROUTES.keys() == dict(operations(document)).keys()


async def test_every_operation_has_an_id_of_its_own_and_is_described(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ROUTES) == len(ids) == len(set(ids))
    for _, operation in operations(document):
        assert operation["summary"]
        assert operation["description"]


async def test_every_reference_leads_to_a_component(document: dict[str, Any]) -> None:
    references = [node["$ref"] for node in nodes(document) if "$ref" in node]
    assert references
    for reference in references:
        assert reference.startswith("#/components/schemas/")
        assert "type" in resolve(document, {"$ref": reference})


async def test_every_parameter_of_a_path_is_declared(document: dict[str, Any]) -> None:
    for (_, path), operation in operations(document):
        declared = [parameter for parameter in operation.get("parameters", []) if parameter["in"] == "path"]
        assert re.findall(r"{(\w+)}", path) == [parameter["name"] for parameter in declared]
        assert all(parameter["required"] and parameter["schema"]["type"] == "string" for parameter in declared)


async def test_the_listing_declares_its_query(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/v1/streams"]["get"]["parameters"]
    assert {("prefix", "query"), ("limit", "query"), ("cursor", "query")} == {(p["name"], p["in"]) for p in parameters}


async def test_binary_bodies_declare_their_query(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/v1/streams/{stream}/readings"]["post"]["parameters"]
    assert {"dtype", "components", "members", "time"} == {p["name"] for p in parameters if p["in"] == "query"}


async def test_every_success_has_its_model_or_no_body(document: dict[str, Any]) -> None:
    for route, operation in operations(document):
        model, _ = ROUTES[route]
        if route[1] in INFLUX and model is None:
            assert "content" not in operation["responses"]["204"]
            assert "200" not in operation["responses"]
            continue
        if model is TEXT:
            assert {"text/plain", "application/openmetrics-text"} == operation["responses"]["200"]["content"].keys()
            continue
        if model == "StreamEvent":
            assert ["text/event-stream"] == list(operation["responses"]["200"]["content"])
            assert model in document["components"]["schemas"]
            continue
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert f"#/components/schemas/{model}" == schema["$ref"]
        properties = resolve(document, schema)["properties"]
        assert properties.keys() - {"duplicate", "duplicates", "skipped"} == set(resolve(document, schema)["required"])


async def test_the_average_is_also_plain_text(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/streams/{stream}/average"]["get"]["responses"]["200"]["content"]
    assert {"application/json", "text/plain"} == content.keys()


async def test_every_other_status_is_a_problem_of_the_error_table(document: dict[str, Any]) -> None:
    known = {problem.status for problem in TABLE.values()}
    for route, operation in operations(document):
        _, statuses = ROUTES[route]
        documented = {int(status) for status in operation["responses"]} - {200, 204}
        media_type, model = ("application/problem+json", "Problem")
        if route[1] in INFLUX:
            media_type, model = ("application/json", "InfluxProblem")
        assert statuses == documented, route
        assert documented <= known
        for status in documented:
            response = operation["responses"][str(status)]
            assert response["description"]
            assert [media_type] == list(response["content"])
            schema = response["content"][media_type]["schema"]
            assert {"$ref": f"#/components/schemas/{model}"} == schema
    assert {"type", "title", "status"} <= set(document["components"]["schemas"]["Problem"]["required"])


async def test_every_response_has_a_description_and_an_example_that_is_one(document: dict[str, Any]) -> None:
    for route, operation in operations(document):
        for status, response in operation["responses"].items():
            assert response["description"]
            assert (status == "204") == ("content" not in response)
            for media_type, media in response.get("content", {}).items():
                assert "example" in media, (route, status, media_type)
                assert accepts(document, media["schema"], media["example"]), (route, status)
            for header in response.get("headers", {}).values():
                assert header["description"]
                assert accepts(document, header["schema"], header["example"])


async def test_every_parameter_is_described_and_has_an_example_that_is_one(document: dict[str, Any]) -> None:
    for _, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert parameter["description"]
            assert accepts(document, parameter["schema"], parameter["example"]), parameter["name"]


async def test_what_says_when_to_come_again_says_so_in_a_documented_header(document: dict[str, Any]) -> None:
    for _, operation in operations(document):
        for status, response in operation["responses"].items():
            assert (status == "503") == ("Retry-After" in response.get("headers", {}))
            assert (status == "401") == ("WWW-Authenticate" in response.get("headers", {}))


async def test_every_operation_says_whether_it_takes_a_key(document: dict[str, Any]) -> None:
    kinds = document["components"]["securitySchemes"].keys()
    for (_, path), operation in operations(document):
        keyed = (
            [] if path in ("/livez", "/readyz", "/ping", "/health") else [{}, *({kind: list[str]()} for kind in kinds)]
        )
        assert keyed == operation["security"]


async def test_what_records_has_a_body_with_a_schema(document: dict[str, Any]) -> None:
    for (method, path), operation in operations(document):
        assert (method in {"post", "put"}) == ("requestBody" in operation)
        if "requestBody" in operation:
            assert (path not in INFLUX) == operation["requestBody"]["required"]
            for content in operation["requestBody"]["content"].values():
                assert content["examples"] or content["schema"].get("format") == "binary"  # JSON cannot show bytes.
                for example in content["examples"].values():
                    assert accepts(document, content["schema"], example["value"])
    content = document["paths"]["/v1/readings"]["post"]["requestBody"]["content"]
    assert {
        *("application/json", "application/senml+json", "application/sensml+json", "application/senml+cbor"),
        *("application/x-ndjson", "application/ndjson", "application/jsonl"),
    } == content.keys()
    content = document["paths"]["/v1/streams/{stream}/readings"]["post"]["requestBody"]["content"]
    binary = {"application/octet-stream", "application/vnd.msgpack", "application/msgpack"}
    assert {"application/json"} | binary == content.keys()
    assert all({"type": "string", "format": "binary"} == content[kind]["schema"] for kind in binary)
    for path in ("/write", "/api/v2/write"):
        assert {"text/plain"} == document["paths"][path]["post"]["requestBody"]["content"].keys()


async def test_replies_are_what_the_document_says(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    async def check(method: str, path: str, content: Any = None) -> None:
        reply = await client.request(method, path.format(stream="a/b"), json=content)
        response = document["paths"][path][method]["responses"][str(reply.status_code)]
        media_type = reply.headers["content-type"]
        assert accepts(document, response["content"][media_type]["schema"], reply.json()), reply.text

    for value in (1, [1, 2], {"a": 1, "b": [1, 2]}):
        await check("post", "/v1/streams/{stream}/readings", {"value": value})
        await check("get", "/v1/streams/{stream}")
        await check("post", "/v1/readings", {"a/b": {"values": [value, value]}})
        for path in ("/v1/streams/{stream}", "/v1/streams/{stream}/average", "/v1/streams/{stream}/count"):
            await check("get", path)
        await check("get", "/v1/streams")
        await check("post", "/v1/streams/{stream}/readings", {"value": [1, 2, 3]})
        await check("post", "/v1/streams/{stream}/readings", {"value": None})
        await check("delete", "/v1/streams/{stream}")
        await check("delete", "/v1/streams/{stream}")
    await check("get", "/livez")
    await check("get", "/readyz")


@pytest.mark.parametrize(
    "body",
    [
        {"value": 1},
        {"value": 21.5, "time": "2026-01-01T00:00:00Z"},
        {"value": [1, 2], "time": 0.5},
        {"value": {"a": 1, "b": [1, 2]}},
        {"values": [1, 2]},
        {"values": [[1, 2], [3, 4]]},
        {"values": [{"a": 1}, {"a": 2}]},
        {},
        1,
        [],
        None,
        {"value": None},
        {"value": True},
        {"value": "1.5"},
        {"value": [[1]]},
        {"value": {"a": {"b": 1}}},
        {"value": 1, "time": None},
        {"value": 1, "time": True},
        {"value": 1, "time": []},
        {"value": 1, "values": [1]},
        {"values": [1], "time": 0},
        {"values": []},
        {"values": 1},
        {"value": 1, "unit": "C"},
    ],
)
async def test_bodies_are_documented_as_good_that_are_recorded_and_as_bad_that_are_refused(
    client: httpx.AsyncClient, document: dict[str, Any], body: Any
) -> None:
    one = document["paths"]["/v1/streams/{stream}/readings"]["post"]["requestBody"]["content"]["application/json"]
    reply = await client.post("/v1/streams/a/readings", content=json.dumps(body))
    assert reply.status_code in (200, 422)
    assert accepts(document, one["schema"], body) == (reply.status_code == 200)
    many = document["paths"]["/v1/readings"]["post"]["requestBody"]["content"]["application/json"]
    reply = await client.post("/v1/readings", content=json.dumps({"b": body}))
    assert accepts(document, many["schema"], {"b": body}) == (reply.status_code == 200)


async def test_a_batch_without_streams_is_documented_as_bad(document: dict[str, Any]) -> None:
    many = document["paths"]["/v1/readings"]["post"]["requestBody"]["content"]["application/json"]
    assert not accepts(document, many["schema"], {})


async def test_examples_are_valid(document: dict[str, Any]) -> None:
    examples = [
        (node, example) for node in nodes(document) for example in node.get("examples", []) if "schema" not in node
    ]
    assert examples
    for schema, example in examples:
        assert accepts(document, schema, example)
