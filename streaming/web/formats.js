// The transcript as files. Captions are cut as `asr transcribe --format srt` cuts them (asr/transcript.py).

const LINE = 42, LINES = 2, SECONDS = 6, SHORTEST = 1000, PAUSE = 0.8;

function wrap(words) {
  const lines = [""];
  for (const { text } of words) {
    const last = lines[lines.length - 1];
    if (!last) lines[lines.length - 1] = text;
    else if (last.length + 1 + text.length <= LINE) lines[lines.length - 1] = `${last} ${text}`;
    else lines.push(text);
  }
  return lines;
}

/** Captions of at least a millisecond that do not overlap; times in milliseconds. */
function captions({ segments, offset: duration }) {
  const groups = [];
  for (const segment of segments)
    for (const word of segment.words.length ? segment.words : [segment]) {
      const group = groups[groups.length - 1], last = group?.[group.length - 1];
      const fits = group && word.start - last.end <= PAUSE && word.end - group[0].start <= SECONDS && wrap([...group, word]).length <= LINES;
      if (fits) group.push(word);
      else groups.push([word]);
    }
  let shown = 0;  // until when the caption before stands
  return groups.map((group, i) => {
    const [first, next] = [group, groups[i + 1]].map((x) => Math.round(1000 * (x ? x[0].start : duration)));
    const start = Math.max(shown, first), end = Math.max(...group.map((word) => Math.round(1000 * word.end)), start + SHORTEST);
    shown = Math.max(Math.min(end, next), start + 1);
    return { start, end: shown, text: wrap(group).join("\n") };
  });
}

function time(all, point) {
  const pad = (x, width = 2) => String(Math.floor(x)).padStart(width, "0");
  return `${pad(all / 3600000)}:${pad((all / 60000) % 60)}:${pad((all / 1000) % 60)}${point}${pad(all % 1000, 3)}`;
}

const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

export const formats = {
  txt: ({ segments }) => segments.map((x) => x.text).join("\n") + "\n",
  srt: (transcript) => captions(transcript)
    .map((x, i) => `${i + 1}\n${time(x.start, ",")} --> ${time(x.end, ",")}\n${x.text.replaceAll("-->", "->")}\n\n`).join(""),
  vtt: (transcript) => "WEBVTT\n" + captions(transcript)
    .map((x) => `\n${time(x.start, ".")} --> ${time(x.end, ".")}\n${escape(x.text)}\n`).join(""),
  json: ({ segments }) => JSON.stringify({ text: segments.map((x) => x.text).join(" "), segments }, null, 2) + "\n",
};

export function download(format, transcript) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([formats[format](transcript)], { type: "text/plain" }));
  link.download = `transcript.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
