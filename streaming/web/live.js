// Rill's native protocol in a browser. The messages: streaming/protocols/README.md.

const url = () => `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/stream`;

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
    socket.onclose = () => reject(new Error("no answer: the server is busy, or wants a token (#token=… in the address)"));
  });
}

/** Float samples in [-1, 1] as 16-bit little-endian PCM. */
export function pcm(samples) {
  const view = new DataView(new ArrayBuffer(samples.length * 2));
  samples.forEach((x, i) => view.setInt16(i * 2, Math.max(-32768, Math.min(32767, Math.round(x * 32768))), true));
  return view.buffer;
}

/** One session. `on` has the functions partial, final, error and close. */
export class Live {
  constructor(options, on) {
    this.socket = connect();
    this.ended = false;
    this.opened = new Promise((resolve) => {
      this.socket.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.type === "hello") this.socket.send(JSON.stringify({ type: "start", encoding: "s16le", ...options }));
        else if (message.type === "started") resolve(true);
        else if (message.type === "bye") this.bye = message;
        else on[message.type]?.(message);
      };
      this.socket.onclose = () => {
        resolve(false);
        if (!this.bye) on.error({ message: "the connection was lost" });
        else if (!["ended", "error"].includes(this.bye.code)) on.error({ message: this.bye.reason });
        on.close();
      };
    });
  }

  /** Send samples; resolves when the socket has taken most of what it was given before. */
  async send(samples) {
    while (this.open && this.socket.bufferedAmount > 262144) await new Promise((go) => setTimeout(go, 50));
    if (this.open) this.socket.send(pcm(samples));
  }

  get open() { return !this.ended && this.socket.readyState === WebSocket.OPEN; }

  end() {
    if (this.open) this.socket.send('{"type":"end"}');
    this.ended = true;
  }
}
