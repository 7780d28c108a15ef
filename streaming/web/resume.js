// What is needed to go on after a broken connection, as streaming/resume.py does it: the audio that is not settled yet,
// and one line of time for the sessions that follow one another.

/** Float samples in [-1, 1] as 16-bit little-endian PCM. */
function pcm(samples) {
  const view = new DataView(new ArrayBuffer(samples.length * 2));
  samples.forEach((x, i) => view.setInt16(i * 2, Math.max(-32768, Math.min(32767, Math.round(x * 32768))), true));
  return view.buffer;
}

/** Audio as it is sent. Places count samples since the stream began. */
export class Tape {
  end = 0;
  position = 0;   // where reading goes on
  packets = [];   // [first sample, bytes], from the oldest that may be needed again

  append(samples) {
    this.packets.push([this.end, pcm(samples)]);
    this.end += samples.length;
  }

  /** The next bytes that have not been read. */
  read() {
    const [at, data] = this.packets.find(([at, data]) => at + data.byteLength / 2 > this.position);
    const rest = data.slice((this.position - at) * 2);
    this.position = at + data.byteLength / 2;
    return rest;
  }

  forget(position) {
    const before = ([at, data]) => at + data.byteLength / 2 <= position;
    while (this.packets.length && before(this.packets[0])) this.packets.shift();
  }
}

/** The text of some of a message's words, spaced as all of its `text` is. */
const joined = (words, text) => words.map((word) => word.text).join(text.includes(" ") ? " " : "");

const middle = (word) => (word.start + word.end) / 2;

/** What has been told, over one session after another. Messages in; the same out, on the stream's own time. */
export class Told {
  settled = 0;   // samples whose words have been told for good
  needed = 0;    // the sample from which another session is to be sent the audio
  start = 0;     // at which the running session began
  known = 0;     // seconds: words before have been told in an earlier session
  held = null;

  constructor(rate) {
    this.rate = rate;
  }

  /** A session begins. */
  begin() {
    this.start = this.needed;
    this.known = this.settled / this.rate;
    this.held = null;
  }

  /** A partial, or null where it says nothing new. */
  partial(message) {
    const begin = this.start / this.rate, at = (span) => ({ ...span, start: span.start + begin, end: span.end + begin });
    const every = message.words.map(at), words = every.filter((word) => middle(word) >= this.known);
    if (!words.length) return null;
    if (words.length === every.length) return { ...message, words };
    return { ...message, words, text: joined(words, message.text) };
  }

  /** A final, or null where it says nothing new, or its last words may be told again: then `close` has it. */
  final(message) {
    const final = this.partial(message);
    if (!final) this.silence(message);
    else if (final.words.some((word) => middle(word) > this.start / this.rate + message.settled / this.rate)) this.held = final;
    else return this.tell(final);
    return null;
  }

  /** The message `settled`, and what finals say of it. */
  silence({ settled, resume }) {
    if (this.start + settled <= this.settled) return;
    this.settled = this.start + settled;
    this.needed = this.start + resume;
  }

  /** The session is over. What was held back: all of it if the session was `complete`, else what is settled. */
  close(complete) {
    const held = this.held;
    this.held = null;
    if (!held) return null;
    const words = complete ? held.words : held.words.filter((word) => middle(word) <= (this.start + held.settled) / this.rate);
    return words.length ? this.tell({ ...held, words, text: complete ? held.text : joined(words, held.text) }) : null;
  }

  tell(final) {
    this.silence(final);
    return { ...final, start: final.words[0].start, end: final.words.at(-1).end };
  }
}
