// The HTTP API as the pages use it.

/** An answer that is a problem (RFC 9457), as an error. */
export class Problem extends Error {
  constructor(problem) {
    super(problem.detail);
    this.title = problem.title;
    this.status = problem.status;
    this.retryAfter = problem.retry_after_seconds;
  }
}

const KEY = "gmem.key"; // of this tab alone, until it is closed

/** Send an API key from now on. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Whether requests carry an API key. */
export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

function withKey(headers) {
  return hasKey() ? { ...headers, Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : headers;
}

export async function read(path) {
  const answer = await fetch(path, { headers: withKey({ Accept: "application/json" }) });
  return checked(answer).then((ok) => ok.json());
}

/** Yields `[event, data]` of a generation: `image` as each finishes, then `completed`. */
export async function* generate(request, signal) {
  const answer = await fetch("/generate", {
    method: "POST",
    headers: withKey({ "Content-Type": "application/json", Accept: "text/event-stream" }),
    body: JSON.stringify(request),
    signal,
  });
  const { body } = await checked(answer);
  for await (const [event, data] of events(body)) {
    if (event === "error") throw new Problem(data);
    yield [event, data];
    if (event === "completed") return;
  }
  throw new Error("The connection ended before the answer was complete.");
}

async function checked(answer) {
  if (answer.ok) return answer;
  const isProblem = answer.headers.get("Content-Type")?.startsWith("application/problem+json");
  throw isProblem ? new Problem(await answer.json()) : new Error(`HTTP status ${answer.status}`);
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map(field));
      if (fields.event) yield [fields.event, JSON.parse(fields.data)];
    }
  }
}

function field(line) {
  const colon = line.indexOf(":");
  return [line.slice(0, colon), line.slice(colon + 1).trimStart()];
}
