"use strict";
const $ = id => document.getElementById(id);
const VIEWS = {  // by layer: title, colours, limits
  model: ["Model, dB", "viridis", null],
  simulator: ["Embedded simulator, dB", "viridis", null],
  difference: ["Model − simulator, dB", "RdBu_r", [-20, 20]],
  car_loss: ["Loss by cars, dB", "OrRd", [0, 8]],
  std: ["Standard deviation of samples, dB", "magma", [0, 3]],
};
const NAMES = {car_loss: "car loss", std: "standard deviation"};  // of layers, where they are not their own
const COLOURS = ["#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#17becf"];  // of transmitters
const GRAB = 6;  // m from a transmitter or a measured value that still mean it
let settings, side;

// What undo restores; all of it is replaced when it changes.
let city;                // {width, height, built, georeference (null for pictures), note, inverted, file}; at least side x side
let view = [0, 0];       // column and row of the city's first pixel in view
let transmitters = [];   // {x, y, points: [{x, y, gain}]}, in the city's columns and rows
let cars = [];           // {x, y, degrees}
const history = [];

let tool = "place", active = 0;  // what a click does; the transmitter that was chosen last
let heading = 0, spot = null;    // degrees of the next car; [x, y] of the value that is being typed
let maps = [], bases = {};       // of the transmitters in view; pictures without marks, by the canvas's id
let cursor = null;               // [x, y] that is read
let version = 0, busy = false, timer = null, choice = 0;  // of what is in view; of the last city that was asked for

// ---- messages ----
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const floats = text => new Float32Array(bytes(text).buffer);
function base64(array) {
  let text = "";
  for (let i = 0; i < array.length; i += 32768) text += String.fromCharCode(...array.subarray(i, i + 32768));
  return btoa(text);
}
function write(id, text, isError) {
  $(id).textContent = text;
  $(id).classList.toggle("error", isError);
}
const say = (text, isError = false) => write("status", text, isError);
const fail = error => say(error.message, true);
function note(text, isError = false) {
  write("note", text, isError);
  $("invert").hidden = !city.inverted;
}
async function ask(path, options) {
  const answer = await fetch(path, options).catch(() => { throw new Error("The server does not answer; is it still running?"); });
  if (answer.ok) return answer;
  const {error} = await answer.json().catch(() => ({}));
  throw new Error(error || `${answer.status} ${answer.statusText}`);
}
const post = (path, body) => ask(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});

// ---- places ----
const built = ([x, y]) => city.built[y * city.width + x];
const inView = ({x, y}) => x >= view[0] && y >= view[1] && x < view[0] + side && y < view[1] + side;
const near = ([x, y], distance = GRAB) => item => Math.hypot(item.x - x, item.y - y) <= distance;
function coordinates([x, y]) {  // in the city's file
  if (!city.georeference) return `${x}, ${y}`;
  const {x: left, y: top, dx, dy, degrees} = city.georeference;
  return [left + x * dx, top - y * dy].map(value => value.toFixed(degrees ? 6 : 1)).join(", ");
}
function part() {  // the buildings in view
  const cells = new Uint8Array(side * side);
  for (let row = 0; row < side; row++) {
    const start = (view[1] + row) * city.width + view[0];
    cells.set(city.built.subarray(start, start + side), row * side);
  }
  return cells;
}
function scene(seen = transmitters.filter(inView)) {  // what every request says about what is in view
  const [left, top] = view, {x, y, dx, dy, degrees, epsg} = city.georeference || {x: 0, y: 0, dx: 1, dy: 1, degrees: false, epsg: null};
  const points = seen.flatMap((t, i) => t.points.filter(inView).map(({x, y, gain}) => [x - left, y - top, gain, i]));
  return {
    buildings: base64(part()), tx: seen.map(({x, y}) => [x - left, y - top]), points, num_samples: Number($("samples").value),
    cars: cars.filter(inView).map(({x, y, degrees}) => [x - left, y - top, degrees]),
    georeference: {x: x + left * dx, y: y - top * dy, dx, dy, degrees, epsg},
  };
}

// ---- cities ----
async function load(what, find, file = null) {  // the last choice wins, whatever is answered first
  const mine = ++choice;
  note(`Reading ${what} …`);
  try {
    const found = await (await find()).json();
    if (mine === choice) take({...found, file});
  } catch (error) { if (mine === choice) note(error.message, true); }
}
function upload(file, invert = "") {
  const megabytes = settings.max_upload / 2 ** 20;
  if (file.size > settings.max_upload) return note(`${file.name}: at most ${megabytes} MiB can be sent; cut it to the part that you need.`, true);
  return load(file.name, () => ask(`/upload?name=${encodeURIComponent(file.name)}${invert}`, {method: "POST", body: file}), file);
}
function take(found) {  // open ground around what is smaller than the view
  remember();
  const {width, height} = found, wide = Math.max(width, side), high = Math.max(height, side);
  const given = bytes(found.buildings), cells = new Uint8Array(wide * high);
  for (let row = 0; row < height; row++) cells.set(given.subarray(row * width, (row + 1) * width), row * wide);
  const large = wide > side || high > side ? `; ${side} m × ${side} m of it are in view` : "";
  const inverted = found.inverted ? ". Mostly built: are buildings black on white?" : "";
  city = {...found, width: wide, height: high, built: cells, note: found.note + large + inverted};
  transmitters = found.tx ? [{x: found.tx[0], y: found.tx[1], points: []}] : [];
  cars = settings.cars ? found.cars.map(([x, y, degrees]) => ({x, y, degrees})) : [];
  view = [(wide - side) >> 1, (high - side) >> 1];
  cursor = null;
  note(city.note); changed();
}
function clear() {
  city = {width: side, height: side, built: new Uint8Array(side * side), georeference: null, inverted: false, note: ""};
  view = [0, 0]; transmitters = []; cars = [];
}
function remember() {
  history.push({city, view, transmitters, cars});
  if (history.length > Math.max(2, Math.min(50, 2e8 / city.built.length))) history.shift();
}
function undo() {
  if (!history.length) return say("There is nothing to undo.");
  choice++;
  ({city, view, transmitters, cars} = history.pop());
  note(city.note); changed();
}

// ---- transmitters, cars and measured values ----
const replaced = (list, index, ...items) => list.toSpliced(index, 1, ...items);
function act(at) {  // what a click does
  if (tool === "measure") return measure(at);
  const found = tool === "car" ? cars.findIndex(near(at, 3)) : transmitters.findIndex(near(at));
  if (found >= 0 && tool === "place") { active = found; choices(); return draw(); }
  if (built(at)) return say("Click outside the buildings.", true);
  remember();
  if (tool === "place") {
    transmitters = [...transmitters, {x: at[0], y: at[1], points: []}];
    active = transmitters.length - 1;
  } else if (found >= 0) cars = replaced(cars, found, {...cars[found], degrees: (cars[found].degrees + 30) % 180});
  else cars = [...cars, {x: at[0], y: at[1], degrees: heading}];
  changed();
}
function remove(at) {
  const car = cars.findIndex(near(at, 3)), found = transmitters.findIndex(near(at));
  remember();
  if (tool === "car" && car >= 0) cars = replaced(cars, car);
  else if (tool === "place" && found >= 0) transmitters = replaced(transmitters, found);
  changed();
}
function drag([x, y]) {  // a transmitter or a car to another place; from open ground, a new car the way that it points
  const {index, at} = press;
  if (built([x, y])) return;
  if (tool === "place") transmitters = replaced(transmitters, index, {...transmitters[index], x, y});
  else if (index >= 0) cars = replaced(press.cars, index, {...press.cars[index], x, y});
  else {
    heading = Math.round(Math.atan2(y - at[1], x - at[0]) * 180 / Math.PI + 180) % 180;
    cars = [...press.cars, {x: at[0], y: at[1], degrees: heading}];
  }
}
async function addCars() {  // instead of those in view
  const mine = version, [left, top] = view, seed = Math.floor(Math.random() * 1e9);
  const found = await (await post(`/cars?seed=${seed}`, scene())).json();
  if (mine !== version) return;
  remember();
  cars = [...cars.filter(car => !inView(car)), ...found.map(([x, y, degrees]) => ({x: x + left, y: y + top, degrees}))];
  cars = cars.filter(car => !transmitters.some(near([car.x, car.y], 4)));
  changed();
}
function measure(at) {
  if (!transmitters[active]) return say("First place the transmitter that was measured.", true);
  if (built(at)) return say("Click outside the buildings.", true);
  spot = at;
  say(`Type the value of transmitter ${active + 1} measured at ${coordinates(at)}, then press Enter.`);
  $("measured").value = "";
  $("measured").focus();
}
function setValue(isKept) {
  const value = $("measured").valueAsNumber, gain = $("unit").value === "dBm" ? value - $("eirp").valueAsNumber : value;
  if (!spot) return say("Click in the city where the value was measured.", true);
  if (isKept && !Number.isFinite(gain)) return say("Type a number; for dBm, also the EIRP.", true);
  remember();
  const others = transmitters[active].points.filter(point => !near(spot, isKept ? 0 : GRAB)(point));
  const points = isKept ? [...others, {x: spot[0], y: spot[1], gain}] : others;
  transmitters = replaced(transmitters, active, {...transmitters[active], points});
  changed();
}

// ---- drawing in the city ----
function paint([x0, y0], [x1, y1]) {
  const half = Math.max(1, Math.min(60, $("brush").valueAsNumber || 16)) / 2;
  const steps = Math.max(1, Math.abs(x1 - x0), Math.abs(y1 - y0)), full = tool === "build" ? 1 : 0;
  for (let s = 0; s <= steps; s++) {
    const x = x0 + (x1 - x0) * s / steps, y = y0 + (y1 - y0) * s / steps;
    const left = Math.max(0, Math.ceil(x - half)), right = Math.min(city.width, Math.ceil(x + half));
    if (!full) cars = cars.filter(car => Math.abs(car.x - x) > half || Math.abs(car.y - y) > half);
    for (let row = Math.max(0, Math.ceil(y - half)); row < Math.min(city.height, y + half); row++)
      city.built.fill(full, row * city.width + left, row * city.width + right);
  }
  const open = ({x, y}) => !built([x, y]);
  transmitters = transmitters.filter(open).map(t => ({...t, points: t.points.filter(open)}));
  cars = cars.filter(open);
}
function under(event, canvas) {
  const box = canvas.getBoundingClientRect();
  const pixel = (at, start, length) => Math.min(side - 1, Math.max(0, Math.floor((at - start) / length * side)));
  return [view[0] + pixel(event.clientX, box.left, box.width), view[1] + pixel(event.clientY, box.top, box.height)];
}
let press = null;  // {at, last, paints, moved, cars, index of the transmitter or the car, drags}
function listenToCity(canvas) {
  canvas.addEventListener("pointerdown", event => {
    if (event.button) return;
    const at = under(event, canvas), paints = tool === "build" || tool === "erase";
    const index = tool === "car" ? cars.findIndex(near(at, 3)) : tool === "place" ? transmitters.findIndex(near(at)) : -1;
    press = {at, last: at, paints, moved: false, cars, index, drags: index >= 0 || (tool === "car" && !built(at))};
    canvas.setPointerCapture(event.pointerId);
    if (paints) {
      remember();
      city = {...city, built: city.built.slice()};
      paint(at, at);
      drawCity();
    }
  });
  canvas.addEventListener("pointermove", event => {
    const at = under(event, canvas);
    if (!press) return read(at);
    if (press.paints) paint(press.last, at);
    else if (press.drags && !press.moved && !near(press.at, 2)({x: at[0], y: at[1]})) {
      press.moved = true;
      remember();
    }
    if (press.moved) drag(at);
    press.last = at;
    drawCity();
  });
  canvas.addEventListener("pointerup", event => {
    const {at, moved, paints} = press || {};
    press = null;
    if (paints || moved) changed();
    else if (at) { read(at); act(at); }
  });
  canvas.addEventListener("pointercancel", () => { press = null; changed(); });
  canvas.addEventListener("dblclick", event => {
    if (tool === "place" || tool === "car") remove(under(event, canvas));
  });
}

// ---- the maps ----
function changed() {
  version++;
  spot = null;
  active = Math.max(0, Math.min(active, transmitters.length - 1));
  drawCity();
  clearTimeout(timer);
  timer = setTimeout(predict, 150);
}
async function predict() {  // one request at a time; an answer to what has changed since is dropped
  if (busy) return;
  busy = true;
  let asked;
  do { asked = version; await askForMaps(asked); } while (asked !== version);
  busy = false;
}
async function askForMaps(mine) {
  const asked = scene(), seen = transmitters.filter(inView);
  const hide = () => { maps = []; choices(); draw(); };
  if (!seen.length) {
    hide();
    return say(`${transmitters.length ? "No transmitter is in view. " : ""}Click in the city to place a transmitter.`);
  }
  say("Predicting …");
  try {
    const found = await (await post("/predict", asked)).json();
    if (mine !== version) return;
    maps = found.maps.map((map, i) => {
      const layers = Object.fromEntries(Object.entries(map).map(([name, text]) => [name, floats(text)]));
      return {...layers, number: transmitters.indexOf(seen[i]) + 1, built: part()};
    });
    choices(); draw();
    const measured = asked.points.length ? `; measured values: ${asked.points.length}` : "";
    say(`Model and simulator: ${found.seconds.toFixed(2)} s; transmitters: ${maps.length}${measured}.`);
  } catch (error) { if (mine === version) { hide(); fail(error); } }
}
function choices() {
  $("shown").replaceChildren(...maps.map(map => new Option(`transmitter ${map.number}`, map.number)));
  if (maps.some(map => map.number === active + 1)) $("shown").value = active + 1;
}
const shown = () => maps[$("shown").selectedIndex];
function raster(width, height, colour) {  // a picture of one pixel per metre
  const canvas = Object.assign(document.createElement("canvas"), {width, height}), image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set([...colour(i), 255], 4 * i);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
function compose(canvas, base) {  // the picture, and marks that are drawn finer
  const context = canvas.getContext("2d"), scale = canvas.width / side;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(base, 0, 0, side, side);
  context.translate(0.5 - view[0], 0.5 - view[1]);
  context.lineWidth = 0.5; context.strokeStyle = "#111"; context.fillStyle = canvas.id === "city" ? "#e8760a" : "#0000";
  for (const car of cars) {
    context.save();
    context.translate(car.x, car.y);
    context.rotate(car.degrees * Math.PI / 180);
    context.fillRect(-2, -1, 4, 2);
    context.strokeRect(-2, -1, 4, 2);
    context.restore();
  }
  context.lineWidth = 1; context.strokeStyle = "#fff"; context.font = "bold 10px system-ui";
  transmitters.forEach((t, i) => {
    context.fillStyle = COLOURS[i % COLOURS.length];
    for (const {x, y} of t.points) { context.fillRect(x - 2, y - 2, 4, 4); context.strokeRect(x - 2, y - 2, 4, 4); }
    context.beginPath(); context.arc(t.x, t.y, 3.5, 0, 7); context.fill(); context.stroke();
    if (transmitters.length > 1) { context.strokeText(i + 1, t.x + 5, t.y - 3); context.fillText(i + 1, t.x + 5, t.y - 3); }
  });
  if (!cursor) return;
  context.strokeStyle = "#111"; context.strokeRect(cursor[0] - 3, cursor[1] - 3, 6, 6);
}
function marks() {
  compose($("city"), bases.city);
  for (const key in VIEWS) if (!$(`figure-${key}`).hidden) compose($(`map-${key}`), bases[key]);
}
function drawCity() {
  const cells = part();
  bases.city = raster(side, side, i => cells[i] ? [70, 78, 88] : [244, 241, 234]);
  marks();
  drawOverview();
}
function drawOverview() {
  const canvas = $("overview"), scale = 64 / Math.max(city.width, city.height), context = canvas.getContext("2d");
  canvas.hidden = city.width === side && city.height === side;
  canvas.width = Math.ceil(city.width * scale); canvas.height = Math.ceil(city.height * scale);
  const shade = raster(canvas.width, canvas.height, i => {
    const at = [(i % canvas.width + 0.5) / scale, (Math.floor(i / canvas.width) + 0.5) / scale].map(Math.floor);
    return built(at) ? [130, 138, 148] : [244, 241, 234];
  });
  context.drawImage(shade, 0, 0);
  context.strokeStyle = context.fillStyle = COLOURS[0]; context.lineWidth = 1.5;
  context.strokeRect(view[0] * scale, view[1] * scale, side * scale, side * scale);
  for (const {x, y} of transmitters) context.fillRect(x * scale - 1.5, y * scale - 1.5, 3, 3);
}
function draw() {
  const map = shown();
  for (const [key, [, colours, limits]] of Object.entries(VIEWS)) {
    const [low, high] = limits || settings.limits, table = settings.colours[colours];
    $(`figure-${key}`).hidden = !map?.[key];
    const colour = value => table[Math.max(0, Math.min(255, Math.round((value - low) / (high - low) * 255)))];
    if (map?.[key]) bases[key] = raster(side, side, i => map.built[i] ? [191, 195, 199] : colour(map[key][i]));
  }
  if (cursor) read(cursor); else marks();
}
function read(at) {
  cursor = at; marks();
  const map = shown(), i = (at[1] - view[1]) * side + at[0] - view[0];
  let text = built(at) ? "building" : "";
  if (map && inView({x: at[0], y: at[1]}) && !map.built[i]) {
    const values = Object.keys(VIEWS).filter(key => map[key]).map(key => `${NAMES[key] || key} ${map[key][i].toFixed(1)} dB`);
    const received = map.model[i] + $("eirp").valueAsNumber;
    text = `transmitter ${map.number}: ${values.join(", ")}`;
    if (Number.isFinite(received)) text += `, received ${received.toFixed(1)} dBm`;
  }
  $("readout").textContent = `(${coordinates(at)}) ${text}`;
}

// ---- files ----
function save(blob, name) {
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(blob), download: name});
  link.click(); URL.revokeObjectURL(link.href);
}
async function download(kind) {
  const layer = $("layer").value;
  if (layer === "city" && kind !== "png") return say("The city itself is saved as PNG only.", true);
  if (layer === "city") return raster(city.width, city.height, i => Array(3).fill(city.built[i] * 255)).toBlob(blob => save(blob, "city.png"));
  if (!maps.length) return say("There is no map yet: place a transmitter.", true);
  const answer = await post(`/file/${layer}/${kind}`, scene([transmitters[shown().number - 1]]));
  save(await answer.blob(), `radio_map_${layer}.${kind}`);
}

function listen() {
  const on = (id, event, does) => $(id).addEventListener(event, does);
  const tools = document.querySelectorAll("[data-tool]");
  tools.forEach(button => button.addEventListener("click", () => {
    tool = button.dataset.tool; spot = null;
    tools.forEach(other => other.setAttribute("aria-pressed", other === button));
    $("value").hidden = tool !== "measure";
  }));
  on("random", "click", () => load("a random city", () => ask(`/city?seed=${Math.floor(Math.random() * 1e9)}`)));
  on("upload", "change", event => { if (event.target.files[0]) upload(event.target.files[0]); event.target.value = ""; });
  on("invert", "click", () => upload(city.file, "&invert=1"));
  on("undo", "click", undo);
  on("clear", "click", () => { remember(); choice++; clear(); note(""); changed(); });
  on("cars", "click", () => addCars().catch(fail));
  on("clear-cars", "click", () => { remember(); cars = []; changed(); });
  on("value", "submit", event => { event.preventDefault(); setValue(true); });
  on("forget", "click", () => setValue(false));
  on("shown", "change", () => { active = Number($("shown").value) - 1; draw(); });
  on("samples", "change", changed);
  on("eirp", "input", draw);
  for (const button of document.querySelectorAll("[data-file]")) button.addEventListener("click", () => download(button.dataset.file).catch(fail));
  for (const kind of ["pointerdown", "pointermove"]) on("overview", kind, event => {
    const first = (at, client, length) => Math.max(0, Math.min(length - side, Math.round(at / client * length - side / 2)));
    if (!event.buttons) return;
    view = [first(event.offsetX, $("overview").clientWidth, city.width), first(event.offsetY, $("overview").clientHeight, city.height)];
    maps = [];
    draw(); changed();
  });
  listenToCity($("city"));
}
function addFigures() {
  for (const [key, [title, colours, limits]] of Object.entries(VIEWS)) {
    const figure = document.createElement("figure"), [low, high] = limits || settings.limits;
    const ticks = [0, 1, 2, 3, 4].map(n => `<span>${+(low + (high - low) * n / 4).toFixed(high - low < 10 ? 2 : 0)}</span>`).join("");
    figure.id = `figure-${key}`; figure.hidden = true;
    figure.innerHTML = `<figcaption><span>${title}</span><span class="scale">50 m</span></figcaption>
      <canvas id="map-${key}" width="512" height="512" role="img" aria-label="${title}"></canvas><div class="bar"></div><div class="ticks">${ticks}</div>`;
    const table = settings.colours[colours].filter((_, i) => i % 15 === 0).map(colour => `rgb(${colour.join(",")})`);
    figure.querySelector(".bar").style.background = `linear-gradient(to right, ${table.join(",")})`;
    const canvas = figure.querySelector("canvas");
    for (const event of ["pointerdown", "pointermove"]) canvas.addEventListener(event, event => read(under(event, canvas)));
    $("maps").append(figure);
    $("layer").append(new Option(NAMES[key] || key, key));
  }
}
async function start() {
  settings = await (await ask("/settings")).json();
  side = settings.side;
  clear();
  $("model").textContent = `Model: ${settings.model}.`;
  $("eirp").value = settings.eirp;
  document.querySelector("[data-tool=measure]").hidden = !settings.measurements;
  for (const button of document.querySelectorAll("[data-tool=car], #cars, #clear-cars")) button.hidden = !settings.cars;
  addFigures(); listen(); drawCity();
  $("layer").append(new Option("city", "city"));
  await load("a random city", () => ask("/city?seed=0"));
  history.length = 0;
}
start().catch(fail);
