import { download } from "./formats.js";
import { Live, hello } from "./live.js";
import { Level, decode, microphone } from "./sound.js";
import { Transcript } from "./transcript.js";

const $ = (id) => document.getElementById(id);
const transcript = new Transcript($("transcript"), $("tip"));
const level = new Level($("level"));
const outputs = [...document.querySelectorAll("[data-format]"), $("clear")];
const PACKET_SECONDS = 0.2;  // of a file
let offer = null;      // of the server: models, their heads and latencies
let running = null;    // { live, stop }
let delays = [];       // milliseconds from a word's end to its first showing, of the running session

function status(text, error = false) {
  $("status").textContent = text;
  $("status").title = "";
  $("status").classList.toggle("error", error);
}

// ---- sessions

function begin(sampleRate, spoken, stop) {
  delays = [];
  const phrases = $("phrases").value.split("\n").map((x) => x.trim()).filter(Boolean);
  const latency = Number($("latency").value), { model, head } = chosen();
  const live = new Live({ sample_rate: sampleRate, model, head, latency_ms: latency, phrases }, {
    partial(message) { transcript.show(message); facts(message, spoken && message.words.at(-1)); },
    final(message) {
      transcript.settle(message);
      for (const button of outputs) button.disabled = false;
      facts(message);
    },
    phrases_refused({ phrases }) {
      status(`The model cannot write: ${phrases.map((x) => x.phrase).join(", ")}`, true);
      $("status").title = phrases.map((x) => `${x.phrase}: ${x.reason}`).join("\n");
    },
    lost() { if (running) running.before ??= $("status").textContent; status("The connection was lost: looking for a server …"); },
    found() { if (running?.before) { status(running.before); running.before = undefined; } },
    error(message) { status(message.message, true); },
    close() { transcript.close(live.seconds); stopped(); },
  });
  running = { live, stop };
  live.latency = latency;
  status("Starting …");
  return live;
}

function facts(message, word) {
  const said = [`latency ${running.live.latency} ms`];
  if (word) delays = [...delays.slice(-19), running.live.since(word.end)].filter((x) => x !== undefined);
  if (delays.length) said.push(`shown after ${(delays.toSorted((a, b) => a - b)[delays.length >> 1] / 1000).toFixed(2)} s`);
  said.push(`lag ${message.lag_ms} ms`);
  $("facts").textContent = said.join(" · ");
}

function stopped() {
  running?.stop();
  running = null;
  $("record").setAttribute("aria-pressed", "false");
  $("record").textContent = "Speak";
  $("progress").hidden = true;
  level.clear();
  if (!$("status").classList.contains("error")) status("Ready");
}

async function record() {
  status("Starting …");
  let source;
  try {
    source = await microphone();
  } catch (error) {
    return status(`No microphone: ${error.message}`, true);
  }
  const live = begin(source.sampleRate, true, source.stop);
  $("record").setAttribute("aria-pressed", "true");
  $("record").textContent = "Stop";
  source.start((samples) => { level.show(samples); live.send(samples); });
  if (await live.opened) status("Listening …");
}

async function open(file) {
  if (!file || running || !offer) return;
  status(`Reading ${file.name} …`);
  let audio;
  try {
    audio = await decode(file);
  } catch (error) {
    return status(error.message, true);
  }
  const { samples, sampleRate } = audio, size = Math.round(sampleRate * PACKET_SECONDS);
  const live = begin(sampleRate, false, () => {});
  $("record").setAttribute("aria-pressed", "true");
  $("record").textContent = "Stop";
  if (!(await live.opened)) return;
  status(`Transcribing ${file.name} …`);
  $("progress").hidden = false;
  for (let at = 0; at < samples.length && live.open; at += size) {
    const packet = samples.subarray(at, at + size);
    live.send(packet);
    level.show(packet);
    $("progress").value = at / samples.length;
    await live.room();
  }
  $("progress").value = 1;
  live.end();
}

function toggle() {
  if (!offer) return;
  if (!running) { record(); return; }
  running.live.end();
  running.stop();
  status("Finishing …");
}

// ---- wiring

function settings(opened) {
  $("settings").hidden = !opened;
  $("settings-button").setAttribute("aria-expanded", opened);
}

/** A model is offered with each of its heads, the one that it prefers first. */
function offered(hello) {
  offer = hello.models.flatMap((model) => model.heads
    .toSorted((a, b) => (b === model.default_head) - (a === model.default_head)).map((head) => ({ ...model, head })));
  $("model").replaceChildren(...offer.map(({ model, head }, i) => new Option(`${model}, ${head}`, i)));
  latencies();
  status("Ready");
}

const chosen = () => offer[$("model").value];

function latencies() {
  const { latencies_ms, default_latency_ms } = chosen();
  $("latency").replaceChildren(...latencies_ms.map((ms) => new Option(`${ms} ms`, ms, false, ms === default_latency_ms)));
}

$("record").onclick = toggle;
$("settings-button").onclick = () => settings($("settings").hidden);
$("model").onchange = latencies;
$("settings").onsubmit = (event) => event.preventDefault();
$("file").onchange = ({ target }) => { open(target.files[0]); target.value = ""; };
$("file-label").onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); } };
document.onkeydown = (event) => {
  if (event.key === " " && !event.repeat && !event.target.closest("button, label, select, textarea, input")) { event.preventDefault(); toggle(); }
  if (event.key === "Escape") settings(false);
};
const redraw = () => level.draw();
new ResizeObserver(redraw).observe($("level"));
matchMedia("(prefers-color-scheme: dark)").onchange = redraw;
const main = $("transcript");
main.ondragover = (event) => { event.preventDefault(); main.classList.add("drop"); };
main.ondragleave = () => main.classList.remove("drop");
main.ondrop = (event) => { event.preventDefault(); main.classList.remove("drop"); open(event.dataTransfer.files[0]); };
for (const button of outputs.slice(0, -1)) button.onclick = () => download(button.dataset.format, transcript);
$("clear").onclick = () => {
  transcript.clear();
  if (!running) transcript.offset = 0;
  $("facts").textContent = "";
  for (const button of outputs) button.disabled = true;
};

async function greet() {
  try {
    offered(await hello());
  } catch (error) {
    status(error.message, true);
    setTimeout(greet, 3000);  // a busy server will not be for ever
  }
}
greet();
