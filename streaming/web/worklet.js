// Runs in the audio thread: gathers the microphone's first channel into packets of about 40 ms.
class Packets extends AudioWorkletProcessor {
  constructor() {
    super();
    this.packet = new Float32Array(Math.round(sampleRate * 0.04));
    this.filled = 0;
  }

  process([channels]) {
    const input = channels[0];
    for (let i = 0; input && i < input.length; ) {
      const count = Math.min(input.length - i, this.packet.length - this.filled);
      this.packet.set(input.subarray(i, i + count), this.filled);
      this.filled += count;
      i += count;
      if (this.filled === this.packet.length) {
        this.port.postMessage(this.packet.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}
registerProcessor("packets", Packets);
