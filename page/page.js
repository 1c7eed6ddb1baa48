"use strict";
const $ = id => document.getElementById(id);
const SENT = 320;        // side of a drawing as it is sent, px
const LONGEST = 1024;    // side of a picture on the screen, px
const LARGEST = 8 << 20; // bytes, as the server's MAX_BODY
const pad = $("pad");

// What is on the pad. Never changed in place, so that undo is going back to the one before.
let state = {strokes: [], picture: null}; // a stroke is a list of [x, y, pen], x and y in 0...1
let past = [];

function enter(next) { past.push(state); state = next; changed(true); }
function undo() { if (past.length) { state = past.pop(); changed(true); } }
function clear() { if (!blank()) enter({strokes: [], picture: null}); }
function blank() { return !state.strokes.length && !state.picture; }

// --- picture on the screen, and the one that is sent

function paint(context, side) {
  const pen = side * $("pen").value / 100;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of state.strokes) {
    stroke.forEach(([x, y, width], i) => {
      const [fromX, fromY] = stroke[Math.max(0, i - 1)];
      context.lineWidth = pen * width;
      context.beginPath();
      context.moveTo(fromX * side, fromY * side);
      context.lineTo(x * side + 0.01, y * side); // a line without length would not be drawn
      context.stroke();
    });
  }
}

function redraw() {
  const side = Math.round(pad.clientWidth * devicePixelRatio);
  if (pad.width !== side) pad.width = pad.height = side;
  const context = pad.getContext("2d");
  context.clearRect(0, 0, side, side);
  if (state.picture?.canvas) {
    const {canvas} = state.picture, scale = side / Math.max(canvas.width, canvas.height);
    const width = canvas.width * scale, height = canvas.height * scale;
    context.drawImage(canvas, (side - width) / 2, (side - height) / 2, width, height);
  }
  context.strokeStyle = getComputedStyle(pad).color;
  paint(context, side);
}

function toBlob(canvas) {
  return new Promise(resolve => canvas.toBlob(resolve, "image/png"));
}

function blankCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), {width, height});
}

function drawing() {
  const canvas = blankCanvas(SENT, SENT), context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, SENT, SENT);
  context.strokeStyle = "#000";
  paint(context, SENT);
  return canvas;
}

// --- who reads: the server, or this browser where the page stands alone

let network = null, readHere = null;

async function ask(signal) {
  const {picture} = state;
  if (readHere) {
    if (picture && !picture.canvas) throw new Error("This browser cannot open the picture");
    return readHere(picture?.canvas ?? drawing());
  }
  const body = picture?.blob ?? await toBlob(drawing());
  const response = await fetch("read", {method: "POST", body, signal}).catch(() => {
    throw new Error("The server does not answer; is demo.py still running?");
  });
  return response.json().catch(() => {
    throw new Error("The server does not answer as demo.py would");
  });
}

async function connect() {
  network = await (await fetch("network.json")).json();
  if (network.reads === "here") {
    say("Loading the network…");
    readHere = await (await import("./reader.js")).open(network);
    navigator.serviceWorker?.register("service-worker.js");
  }
  $("network").textContent = network.summary;
  $("side").textContent = `${network.size} × ${network.size} pixels`;
  changed(true);
}

// --- reading: one request at a time, then one for all that has happened meanwhile

let flight = null, due = false;

function changed(other) {
  if (other) { flight?.abort(); flight = null; due = false; } // an answer to what is gone is none
  $("undo").disabled = !past.length;
  $("clear").disabled = blank();
  $("hint").hidden = !blank();
  redraw();
  if (blank() || !network) show({}); else read();
}

async function read() {
  if (flight) { due = true; return; }
  const mine = flight = new AbortController();
  due = false;
  const answer = await ask(mine.signal).catch(error => ({error: error.message}));
  if (mine !== flight) return;
  flight = null;
  show(answer);
  if (due) read(); else announce(answer);
}

// --- what is shown

const rows = Array.from({length: 10}, (_, i) => {
  const button = document.createElement("button");
  const part = name => {
    const span = document.createElement(name ? "span" : "i");
    span.className = name;
    return button.appendChild(span);
  };
  const row = {button, bar: part(""), han: part("han"), code: part("code"), share: part("share")};
  row.han.lang = "zh-Hans";
  button.addEventListener("click", () => copy(i));
  $("readings").appendChild(document.createElement("li")).appendChild(button);
  return row;
});
const EMPTY = $("glyph").src;

function percent(share) {
  if (share >= 0.99995) return "100%";
  return (100 * share).toFixed(share >= 0.1 ? 1 : 2) + "%";
}

function code(text) {
  return [...text].length === 1
    ? "U+" + text.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") : "";
}

function show({readings = [], glyph, view, milliseconds, error, notices = [], is_character}) {
  rows.forEach(({button, bar, han, code: place, share}, i) => {
    const reading = readings[i];
    button.disabled = !reading;
    bar.style.width = reading ? 100 * reading.probability + "%" : "0";
    han.textContent = reading ? reading.character : "\u00a0";
    place.textContent = reading ? code(reading.character) : "";
    share.textContent = reading ? percent(reading.probability) : "\u00a0";
    button.setAttribute("aria-label",
      reading ? `Copy ${reading.character}, ${percent(reading.probability)}` : "No reading");
  });
  $("glyph").src = glyph ?? EMPTY;
  $("glyph").alt = glyph ? "Input of the network" : "Nothing yet";
  $("left-out").hidden = !view;
  if (view) $("view").src = view;
  const doubt = is_character === false ? "Probably not a character. " : "";
  const time = milliseconds === undefined ? "" : `Read in ${milliseconds.toFixed(0)} ms`;
  say(error ?? doubt + notices.map(sentence).join("") + time, error);
}

function sentence(text) { return text[0].toUpperCase() + text.slice(1) + ". "; }

function say(text, error) {
  $("status").textContent = text;
  $("status").classList.toggle("error", Boolean(error));
}

function announce({readings = []}) {
  if (pointer === null && readings.length) $("spoken").textContent =
    readings.slice(0, 3).map(r => `${r.character} ${percent(r.probability)}`).join(", ");
}

async function copy(i) {
  const text = rows[i].han.textContent;
  if (rows[i].button.disabled) return;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not there on plain http from another machine
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    rows[i].button.focus();
    if (!copied) return say("The browser does not allow copying", true);
  }
  say(`Copied ${text}`);
}

// --- drawing

let pointer = null, stroke = null;

function add(event) {
  const box = pad.getBoundingClientRect();
  // Only pens tell a real pressure; mouse and finger report a constant.
  const pen = event.pointerType === "pen" && event.pressure ? 0.4 + 1.2 * event.pressure : 1;
  stroke.push([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, pen]);
}

pad.addEventListener("pointerdown", event => {
  if (pointer !== null || event.button !== 0) return; // a second finger or the ball of the hand
  event.preventDefault();
  pointer = event.pointerId;
  pad.setPointerCapture(pointer);
  stroke = [];
  add(event);
  const {strokes, picture} = state;
  past.push(state);
  state = {strokes: picture ? [stroke] : [...strokes, stroke], picture: null};
  changed(Boolean(picture));
});

pad.addEventListener("pointermove", event => {
  if (event.pointerId !== pointer) return;
  const all = event.getCoalescedEvents?.() ?? [];
  (all.length ? all : [event]).forEach(add);
  changed(false);
});

for (const [end, then] of [["pointerup", () => changed(false)], ["pointercancel", undo]]) {
  pad.addEventListener(end, event => {
    if (event.pointerId !== pointer) return;
    pointer = stroke = null;
    then();
  });
}

// --- pictures

let chosen = 0;

async function take(file) {
  if (!file) return;
  const mine = ++chosen;
  let picture;
  try { // for the screen, and for reading here
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
    const sides = [bitmap.width, bitmap.height].map(side => Math.max(1, Math.round(side * scale)));
    const canvas = blankCanvas(...sides), context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    // The server reads the file itself, as predict.py does, unless that is too large.
    picture = {canvas, blob: file.size <= LARGEST ? file : await toBlob(canvas)};
  } catch { // TIFF, say: the server reads more kinds than a browser
    picture = {canvas: null, blob: file};
  }
  if (mine !== chosen) return;
  if (picture.blob.size > LARGEST) return say("The picture is larger than 8 MiB", true);
  enter({strokes: [], picture});
}

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { take($("file").files[0]); $("file").value = ""; });
addEventListener("paste", event => take(event.clipboardData.files[0]));
addEventListener("dragover", event => { event.preventDefault(); $("frame").classList.add("over"); });
addEventListener("dragleave", event => {
  if (!event.relatedTarget) $("frame").classList.remove("over");
});
addEventListener("drop", event => {
  event.preventDefault();
  $("frame").classList.remove("over");
  take(event.dataTransfer.files[0]);
});

// --- the rest of the controls

$("undo").addEventListener("click", undo);
$("clear").addEventListener("click", clear);
$("pen").addEventListener("input", () => { if (state.strokes.length) changed(false); });
addEventListener("keydown", event => {
  if (event.altKey || pointer !== null) return;
  const command = event.ctrlKey || event.metaKey;
  if (command && !event.shiftKey && event.key.toLowerCase() === "z") { event.preventDefault(); undo(); }
  else if (!command && event.key === "Escape") clear();
  else if (!command && /^[0-9]$/.test(event.key)) copy((Number(event.key) + 9) % 10);
});
new ResizeObserver(redraw).observe(pad);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

changed(true);
connect().catch(error => say(`The page could not be loaded: ${error.message}`, true));
