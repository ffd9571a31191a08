// Displays /openapi.json. Swagger UI, ReDoc and RapiDoc are 0.5 to 2 MB and set inline styles, which the content
// security policy of this service forbids. This page also looks like the main page.

import * as key from "./key.js";

const byId = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text, never markup. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const code = (text) => element("code", {}, text);
const pre = (content) =>
  element("pre", { tabindex: "0" }, typeof content === "string" ? content : JSON.stringify(content, null, 2));

/** A schema as text, with links to the models that it refers to. */
function type(schema) {
  if (schema === undefined || schema === true) return ["anything"];
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return [element("a", { href: `#model-${name}` }, name)];
  }
  const either = schema.anyOf ?? schema.oneOf;
  if (either) return either.flatMap((one, i) => (i ? [" or ", ...type(one)] : type(one)));
  if (schema.type === "array") return ["array of ", ...type(schema.items)];
  if (schema.type === "object" && typeof schema.additionalProperties === "object") {
    return ["object of ", ...type(schema.additionalProperties)];
  }
  if (schema.title && schema.type === "object") return [schema.title];
  return [schema.type ?? "anything"];
}

function limits(schema = {}) {
  const words = [];
  if (schema.minimum !== undefined) words.push(`at least ${schema.minimum}`);
  if (schema.maximum !== undefined) words.push(`at most ${schema.maximum}`);
  if (schema.maxLength !== undefined) words.push(`at most ${schema.maxLength} characters`);
  if (schema.minItems !== undefined) words.push(`at least ${schema.minItems}`);
  if (schema.default !== undefined) words.push(`default ${schema.default}`);
  return words.length ? ` (${words.join(", ")})` : "";
}

function table(headers, rows, name = "") {
  const head = element("tr", {}, ...headers.map((header) => element("th", { scope: "col" }, header)));
  const body = rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, ...[cell].flat()))));
  return element("table", { class: name }, element("thead", {}, head), element("tbody", {}, ...body));
}

function properties(schema) {
  const required = new Set(schema.required ?? []);
  return table(["Member", "Type", "Meaning"], Object.entries(schema.properties ?? {}).map(([name, property]) => [
    code(name),
    [element("span", { class: "type" }, ...type(property), limits(property))],
    [(required.has(name) ? "" : "Optional. ") + (property.description ?? "")],
  ]));
}

function response(status, content) {
  const [mediaType, media] = Object.entries(content.content ?? {})[0] ?? [];
  const others = Object.keys(content.content ?? {}).slice(1);
  const headers = Object.entries(content.headers ?? {});
  return element("details", status === "200" ? { open: "" } : {},
    element("summary", {}, element("span", { class: "status" }, status), " ", content.description),
    mediaType && element("p", { class: "note" }, code([mediaType, ...others].join(", ")), " ", ...type(media.schema)),
    ...headers.map(([name, header]) => element("p", { class: "note" }, code(name), ` ${header.description}`)),
    ...Object.values(content.content ?? {}).filter((one) => one.example !== undefined).map((one) => pre(one.example)),
  );
}

function curl(method, path, operation) {
  const filled = path.replace(/{(\w+)}/g, (_, name) => operation.parameters.find((one) => one.name === name).example);
  const base = new URL(".", location.href).href.replace(/\/$/, "");
  const body = example(operation.requestBody);
  return [
    `curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${base}${filled}`,
    ...(body === undefined ? [] : ["-H 'Content-Type: application/json'", `-d '${JSON.stringify(body)}'`]),
  ].join(" \\\n  ");
}

function example(body) {
  const media = body?.content["application/json"];
  return media?.example ?? Object.values(media?.examples ?? {})[0]?.value;
}

function section(path, method, operation) {
  const parameters = operation.parameters ?? [];
  const body = operation.requestBody?.content;
  const heading = (text) => element("h3", {}, text);
  return element("section", { id: operation.operationId, "aria-label": operation.summary },
    element("h2", {}, operation.summary),
    element("p", { class: "route" }, element("span", { class: `method ${method}` }, method.toUpperCase()), path),
    element("p", {}, operation.description),
    ...(parameters.length ? [heading("Parameters"), table(["Name", "In", "Type", "Meaning"], parameters.map((one) => [
      code(one.name), one.in,
      [element("span", { class: "type" }, ...type(one.schema), limits(one.schema))],
      [one.description ?? "", ...(one.example === undefined ? [] : [" Example: ", code(String(one.example)), "."])],
    ]), "parameters")] : []),
    ...(body ? [heading("Body"), element("p", { class: "note" }, ...Object.entries(body).flatMap(
      ([mediaType, { schema }]) => [code(mediaType), " ", ...type(schema), " "])),
    ] : []),
    heading("Using curl"), pre(curl(method, path, operation)),
    heading("Replies"), ...Object.entries(operation.responses).map(([status, content]) => response(status, content)),
  );
}

function show(contract) {
  byId("version").textContent = contract.info.version;
  const operations = Object.entries(contract.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  const models = Object.entries(contract.components.schemas);
  const list = (links) => element("ul", {}, ...links.map(([id, text]) => element("li", {}, element("a", { href: `#${id}` }, text))));
  byId("contents").append(
    element("h2", {}, "Operations"), list(operations.map(({ operation }) => [operation.operationId, operation.summary])),
    element("h2", {}, "Models"), list(models.map(([name]) => [`model-${name}`, name])),
  );
  byId("reference").replaceChildren(
    element("h1", {}, contract.info.title), element("p", {}, contract.info.summary ?? ""),
    ...operations.map(({ path, method, operation }) => section(path, method, operation)),
    ...models.map(([name, schema]) => element("section", { id: `model-${name}` },
      element("h2", {}, name), element("p", {}, schema.description ?? ""), properties(schema))),
  );
  if (location.hash) byId(location.hash.slice(1))?.scrollIntoView();
}

for (;;) {
  try {
    const reply = await fetch("openapi.json", { headers: key.headers() });
    if (reply.ok) {
      show(await reply.json());
      break;
    }
    if (reply.status === 401 || reply.status === 403) {
      await key.ask(reply.status === 403 ? "This key does not allow reading. Use one with the scope “read”." : key.key() === null ? "" : "The key is not valid.");
    }
  } catch {
    byId("waiting").textContent = "Cannot reach the service. Trying again…";
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}
