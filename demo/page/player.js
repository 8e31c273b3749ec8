// The player: what js_on_load of the page's HTML component runs. `element`, `props` and `watch` come from Gradio.
// props.value is JSON (see demo/app.py): {state: "idle" | "working" | "ready", ...}. Text goes in as text, never as HTML.

const SEEK_SECONDS = 0.15; // further apart than this the original jumps, below it runs a little faster or slower
const part = {};
for (const node of element.querySelectorAll("[data-part]")) part[node.dataset.part] = node;
const { shown, original } = part;
const SVG = "http://www.w3.org/2000/svg";
let ready = null;
let wantsPlay = false;

const show = (node, yes) => node.toggleAttribute("hidden", !yes);

function clock(seconds) {
  const tenths = Math.floor(seconds * 10 + 1e-6);
  return `${Math.floor(tenths / 600)}:${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
}

// ---- what the server says

function update() {
  let value = null;
  try { value = JSON.parse(props.value || "null"); } catch { return; }
  value ??= { state: "idle" };
  document.body.dataset.tinyhd = value.state;
  part.stage.dataset.state = value.state;
  if (value.state === "working") return showWork(value);
  show(part.progress, false);
  show(part.live, false);
  if (value.state === "ready") return showResult(value);
  show(part.result, false);
  show(part.empty, true);
  shown.pause();
  original.pause();
  ready = null;
}

function showWork(work) {
  const again = work.phase === "again" && ready; // drawn anew: what was there goes on playing
  show(part.result, again);
  show(part.empty, false);
  show(part.progress, true);
  show(part.live, !again && (work.picture || part.picture.getAttribute("src")));
  if (!again && !shown.paused) { shown.pause(); original.pause(); }
  if (work.picture) part.picture.src = work.picture;
  else if (work.fresh) { part.picture.removeAttribute("src"); show(part.live, false); }
  const share = work.total ? Math.min(1, work.done / work.total) : 0;
  part.bar.style.width = `${100 * share}%`;
  part.bar.classList.toggle("th-unknown", !work.done);
  part.doing.textContent = work.doing;
  part.rate.textContent = work.rate || "";
}

function showResult(value) {
  show(part.empty, false);
  show(part.result, true);
  const same = ready && ready.original === value.original;
  const changed = !ready || ready.shown !== value.shown;
  ready = value;
  const single = value.style === "side-by-side"; // the original is part of the result
  part.panes.classList.toggle("th-single", single);
  part.moments.classList.toggle("th-right", single);
  for (const [node, isPicture] of [[original, false], [part.originalPicture, true], [shown, false], [part.shownPicture, true]])
    show(node, isPicture === value.still);
  show(part.timed, !value.still);
  show(part.legend, value.gradient !== "");
  part.gradient.style.background = value.gradient;
  part.facts.textContent = value.facts;
  part.notes.textContent = value.notes.join(" ");
  show(part.notes, value.notes.length > 0);
  if (value.still) {
    part.originalPicture.src = value.original;
    part.shownPicture.src = value.shown;
    shown.removeAttribute("src");
    original.removeAttribute("src");
    return;
  }
  if (changed) {
    const at = same ? shown.currentTime : 0;
    const play = same ? !shown.paused : true;
    if (!same) original.src = value.original;
    shown.src = value.shown;
    shown.addEventListener("loadedmetadata", () => { seek(at); if (play) start(); }, { once: true });
  }
  drawPlot("entropy", 1);
  drawPlot("spread", 0);
  drawMoments();
}

// ---- playing both in sync: `shown` leads, `original` follows

function length() { return (Number.isFinite(shown.duration) && shown.duration) || (ready && ready.seconds) || 0; }
function paired() { return ready && !ready.still && !part.panes.classList.contains("th-single"); }

function gap() { // how far the original is ahead, in seconds; across the loop's end too
  const whole = length();
  let d = original.currentTime - shown.currentTime;
  if (whole && Math.abs(d) > whole / 2) d -= Math.sign(d) * whole;
  return d;
}

function canPlay(video) {
  return video.readyState >= 3 ? Promise.resolve() : new Promise((done) => {
    video.addEventListener("canplay", done, { once: true });
    video.addEventListener("error", done, { once: true });
  });
}

async function start() {
  wantsPlay = true;
  await Promise.all(paired() ? [canPlay(shown), canPlay(original)] : [canPlay(shown)]);
  if (!wantsPlay) return;
  try {
    await Promise.all(paired() ? [shown.play(), original.play()] : [shown.play()]);
  } catch { stop(); } // the browser wants a click first, or a newer result replaced this one
}

function stop() {
  wantsPlay = false;
  shown.pause();
  original.pause();
  original.currentTime = shown.currentTime;
}

function seek(seconds) {
  const to = Math.max(0, Math.min(seconds, Math.max(0, length() - 0.001)));
  shown.currentTime = to;
  if (paired()) original.currentTime = to;
  tick();
}

function keepTogether() {
  if (!paired() || shown.paused || shown.seeking || original.seeking) return;
  const ahead = gap();
  if (Math.abs(ahead) > SEEK_SECONDS) {
    original.currentTime = shown.currentTime;
  } else {
    original.playbackRate = Math.abs(ahead) < 0.008 ? 1 : Math.max(0.5, Math.min(1.5, 1 - 4 * ahead));
  }
  if (original.paused && wantsPlay) original.play().catch(() => {});
}

function loop() {
  if (!element.isConnected) return;
  if (ready && !ready.still && !shown.paused) { keepTogether(); tick(); }
  requestAnimationFrame(loop);
}

shown.addEventListener("waiting", () => original.pause());
shown.addEventListener("playing", () => { if (paired() && wantsPlay) original.play().catch(() => {}); });
for (const event of ["play", "pause"]) shown.addEventListener(event, () => {
  part.stage.classList.toggle("th-playing", !shown.paused);
  part.play.setAttribute("aria-label", shown.paused ? "Play" : "Pause");
});
for (const event of ["seeked", "loadeddata"]) shown.addEventListener(event, tick);
part.play.addEventListener("click", () => (shown.paused ? start() : stop()));
for (const video of [shown, original]) video.addEventListener("click", () => (shown.paused ? start() : stop()));
part.sound.addEventListener("click", () => {
  shown.muted = !shown.muted;
  part.sound.textContent = shown.muted ? "Sound off" : "Sound on";
  part.sound.setAttribute("aria-pressed", String(!shown.muted));
});

// ---- the plot is the time line

function drawPlot(name, digits) {
  const { time } = ready.lines;
  const values = ready.lines[name];
  const low = Math.min(...values), high = Math.max(...values);
  const room = Math.max(high - low, 1e-6);
  const x = (t) => 1000 * t / (ready.seconds || 1);
  const y = (v) => 92 - 84 * (v - low) / room;
  const points = values.map((v, k) => `${x(time[k]).toFixed(1)},${y(v).toFixed(1)}`);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.join(" "));
  const area = document.createElementNS(SVG, "polygon");
  area.setAttribute("points", [`${x(time[0])},100`, ...points, `${x(time[time.length - 1])},100`].join(" "));
  part[name].replaceChildren(area, line);
  part[`${name}Top`].textContent = high.toFixed(digits);
  part[`${name}Bottom`].textContent = low.toFixed(digits);
}

function tick() {
  if (!ready || ready.still) return;
  const now = shown.currentTime, whole = ready.seconds || length() || 1;
  part.cursor.style.setProperty("--at", `${Math.min(100, 100 * now / whole)}%`);
  part.time.textContent = `${clock(now)} / ${clock(whole)}`;
  part.plots.setAttribute("aria-valuemax", whole.toFixed(1));
  part.plots.setAttribute("aria-valuenow", now.toFixed(1));
  part.plots.setAttribute("aria-valuetext", clock(now));
  const { time, entropy, spread } = ready.lines;
  let k = time.findIndex((t) => t > now + 1e-3);
  k = k < 0 ? time.length - 1 : Math.max(0, k - 1);
  part.values.textContent = `entropy ${entropy[k].toFixed(1)} bits · spread ${spread[k].toFixed(0)} %`;
}

function seekTo(event) {
  const box = part.cursor.getBoundingClientRect();
  seek(((event.clientX - box.left) / box.width) * (ready.seconds || length()));
}
part.plots.addEventListener("pointerdown", (event) => {
  part.plots.setPointerCapture(event.pointerId);
  seekTo(event);
});
part.plots.addEventListener("pointermove", (event) => { if (part.plots.hasPointerCapture(event.pointerId)) seekTo(event); });
part.plots.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, PageUp: 5, PageDown: -5 }[event.key];
  if (event.key === " ") shown.paused ? start() : stop();
  else if (event.key === "Home") seek(0);
  else if (event.key === "End") seek(length());
  else if (step) seek(shown.currentTime + step * (event.shiftKey ? 0.1 : 0.5));
  else return;
  event.preventDefault();
});

function drawMoments() {
  const short = { entropy: (v) => `${v.toFixed(1)} bits` };
  part.moments.replaceChildren(...ready.moments.map((moment) => {
    const button = document.createElement("button");
    button.type = "button";
    const picture = document.createElement("img");
    picture.src = moment.picture;
    picture.alt = "";
    const time = document.createElement("strong");
    time.textContent = clock(moment.time);
    const numbers = document.createElement("span");
    numbers.textContent = short.entropy(moment.entropy);
    button.append(picture, time, numbers);
    button.setAttribute("aria-label", `Go to ${clock(moment.time)}`);
    button.addEventListener("click", () => { stop(); seek(moment.time + 0.001); });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
  part.cursor.querySelectorAll("u").forEach((node) => node.remove());
  for (const moment of ready.moments) {
    const mark = document.createElement("u");
    mark.style.left = `${100 * moment.time / (ready.seconds || 1)}%`;
    part.cursor.append(mark);
  }
}

watch("value", update);
update();
requestAnimationFrame(loop);
