// The words on the page: those that may still change, those that are settled, and what is known of each.

const clock = (seconds) => {
  const whole = Math.floor(seconds), two = (x) => String(x).padStart(2, "0");
  return whole < 3600 ? `${Math.floor(whole / 60)}:${two(whole % 60)}`
    : `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
};

export class Transcript {
  constructor(root, tip) {
    this.root = root;
    this.tip = tip;
    this.settled = root.querySelector("#settled");
    this.running = root.querySelector("#running");
    this.hint = root.querySelector("#hint");
    this.segments = [];  // { text, start, end, words }, times from the page's first sample on
    this.offset = 0;     // seconds of audio in the sessions before the running one
    root.addEventListener("pointerover", ({ target }) => this.point(target.closest(".word")));
    root.addEventListener("pointerdown", ({ target }) => this.point(target.closest(".word")));
    root.addEventListener("pointerleave", () => this.point(null));
    root.addEventListener("scroll", () => this.point(null));
    root.addEventListener("blur", () => this.point(null));
    root.addEventListener("keydown", (event) => this.key(event));
  }

  /** The running segment so far. Words that stay are left alone, so that nothing flickers. */
  show(message) {
    if (!message.text) return;
    this.hint.hidden = true;
    const atEnd = this.root.scrollHeight - this.root.scrollTop - this.root.clientHeight < 80;
    const words = (message.words.length ? message.words : [{ text: message.text }]).map((word) => this.shift(word));
    const line = this.line(words[0].start);
    words.forEach((word, i) => {
      const old = line.children[i], span = old ?? document.createElement("span");
      if (span.textContent !== word.text) span.textContent = word.text;
      span.className = `word${word.confidence < 0.5 ? " unsure" : ""}${word.phrase ? " phrase" : ""}`;
      span.facts = word;
      if (!old) line.append(span, " ");
    });
    line.classList.toggle("capitals", message.text === message.text.toUpperCase());  // of a model that has one case: set calmly
    while (line.children.length > words.length) line.lastElementChild.remove();
    if (atEnd) this.root.scrollTop = this.root.scrollHeight;
  }

  /** The running segment, for good. */
  settle(message) {
    if (!message.text) return;
    this.show(message);
    this.settled.append(...this.running.children);
    const { text, words, start, end } = message;
    this.segments.push({ text, ...this.shift({ start, end }), words: words.map((word) => this.shift(word)) });
  }

  /** A session is over; the next one's times go on after its `seconds`. */
  close(seconds) {
    this.settled.append(...this.running.children);  // of a connection that was lost
    this.offset += seconds;
  }

  clear() {
    this.segments = [];
    this.settled.replaceChildren();
    this.hint.hidden = false;
    this.point(null);
  }

  shift(span) {
    return span.start === undefined ? span : { ...span, start: span.start + this.offset, end: span.end + this.offset };
  }

  line(start) {
    let line = this.running.querySelector("p");
    if (!line) {
      const segment = document.createElement("div"), time = document.createElement("time");
      segment.className = "segment";
      if (start !== undefined) time.textContent = clock(start);
      segment.append(time, line = document.createElement("p"));
      this.running.append(segment);
    }
    return line;
  }

  // ---- what is known of a word

  point(word) {
    this.root.querySelector(".word.here")?.classList.remove("here");
    this.here = word;
    const facts = word?.facts;
    this.tip.hidden = facts?.start === undefined;
    if (this.tip.hidden) return;
    word.classList.add("here");
    const phrase = facts.phrase ? ` · ${facts.phrase}` : "";
    this.tip.textContent = `${facts.start.toFixed(2)} – ${facts.end.toFixed(2)} s · ${Math.round(facts.confidence * 100)} %${phrase}`;
    const box = word.getClientRects()[0], half = this.tip.offsetWidth / 2 + 6;
    this.tip.style.left = `${Math.min(Math.max(box.left + box.width / 2, half), innerWidth - half)}px`;
    this.tip.style.top = `${box.top}px`;
  }

  key(event) {
    const words = [...this.root.querySelectorAll(".word")], at = words.indexOf(this.here);
    const to = { ArrowLeft: at < 0 ? words.length - 1 : at - 1, ArrowRight: at + 1, Home: 0, End: words.length - 1 }[event.key];
    if (event.key === "Escape") this.point(null);
    if (to === undefined || !words[to]) return;
    event.preventDefault();
    words[to].scrollIntoView({ block: "nearest" });
    this.point(words[to]);
  }
}
