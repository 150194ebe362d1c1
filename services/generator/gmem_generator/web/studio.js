// The studio: a form, a stream of images, and where each came from.

import { Problem, generate, hasKey, read, useKey } from "./api.js";

const MAX_BATCHES = 30;
const MANY_CLASSES = 24;
const HINTS = {
  snippet:
    "Each image is made from one row drawn from the memory bank. Its row and the image that row " +
    "was made from are named beneath it.",
  label: "This model takes the class itself and draws from no memory bank.",
  none: "This model takes neither a class nor a row of a memory bank: each image begins as noise alone.",
};
const $ = (id) => document.getElementById(id);
const randomSeed = () => Math.floor(Math.random() * 1e6);
let running = null;
let model = ""; // the one that requests name; none: the default

start();

async function start() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    make(formRequest(), chosenName());
  });
  $("key-form").addEventListener("submit", takeKey);
  $("dice").addEventListener("click", rollSeed);
  $("again").addEventListener("click", () => {
    rollSeed();
    $("form").requestSubmit();
  });
  $("stop").addEventListener("click", () => running?.abort());
  $("model").addEventListener("change", () => untilLoaded(() => loadModel($("model").value)));
  $("filter").addEventListener("input", filterClasses);
  $("guidance").addEventListener("input", showGuidance);
  await untilLoaded(async () => {
    const [models] = await Promise.all([read("/models"), loadModel("")]);
    showModels(models);
  });
  $("generate").disabled = $("again").disabled = false;
}

/** Fill the form; while the server is starting, or wants a key, say so and try again. */
async function untilLoaded(load) {
  for (;;) {
    try {
      await load();
      hideProblem();
      return;
    } catch (error) {
      showProblem(error);
      if (wantsKey(error)) await keyEntered();
      else await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter ?? 2)));
    }
  }
}

function wantsKey({ status }) {
  return status === 401 || status === 403;
}

/** Ask for an API key, and return when there is one. */
async function keyEntered() {
  $("key-form").hidden = false;
  $("key").focus();
  await new Promise((resolve) => $("key-form").addEventListener("submit", resolve, { once: true }));
}

function takeKey(event) {
  event.preventDefault();
  useKey($("key").value.trim());
  $("key-form").reset();
  $("key-form").hidden = true;
  hideProblem();
}

async function loadModel(name) {
  const query = name && `?model=${encodeURIComponent(name)}`;
  const [classes, samplers] = await Promise.all([read(`/classes${query}`), read(`/samplers${query}`)]);
  if ($("model").value !== name) return; // another one was chosen since
  model = name;
  showClasses(classes);
  showSamplers(samplers);
  showVersions(samplers.model, classes.bank);
}

function showModels({ models, default: reference }) {
  const chosen = reference.split("@")[0];
  const others = models.map(({ version }) => version.name).filter((name) => name !== chosen);
  const options = others.map((name) => new Option(name, name));
  $("model").replaceChildren(new Option(chosen, ""), ...options);
  $("models").hidden = others.length === 0;
}

function showClasses({ bank, classes }) {
  $("classes").hidden = classes.length === 0;
  $("filter").hidden = classes.length <= MANY_CLASSES;
  $("filter").value = "";
  $("hint").textContent = HINTS[bank ? "snippet" : classes.length ? "label" : "none"];
  const chips = [];
  const any = { id: "", name: "any", rows: bank && classes.reduce((sum, c) => sum + c.rows, 0) };
  for (const { id, name, rows } of [any, ...classes]) {
    const chip = document.createElement("label");
    chip.className = "chip";
    chip.title = bank ? `${name}: ${plural(rows, "row")}` : name;
    const radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "class", value: id, checked: id === "" });
    radio.dataset.name = name;
    const text = document.createElement("span");
    text.textContent = name;
    chip.append(radio, text);
    chips.push(chip);
  }
  $("chips").replaceChildren(...chips);
}

function filterClasses() {
  const wanted = $("filter").value.trim().toLowerCase();
  for (const chip of $("chips").children) {
    chip.hidden = !chip.textContent.toLowerCase().includes(wanted);
  }
}

function showSamplers({ samplers, default_sampler, default_steps, max_steps, default_guidance_scale }) {
  const options = samplers.map((name) => new Option(name, name, false, name === default_sampler));
  $("sampler").replaceChildren(...options);
  $("steps").max = max_steps;
  $("steps").value = default_steps;
  $("guided").hidden = default_guidance_scale === null;
  $("guidance").max = Math.max(10, Math.ceil(2 * default_guidance_scale));
  $("guidance").value = default_guidance_scale ?? 1;
  showGuidance();
}

function showGuidance() {
  const scale = $("guidance").valueAsNumber;
  $("guidance-shown").textContent = scale === 1 ? "off" : scale;
}

function showVersions(model, bank) {
  $("bank-used").hidden = bank === null;
  for (const [part, version] of Object.entries({ model, bank })) {
    if (version === null) continue;
    $(`${part}-version`).textContent = `${version.name}@${version.seq}`;
    $(`${part}-version`).title = version.digest;
  }
}

function rollSeed() {
  $("seed").value = randomSeed();
}

function chosenName() {
  if ($("classes").hidden) return "";
  return document.querySelector("input[name=class]:checked")?.dataset.name ?? "any";
}

function formRequest() {
  const chosen = document.querySelector("input[name=class]:checked")?.value ?? "";
  return {
    ...(chosen === "" ? {} : { class_label: Number(chosen) }),
    ...settings(),
    num_images: $("count").valueAsNumber,
    seed: $("seed").valueAsNumber,
  };
}

function settings() {
  const guidance = $("guided").hidden ? {} : { guidance_scale: $("guidance").valueAsNumber };
  const steps = { num_steps: $("steps").valueAsNumber, sampler: $("sampler").value };
  return { ...(model && { model }), ...steps, ...guidance };
}

/** More images from the row of one: the same memory and model, other noise. */
function vary(image, { class_label, ...request }) {
  const { row } = image.snippets[0];
  const num_images = $("count").valueAsNumber;
  const memory = { rows: [row] };
  make({ ...request, memory, num_images, seed: randomSeed() }, `memory row ${row}`);
}

async function make(request, name) {
  running?.abort();
  const mine = (running = new AbortController());
  const batch = newBatch(request, name);
  const started = performance.now();
  setBusy(true);
  hideProblem();
  say(`Making ${plural(request.num_images, "image")}…`);
  try {
    let done = 0;
    for await (const [event, data] of generate(request, mine.signal)) {
      if (event === "image") {
        fillCard(batch.cards[data.index], data, request);
        say(`${++done} of ${plural(request.num_images, "image")}…`);
      } else {
        finish(batch, data, performance.now() - started);
      }
    }
  } catch (error) {
    batch.dropUnfinished();
    if (error.name === "AbortError") say("Stopped.");
    else showProblem(error);
    if (wantsKey(error)) keyEntered();
  } finally {
    if (running === mine) {
      running = null;
      setBusy(false);
    }
  }
}

function finish(batch, { bank, model, usage, timings_ms }, milliseconds) {
  showVersions(model, bank);
  const stages = ["queue", ...(bank ? ["bank"] : []), "denoise", "decode", "encode"];
  const shares = stages.map((stage) => `${stage} ${timings_ms[stage].toFixed(1)}`).join(", ");
  say(
    `${plural(batch.cards.length, "image")} in ${milliseconds.toFixed(0)} ms · ` +
      `server ${timings_ms.total.toFixed(0)} ms (${shares}) · ` +
      `${plural(usage.network_evaluations, "network evaluation")}`,
  );
}

function newBatch({ model = "", num_images, seed, sampler, num_steps, guidance_scale = 1 }, name) {
  const section = $("batch").content.cloneNode(true).firstElementChild;
  const options = $("models").hidden && name ? [] : [...$("model").options];
  const maker = options.find((option) => option.value === model)?.text;
  const parts = [maker, name, `seed ${seed}`, `${sampler}, ${plural(num_steps, "step")}`];
  if (guidance_scale !== 1) parts.push(`guidance ${guidance_scale}`);
  section.querySelector("h2").textContent = parts.filter(Boolean).join(" · ");
  const cards = Array.from({ length: num_images }, () => {
    const card = $("card").content.cloneNode(true).firstElementChild;
    card.classList.add("pending");
    return card;
  });
  section.querySelector(".grid").append(...cards);
  $("batches").prepend(section);
  while ($("batches").children.length > MAX_BATCHES) discard($("batches").lastElementChild);
  const dropUnfinished = () => {
    cards.filter((card) => card.classList.contains("pending")).forEach((card) => card.remove());
    if (!section.querySelector(".card")) section.remove();
  };
  return { cards, dropUnfinished };
}

function discard(section) {
  for (const { src } of section.querySelectorAll("img")) URL.revokeObjectURL(src);
  section.remove();
}

function fillCard(card, image, request) {
  const bytes = Uint8Array.from(atob(image.b64_png), (c) => c.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  const name = image.class_name ?? "no class";
  const file = [name];
  const picture = new Image();
  picture.src = url;
  // A few pixels are recognised at a glance only when they are not blown up.
  picture.classList.toggle("tiny", image.width <= 16);
  picture.alt = name;
  card.querySelector(".frame").append(picture);
  card.querySelector(".class").textContent = name;
  for (const { row, source_id } of image.snippets) {
    picture.alt += `, made from memory row ${row}`;
    file.push(`row${row}`);
    card.querySelector(".row").textContent = `memory row ${row}`;
    card.querySelector(".source").textContent = `from image ${source_id}`;
  }
  card.querySelector(".noise").textContent = `seed ${image.seed} #${image.index}`;
  card.querySelector(".vary").hidden = image.snippets.length === 0;
  card.querySelector(".vary").addEventListener("click", () => vary(image, request));
  card.querySelector(".curl").addEventListener("click", (event) => copyCurl(event.target, image));
  const save = card.querySelector(".save");
  save.href = url;
  save.download = [...file, `seed${image.seed}`, `${image.index}.png`].join("-");
  card.classList.remove("pending");
}

async function copyCurl(button, image) {
  const command =
    `curl ${location.origin}/generate -H 'Content-Type: application/json' ` +
    (hasKey() ? `-H "Authorization: Bearer $GMEM_KEY" ` : "") +
    `-H 'Accept: image/png' -o image.png -d '${JSON.stringify({ replay: image.replay })}'`;
  try {
    await navigator.clipboard.writeText(command);
    say("Copied: a command that makes this very image.");
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "curl"), 1500);
  } catch {
    showProblem(new Error("The browser does not allow copying here; it needs https or localhost."));
  }
}

function setBusy(busy) {
  $("stop").hidden = !busy;
  $("again").hidden = busy;
  $("batches").setAttribute("aria-busy", busy);
}

function say(text) {
  $("status").textContent = text;
}

function showProblem(error) {
  const title = document.createElement("strong");
  title.textContent = error instanceof Problem ? error.title : "No answer";
  const detail = document.createElement("p");
  detail.textContent = error.message;
  $("problem").replaceChildren(title, detail);
  if (error.retryAfter) {
    const hint = document.createElement("p");
    hint.textContent = `Try again in ${Math.ceil(error.retryAfter)} s.`;
    $("problem").append(hint);
  }
  $("problem").hidden = false;
  say("");
}

function hideProblem() {
  $("problem").hidden = true;
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
