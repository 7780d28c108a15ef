// Rill's native protocol in a browser. The messages: streaming/protocols/README.md.

// Beside the page, whatever stands before its path: a proxy may serve it under a prefix.
function url() {
  const address = new URL("v1/stream", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return address;
}

// A page opened as .../#token=SECRET sends the token along. What stands after # never reaches a server's log.
const token = new URLSearchParams(location.hash.slice(1)).get("token");

function connect() {
  const socket = new WebSocket(url(), token ? ["rill.v1", `bearer.${token}`] : ["rill.v1"]);
  socket.binaryType = "arraybuffer";
  return socket;
}

/** The server's hello: the latencies it offers and its limits. */
export function hello() {
  return new Promise((resolve, reject) => {
    const socket = connect();
    socket.onmessage = ({ data }) => { resolve(JSON.parse(data)); socket.close(); };
    socket.onclose = () => reject(new Error("No answer: the server is busy, or wants a token (#token=… in the address)"));
  });
}

/** Float samples in [-1, 1] as 16-bit little-endian PCM. */
export function pcm(samples) {
  const view = new DataView(new ArrayBuffer(samples.length * 2));
  samples.forEach((x, i) => view.setInt16(i * 2, Math.max(-32768, Math.min(32767, Math.round(x * 32768))), true));
  return view.buffer;
}

/** One session. `on` has the functions partial, final, phrases_refused, error and close. */
export class Live {
  constructor(options, on) {
    this.socket = connect();
    this.rate = options.sample_rate;
    this.ended = false;
    this.early = [];  // packets from before `started`
    this.marks = [];  // [seconds of audio sent, when], as far back as a word may lie
    this.seconds = 0;
    this.opened = new Promise((resolve) => {
      this.socket.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.type === "hello") this.socket.send(JSON.stringify({ type: "start", encoding: "s16le", ...options }));
        else if (message.type === "started") {
          for (const packet of this.early) this.socket.send(packet);
          this.early = null;
          resolve(true);
        }
        else if (message.type === "bye") this.bye = message;
        else on[message.type]?.(message);
      };
      this.socket.onclose = () => {
        resolve(false);
        if (!this.bye) on.error({ message: "The connection was lost" });
        else if (!["ended", "error"].includes(this.bye.code)) on.error({ message: this.bye.reason });
        on.close();
      };
    });
  }

  /** Send samples. What is said before the session has opened waits for it. */
  send(samples) {
    if (this.ended || this.socket.readyState > WebSocket.OPEN) return;
    if (this.early) this.early.push(pcm(samples));
    else this.socket.send(pcm(samples));
    this.seconds += samples.length / this.rate;
    this.marks.push([this.seconds, performance.now()]);
    if (this.marks.length > 1000) this.marks.splice(0, 500);
  }

  /** Resolves when the socket has taken most of what it was given. */
  async room() {
    while (this.open && this.socket.bufferedAmount > 262144) await new Promise((go) => setTimeout(go, 50));
  }

  /** Milliseconds from when the sample at `seconds` was sent to now. */
  since(seconds) {
    const mark = this.marks.find(([end]) => end >= seconds);
    return mark && performance.now() - mark[1];
  }

  get open() { return !this.ended && this.socket.readyState === WebSocket.OPEN; }

  /** No more audio follows. What is still to come of words comes. */
  async end() {
    this.ended = true;
    if (await this.opened) this.socket.send('{"type":"end"}');
  }
}
