"use strict";
const $ = id => document.getElementById(id);
const RATE = 16000, WINDOW = 4, HOP = 2;
const COLOURS = ["#2f6db3", "#e07b39", "#3a9d5d", "#c8443f", "#8663b5", "#8b6452", "#d673b3", "#7f8792", "#b5a929", "#2ea7b3"];
// What most people would paint an emotion with; other labels take their turn.
const OF_EMOTION = { ang: "#cf3f3a", dis: "#5f9a3c", fea: "#8663b5", hap: "#e5a50a", joy: "#e5a50a", neu: "#8791a0", cal: "#5fb0b7", sad: "#3573c0", sur: "#e27bb1",
  ent: "#3a9d5d", con: "#cf3f3a" };
const SHOWN = 6; // labels, before "show all"
const PEOPLE = 10;
const SAMPLES = { clips: ["clear", "contested"], texts: ["Oh no, not again.", "I can't believe you did this for me!", "Well, that went great."] };
const READ_BY_SERVER = /\.(wav|flac|ogg|opus|mp3|aiff?|au)$/i;
let served, task, clip = null, answer = null, recorder = null, asking = false, busy = false, everything = false;

const percent = p => (p > 0 && p < .005 ? "under 1" : Math.round(100 * p)) + " %";
const inOrder = shares => task.ordered ? Object.entries(shares) : sorted(shares); // the points of a scale, else the likeliest first
const sorted = probs => Object.entries(probs).sort((a, b) => b[1] - a[1]);
const colour = label => OF_EMOTION[label.slice(0, 3).toLowerCase()] || COLOURS[task.labels.indexOf(label) % COLOURS.length];
const minutes = s => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

function svg(parent, name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function say(message) { $("status").textContent = message; }
function complain(message) { $("error").textContent = message; say(""); }

async function call(path, body) {
  let reply;
  try { reply = await fetch(path, { method: body ? "POST" : "GET", body }); }
  catch { throw new Error("The server does not answer."); }
  const result = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(typeof result.detail === "string" ? result.detail : "This cannot be judged.");
  return result;
}

// ---- what is judged

function choose(chosen) {
  if (busy) return; // what is shown must be of the task that was asked
  if (recorder) recorder.stop();
  task = chosen;
  for (const tab of $("tabs").children) tab.setAttribute("aria-selected", tab.textContent === tabName(task));
  $("sound-input").hidden = !task.modality.includes("audio");
  $("predict").hidden = task.modality === "audio"; // which is judged as soon as it is there
  $("text-input").hidden = !task.text_fields.length;
  $("text-input").replaceChildren(...task.text_fields.map(field => {
    const label = document.createElement("label"), area = document.createElement("textarea");
    area.name = field; area.rows = 3; area.maxLength = served.limits.characters;
    label.append(field[0].toUpperCase() + field.slice(1), area);
    return label;
  }));
  showSamples();
  $("model").textContent = `Model: ${task.model}`;
  $("card").hidden = !task.card;
  $("card").href = `cards/${task.name}`;
  $("result").hidden = true;
  complain("");
}
const tabName = one => (one.modality === "text" ? "Text" : one.modality === "audio" ? "Sound" : "Sound and text");

// Something to begin with, of what the task takes.
function showSamples() {
  const clips = task.modality === "audio" ? SAMPLES.clips : [], texts = task.modality === "text" && task.text_fields.length === 1 ? SAMPLES.texts : [];
  $("samples").hidden = !clips.length && !texts.length;
  $("samples").replaceChildren("Try ", ...[...clips, ...texts].map(one => {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = clips.length ? `a ${one} clip` : one;
    button.addEventListener("click", async () => {
      if (busy) return;
      if (!clips.length) { $("text-input").querySelector("textarea").value = one; return predict(); }
      try { take(await (await fetch(`examples/${one}.ogg`)).blob(), `${one}.ogg`); predict(); }
      catch { complain("The server does not answer."); }
    });
    return button;
  }));
}

function take(blob, name) {
  clip = { blob, name };
  $("chosen").textContent = name;
  if ($("player").src) URL.revokeObjectURL($("player").src);
  $("player").src = URL.createObjectURL(blob);
  $("player").hidden = false;
  complain("");
}

// What the server cannot read, such as a recording, this browser turns into a wav file.
async function toWav(blob) {
  const context = new AudioContext();
  let heard;
  try { heard = await context.decodeAudioData(await blob.arrayBuffer()); }
  catch { throw new Error("This browser cannot read that as sound."); }
  finally { context.close(); }
  const offline = new OfflineAudioContext(1, Math.max(1, Math.ceil(heard.duration * RATE)), RATE);
  const source = offline.createBufferSource();
  source.buffer = heard; source.connect(offline.destination); source.start();
  const samples = (await offline.startRendering()).getChannelData(0);
  const bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (at, text) => [...text].forEach((c, i) => bytes.setUint8(at + i, c.charCodeAt(0)));
  word(0, "RIFF"); bytes.setUint32(4, 36 + 2 * samples.length, true); word(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true); bytes.setUint16(20, 1, true); bytes.setUint16(22, 1, true);
  bytes.setUint32(24, RATE, true); bytes.setUint32(28, 2 * RATE, true); bytes.setUint16(32, 2, true); bytes.setUint16(34, 16, true);
  word(36, "data"); bytes.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, i) => bytes.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, x)) * 32767, true));
  return new Blob([bytes], { type: "audio/wav" });
}

async function record() {
  if (asking || (busy && !recorder)) return;
  if (recorder) { recorder.stop(); return; }
  complain("");
  if (!navigator.mediaDevices) return complain("Browsers record only over https or on this machine. Choose a sound file instead.");
  let stream;
  asking = true;
  try { stream = await navigator.mediaDevices.getUserMedia({ audio: true }); }
  catch (error) {
    complain(error.name === "NotAllowedError" ? "Recording was not allowed. Choose a sound file instead."
      : "No microphone was found. Choose a sound file instead.");
    return;
  } finally { asking = false; }
  const parts = [], began = Date.now(), of = task;
  recorder = new MediaRecorder(stream);
  const clock = setInterval(() => {
    const seconds = (Date.now() - began) / 1000;
    $("record").textContent = `■ Stop (${minutes(seconds)})`;
    if (seconds >= served.limits.seconds - 2 && recorder.state === "recording") recorder.stop(); // it ends a little later
  }, 200);
  recorder.ondataavailable = event => parts.push(event.data);
  recorder.onstop = async () => {
    clearInterval(clock);
    stream.getTracks().forEach(track => track.stop());
    $("record").textContent = "● Record"; $("record").classList.remove("on");
    const blob = new Blob(parts, { type: recorder.mimeType });
    recorder = null;
    if (busy || task !== of) return; // of another tab, or another answer is on its way
    try { take(await toWav(blob), "recording.wav"); predict(); } catch (error) { complain(error.message); }
  };
  recorder.start();
  $("record").classList.add("on"); $("record").textContent = "■ Stop (0:00)";
}

// ---- what is shown

// Ten people, of whom as many say a label as its share of ten, by largest remainder.
function people(probs) {
  const shares = sorted(probs).map(([label, p]) => ({ label, n: Math.floor(PEOPLE * p + 1e-9), rest: (PEOPLE * p) % 1 }));
  let left = PEOPLE - shares.reduce((sum, one) => sum + one.n, 0);
  for (const one of [...shares].sort((a, b) => b.rest - a.rest)) if (left-- > 0) one.n++;
  return shares.filter(one => one.n).sort((a, b) => b.n - a.n);
}

function showPeople() {
  const counted = people(answer.probs), [first, second] = counted, places = label => task.labels.indexOf(label);
  if (task.ordered) counted.sort((a, b) => places(a.label) - places(b.label));
  $("headline").textContent = answer.speech === false ? "No speech was found in it, so the answer says nothing"
    : second ? `${first.n} of ${PEOPLE} would say ${first.label}, ${second.n} ${second.label}` : `All ${PEOPLE} would say ${first.label}`;
  $("people").replaceChildren(...counted.flatMap(one => Array.from({ length: one.n }, () => {
    const dot = document.createElement("i");
    dot.style.background = colour(one.label); dot.title = one.label;
    return dot;
  })));
  $("people").setAttribute("aria-label", counted.map(one => `${one.n} ${one.label}`).join(", "));
}

// Where one may choose several labels, each has a share of its own.
function showRates() {
  const [[first, p], [second, q]] = sorted(answer.rates), of = share => `${Math.round(PEOPLE * share)} of ${PEOPLE}`;
  $("headline").textContent = `${of(p)} would choose ${first}, ${of(q)} ${second}; one may choose several`;
  $("nearest-part").hidden = true;
  $("trust").textContent = task.trust
    ? `Over its yes-or-no questions, the model was ${task.trust.model.toFixed(2)} away from the people asked (Jensen-Shannon distance, 0 to 1).`
    : "How near this model comes to people was not measured.";
}

function showBars() {
  const rows = inOrder(answer.rates || answer.probs), body = $("bars").tBodies[0], few = rows.length <= SHOWN || task.ordered;
  body.replaceChildren();
  for (const [label, p] of everything || few ? rows : rows.slice(0, SHOWN)) {
    const row = body.insertRow(), bar = document.createElement("div"), head = document.createElement("th");
    head.scope = "row"; head.textContent = label;
    row.append(head);
    row.insertCell().textContent = percent(p);
    bar.className = "bar"; bar.style.width = 100 * p + "%"; bar.style.background = colour(label);
    row.insertCell().append(bar);
  }
  $("all").hidden = few;
  $("all").textContent = everything ? `Show the first ${SHOWN}` : `Show all ${rows.length}`;
}

// A picture is as wide as it is shown, so that its words keep their size.
function clear(picture, height) {
  const width = picture.clientWidth || 600;
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("height", height);
  picture.replaceChildren();
  return width;
}

function showContested() {
  const gauge = $("gauge"), width = clear(gauge, 64), group = task.people;
  const at = bits => 10 + (width - 20) * Math.min(1, bits / task.highest_entropy);
  svg(gauge, "rect", { x: 10, y: 24, width: width - 20, height: 12, rx: 6, fill: "var(--line)" });
  if (group) {
    svg(gauge, "rect", { x: at(group.low), y: 24, width: at(group.high) - at(group.low), height: 12, fill: "var(--dim)", opacity: .45 });
    svg(gauge, "text", { x: (at(group.low) + at(group.high)) / 2, y: 14, "text-anchor": "middle" }, "where 9 of 10 items lie");
  }
  svg(gauge, "circle", { cx: at(answer.entropy), cy: 30, r: 9, fill: "var(--main)" });
  svg(gauge, "text", { x: 10, y: 58 }, "all agree");
  svg(gauge, "text", { x: width - 10, y: 58, "text-anchor": "end" }, "evenly divided");
  const most = Math.max(...Object.values(answer.probs));
  let words = most < .45 ? "No label would have half of the people." : most < .55 ? "One label would have about half of the people." : "One label would have most of the people.";
  if (answer.more_contested_than !== null && group)
    words += ` Of ${group.items.toLocaleString("en")} items, each judged by ${group.raters.toFixed(0)} people or so, ${Math.round(100 * answer.more_contested_than)} % were less contested.`;
  $("contested").textContent = words;
  gauge.setAttribute("aria-label", words);
  $("trust").textContent = `Entropy ${answer.entropy.toFixed(2)} of at most ${task.highest_entropy.toFixed(2)} bits. ` + (task.trust
    ? `On items that it had not seen, the model was ${task.trust.model.toFixed(2)} away from the people asked (Jensen-Shannon distance, 0 to 1)`
      + (task.trust.another_panel === null ? "." : `; as many other people would be at least ${task.trust.another_panel.toFixed(2)} away.`)
    : "How near this model comes to people was not measured.");
}

function showNearest() {
  $("nearest-part").hidden = !answer.nearest.length;
  $("nearest-what").textContent = `Other ${task.modality === "text" ? "texts" : "recordings"}, and what people said of them:`;
  $("nearest").replaceChildren(...answer.nearest.map(item => {
    const line = document.createElement("li"), votes = document.createElement("small");
    const text = Object.values(item.text).join(" – ");
    line.textContent = (text ? `“${text}” ` : item.id + " ");
    votes.textContent = sorted(item.votes).map(([label, n]) => `${Number.isInteger(n) ? n : n.toFixed(1)} ${label}`).join(", ");
    line.append(votes);
    return line;
  }));
}

function showTimeline(found) {
  $("timeline-part").hidden = false; // before it is measured
  const picture = $("timeline"), width = clear(picture, 190), at = s => width * s / found.seconds, labels = task.labels;
  const total = {};
  for (const moment of found.moments) for (const label of labels) total[label] = (total[label] || 0) + moment.probs[label];
  const most = sorted(total).slice(0, COLOURS.length - 1).map(([label]) => label).filter(l => total[l] > .02 * found.moments.length);
  const shown = inOrder(answer.probs).map(([label]) => label).filter(label => most.includes(label)); // as the bars stand
  const wide = width / found.peaks.length, loudest = Math.max(...found.peaks) || 1;
  found.peaks.forEach((peak, i) => {
    const height = 46 * peak / loudest;
    svg(picture, "rect", { x: i * wide, y: 25 - height / 2, width: Math.max(wide * .8, .5), height: Math.max(height, .5), fill: "var(--dim)" });
  });
  found.moments.forEach((moment, i) => {
    // Windows overlap: each is drawn around its middle.
    const last = found.moments.length - 1, between = j => (found.moments[j].start + found.moments[j].end + found.moments[j + 1].start + found.moments[j + 1].end) / 4;
    const from = i ? between(i - 1) : 0, to = i < last ? between(i) : found.seconds;
    let y = 170;
    const column = svg(picture, "g", { class: "moment", opacity: .35 + .65 * moment.voiced });
    svg(column, "title", {}, `${minutes(moment.start)} to ${minutes(moment.end)}\n`
      + sorted(moment.probs).slice(0, 5).map(([label, p]) => `${label} ${percent(p)}`).join("\n"));
    shown.forEach(label => {
      const height = 110 * moment.probs[label];
      svg(column, "rect", { x: at(from), y: y -= height, width: Math.max(at(to) - at(from) - .5, .5), height, fill: colour(label) });
    });
  });
  const step = [1, 2, 5, 10, 15, 30, 60, 120].find(seconds => found.seconds / seconds <= 6) || 300;
  for (let second = 0; at(second) < width - 16; second += step)
    svg(picture, "text", { x: at(second), y: 186, "text-anchor": second ? "middle" : "start" }, minutes(second));
  const head = svg(picture, "line", { id: "playhead", x1: 0, x2: 0, y1: 0, y2: 170, stroke: "var(--ink)", "stroke-width": 2 }), player = $("player");
  const follow = () => { for (const end of ["x1", "x2"]) head.setAttribute(end, at(Math.min(player.currentTime, found.seconds))); };
  player.ontimeupdate = player.onseeked = follow;
  picture.onclick = event => { player.currentTime = found.seconds * event.offsetX / picture.clientWidth; };
  picture.setAttribute("aria-label", found.moments.map(m => `${minutes(m.start)}: ${sorted(m.probs)[0][0]}`).join(", "));
  $("legend").replaceChildren(...shown.map(label => {
    const entry = document.createElement("span"), spot = document.createElement("i");
    spot.style.background = colour(label);
    entry.append(spot, label);
    return entry;
  }));
}

async function predict(event) {
  event?.preventDefault();
  if (busy) return;
  complain("");
  $("result").hidden = $("timeline-part").hidden = true;
  const body = new FormData(), texts = Object.fromEntries([...$("text-input").querySelectorAll("textarea")].map(a => [a.name, a.value.trim()]));
  if (task.modality.includes("audio") && !clip) return complain("Record something, or choose a sound file.");
  if (task.text_fields.length && !Object.values(texts).every(Boolean)) return complain("Write a text.");
  $("predict").disabled = busy = true;
  for (const tab of $("tabs").children) tab.disabled = true;
  try {
    if (task.modality.includes("audio")) {
      let sent = clip;
      if (!READ_BY_SERVER.test(sent.name)) sent = { blob: await toWav(sent.blob), name: sent.name + ".wav" };
      if (sent.blob.size > served.limits.bytes) throw new Error(`The file is larger than ${served.limits.bytes / 2 ** 20} MiB.`);
      body.append("clip", sent.blob, sent.name);
    }
    const fields = Object.keys(texts);
    if (fields.length) body.append("text", fields.length === 1 ? texts[fields[0]] : JSON.stringify(texts));
    say(task.modality === "text" ? "Reading …" : "Listening …");
    answer = await call("api/predict", body);
    $("heard").textContent = answer.heard ? `Heard: “${answer.heard}”` : "";
    everything = false;
    $("result").hidden = false; // before pictures are measured
    $("people").hidden = $("contested-part").hidden = task.several;
    showBars();
    if (task.several) showRates();
    else { showPeople(); showContested(); showNearest(); }
    if (task.modality === "audio" && answer.seconds > WINDOW) {
      say("Listening to each moment …");
      answer.timeline = await call(`api/timeline?window=${WINDOW}&hop=${HOP}`, body);
      showTimeline(answer.timeline);
    }
    say("");
  } catch (error) { complain(error.message); }
  finally {
    $("predict").disabled = busy = false;
    for (const tab of $("tabs").children) tab.disabled = false;
  }
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(answer, null, 2) + "\n"], { type: "application/json" }));
  link.download = "distribution.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

$("form").addEventListener("submit", predict);
$("record").addEventListener("click", record);
$("download").addEventListener("click", download);
$("all").addEventListener("click", () => { everything = !everything; showBars(); });
$("file").addEventListener("change", event => {
  const file = event.target.files[0];
  ready.then(() => { if (file && task && !busy) { take(file, file.name); predict(); } });
  event.target.value = ""; // so that the same file can be chosen again
});
$("form").addEventListener("dragover", event => { event.preventDefault(); $("form").classList.add("over"); });
$("form").addEventListener("dragleave", () => $("form").classList.remove("over"));
$("form").addEventListener("drop", event => {
  event.preventDefault(); $("form").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file && !busy && task?.modality.includes("audio")) { take(file, file.name); predict(); }
});
const ready = call("api/tasks").then(found => {
  served = found;
  if (served.tasks.length > 1) {
    $("tabs").hidden = false;
    $("tabs").replaceChildren(...served.tasks.map(one => {
      const tab = document.createElement("button");
      tab.type = "button"; tab.setAttribute("role", "tab"); tab.textContent = tabName(one);
      tab.addEventListener("click", () => choose(one));
      return tab;
    }));
  }
  choose(served.tasks[0]);
  $("predict").disabled = false; // until now it was unknown what is asked for
}).catch(error => complain(error.message));
