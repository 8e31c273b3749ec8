// The player: what js_on_load of the page's HTML component runs. `element`, `props` and `watch` come from Gradio, TABLES
// (the colors of each style and color map) from demo/app.py. props.value is JSON (see demo/actions.py): {state: "idle" |
// "waiting" | "working" | "failed" | "ready" | "encoding", ...}. Text goes in as text, never as HTML.
//
// There is one video, the original. The maps of all frames come as numbers, and are drawn over it here, so that style,
// colors, opacity and normalization change at once, and the map is always that of the frame on the screen.

const WIDTH = 256, HEIGHT = 192; // maps are drawn at the size that the package gives them
const part = {};
for (const node of element.querySelectorAll("[data-part]")) part[node.dataset.part] = node;
const { video, still } = part;
const SVG = "http://www.w3.org/2000/svg";
let ready = null; // the result on the screen
let maps = null; // of it, once they are here
let look = { style: "overlay", colormap: "turbo", opacity: 0.55, normalize: "frame", aspect: "" };
let now = 0; // time of the frame on the screen

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
  document.body.toggleAttribute("data-tinyhd-trim", value.state === "failed" && value.trim > 0);
  part.stage.dataset.state = value.state;
  const busy = ["waiting", "working", "encoding"].includes(value.state);
  show(part.progress, busy);
  show(part.empty, value.state === "idle");
  show(part.failed, value.state === "failed");
  show(part.result, ["ready", "encoding"].includes(value.state) && (ready || value.state === "ready"));
  if (busy) showWork(value);
  show(part.live, value.state === "working" && part.picture.hasAttribute("src"));
  if (value.state === "ready") return showResult(value);
  if (value.state === "encoding") return;
  video.pause();
  ready = maps = null;
  if (value.state !== "failed") return;
  part.failedTitle.textContent = value.message === "Stopped." ? "Stopped" : "That did not work";
  part.message.textContent = value.message === "Stopped." ? "Nothing was kept but the file." : value.message;
}

function showWork(work) {
  if (work.picture) part.picture.src = work.picture;
  else if (work.fresh) part.picture.removeAttribute("src");
  const share = work.total ? Math.min(1, work.done / work.total) : 0;
  part.bar.style.width = `${100 * share}%`;
  part.bar.classList.toggle("th-unknown", !share);
  part.doing.textContent = work.doing;
  part.rate.textContent = work.rate || "";
}

function showResult(value) {
  if (value.download) save(value.download);
  for (const name of ["made", "problem"]) {
    part[name].textContent = value[name];
    show(part[name], value[name] !== "");
  }
  if (ready && ready.job === value.job) return;
  ready = value;
  maps = null;
  now = 0;
  document.body.toggleAttribute("data-tinyhd-still", value.still); // nothing moves in it
  show(video, !value.still);
  show(still, value.still);
  show(part.timed, !value.still);
  part.panes.style.setProperty("--aspect", value.aspect);
  part.facts.textContent = value.facts;
  part.notes.textContent = value.notes.join(" ");
  show(part.notes, value.notes.length > 0);
  part.meanFocus.textContent = value.focus;
  if (value.still) {
    video.removeAttribute("src");
    still.onload = paint;
    still.src = value.original;
  } else {
    video.src = value.original;
    drawPlot();
    drawMoments();
    play();
  }
  fetchMaps(value);
}

function save(file) {
  const link = document.createElement("a");
  link.href = file.address;
  link.download = file.name;
  link.click();
}

// ---- maps: from numbers to what is seen

async function fetchMaps(value) {
  const response = await fetch(value.maps);
  if (!response.ok || ready !== value) return;
  const data = await response.arrayBuffer();
  if (ready !== value) return;
  const heads = new Float32Array(data, 0, 4 * value.count); // time, largest value, smoothed range: see demo/work.py
  const [height, width] = value.shape;
  maps = { heads, height, width, levels: new Uint8Array(data, 16 * value.count), rows: bicubic(height, HEIGHT), columns: bicubic(width, WIDTH) };
  applyLook(); // the moments too
}

function bicubic(size, outSize) { // for each output its four inputs and their weights, as tinyhd.saliency.resize has them
  const index = new Int32Array(4 * outSize), weight = new Float32Array(4 * outSize), a = -0.75;
  for (let k = 0; k < outSize; k++) {
    const position = (k + 0.5) * size / outSize - 0.5, first = Math.floor(position);
    for (let tap = 0; tap < 4; tap++) {
      const x = Math.abs(position - (first + tap - 1));
      index[4 * k + tap] = Math.max(0, Math.min(size - 1, first + tap - 1));
      weight[4 * k + tap] = x <= 1 ? (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1 : a * (x ** 3 - 5 * x ** 2 + 8 * x - 4);
    }
  }
  return { index, weight };
}

function frameAt(seconds) { // the last frame that starts by then
  const { heads } = maps;
  let low = 0, high = ready.count - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (heads[4 * middle] <= seconds + 0.002) low = middle;
    else high = middle - 1;
  }
  return low;
}

const wide = new Float32Array(WIDTH * 512), image = new ImageData(WIDTH, HEIGHT);

function paintMap(canvas, seconds) { // the map of a frame, colored, into a canvas that lies over it
  const { heads, width, height, levels, rows, columns } = maps;
  const k = frameAt(seconds);
  const map = levels.subarray(k * width * height, (k + 1) * width * height);
  const unit = heads[4 * k + 1] / 255;
  const [low, high] = ready.ranges[look.normalize] ?? [heads[4 * k + 2], heads[4 * k + 3]];
  const scale = high > low ? 255 / (high - low) : 0;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < WIDTH; x++) {
      let sum = 0;
      for (let tap = 4 * x; tap < 4 * x + 4; tap++) sum += columns.weight[tap] * map[y * width + columns.index[tap]];
      wide[y * WIDTH + x] = sum * unit;
    }
  const pixels = new Uint32Array(image.data.buffer), colors = table();
  for (let y = 0; y < HEIGHT; y++)
    for (let x = 0; x < WIDTH; x++) {
      let sum = 0;
      for (let tap = 4 * y; tap < 4 * y + 4; tap++) sum += rows.weight[tap] * wide[rows.index[tap] * WIDTH + x];
      pixels[y * WIDTH + x] = colors[Math.max(0, Math.min(255, ((Math.max(0, sum) - low) * scale + 0.5) | 0))];
    }
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const tables = {};
function table() { // 256 colors as RGBA, opacity applied
  const { style, colormap } = look, opacity = style === "heatmap" ? 1 : look.opacity;
  const key = `${style} ${colormap} ${opacity}`;
  if (!tables[key]) {
    const bytes = Uint8Array.from(atob(TABLES[style][colormap]), (c) => c.charCodeAt(0));
    for (let k = 3; k < 1024; k += 4) bytes[k] = Math.round(bytes[k] * opacity);
    tables[key] = new Uint32Array(bytes.buffer);
  }
  return tables[key];
}

function paint() {
  if (!ready) return;
  if (beside()) paintPicture(part.mirror);
  const crop = cropNow();
  if (crop) {
    const [left, top, width, height] = crop.map((part) => `${100 * part}%`);
    Object.assign(part.crop.style, { left, top, width, height });
    paintPicture(part.cropped, crop);
  }
  if (!maps) return part.heat.getContext("2d").clearRect(0, 0, WIDTH, HEIGHT);
  paintMap(part.heat, now);
}

const reframing = () => ready?.crops[look.aspect];
const beside = () => look.style === "side-by-side" && !reframing();

function cropNow() { // left, top, width, height of the frame on the screen, fractions; null: it is not reframed
  const crop = reframing();
  if (!crop || (!maps && !ready.still)) return null;
  const k = maps ? frameAt(now) : 0;
  return [crop.places[2 * k], crop.places[2 * k + 1], ...crop.size];
}

function paintPicture(canvas, [left, top, across, down] = [0, 0, 1, 1]) { // the original, or a part of it
  const source = ready.still ? still : video;
  const width = source.videoWidth || source.naturalWidth, height = source.videoHeight || source.naturalHeight;
  if (!width) return;
  const size = { width: Math.round(width * across), height: Math.round(height * down) };
  if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
  canvas.getContext("2d").drawImage(source, width * left, height * top, width * across, height * down, 0, 0, size.width, size.height);
}

function applyLook() {
  const colored = look.style !== "spotlight", crop = reframing();
  part.panes.classList.toggle("th-beside", beside());
  part.panes.classList.toggle("th-reframed", Boolean(crop));
  document.body.toggleAttribute("data-tinyhd-reframed", Boolean(crop));
  show(part.left, beside());
  show(part.right, Boolean(crop));
  show(part.crop, Boolean(crop));
  for (const label of document.querySelectorAll("#aspect label")) { // those that the video has already do nothing
    const aspect = label.textContent.trim();
    label.querySelector("input").disabled = Boolean(ready) && aspect.includes(":") && !(aspect in ready.crops);
  }
  if (crop) {
    const cropped = (ready.aspect * crop.size[0]) / crop.size[1];
    part.panes.style.setProperty("--columns", `minmax(0, ${ready.aspect}fr) minmax(0, ${cropped}fr)`);
    part.rightFrame.style.setProperty("--aspect", cropped);
    part.rightCaption.textContent = look.aspect;
  }
  show(part.legend, colored);
  part.caption.textContent = look.style === "heatmap" ? "Attention" : "Where people look";
  if (colored) {
    const strip = new ImageData(256, 1);
    strip.data.set(new Uint8Array(Uint8Array.from(atob(TABLES[look.style][look.colormap]), (c) => c.charCodeAt(0))));
    for (let k = 3; k < 1024; k += 4) strip.data[k] = 255;
    part.scale.getContext("2d").putImageData(strip, 0, 0);
  }
  paint();
  if (maps) part.moments.querySelectorAll("canvas").forEach((canvas) => paintMap(canvas, Number(canvas.dataset.time)));
}

window.tinyhd = { look(value) {
  if (!TABLES[value.style]?.[value.colormap]) return;
  look = value;
  applyLook();
} };

// ---- playing

function length() { return (ready && ready.seconds) || video.duration || 0; }

function play() { video.play().catch(() => {}); } // the browser may want a click first, or another file came

function seek(seconds) {
  video.currentTime = Math.max(0, Math.min(seconds, Math.max(0, length() - 0.001)));
  tick();
}

function presented(_, frame) { // a frame is on the screen
  now = frame.mediaTime;
  if (ready && !ready.still) {
    if (video.currentTime > length() + 0.05) seek(0); // only the beginning of it was looked at
    paint();
    tick();
  }
  video.requestVideoFrameCallback(presented);
}

if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(presented);
else (function each() { presented(0, { mediaTime: video.currentTime }); if (element.isConnected) requestAnimationFrame(each); })();

for (const event of ["play", "pause"]) video.addEventListener(event, () => {
  part.stage.classList.toggle("th-playing", !video.paused);
  part.play.setAttribute("aria-label", video.paused ? "Play" : "Pause");
});
for (const event of ["seeked", "loadeddata"]) video.addEventListener(event, tick);
const toggle = () => (video.paused ? play() : video.pause());
part.play.addEventListener("click", toggle);
video.addEventListener("click", toggle);
part.sound.addEventListener("click", () => {
  video.muted = !video.muted;
  part.sound.textContent = video.muted ? "Sound off" : "Sound on";
  part.sound.setAttribute("aria-pressed", String(!video.muted));
});

// ---- the plot is the time line

function drawPlot() {
  const { time, focus } = ready.line;
  const low = Math.min(...focus), high = Math.max(...focus), room = Math.max(high - low, 1e-6);
  const x = (t) => 1000 * t / (ready.seconds || 1);
  const points = focus.map((v, k) => `${x(time[k]).toFixed(1)},${(92 - 84 * (v - low) / room).toFixed(1)}`);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.join(" "));
  const area = document.createElementNS(SVG, "polygon");
  area.setAttribute("points", [`${x(time[0])},100`, ...points, `${x(time[time.length - 1])},100`].join(" "));
  part.focus.replaceChildren(area, line);
  part.focusTop.textContent = high.toFixed(0);
  part.focusBottom.textContent = low.toFixed(0);
}

function tick() {
  if (!ready || ready.still) return;
  const at = video.currentTime, whole = length() || 1;
  part.cursor.style.setProperty("--at", `${Math.min(100, 100 * at / whole)}%`);
  part.time.textContent = `${clock(at)} / ${clock(whole)}`;
  part.plots.setAttribute("aria-valuemax", whole.toFixed(1));
  part.plots.setAttribute("aria-valuenow", at.toFixed(1));
  const { time, focus } = ready.line;
  let k = time.findIndex((t) => t > at + 1e-3);
  k = k < 0 ? time.length - 1 : Math.max(0, k - 1);
  part.values.textContent = `Focus ${focus[k].toFixed(0)} of 100`;
  part.plots.setAttribute("aria-valuetext", `${clock(at)}, focus ${focus[k].toFixed(0)}`);
}

function seekTo(event) {
  const box = part.cursor.getBoundingClientRect();
  seek(((event.clientX - box.left) / box.width) * length());
}
part.plots.addEventListener("pointerdown", (event) => {
  part.plots.setPointerCapture(event.pointerId);
  seekTo(event);
});
part.plots.addEventListener("pointermove", (event) => { if (part.plots.hasPointerCapture(event.pointerId)) seekTo(event); });
part.plots.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, PageUp: 5, PageDown: -5 }[event.key];
  if (event.key === " ") toggle();
  else if (event.key === "Home") seek(0);
  else if (event.key === "End") seek(length());
  else if (step) seek(video.currentTime + step * (event.shiftKey ? 0.1 : 0.5));
  else return;
  event.preventDefault();
});

function drawMoments() {
  part.moments.replaceChildren(...ready.moments.map((moment) => {
    const button = document.createElement("button");
    button.type = "button";
    const frame = document.createElement("div");
    frame.className = "th-frame";
    const picture = document.createElement("img");
    picture.src = moment.picture;
    picture.alt = "";
    const heat = document.createElement("canvas");
    heat.dataset.time = moment.time;
    frame.append(picture, heat);
    const time = document.createElement("strong");
    time.textContent = clock(moment.time);
    const score = document.createElement("span");
    score.textContent = `focus ${moment.focus}`;
    button.append(frame, time, score);
    button.addEventListener("click", () => { video.pause(); seek(moment.time + 0.001); });
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

// What Gradio leaves out for people who use a keyboard or their voice: the button is called what is written on it, and
// arrow keys move among radio buttons, which takes a common name.
function mend() {
  document.querySelectorAll("#file button[aria-dropeffect]").forEach((node) => node.removeAttribute("aria-label"));
  for (const id of ["preset", "style", "normalize", "aspect", "codec"])
    document.querySelectorAll(`#${id} input[type=radio]`).forEach((node) => { node.name = id; });
}
new MutationObserver(mend).observe(document.querySelector("#layout") ?? element, { childList: true, subtree: true });
mend();

// a file that was chosen on the page before this one, see page/first.html
function takeChosen() {
  const opening = indexedDB.open("tinyhd", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("chosen");
  opening.onsuccess = () => {
    const store = opening.result.transaction("chosen", "readwrite").objectStore("chosen");
    const asked = store.get("file");
    store.clear();
    store.transaction.oncomplete = () => {
      opening.result.close();
      const input = document.querySelector("#file input[type=file]");
      if (!input || !asked.result || Date.now() - asked.result.time > 600_000) return;
      const files = new DataTransfer();
      files.items.add(asked.result.file);
      input.files = files.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    };
  };
}

watch("value", update);
update();
applyLook();
takeChosen();
