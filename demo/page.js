"use strict";
const $ = id => document.getElementById(id);
const VIEWS = [  // key, title, colours, limits
  ["model", "Model, dB", "viridis", null],
  ["car_loss", "Loss by cars, dB", "OrRd", [0, 8]],
  ["simulator", "Embedded simulator, dB", "viridis", null],
  ["difference", "Model − simulator, dB", "RdBu_r", [-20, 20]],
  ["std", "Spread of samples, dB", "magma", [0, 3]],
  ["best_server", "Best server", "tab10", null],
];
const LAYERS = ["model", "simulator", "difference", "std", "car_loss", "best_server", "coverage", "measured", "city", "cars"];  // that can be downloaded
const GRAB = 6;  // m from a transmitter or a measured value that still mean it
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
let settings, side;
let city;                // {width, height, built, origin, place, note, inverted, from}; at least side x side
let view = [0, 0];       // column and row of the city's first pixel in view
let transmitters = [];   // {x, y, points: [{x, y, value, unit}]}, in the city's columns and rows
let cars = [], heading = 0;  // {x, y, degrees} of each, replaced when one changes; degrees of the next
let active = 0;          // index of the transmitter that was chosen last
let cursor = null;       // [x, y] that keys move, and that is read
let tool = "place", history = [];
let spot = null;         // [x, y] of the measured value that is being typed
let maps = [], shown = null;  // of the transmitters in view; what is shown of them
let version = 0, asked = 0, busy = false, timer = null;   // of what is in view; of the last request for maps
let choice = 0, reading = new AbortController();          // the last city that was asked for
let refused = null;      // the file that could not be read as a whole; the part around a position may be
let bases = {};          // pictures without marks, by canvas id

// ---- messages ----
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const floats = text => new Float32Array(bytes(text).buffer);
function base64(array) {
  const raw = new Uint8Array(array.buffer);
  let text = "";
  for (let i = 0; i < raw.length; i += 32768) text += String.fromCharCode(...raw.subarray(i, i + 32768));
  return btoa(text);
}
function packed(cells) {
  const bits = new Uint8Array(cells.length / 8);
  cells.forEach((full, i) => { if (full) bits[i >> 3] |= 128 >> (i & 7); });
  return base64(bits);
}
function write(id, text, isError) { $(id).textContent = text; $(id).classList.toggle("error", isError); }
const say = (text, isError = false) => write("status", text, isError);
function note(text, isError = false) { write("note", text, isError); $("invert").hidden = !city.inverted; }
async function ask(path, options) {
  const answer = await fetch(path, options).catch(error => { throw error.name === "AbortError" ? error : new Error("The server does not answer; is it still running?"); });
  if (answer.ok) return answer;
  const {error} = await answer.json().catch(() => ({}));
  throw new Error(error || (answer.status === 413 ? `More than ${megabytes(settings.max_upload)} cannot be sent.` : `${answer.status} ${answer.statusText}`));
}
const post = (path, body) => ask(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
const megabytes = size => size < 1e5 ? `${Math.ceil(size / 1024)} KiB` : `${+(size / 2 ** 20).toFixed(1)} MiB`;
const decibel = value => value.toFixed(1).replace(/^-(0\.0)$/, "$1");

// ---- places: columns and rows of the city, and coordinates of its file ----
const built = ([x, y]) => city.built[y * city.width + x];
const inCity = ([x, y]) => x >= 0 && y >= 0 && x < city.width && y < city.height;
const inView = ({x, y}) => x >= view[0] && y >= view[1] && x < view[0] + side && y < view[1] + side;
const isLarge = () => city.width > side || city.height > side;
function coordinates([x, y]) {
  const {place, origin} = city, column = x + origin[0], row = y + origin[1];
  if (!place) return `${column}, ${row}`;
  return [place.x + column * place.dx, place.y - row * place.dy].map(value => value.toFixed(place.degrees ? 6 : 1)).join(", ");
}
function pair(text) {
  const numbers = text.trim().split(/[\s,;]+/).map(Number);
  if (numbers.length !== 2 || !numbers.every(Number.isFinite)) throw new Error(`${text || "Nothing"} is no position: write two numbers, such as ${coordinates(cursor || view)}.`);
  return numbers;
}
function pixel([a, b]) {  // null outside of the city
  const {place, origin} = city, [column, row] = place ? [(a - place.x) / place.dx, (place.y - b) / place.dy] : [a, b];
  const at = [Math.floor(column - origin[0] + 0.5), Math.floor(row - origin[1] + 0.5)];
  return inCity(at) ? at : null;
}
function part() {
  const cells = new Uint8Array(side * side);
  for (let row = 0; row < side; row++) cells.set(city.built.subarray((view[1] + row) * city.width + view[0]).subarray(0, side), row * side);
  return cells;
}
function pan([x, y], delay = 150) {
  const first = (start, length) => Math.max(0, Math.min(length - side, Math.round(start)));
  const moved = [first(x, city.width), first(y, city.height)];
  if (moved[0] === view[0] && moved[1] === view[1]) return;
  view = moved; changed(delay);
}
function goTo(numbers) {
  const at = pixel(numbers);
  if (!at) return say(`${numbers.join(", ")} is outside of the city: ${coordinates([0, city.height - 1])} to ${coordinates([city.width - 1, 0])}.`, true);
  centre(at); $("city").focus({preventScroll: true}); read(at);
  say(`The cursor is at ${coordinates(at)}: Enter uses the chosen tool there.`);
}
const centre = ([x, y]) => pan([x - side / 2, y - side / 2]);

// ---- cities ----
async function load(what, find, from = null) {  // the last choice wins, whatever is answered first
  const mine = ++choice;
  refused = null;
  reading.abort(); reading = new AbortController();
  const {signal} = reading;
  note(`Reading ${what} …`);
  try {
    const found = await (await find(signal)).json();
    if (mine !== choice) return;
    take({...found, from});
    if (from?.around) goTo(from.around);
  } catch (error) {
    if (mine !== choice) return;
    if (/ position /.test(error.message)) refused = from;  // too large as a whole
    note(error.message, true);
  }
}
const fetchCity = (what, path) => load(what, signal => ask(path, {signal}));
const positions = node => Array.isArray(node) ? (typeof node[0] === "number" ? 1 : node.reduce((count, each) => count + positions(each), 0))
  : node && typeof node === "object" ? positions(node.coordinates || node.geometry || node.features || node.geometries || []) : 0;
async function check(file, around) {  // what the server would refuse is not sent
  if (file.size > settings.max_upload) throw new Error(`${file.name} has ${megabytes(file.size)}; at most ${megabytes(settings.max_upload)} can be sent. Cut it to the part that you need.`);
  const head = new DataView(await file.slice(0, 24).arrayBuffer());
  if (head.byteLength === 24 && head.getUint32(0) === 0x89504e47) {
    const [width, height] = [head.getUint32(16), head.getUint32(20)];
    if (Math.max(width, height) > settings.max_side) throw new Error(`${file.name} is ${width} × ${height} px; at most ${settings.max_side} per side can be read.`);
  } else if (settings.suffixes.some(suffix => file.name.toLowerCase().endsWith(suffix))) {
    let tree = null;
    try { tree = JSON.parse(await file.text()); } catch { /* the server says what is wrong */ }
    const count = positions(tree);
    if (count > settings.max_vertices && !around) throw new Error(`${file.name} has ${count.toLocaleString("en")} vertices; at most ${settings.max_vertices.toLocaleString("en")} can be read. Type a position in it below the city: the part around it is read.`);
  }
}
const upload = (file, around = null, invert = "") => load(`${file.name} (${megabytes(file.size)})`, async signal => {
  await check(file, around);
  const form = new FormData();
  form.append("file", file); form.append("around", around || ""); form.append("invert", invert);
  return ask("/upload", {method: "POST", body: form, signal});
}, {file, around});
function take(found) {  // open ground around what is smaller than the view
  if (city.built.some(Boolean) || transmitters.length || cars.length) remember();
  const {width, height} = found, bits = bytes(found.buildings), wide = Math.max(width, side), high = Math.max(height, side), cells = new Uint8Array(wide * high);
  for (let row = 0, i = 0; row < height; row++) for (let column = 0; column < width; column++, i++) cells[row * wide + column] = (bits[i >> 3] >> (7 - (i & 7))) & 1;
  const size = isLarger => isLarger ? `; ${side} m × ${side} m of it are in view` : Math.min(width, height) < side ? "; open ground around it" : "";
  city = {width: wide, height: high, built: cells, origin: found.origin || [0, 0], place: found.place || null, inverted: found.inverted, from: found.from,
    note: found.note + size(wide > side || high > side) + (found.inverted ? ". Mostly built: are buildings black on white?" : "")};
  transmitters = found.tx.map(([x, y], i) => ({x: Math.round(x), y: Math.round(y), points: found.points?.[i] || []}));
  cars = (settings.cars && found.cars || []).map(([x, y, degrees]) => ({x, y, degrees})).filter(isOpen);
  if (found.cars?.length > cars.length) city.note += `; ${found.cars.length - cars.length} of ${found.cars.length} cars left out: ${settings.cars ? "they touch buildings" : "this model does not see cars"}`;
  view = [(wide - side) >> 1, (high - side) >> 1]; active = 0; cursor = null; maps = [];
  changed(0); draw(); note(city.note);
}
function empty() { city = {width: side, height: side, built: new Uint8Array(side * side), origin: [0, 0], place: null, inverted: false, note: ""}; }
function remember(before = {}) {  // cities are replaced, never changed, so that most steps share one
  history = history.concat([{city, view, active, cars, transmitters: structuredClone(transmitters), ...before}]).slice(-Math.min(50, Math.ceil(2e8 / city.built.length)));
}
function undo() {
  const before = history.pop();
  if (!before) return say("There is nothing to undo.");
  choice++; reading.abort(); refused = null;
  ({city, view, active, cars, transmitters} = before);
  note(city.note); changed(0);
}

// ---- cars ----
const pixelsOf = car => settings.cars[car.degrees].pixels.map(([dx, dy]) => [car.x + dx, car.y + dy]).filter(inCity);
const touches = (car, [x, y]) => Math.hypot(car.x - x, car.y - y) < 4 && pixelsOf(car).some(([column, row]) => column === x && row === y);
const isOpen = car => !pixelsOf(car).some(built);
const isFree = (at, number) => !built(at) && !cars.some((car, i) => i !== number && touches(car, at));
const carAt = ([x, y]) => cars.findIndex(car => Math.hypot(car.x - x, car.y - y) <= 3);
function setCar(index, car) {  // number `index`, or one more
  if (index === cars.length && cars.filter(inView).length >= settings.max_cars) return say(`At most ${settings.max_cars} cars.`, true);
  if (!pixelsOf(car).every(at => isFree(at, index)) || transmitters.some(({x, y}) => touches(car, [x, y]))) return say("A car must be outside of buildings, other cars and transmitters.", true);
  cars = cars.toSpliced(index, 1, car); heading = car.degrees;
}
function dragCar(at) {  // to another place; from open ground, the way that it points
  const [x, y] = press.at, degrees = Math.round(Math.atan2(at[1] - y, at[0] - x) * 180 / Math.PI + 180) % 180;
  setCar(press.car, press.grabbed ? {...press.grabbed, x: at[0], y: at[1]} : {x, y, degrees});
  drawCity();
}
async function addCars() {  // instead of those in view
  const form = new FormData(), before = cars, mine = version, [left, top] = view;
  form.append("buildings", packed(part())); form.append("seed", Math.floor(Math.random() * 1e9));
  const found = await (await ask("/cars", {method: "POST", body: form})).json();
  if (mine !== version) return;
  if (!found.length) return say("There is no street here with room for cars.");
  cars = cars.filter(car => !inView(car));
  for (const [x, y, degrees] of found) setCar(cars.length, {x: x + left, y: y + top, degrees});
  changedCars(before);
}
function changedCars(before) {
  if (cars === before) return;
  remember({cars: before}); changed(0);
}

// ---- transmitters and measured values ----
const near = ([x, y]) => item => Math.hypot(item.x - x, item.y - y) <= GRAB;
const nearest = at => transmitters.findIndex(near(at));
const eirp = () => $("eirp").valueAsNumber || 0;
const gainOf = ({value, unit}) => unit === "dBm" ? value - eirp() : value;
function dropBuilt() {
  transmitters = transmitters.filter(({x, y}) => !built([x, y])).map(t => ({...t, points: t.points.filter(({x, y}) => !built([x, y]))}));
  cars = cars.filter(isOpen);
}
function act(at) {
  if (tool === "measure") return measure(at);
  if (tool === "car") {
    const found = carAt(at), before = cars;
    setCar(...(found < 0 ? [cars.length, {x: at[0], y: at[1], degrees: heading}] : [found, {...cars[found], degrees: (cars[found].degrees + 30) % 180}]));
    return changedCars(before);
  }
  if (tool !== "place") { remember(); city = {...city, built: city.built.slice()}; paint(at, at); return changed(0); }
  const found = nearest(at);
  if (found >= 0) { active = found; $("shown").value = String(found + 1); choices(); return draw(); }
  if (!isFree(at)) return say("A transmitter must be outside of buildings and cars.", true);
  if (transmitters.length >= settings.max_transmitters) return say(`At most ${settings.max_transmitters} transmitters.`, true);
  remember(); transmitters.push({x: at[0], y: at[1], points: []}); active = transmitters.length - 1; changed(0);
}
function remove(at) {
  const found = nearest(at), owner = transmitters.findIndex(t => t.points.some(near(at))), car = carAt(at);
  if (found < 0 && owner < 0 && car < 0) return say("There is nothing to remove here.");
  remember();
  if (car >= 0 && (tool === "car" || (found < 0 && owner < 0))) cars = cars.toSpliced(car, 1);
  else if (found >= 0) { transmitters.splice(found, 1); active = Math.max(0, Math.min(active, transmitters.length - 1)); } else transmitters[owner].points.splice(transmitters[owner].points.findIndex(near(at)), 1);
  changed(0);
}
function measure(at) {
  if (!transmitters.length) return say("Place the transmitter first that is measured.", true);
  if (built(at)) return say("A value can be measured outside of buildings only.", true);
  const point = transmitters[active].points.find(({x, y}) => x === at[0] && y === at[1]);
  $("measured").value = point ? point.value : "";
  if (point) $("unit").value = point.unit;
  say(`Measured at ${coordinates(at)}: type the value, then Enter.`);
  spot = at; read(at); $("measured").focus(); $("measured").select();
}
function setValue() {
  const found = /^\s*([-+\u2212]?\d+(?:[.,]\d+)?)\s*(dbm|db)?\s*$/i.exec($("measured").value);
  if (!spot) return say("Click in the city where the value was measured.", true);
  if (!found) return say("Type a number, such as -70 dBm or -93 dB.", true);
  const unit = found[2] ? {dbm: "dBm", db: "dB"}[found[2].toLowerCase()] : $("unit").value, value = Number(found[1].replace("\u2212", "-").replace(",", "."));
  const gain = gainOf({value, unit}), [low, high] = settings.measurable, {points} = transmitters[active];
  if (!(gain >= low && gain <= high)) return say(`${value} ${unit} is a path gain of ${gain.toFixed(1)} dB${unit === "dBm" ? ` at an EIRP of ${eirp()} dBm` : ""}; possible are ${low.toFixed(0)} .. ${high} dB.`, true);
  if (points.length >= settings.max_points) return say(`At most ${settings.max_points} values per transmitter.`, true);
  remember(); $("unit").value = unit;
  transmitters[active].points = points.filter(({x, y}) => x !== spot[0] || y !== spot[1]).concat([{x: spot[0], y: spot[1], value, unit}]);
  changed(0); $("city").focus({preventScroll: true});
}

// ---- drawing in the city ----
function paint([x0, y0], [x1, y1]) {
  const half = Math.max(1, Math.min(60, $("brush").valueAsNumber || 16)) / 2, steps = Math.max(1, Math.abs(x1 - x0), Math.abs(y1 - y0)), full = tool === "build" ? 1 : 0;
  for (let s = 0; s <= steps; s++) {
    const x = x0 + (x1 - x0) * s / steps, y = y0 + (y1 - y0) * s / steps;
    if (!full) cars = cars.filter(car => Math.abs(car.x - x) > half || Math.abs(car.y - y) > half);
    for (let row = Math.max(0, Math.ceil(y - half)); row < Math.min(city.height, y + half); row++)
      city.built.fill(full, row * city.width + Math.max(0, Math.ceil(x - half)), row * city.width + Math.min(city.width, Math.ceil(x + half)));
  }
  dropBuilt(); drawCity();
}
function under(event, canvas, origin = view) {
  const box = canvas.getBoundingClientRect();
  const place = (at, start, length) => Math.min(side - 1, Math.max(0, Math.floor((at - start) / length * side)));
  return [origin[0] + place(event.clientX, box.left, box.width), origin[1] + place(event.clientY, box.top, box.height)];
}
let press = null;  // {at, last, client, view, moved, dragged, paints, cars, car, grabbed}
function listenToCity(canvas) {
  canvas.addEventListener("pointerdown", event => {
    if (event.button) return;
    const at = under(event, canvas), paints = tool === "build" || tool === "erase";
    press = {at, last: at, client: [event.clientX, event.clientY], view, moved: false, dragged: tool === "place" ? nearest(at) : -1, paints, cars};
    if (tool === "car") { const found = carAt(at); press.grabbed = cars[found]; press.car = found < 0 ? cars.length : found; }
    canvas.setPointerCapture(event.pointerId);
    if (paints) { remember(); city = {...city, built: city.built.slice()}; paint(at, at); }
  });
  canvas.addEventListener("touchstart", event => {  // the finger draws or drags: the page does not scroll
    const at = under(event.touches[0], canvas);
    if (event.touches.length === 1 && (["build", "erase", "car"].includes(tool) || isLarge() || (tool === "place" && nearest(at) >= 0))) event.preventDefault();
  }, {passive: false});
  canvas.addEventListener("pointermove", event => {
    const at = under(event, canvas);
    if (!press) return read(at);
    const [dx, dy] = [event.clientX - press.client[0], event.clientY - press.client[1]];
    if (!press.moved && !press.paints && Math.hypot(dx, dy) > 5) { press.moved = true; if (press.dragged >= 0) remember(); }
    if (press.paints) { paint(press.last, at); press.last = at; }
    else if (press.moved && tool === "car") dragCar(at);
    else if (press.moved && press.dragged >= 0) { if (isFree(at)) { [transmitters[press.dragged].x, transmitters[press.dragged].y] = at; active = press.dragged; drawCity(); } }
    else if (press.moved && isLarge()) { const scale = side / canvas.getBoundingClientRect().width; pan([press.view[0] - dx * scale, press.view[1] - dy * scale]); }
  });
  canvas.addEventListener("pointerup", event => {
    if (!press) return;
    const {at, moved, paints, dragged} = press;
    if (tool === "car") changedCars(press.cars);
    press = null;
    if (paints || (moved && dragged >= 0)) changed(150); else if (!moved) { read(at); act(at); }
  });
  canvas.addEventListener("pointercancel", () => { if (press?.paints || press?.dragged >= 0) changed(150); if (press && tool === "car") changedCars(press.cars); press = null; });
  canvas.addEventListener("dblclick", event => { const at = under(event, canvas); if ((tool === "place" && nearest(at) >= 0) || (tool === "car" && carAt(at) >= 0)) remove(at); });
  canvas.addEventListener("keydown", event => {
    const at = cursor || [view[0] + side / 2, view[1] + side / 2], arrow = ARROWS[event.key], step = event.shiftKey ? 10 : 1;
    if (arrow && !event.ctrlKey && !event.metaKey) {
      const to = [Math.max(0, Math.min(city.width - 1, at[0] + step * arrow[0])), Math.max(0, Math.min(city.height - 1, at[1] + step * arrow[1]))];
      if (!inView({x: to[0], y: to[1]})) pan([view[0] + arrow[0] * side / 2, view[1] + arrow[1] * side / 2]);
      read(to);
    } else if (event.key === "Enter" || event.key === " ") { read(at); act(at); }
    else if (event.key === "Delete" || event.key === "Backspace") remove(at);
    else return;
    event.preventDefault();
  });
}

// ---- a link that holds what is in view: its bits, compressed, behind the # ----
async function through(stream, raw) { return new Uint8Array(await new Response(new Blob([raw]).stream().pipeThrough(stream)).arrayBuffer()); }
const local = item => ({...item, x: item.x - view[0], y: item.y - view[1]});
const seenCars = () => cars.filter(inView).map(local).map(({x, y, degrees}) => [x, y, degrees]);
const seenTransmitters = () => transmitters.map((t, i) => ({...local(t), number: i + 1, points: t.points.filter(inView).map(local), seen: inView(t)})).filter(t => t.seen);
async function copyLink() {
  const seen = seenTransmitters(), {place} = city, origin = [city.origin[0] + view[0], city.origin[1] + view[1]];
  const scene = {buildings: packed(part()), tx: seen.map(({x, y}) => [x, y]), points: seen.map(t => t.points), cars: seenCars(), place, origin, eirp: eirp(), note: city.note};
  const raw = await through(new CompressionStream("deflate-raw"), new TextEncoder().encode(JSON.stringify(scene)));
  window.history.replaceState(null, "", "#" + base64(raw).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", ""));
  const copied = await navigator.clipboard?.writeText(location.href).then(() => ", and was copied", () => "");
  say(`The address of this page holds ${isLarge() ? "all that is in view" : "the whole scene"}${copied ?? ""}.`);
}
async function sceneOf(hash) {
  const raw = await through(new DecompressionStream("deflate-raw"), bytes(hash.replaceAll("-", "+").replaceAll("_", "/")));
  const scene = JSON.parse(new TextDecoder().decode(raw));
  if (bytes(scene.buildings).length !== side * side / 8 || !Array.isArray(scene.tx) || !Array.isArray(scene.points)) throw new Error();
  if (scene.cars?.some(([, , degrees]) => settings.cars && !settings.cars[degrees])) throw new Error();
  if (Number.isFinite(scene.eirp)) $("eirp").value = scene.eirp;
  return {...scene, width: side, height: side, note: String(scene.note || "from a link").replace(/;.*/, "")};
}

// ---- the maps ----
function changed(delay) { version++; spot = null; drawCity(); choices(); clearTimeout(timer); timer = setTimeout(predict, transmitters.length ? delay : 0); }
async function predict() {  // one request at a time; an answer to what has changed since is dropped
  if (busy) return;
  busy = true;
  while (asked !== version) { asked = version; await askForMaps(version); }
  busy = false;
}
async function askForMaps(mine) {
  const seen = seenTransmitters(), here = {built: part(), origin: view, place: city.place, base: city.origin};
  if (!seen.length) {
    maps = []; choices(); draw();
    return say(transmitters.length ? "No transmitter is in view: go to one, or click to place another." : "Click in the city to place a transmitter.");
  }
  say("Predicting …");
  try {
    const points = seen.map(t => t.points.map(point => [point.x, point.y, gainOf(point)]));
    const found = await (await post("/predict", {buildings: packed(here.built), tx: seen.map(({x, y}) => [x, y]), cars: seenCars(), points, draws: Number($("draws").value)})).json();
    if (mine !== version) return;
    maps = found.maps.map((map, i) => {
      const [model, simulator] = [floats(map.model), floats(map.simulator)];
      return {...here, number: seen[i].number, model, simulator, std: map.std && floats(map.std), car_loss: map.car_loss && floats(map.car_loss), difference: model.map((value, k) => value - simulator[k])};
    });
    choices(); draw();
    const told = seen.filter(t => t.points.length).map(t => `${t.points.length} of transmitter ${t.number}`).join(", ");
    say(`Model ${found.model_seconds.toFixed(2)} s, simulator ${found.simulator_seconds.toFixed(2)} s for ${maps.length === 1 ? "one transmitter" : `${maps.length} transmitters`}${told && `; measured values: ${told}`}.`);
  } catch (error) { if (mine === version) say(error.message, true); }
}
function choices() {
  const before = $("shown").value, several = $("shown").options.length > 1;
  $("shown").replaceChildren(...maps.map(map => new Option(`transmitter ${map.number}`, map.number)), ...(maps.length > 1 ? [new Option("the best of all", "best")] : []));
  $("owner").replaceChildren(...transmitters.map((_, i) => new Option(`transmitter ${i + 1}`, i)));
  $("owner").value = String(active);
  $("shown").value = maps.length > 1 && (before === "best" || !several) ? "best" : maps.some(map => String(map.number) === before) ? before : maps[0]?.number;
}
function current() {  // the map that is shown, with the layers that follow from all of them
  if (!maps.length) return null;
  const map = {...(maps.find(each => String(each.number) === $("shown").value) || maps[0])}, threshold = $("threshold").valueAsNumber;
  const best = map.model.map((value, i) => maps.reduce((k, each, j) => each.model[i] > maps[k].model[i] ? j : k, 0));
  if ($("shown").value === "best") {
    map.number = 0;
    map.model = best.map((k, i) => maps[k].model[i]);
    if (map.std) map.std = best.map((k, i) => maps[k].std[i]);
    const strongest = gain => map.simulator.map((_, i) => Math.max(...maps.map(each => gain(each, i))));
    map.simulator = strongest((each, i) => each.simulator[i]);
    if (map.car_loss) map.car_loss = strongest((each, i) => each.simulator[i] + each.car_loss[i]).map((without, i) => without - map.simulator[i]);
    map.difference = map.model.map((value, i) => value - map.simulator[i]);
  }
  map.best_server = best.map((k, i) => map.built[i] ? NaN : maps[k].number);
  map.coverage = map.model.map((value, i) => map.built[i] ? NaN : value >= threshold ? 1 : 0);
  return map;
}
const palette = number => settings.colours.tab10[(number - 1) % 10];
const css = colour => `rgb(${colour.join(",")})`;
function raster(width, height, colour) {  // a picture of one pixel per metre
  const canvas = Object.assign(document.createElement("canvas"), {width, height}), image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) { const [r, g, b] = colour(i); image.data[4 * i] = r; image.data[4 * i + 1] = g; image.data[4 * i + 2] = b; image.data[4 * i + 3] = 255; }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
function compose(canvas, base, origin, withPoints) {  // the picture, and marks that are drawn finer
  const context = canvas.getContext("2d"), scale = canvas.width / side, spot = ({x, y}) => [x - origin[0] + 0.5, y - origin[1] + 0.5];
  context.setTransform(scale, 0, 0, scale, 0, 0); context.imageSmoothingEnabled = false;
  context.drawImage(base, 0, 0, side, side);
  context.beginPath(); context.lineWidth = 0.5; context.strokeStyle = "#111"; context.fillStyle = "#e8760a";
  for (const car of cars) {
    settings.cars[car.degrees].corners.forEach(([dx, dy], k) => context[k ? "lineTo" : "moveTo"](...spot({x: car.x + dx, y: car.y + dy})));
    context.closePath();
  }
  if (canvas.id === "city") context.fill();
  context.stroke();
  transmitters.forEach((t, i) => {
    context.strokeStyle = "#fff"; context.lineWidth = 1; context.fillStyle = css(palette(i + 1));
    if (withPoints) for (const point of t.points) { const [x, y] = spot(point); context.beginPath(); context.rect(x - 2, y - 2, 4, 4); context.fill(); context.stroke(); }
    const [x, y] = spot(t);
    context.fillStyle = transmitters.length > 1 ? css(palette(i + 1)) : "#d62728";
    context.beginPath(); context.arc(x, y, 3.5, 0, 7); context.fill(); context.stroke();
    if (transmitters.length > 1) { context.font = `${i === active ? "bold " : ""}10px system-ui`; context.fillStyle = "#111"; context.lineWidth = 2.5; context.strokeText(i + 1, x + 5, y - 3); context.fillText(i + 1, x + 5, y - 3); }
  });
  if (!cursor) return;
  const [x, y] = spot({x: cursor[0], y: cursor[1]});
  for (const [colour, width] of [["#fff", 2], ["#111", 0.8]]) {
    context.strokeStyle = colour; context.lineWidth = width; context.beginPath();
    for (const [dx, dy] of Object.values(ARROWS)) { context.moveTo(x + 2 * dx, y + 2 * dy); context.lineTo(x + 8 * dx, y + 8 * dy); }
    context.stroke();
  }
}
function marks() {
  compose($("city"), bases.city, view, true);
  if (maps.length) for (const [key] of VIEWS) if (!$(`figure-${key}`).hidden) compose($(`map-${key}`), bases[key], maps[0].origin, key !== "best_server");
}
function drawCity() {
  const cells = part();
  bases.city = raster(side, side, i => cells[i] ? [70, 78, 88] : [244, 241, 234]);
  $("axes").textContent = !city.place ? "position x, y" : city.place.degrees ? "position lon, lat" : "position x, y (m)";
  marks(); drawOverview();
}
function drawOverview() {
  const canvas = $("overview"), longest = Math.max(city.width, city.height), scale = 64 / longest;
  canvas.hidden = !isLarge();
  if (canvas.hidden) return;
  canvas.width = Math.max(8, Math.round(city.width * scale)); canvas.height = Math.max(8, Math.round(city.height * scale));
  const context = canvas.getContext("2d");
  const shade = raster(canvas.width, canvas.height, i => {  // from 16 samples of each pixel's area
    let full = 0;
    for (let k = 0; k < 16; k++) full += built([Math.floor((i % canvas.width + (k % 4 + 0.5) / 4) / canvas.width * city.width), Math.floor((Math.floor(i / canvas.width) + ((k >> 2) + 0.5) / 4) / canvas.height * city.height)]);
    return [244 - 10.8 * full, 241 - 10.2 * full, 234 - 9.1 * full];
  });
  context.drawImage(shade, 0, 0);
  context.strokeStyle = "#d62728"; context.lineWidth = 1.5;
  context.strokeRect(view[0] * scale, view[1] * scale, side * scale, side * scale);
  transmitters.forEach(({x, y}, i) => { context.fillStyle = css(transmitters.length > 1 ? palette(i + 1) : [214, 39, 40]); context.fillRect(x * scale - 1.5, y * scale - 1.5, 3, 3); });
}
function draw() {
  const map = shown = current(), threshold = $("threshold").valueAsNumber, mask = $("mask").checked;
  for (const [key, , colours, limits] of VIEWS) {
    const hidden = !map || !map[key] || (key === "best_server" && maps.length < 2);
    $(`figure-${key}`).hidden = hidden;
    if (hidden) continue;
    const [low, high] = limits || settings.limits, table = settings.colours[colours], isServer = key === "best_server", masked = mask && (isServer || limits === null);
    bases[key] = raster(side, side, i => {
      if (map.built[i]) return [191, 195, 199];
      if (masked && map[key === "simulator" ? key : "model"][i] < threshold) return [255, 255, 255];
      return isServer ? palette(map[key][i]) : table[Math.max(0, Math.min(255, Math.round((map[key][i] - low) / (high - low) * 255)))];
    });
  }
  if (cursor) read(cursor); else marks();
  $("coverage").textContent = "";
  if (!map) return;
  const open = map.built.reduce((count, full) => count + !full, 0) || 1, share = count => `${(100 * count / open).toFixed(1)} %`;
  const heard = map.coverage.reduce((count, value) => count + (value === 1), 0);
  $("coverage").textContent = `${share(heard)} of the open area is covered (from ${threshold} dB, ${+(threshold + eirp()).toFixed(2)} dBm)`;
  if (map.car_loss) $("coverage").textContent += `; cars take away ${decibel(map.car_loss.reduce((sum, value) => sum + value, 0) / open)} dB on average in the simulator`;
  document.querySelector("#figure-best_server .ticks").innerHTML = maps.map(({number}) =>
    `<span><i style="background: ${css(palette(number))}"></i> transmitter ${number}: ${share(map.best_server.reduce((count, value) => count + (value === number), 0))}</span>`).join("");
}
function read(at) {
  cursor = at; marks();
  if (document.activeElement !== $("position")) $("position").value = coordinates(at);
  const map = shown, x = at[0] - (map?.origin[0] ?? 0), y = at[1] - (map?.origin[1] ?? 0), i = y * side + x;
  let text = built(at) ? "building" : "";
  if (map && x >= 0 && y >= 0 && x < side && y < side && !map.built[i]) {
    const values = VIEWS.filter(([key]) => map[key] && key !== "best_server").map(([key]) => `${key.replace("_", " ")} ${decibel(map[key][i])} dB`).join(", ");
    text = `${map.number ? "" : "best: "}transmitter ${map.number || map.best_server[i]}: ${values}, received ${decibel(map.model[i] + eirp())} dBm`;
  }
  $("readout").textContent = `(${coordinates(at)}) ${text}`;
}

// ---- files ----
function save(blob, name) {
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(blob), download: name});
  link.click(); URL.revokeObjectURL(link.href);
}
async function download(kind) {
  const layer = $("layer").value, file = `radio_map_${layer}.${kind}`;
  if (layer === "city" || layer === "cars") {
    if (kind !== "png") return say("City and cars are saved as PNG only.", true);
    const places = new Set(cars.flatMap(pixelsOf).map(([x, y]) => y * city.width + x)), isCity = layer === "city";
    const picture = raster(city.width, city.height, i => (isCity ? city.built[i] : places.has(i)) ? [255, 255, 255] : [0, 0, 0]);
    if (isCity && cars.length) say("city.png holds the buildings; the cars are a layer of their own.");
    return picture.toBlob(blob => save(blob, `${layer}.png`));
  }
  let body = {layer, place: city.place};
  if (layer === "measured") {
    const points = transmitters[active]?.points || [];
    if (!points.length) return say(transmitters.length ? `Transmitter ${active + 1} has no measured values.` : "There are no measured values.", true);
    body.points = points.map(point => [point.x + city.origin[0], point.y + city.origin[1], gainOf(point)]);
  } else {
    if (!shown) return say("There is no map yet: place a transmitter.", true);
    if (!shown[layer]) return say(layer === "std" ? "Choose several samples first: one has no spread." : "Place a car first.", true);
    body = {layer, place: shown.place, left: shown.base[0] + shown.origin[0], top: shown.base[1] + shown.origin[1], values: base64(shown[layer]), buildings: packed(shown.built)};
  }
  save(await (await post(`/file/${kind}`, body)).blob(), file);
}

function listen() {
  const on = (id, event, does) => $(id).addEventListener(event, does);
  const tools = document.querySelectorAll("[data-tool]");
  tools.forEach(button => button.addEventListener("click", () => {
    tool = button.dataset.tool; spot = null;
    tools.forEach(other => other.setAttribute("aria-pressed", other === button));
    $("value").hidden = tool !== "measure";
    if (tool === "measure") say("Click in the city where a value was measured.");
  }));
  on("random", "click", () => fetchCity("a random city", `/city?seed=${Math.floor(Math.random() * 1e9)}`));
  on("example", "change", event => { if (event.target.value) fetchCity(event.target.value, `/example?name=${encodeURIComponent(event.target.value)}`); });
  on("upload", "change", event => { if (event.target.files[0]) upload(event.target.files[0]); event.target.value = ""; });
  on("invert", "click", () => upload(city.from.file, null, "yes"));
  on("undo", "click", undo);
  on("clear", "click", () => { remember(); choice++; reading.abort(); refused = null; empty(); view = [0, 0]; transmitters = []; cars = []; cursor = null; note(""); changed(0); });
  on("clear-tx", "click", () => { remember(); transmitters = []; active = 0; changed(0); });
  on("cars", "click", () => addCars().catch(error => say(error.message, true)));
  on("clear-cars", "click", () => { const before = cars; cars = []; changedCars(before); });
  on("link", "click", () => copyLink().catch(error => say(error.message, true)));
  on("value", "submit", event => { event.preventDefault(); setValue(); });
  on("forget", "click", () => { if (spot) { tool = "measure"; remove(spot); } });
  on("goto", "submit", event => {
    event.preventDefault();
    try {
      const numbers = pair($("position").value), large = refused || (city.from?.around && !pixel(numbers) ? city.from : null);
      if (large) upload(large.file, numbers); else goTo(numbers);
    } catch (error) { say(error.message, true); }
  });
  on("shown", "change", () => { const number = Number($("shown").value); if (number) active = number - 1; draw(); });
  on("owner", "change", () => { active = Number($("owner").value); drawCity(); });
  on("threshold", "input", draw); on("mask", "change", draw);
  on("draws", "change", () => changed(0));
  on("eirp", "input", () => { draw(); if (transmitters.some(t => t.points.some(({unit}) => unit === "dBm"))) changed(300); });
  document.querySelectorAll("[data-file]").forEach(button => button.addEventListener("click", () => download(button.dataset.file).catch(error => say(error.message, true))));
  document.addEventListener("keydown", event => {
    if ((event.ctrlKey || event.metaKey) && event.key === "z" && !(event.target instanceof HTMLInputElement)) { event.preventDefault(); undo(); }
  });
  for (const kind of ["pointerdown", "pointermove"]) on("overview", kind, event => {
    if (event.buttons) centre([event.offsetX / $("overview").clientWidth * city.width, event.offsetY / $("overview").clientHeight * city.height]);
  });
  listenToCity($("city"));
}

function addFigures() {
  for (const [key, title, colours, limits] of VIEWS) {
    const figure = document.createElement("figure"), [low, high] = limits || settings.limits, table = settings.colours[colours];
    figure.id = `figure-${key}`; figure.hidden = true;
    const ticks = key === "best_server" ? "" : [0, 1, 2, 3, 4].map(n => `<span>${+(low + (high - low) * n / 4).toFixed(high - low < 10 ? 2 : 0)}</span>`).join("");
    figure.innerHTML = `<figcaption><span>${title}</span><span class="scale">50 m</span></figcaption>
      <canvas id="map-${key}" width="512" height="512" role="img" aria-label="${title}; the line below the page reads it at the cursor"></canvas><div class="bar"></div><div class="ticks">${ticks}</div>`;
    figure.querySelector(".bar").style.background = `linear-gradient(to right, ${table.filter((_, i) => i % 15 === 0).map(css).join(",")})`;
    figure.querySelector(".bar").hidden = !ticks;
    const canvas = figure.querySelector("canvas");
    for (const event of ["pointerdown", "pointermove"]) canvas.addEventListener(event, event => { if (shown) read(under(event, canvas, shown.origin)); });
    $("maps").append(figure);
  }
}
async function start() {
  settings = await (await ask("/settings")).json();
  side = settings.side;
  empty();
  $("model").textContent = `Model: ${settings.model}.`;
  $("threshold").value = settings.threshold; $("eirp").value = settings.eirp;
  $("upload").accept = ["image/png", "application/geo+json", ...settings.suffixes].join(",");
  $("allowed").textContent = `Files of at most ${megabytes(settings.max_upload)}: PNG, one pixel per metre, white buildings on black, up to ${settings.max_side} × ${settings.max_side} px; ` +
    `footprints as GeoJSON, up to ${settings.max_side} m × ${settings.max_side} m and ${settings.max_vertices.toLocaleString("en")} vertices.`;
  document.querySelector("[data-tool=measure]").hidden = !settings.measurements;
  for (const button of document.querySelectorAll("[data-tool=car], #cars, #clear-cars")) button.hidden = !settings.cars;
  settings.cities.forEach(name => $("example").append(new Option(name, name)));
  $("layer").append(...LAYERS.map(layer => new Option(layer.replace("_", " "), layer)));
  addFigures(); listen(); drawCity();
  if (location.hash.length > 1) {
    try { return take(await sceneOf(location.hash.slice(1))); }
    catch { say("The link holds no scene; here is a random city instead.", true); }
  }
  await fetchCity("a random city", "/city?seed=0");
}
start().catch(error => say(error.message, true));
