// Live text in the demo: the sound of the microphone goes to /v1/stream as 16-bit PCM, and its results into the page.
// Gradio runs this with `element`, which contains the HTML of live.py.

const PIECE_SECONDS = 0.1;
const SOUND = { echoCancellation: false, noiseSuppression: false }; // made for calls, they spoil beginnings of words
const WORKLET = `registerProcessor("microphone", class extends AudioWorkletProcessor {
  process([[channel]]) {
    if (channel) this.port.postMessage(channel.slice());
    return true;
  }
});`;

let stop = null; // ends the stream, while there is one

const part = (name) => element.querySelector(".asr-live" + name);
const texts = () => part("").dataset;
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

element.addEventListener("click", (event) => {
  if (event.target.closest(".asr-live-button")) (stop ?? start)();
});

function show(state, status) {
  texts().state = state;
  part("-button").disabled = ["starting", "finishing"].includes(state);
  part("-status").textContent = status;
  if (state !== "listening") part("-level").style.width = 0;
}

async function start() {
  show("starting", texts().starting);
  part("-text").replaceChildren();
  let microphone, context;
  const release = () => {
    microphone?.getTracks().forEach((track) => track.stop());
    if (context?.state !== "closed") context?.close();
    stop = null;
  };
  try {
    if (!navigator.mediaDevices) throw new Error(texts().insecure);
    microphone = await navigator.mediaDevices.getUserMedia({ audio: SOUND }).catch((error) => {
      throw new Error(`${texts().denied} (${error.message})`);
    });
    context = new AudioContext();
    await context.resume();
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([WORKLET], { type: "text/javascript" })));
    connect(microphone, context, release);
  } catch (error) {
    release();
    show("idle", error.message);
  }
}

function connect(microphone, context, release) {
  const url = new URL(`v1/stream?sampling_rate=${context.sampleRate}`, location.href);
  const socket = new WebSocket(url.href.replace(/^http/, "ws"));
  const lines = new Map();
  let failure = texts().lost;
  socket.onopen = () => {
    const finish = listen(microphone, context, (piece) => socket.send(piece));
    stop = () => {
      release();
      finish();
      socket.send(JSON.stringify({ type: "end" }));
      show("finishing", texts().finishing);
    };
    microphone.getTracks()[0].onended = stop; // it was unplugged
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "done") failure = "";
    else if (message.type === "error") failure = message.message;
    else showResult(message, lines);
  };
  socket.onclose = (event) => {
    release();
    show("idle", event.code === 1013 ? texts().busy : failure); // 1013: try again later
  };
}

// Send the sound of a microphone in pieces; return a function that sends the rest.
function listen(microphone, context, send) {
  const piece = new Int16Array(Math.round(PIECE_SECONDS * context.sampleRate));
  let filled = 0, seconds = 0;
  const flush = () => {
    if (texts().state === "idle") return; // the connection is lost, and these are the last sounds before it
    const samples = piece.slice(0, filled);
    send(samples);
    filled = 0;
    seconds += samples.length / context.sampleRate;
    const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 1);
    show("listening", `${texts().listening} ${clock(seconds)}`);
    part("-level").style.width = `${Math.max(0, 100 + (100 / 60) * 20 * Math.log10(peak / 32768))}%`; // from -60 dB
  };
  const node = new AudioWorkletNode(context, "microphone", { channelCount: 1, channelCountMode: "explicit" });
  node.port.onmessage = ({ data }) => {
    for (const sample of data) {
      piece[filled++] = 32767 * Math.max(-1, Math.min(1, sample)); // NaN becomes 0
      if (filled === piece.length) flush();
    }
  };
  context.createMediaStreamSource(microphone).connect(node).connect(context.destination); // the node itself is silent
  return () => {
    node.port.onmessage = null;
    flush();
  };
}

// Show a partial or final result in the line of its utterance.
function showResult({ type, utterance, text, words }, lines) {
  const box = part("-text"), isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  const line = lines.get(utterance) ?? box.appendChild(document.createElement("div"));
  lines.set(utterance, line);
  line.className = `asr-line asr-${type}`;
  const time = document.createElement("time"), said = document.createElement("div");
  time.textContent = clock(words[0]?.start ?? 0);
  let from = 0;
  for (const word of words) {
    const at = Math.max(from, text.indexOf(word.word, from));
    said.append(text.slice(from, at), chip(word));
    from = at + word.word.length;
  }
  line.replaceChildren(time, said);
  if (isAtEnd) box.scrollTop = box.scrollHeight;
}

function chip({ word, start, end, confidence }) {
  const chip = document.createElement("span");
  const level = texts().levels.split(" ").findIndex((lowest) => Math.round(100 * confidence) >= Math.round(100 * lowest));
  chip.className = `asr-word asr-${level}`;
  chip.title = `${start.toFixed(2)}-${end.toFixed(2)} s, ${Math.round(100 * confidence)} %`;
  chip.textContent = word;
  return chip;
}
