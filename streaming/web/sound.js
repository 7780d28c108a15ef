// Where samples come from: a microphone, or a file; and how loud they are.

/** Packets of a microphone's samples go to `take` from `start` on. Throws an Error that tells a user what to do. */
export async function microphone() {
  if (!navigator.mediaDevices) throw new Error("The microphone needs https, or http on localhost");
  // A browser's gain may raise speech fourfold, to where it clips; its noise suppression takes weak sounds away.
  const plain = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const media = await navigator.mediaDevices.getUserMedia({ audio: plain });
  const context = new AudioContext();
  const stop = () => { media.getTracks().forEach((track) => track.stop()); context.close().catch(() => {}); };
  try {
    await context.audioWorklet.addModule("worklet.js");
  } catch (error) {
    stop();
    throw error;
  }
  const start = (take) => {
    const node = new AudioWorkletNode(context, "packets", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => take(data);
    context.createMediaStreamSource(media).connect(node);
  };
  return { sampleRate: context.sampleRate, start, stop };
}

/** A recording's samples, mixed to one channel, at 16 kHz: that spares the network. Throws an Error. */
export async function decode(file) {
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name}: this browser cannot decode it as audio`);
  }
  const samples = audio.getChannelData(0), count = audio.numberOfChannels;
  for (let channel = 1; channel < count; channel++) audio.getChannelData(channel).forEach((x, i) => { samples[i] += x; });
  if (count > 1) samples.forEach((x, i) => { samples[i] = x / count; });
  return { samples, sampleRate: audio.sampleRate };
}

/** A strip of the last packets' loudness, the newest at the right. */
export class Level {
  constructor(canvas) {
    this.canvas = canvas;
    this.bars = [];
    this.draw();
  }

  show(samples) {
    const loudest = samples.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    // In decibels, -60 to 0: as loud as it sounds.
    this.add(loudest ? Math.max(0, 1 + Math.log10(loudest) / 3) : 0);
  }

  clear() {
    this.bars = [];
    this.add(0);
  }

  add(value) {
    this.bars.push(value);
    this.canvas.setAttribute("aria-valuenow", value.toFixed(2));
    this.waiting ??= requestAnimationFrame(() => { this.waiting = undefined; this.draw(); });
  }

  draw() {
    const { canvas } = this, scale = devicePixelRatio, context = canvas.getContext("2d");
    const width = canvas.width = Math.round(canvas.clientWidth * scale), height = canvas.height = Math.round(canvas.clientHeight * scale);
    const step = 4 * scale, count = Math.floor(width / step);
    this.bars = this.bars.slice(-count);
    context.fillStyle = getComputedStyle(canvas).color;
    for (let i = 0; i < count; i++) {
      const value = this.bars[this.bars.length - count + i] ?? 0, bar = Math.max(2 * scale, value * height);
      context.globalAlpha = value ? 0.9 : 0.25;
      context.fillRect(i * step, (height - bar) / 2, 2 * scale, bar);
    }
  }
}
