import { Live, hello } from "./live.js";

const $ = (id) => document.getElementById(id);
const transcript = $("transcript");
const downloads = [...document.querySelectorAll("[data-format]")];
let finals = [];      // of all sessions since the page was cleared
let offset = 0;       // seconds of audio in the sessions before the running one
let running = null;   // { live, stop }

function status(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

// ---- text

function paragraph() {
  let p = transcript.querySelector(".partial");
  if (!p) {
    $("hint")?.remove();
    p = document.createElement("p");
    p.className = "partial";
    transcript.append(p);
  }
  return p;
}

function show(message) {
  if (!message.text) return;
  const p = paragraph();
  const atEnd = transcript.scrollHeight - transcript.scrollTop - transcript.clientHeight < 60;
  const words = message.words.length ? message.words : [{ text: message.text }];
  p.replaceChildren(...words.flatMap((word) => {
    const span = document.createElement("span");
    span.className = word.confidence < 0.5 ? "word unsure" : "word";
    span.textContent = word.text;
    if (word.start !== undefined)
      span.title = `${(word.start + offset).toFixed(2)}–${(word.end + offset).toFixed(2)} s · ${Math.round(word.confidence * 100)} %`;
    return [span, " "];
  }));
  if (atEnd) transcript.scrollTop = transcript.scrollHeight;
}

function settle(message) {
  show(message);
  transcript.querySelector(".partial")?.classList.remove("partial");
  const shift = (word) => ({ ...word, start: word.start + offset, end: word.end + offset });
  finals.push({ text: message.text, words: message.words.map(shift), ...shift({ start: message.start, end: message.end }) });
  for (const button of [...downloads, $("clear")]) button.disabled = false;
}

function facts(message) {
  const latency = running?.live.latency;
  $("facts").textContent = `${latency ? `latency ${latency} ms · ` : ""}lag ${message.lag_ms} ms`;
}

// ---- sessions

function begin(sampleRate) {
  const latency = Number($("latency").value) || undefined;
  let end = 0;
  const live = new Live({ sample_rate: sampleRate, latency_ms: latency }, {
    partial(message) { show(message); facts(message); },
    final(message) { settle(message); facts(message); end = Math.max(end, message.end); },
    error(message) { status(message.message, true); },
    close() { offset += live.bye?.duration || end; stopped(); },
  });
  live.latency = latency;
  return live;
}

function stopped() {
  running?.stop();
  running = null;
  transcript.querySelector(".partial")?.classList.remove("partial");
  $("record").setAttribute("aria-pressed", "false");
  $("record").textContent = "Speak";
  $("progress").hidden = true;
  $("level").value = 0;
  if (!$("status").classList.contains("error")) status("Ready");
}

async function record() {
  let media, context;
  try {
    media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    context = new AudioContext();
    await context.audioWorklet.addModule("worklet.js");
  } catch (error) {
    media?.getTracks().forEach((track) => track.stop());
    const remedy = navigator.mediaDevices ? error.message : "the microphone needs https, or http on localhost";
    return status(`No microphone: ${remedy}`, true);
  }
  const live = begin(context.sampleRate);
  running = { live, stop() { media.getTracks().forEach((track) => track.stop()); context.close().catch(() => {}); } };
  $("record").setAttribute("aria-pressed", "true");
  $("record").textContent = "Stop";
  if (!(await live.opened)) return;
  const node = new AudioWorkletNode(context, "packets", { numberOfOutputs: 0 });
  node.port.onmessage = ({ data }) => { level(data); live.send(data); };
  context.createMediaStreamSource(media).connect(node);
  status("Listening …");
}

async function open(file) {
  if (!file || running) return;
  status(`Reading ${file.name} …`);
  let audio;
  try {
    // Decoding at 16 kHz spares the network; the server would resample any other rate itself.
    audio = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await file.arrayBuffer());
  } catch {
    return status(`${file.name}: this browser cannot decode it as audio`, true);
  }
  const live = begin(audio.sampleRate);
  running = { live, stop() {} };
  if (!(await live.opened)) return;
  status(`Transcribing ${file.name} …`);
  $("progress").hidden = false;
  const channels = Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i));
  const size = Math.round(audio.sampleRate / 5);
  for (let at = 0; at < audio.length && live.open; at += size) {
    const packet = channels[0].slice(at, at + size);
    for (const other of channels.slice(1)) other.subarray(at, at + size).forEach((x, i) => { packet[i] += x; });
    if (channels.length > 1) packet.forEach((x, i) => { packet[i] = x / channels.length; });
    await live.send(packet);
    level(packet);
    $("progress").value = at / audio.length;
  }
  $("progress").value = 1;
  live.end();
}

function level(samples) {
  const loudest = samples.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  // In decibels, -60 to 0: as loud as it sounds.
  $("level").value = Math.max(loudest ? 1 + Math.log10(loudest) / 3 : 0, $("level").value * 0.8);
}

// ---- downloads

const clock = (s) => new Date(Math.round(s * 1000)).toISOString().slice(11, 23).replace(".", ",");
const formats = {
  txt: () => finals.map((x) => x.text).join("\n") + "\n",
  srt: () => finals.map((x, i) => `${i + 1}\n${clock(x.start)} --> ${clock(x.end)}\n${x.text}\n`).join("\n"),
  json: () => JSON.stringify({ text: finals.map((x) => x.text).join(" "), segments: finals }, null, 2),
};

function download(format) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([formats[format]()], { type: "text/plain" }));
  link.download = `transcript.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- wiring

$("record").onclick = () => {
  if (!running) { status("Starting …"); record(); return; }
  running.live.end();
  running.stop();
  status("Finishing …");
};
$("file").onchange = ({ target }) => { open(target.files[0]); target.value = ""; };
$("file-label").onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); } };
transcript.ondragover = (event) => { event.preventDefault(); transcript.classList.add("drop"); };
transcript.ondragleave = () => transcript.classList.remove("drop");
transcript.ondrop = (event) => { event.preventDefault(); transcript.classList.remove("drop"); open(event.dataTransfer.files[0]); };
for (const button of downloads) button.onclick = () => download(button.dataset.format);
$("clear").onclick = () => {
  finals = [];
  if (!running) offset = 0;
  transcript.replaceChildren();
  for (const button of [...downloads, $("clear")]) button.disabled = true;
};

hello().then((offer) => {
  $("latency").replaceChildren(...offer.latencies_ms.map((ms) => new Option(`${ms} ms`, ms, false, ms === offer.default_latency_ms)));
  status("Ready");
}).catch((error) => status(error.message, true));
