// The studio: a form, a stream of images, and where each came from.

import { Problem, generate, read } from "./api.js";

const MAX_BATCHES = 30;
const $ = (id) => document.getElementById(id);
const randomSeed = () => Math.floor(Math.random() * 1e6);
let running = null;

start();

async function start() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    make(formRequest(), chosenName());
  });
  $("dice").addEventListener("click", rollSeed);
  $("again").addEventListener("click", () => {
    rollSeed();
    $("form").requestSubmit();
  });
  $("stop").addEventListener("click", () => running?.abort());
  await untilLoaded();
}

/** Fill the form; while the server is starting, say why and try again. */
async function untilLoaded() {
  for (;;) {
    try {
      const [classes, samplers] = await Promise.all([read("/classes"), read("/samplers")]);
      showClasses(classes.classes);
      showSamplers(samplers);
      showVersions(samplers.model, classes.bank);
      hideProblem();
      return;
    } catch (error) {
      showProblem(error);
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter ?? 2)));
    }
  }
}

function showClasses(classes) {
  const chips = document.createElement("div");
  chips.className = "chips";
  const any = { id: "", name: "any", rows: classes.reduce((sum, c) => sum + c.rows, 0) };
  for (const { id, name, rows } of [any, ...classes]) {
    const chip = document.createElement("label");
    chip.className = "chip";
    chip.title = `${name}: ${rows} rows`;
    const radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "class", value: id, checked: id === "" });
    radio.dataset.name = name;
    const text = document.createElement("span");
    text.textContent = name;
    chip.append(radio, text);
    chips.append(chip);
  }
  $("classes").querySelector(".chips")?.remove();
  $("classes").append(chips);
}

function showSamplers({ samplers, default_sampler, default_steps, max_steps }) {
  const options = samplers.map((name) => new Option(name, name, false, name === default_sampler));
  $("sampler").replaceChildren(...options);
  $("steps").max = max_steps;
  $("steps").value = default_steps;
}

function showVersions(model, bank) {
  for (const [id, version] of Object.entries({ model, bank })) {
    $(id).textContent = `${version.name}@${version.seq}`;
    $(id).title = version.digest;
  }
}

function rollSeed() {
  $("seed").value = randomSeed();
}

function chosenName() {
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
  return { num_steps: $("steps").valueAsNumber, sampler: $("sampler").value };
}

/** More images from the row of one: the same memory, other noise. */
function vary(image) {
  const { row } = image.snippets[0];
  const num_images = $("count").valueAsNumber;
  const memory = { rows: [row] };
  make({ memory, ...settings(), num_images, seed: randomSeed() }, `memory row ${row}`);
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
        fillCard(batch.cards[data.index], data);
        say(`${++done} of ${plural(request.num_images, "image")}…`);
      } else {
        finish(batch, data, performance.now() - started);
      }
    }
  } catch (error) {
    batch.dropUnfinished();
    if (error.name === "AbortError") say("Stopped.");
    else showProblem(error);
  } finally {
    if (running === mine) {
      running = null;
      setBusy(false);
    }
  }
}

function finish(batch, { bank, model, usage, timings_ms }, milliseconds) {
  showVersions(model, bank);
  const stages = ["queue", "bank", "denoise", "decode", "encode"];
  const shares = stages.map((stage) => `${stage} ${timings_ms[stage].toFixed(1)}`).join(", ");
  say(
    `${plural(batch.cards.length, "image")} in ${milliseconds.toFixed(0)} ms · ` +
      `server ${timings_ms.total.toFixed(0)} ms (${shares}) · ` +
      `${plural(usage.network_evaluations, "network evaluation")}`,
  );
}

function newBatch({ num_images, seed, sampler, num_steps }, name) {
  const section = $("batch").content.cloneNode(true).firstElementChild;
  section.querySelector("h2").textContent =
    `${name} · seed ${seed} · ${sampler}, ${plural(num_steps, "step")}`;
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

function fillCard(card, image) {
  const { row, source_id } = image.snippets[0];
  const bytes = Uint8Array.from(atob(image.b64_png), (c) => c.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  const name = image.class_name ?? "no class";
  const picture = new Image();
  picture.src = url;
  // A few pixels are recognised at a glance only when they are not blown up.
  picture.classList.toggle("tiny", image.width <= 16);
  picture.alt = `${name}, made from memory row ${row}`;
  card.querySelector(".frame").append(picture);
  card.querySelector(".class").textContent = name;
  card.querySelector(".row").textContent = `memory row ${row}`;
  card.querySelector(".source").textContent = `from image ${source_id}`;
  card.querySelector(".noise").textContent = `seed ${image.seed} #${image.index}`;
  card.querySelector(".vary").addEventListener("click", () => vary(image));
  card.querySelector(".curl").addEventListener("click", (event) => copyCurl(event.target, image));
  const save = card.querySelector(".save");
  save.href = url;
  save.download = `${name}-row${row}-seed${image.seed}-${image.index}.png`;
  card.classList.remove("pending");
}

async function copyCurl(button, image) {
  const command =
    `curl ${location.origin}/generate -H 'Content-Type: application/json' ` +
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
