// Renders /openapi.json. No library, so that it works without the internet and under the strict
// content security policy.

import { read } from "./api.js";

const spec = await read("/openapi.json");
const $ = (id) => document.getElementById(id);

$("about").textContent = `${spec.info.title} ${spec.info.version}. ${spec.info.description}`;
addEventListener("hashchange", openTarget);
for (const [path, methods] of Object.entries(spec.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    $("operations").append(showOperation(method, path, operation));
  }
}
for (const [name, schema] of Object.entries(spec.components.schemas)) {
  $("schemas").append(folded([text("code", name)], [prose("p", schema.description), fields(schema)], name));
}
openTarget();

/** Unfold the schema that the address names. */
function openTarget() {
  const target = $(location.hash.slice(1));
  if (target) target.open = true;
  target?.scrollIntoView();
}

function showOperation(method, path, operation) {
  const examples = operation.requestBody?.content["application/json"].examples ?? {};
  const parts = [prose("p", operation.description)];
  if (operation.requestBody) {
    const schema = operation.requestBody.content["application/json"].schema;
    parts.push(text("h3", "Body"), line(typeName(schema)));
  }
  if (operation.parameters) {
    parts.push(text("h3", "Parameters"), table(operation.parameters.map(parameterRow)));
  }
  for (const { summary, value } of Object.values(examples)) {
    parts.push(text("h3", summary), text("pre", curl(path, value)));
  }
  if (method === "get") parts.push(text("pre", `curl ${location.origin}${path}`));
  parts.push(text("h3", "Answers"), table(Object.entries(operation.responses).map(responseRow)));
  const label = document.createElement("span");
  const about = operation.description?.split(/[.;:]\s/)[0];
  label.append(text("span", method.toUpperCase(), "method"), text("code", path));
  label.append(text("span", about ?? "", "about"));
  return folded([label], parts, "", path === "/generate");
}

function curl(path, value) {
  return (
    `curl ${location.origin}${path} \\\n  -H 'Content-Type: application/json' \\\n` +
    `  -d '${JSON.stringify(value)}'`
  );
}

function parameterRow({ name, description, schema }) {
  return [text("code", name), line(typeName(schema)), prose("span", description)];
}

function responseRow([status, { description, content }]) {
  const forms = Object.entries(content ?? {}).map(([form, { schema }]) => {
    const item = text("div", `${form}: `);
    item.append(line(typeName(schema ?? {})));
    return item;
  });
  const cell = document.createElement("div");
  cell.append(...forms);
  return [text("code", status), prose("span", description), cell];
}

function fields(schema) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([name, property]) => [
    text("code", required.has(name) ? name : `${name}?`),
    line(typeName(property)),
    prose("span", property.description),
  ]);
  return table(rows);
}

/** A schema in a few words: links for named ones, ranges for numbers. */
function typeName(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    const link = text("a", name);
    link.href = `#${name}`;
    return [link];
  }
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.flatMap((choice, i) => [...(i ? [" or "] : []), ...typeName(choice)]);
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  if (schema.type === "array") return ["list of ", ...typeName(schema.items ?? {})];
  const from = schema.minimum ?? schema.minLength;
  const to = schema.maximum ?? schema.maxLength;
  const range = from === undefined && to === undefined ? "" : ` (${from ?? ""} … ${to ?? ""})`;
  return [(schema.format ?? schema.type ?? "anything") + range];
}

function folded(summary, parts, id, open = false) {
  const details = document.createElement("details");
  Object.assign(details, { className: "operation", id, open });
  const head = document.createElement("summary");
  head.append(...summary);
  const body = document.createElement("div");
  body.append(...parts);
  details.append(head, body);
  return details;
}

function table(rows) {
  const element = document.createElement("table");
  for (const cells of rows) {
    const row = element.insertRow();
    for (const cell of cells) row.insertCell().append(cell);
  }
  return element;
}

function line(parts) {
  const element = document.createElement("span");
  element.append(...parts);
  return element;
}

/** A description; what stands between backticks, single or double, is code. */
function prose(tag, content = "") {
  const element = document.createElement(tag);
  const parts = content.split(/`+/);
  element.append(...parts.map((part, i) => (i % 2 ? text("code", part) : part)));
  return element;
}

function text(tag, content, className = "") {
  const element = document.createElement(tag);
  element.textContent = content;
  if (className) element.className = className;
  return element;
}
