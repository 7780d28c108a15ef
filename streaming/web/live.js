// Rill's native protocol in a browser. The messages: streaming/protocols/README.md.

import { Tape, Told } from "./resume.js";

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

const PATIENCE = 30_000;  // milliseconds without a server, after which a stream is given up
const AGAIN = ["shutdown", "session_length"];  // of a server's last words, those after which another session can go on

/** One stream, over one connection after another where servers go. `on` has the functions partial, final,
 * phrases_refused, lost (a server is looked for), found, error and close. */
export class Live {
  constructor(options, on) {
    this.options = { type: "start", encoding: "s16le", ...options };
    this.on = on;
    this.rate = options.sample_rate;
    this.tape = new Tape();
    this.told = new Told(this.rate);
    this.ended = this.closed = false;
    this.started = false;  // the running session takes audio
    this.marks = [];       // [seconds of audio sent, when], as far back as a word may lie
    this.opened = new Promise((resolve) => { this.resolve = resolve; });
    this.heard = -Infinity;  // when a server last said something
    this.pause = 100;
    this.connect();
  }

  get seconds() { return this.tape.end / this.rate; }

  connect() {
    const before = this.told.settled;
    this.bye = this.failed = null;
    this.socket = connect();
    this.socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      this.heard = performance.now();
      this.pause = 100;
      this.hear(message);
      this.tape.forget(this.told.needed);
    };
    this.socket.onclose = () => {
      this.started = false;
      const complete = this.bye?.code === "ended";
      this.say("final", this.told.close(complete));
      const stuck = this.bye?.code === "session_length" && this.told.settled === before;
      const over = complete || this.failed || stuck || (this.bye && !AGAIN.includes(this.bye.code));
      if (!over && performance.now() - this.heard < PATIENCE) {
        this.on.lost();
        setTimeout(() => this.connect(), this.pause * (0.5 + Math.random() / 2));  // not all pages at the same time
        this.pause = Math.min(2 * this.pause, 2000);
        return;
      }
      this.closed = true;
      this.resolve(false);
      if (!complete && !this.failed) this.on.error({ message: this.bye?.reason ?? "The connection was lost" });
      this.on.close();
    };
  }

  hear(message) {
    const { told } = this;
    switch (message.type) {
      case "hello":
        this.socket.send(JSON.stringify(this.options));
        break;
      case "started":
        told.begin();
        this.tape.position = told.start;
        this.started = true;
        this.resolve(true);
        this.on.found();
        this.pump();
        break;
      case "partial":
        this.say("partial", told.partial(message));
        break;
      case "final":
        this.say("final", told.final(message));
        this.say("partial", told.held);
        break;
      case "settled":
        told.silence(message);
        break;
      case "bye":
        this.bye = message;
        break;
      case "error":
        this.failed = message;
        this.on.error(message);
        break;
      default:
        this.on[message.type]?.(message);
    }
  }

  say(name, message) {
    if (message) this.on[name](message);
  }

  /** Send samples. What no server takes now waits for one that does. */
  send(samples) {
    if (this.ended || this.closed) return;
    this.tape.append(samples);
    this.marks.push([this.seconds, performance.now()]);
    if (this.marks.length > 1000) this.marks.splice(0, 500);
    this.pump();
  }

  pump() {
    if (!this.started || this.socket.readyState !== WebSocket.OPEN) return;
    while (this.tape.position < this.tape.end) this.socket.send(this.tape.read());
    if (!this.ended) return;
    this.started = false;
    this.socket.send('{"type":"end"}');
  }

  /** Resolves when a server has taken most of what it was given. */
  async room() {
    while (this.open && (!this.started || this.socket.bufferedAmount > 262144)) await new Promise((go) => setTimeout(go, 50));
  }

  /** Milliseconds from when the sample at `seconds` was sent to now. */
  since(seconds) {
    const mark = this.marks.find(([end]) => end >= seconds);
    return mark && performance.now() - mark[1];
  }

  get open() { return !this.ended && !this.closed; }

  /** No more audio follows. What is still to come of words comes. */
  end() {
    this.ended = true;
    this.pump();
  }
}
