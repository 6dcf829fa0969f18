"use strict";
// The state of a search is {reference, text, weight, where, filter, keep, k, trail}.
// Every state is an entry in the browser's history.

const $ = (id) => document.getElementById(id);
const PAGE_SIZE = 24; // results added at a time
const MAX_TRAIL = 12; // steps of a search that are shown
const MAX_CACHED = 60; // queries whose results are kept
const EMPTY = { reference: null, text: "", weight: null, where: {}, filter: "", keep: false, k: PAGE_SIZE, trail: [] };
const cache = new Map(); // query → results, so that the back button shows them at once
let about = { text_weight: null, columns: {}, examples: [], labels: [], limits: { upload: 1e7, text: 2000, hits: 96 } };
let state = structuredClone(EMPTY);
let pending = null; // the AbortController of the request in progress
let galleryOffset = 0;

// ---------------------------------------------------------------- helpers

function make(tag, properties = {}, ...children) {
  const { data = {}, aria = {}, ...plain } = properties;
  const element = Object.assign(document.createElement(tag), plain);
  Object.assign(element.dataset, data);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function makeSvg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

async function fetchJson(url, options = {}) {
  let response, value;
  try {
    response = await fetch(url, options);
    value = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not respond. Is it still running?");
  }
  if (!response.ok) throw Object.assign(new Error(value.error || "Something went wrong."), { status: response.status });
  return value;
}

function post(url, value, signal) {
  const headers = { "content-type": "application/json" };
  return fetchJson(url, { method: "POST", headers, body: JSON.stringify(value), signal });
}

const small = (photo) => `${photo}?size=small`;
const shortName = (name) => name.split("/").pop();
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function showProblem(message = "") {
  $("problem").textContent = message;
  $("problem").hidden = !message;
}

function setBusy(on) {
  document.body.classList.toggle("busy", on);
  $("results").setAttribute("aria-busy", on);
}

// ---------------------------------------------------------------- state, query and address

function queryOf({ reference, text, weight, where, filter, keep, k }) {
  let photo = {};
  if (reference) photo = reference.upload ? { upload: reference.upload } : { name: reference.name };
  const share = isShare(weight) && isWeighted({ reference, text }) ? { text_weight: weight } : {};
  return { ...photo, text, ...share, where, filter, keep_reference: keep, k };
}

const isShare = (weight) => typeof weight === "number" && weight >= 0 && weight <= 1;
const isWeighted = ({ reference, text }) => about.text_weight !== null && Boolean(reference && text);

const filterCount = ({ where, filter }) => Object.keys(where).length + Boolean(filter);
const isQuery = ({ reference, text }) => Boolean(reference || text);

function addressOf({ reference, text, weight, where, filter, keep }) {
  const parts = new URLSearchParams();
  if (reference?.name && !reference.upload) parts.set("name", reference.name);
  if (reference?.upload) parts.set("upload", reference.upload);
  if (text) parts.set("text", text);
  if (isShare(weight)) parts.set("weight", weight);
  if (Object.keys(where).length) parts.set("where", JSON.stringify(where));
  if (filter) parts.set("filter", filter);
  if (keep) parts.set("keep", "1");
  return `${location.pathname}${parts.size ? `?${parts}` : ""}`;
}

function photoUrl(name) {
  const base64 = btoa(String.fromCharCode(...new TextEncoder().encode(name)));
  return `/photo/${base64.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

function stateOf(address) {
  const parts = new URLSearchParams(address);
  const name = parts.get("name");
  const upload = parts.get("upload");
  const result = structuredClone(EMPTY);
  if (name) result.reference = { name, photo: photoUrl(name) };
  if (upload) result.reference = { upload, name: "your photo", photo: `/upload/${encodeURIComponent(upload)}` };
  try {
    const where = JSON.parse(parts.get("where") || "{}");
    if (where && typeof where === "object" && !Array.isArray(where)) result.where = where;
  } catch { /* the address was edited by hand */ }
  Object.assign(result, { text: parts.get("text") || "", filter: parts.get("filter") || "", keep: parts.has("keep") });
  const weight = parts.get("weight") ? Number(parts.get("weight")) : NaN;
  if (isShare(weight)) result.weight = weight;
  if (isQuery(result)) result.trail = [stepOf(result)];
  return result;
}

// ---------------------------------------------------------------- from one state to the next

const stepOf = ({ reference, text }) => ({ reference, text });
const sameStep = (a, b) => Boolean(a && b) && a.text === b.text && a.reference?.photo === b.reference?.photo;

function go(changes, { replace = false } = {}) {
  state = { ...state, k: PAGE_SIZE, ...changes };
  const step = stepOf(state);
  if (!("trail" in changes)) {
    if (!isQuery(state)) state.trail = [];
    else if (!sameStep(state.trail.at(-1), step)) state.trail = [...state.trail, step].slice(-MAX_TRAIL);
  }
  history[replace ? "replaceState" : "pushState"](state, "", addressOf(state));
  return show();
}

function searchFrom(reference) {
  const shown = go({ reference, text: isQuery(state) ? "" : $("text").value.trim() });
  window.scrollTo({ top: 0 });
  if (matchMedia("(hover: hover)").matches) $("text").focus(); // on a phone, the keyboard would cover the results
  return shown;
}

async function show() {
  pending?.abort();
  const mine = (pending = new AbortController());
  showProblem();
  $("ignored").textContent = "";
  showForm();
  showTrail();
  if (!isQuery(state)) return showGallery();
  $("title").textContent = titleOf(state);
  $("shuffle").hidden = true;
  try {
    const { hits, ignored } = await resultsOf(queryOf(state), mine.signal);
    if (mine !== pending) return;
    showHits(hits);
    $("ignored").textContent = ignored.join(" ");
  } catch (error) {
    if (error.name !== "AbortError" && mine === pending) {
      fillGrid([]);
      $("more").hidden = true;
      $("status").textContent = "";
      showProblem(error.message);
    }
  } finally {
    if (mine === pending) setBusy(false);
  }
}

async function resultsOf(query, signal) {
  const key = JSON.stringify(query);
  if (!cache.has(key)) {
    setBusy(true);
    $("status").textContent = "Searching…";
    if (!$("grid").children.length) showPlaceholders();
    const results = await post("/api/search", query, signal);
    if (cache.size > MAX_CACHED) cache.delete(cache.keys().next().value);
    cache.set(key, results);
  }
  return cache.get(key);
}

function titleOf({ reference, text }) {
  if (reference && text) return `Like this, but: ${text}`;
  return reference ? "Photos like this one" : text;
}

// ---------------------------------------------------------------- the form

function showForm() {
  const { reference } = state;
  $("drop").hidden = Boolean(reference);
  $("chosen").hidden = !reference;
  if (reference && $("chosen-photo").getAttribute("src") !== reference.photo) $("chosen-photo").src = reference.photo;
  $("chosen-photo").alt = reference ? `Reference photo: ${shortName(reference.name)}` : "";
  $("chosen-name").textContent = reference ? shortName(reference.name) : "";
  $("text").value = state.text;
  $("balance").hidden = !isWeighted(state);
  showWeight(isShare(state.weight) ? state.weight : about.text_weight);
  $("filter-text").value = state.filter;
  $("keep").checked = state.keep;
  const active = filterCount(state) + state.keep;
  $("filter-count").textContent = active;
  $("filter-count").hidden = !active;
  for (const select of $("selects").querySelectorAll("select")) {
    const value = state.where[select.dataset.column];
    select.value = value === undefined ? "" : JSON.stringify(value);
    select.classList.toggle("on", value !== undefined);
  }
  document.title = isQuery(state) ? `${titleOf(state)} – FashionERN` : "FashionERN search";
}

function showWeight(weight) {
  if (weight === null) return;
  const text = Math.round(100 * weight);
  $("weight").value = weight;
  $("weight").setAttribute("aria-valuetext", `${100 - text} % photo, ${text} % text`);
  $("weight-shown").textContent = `${100 - text} : ${text}`;
}

function buildForm() {
  const model = about.answered_by ? ` · ${about.answered_by}` : "";
  $("about").textContent = `${plural(about.size, "photo")}${model}`;
  $("about").title = about.answered_by ? `Answered by ${about.answered_by}` : "";
  $("text").maxLength = about.limits.text;
  $("examples").replaceChildren(...about.examples.map(exampleButton));
  const columns = Object.entries(about.columns).filter(([, values]) => values.length > 1);
  $("selects").replaceChildren(...columns.map(([column, values]) => columnMenu(column, values)));
}

function exampleButton({ text, share, name, photo }) { // a measured example brings a photo to start from
  const onclick = () => go(photo && !state.reference ? { text, reference: { name, photo } } : { text });
  const title = share === undefined ? "" : `Measured: ${Math.round(100 * share)} % of the first 8 results obey this text`;
  return make("button", { type: "button", textContent: text, title, onclick });
}

function columnMenu(column, values) {
  const options = values.map((value) => make("option", { value: JSON.stringify(value), textContent: value }));
  const select = make("select", { data: { column } }, make("option", { value: "", textContent: "Any" }), ...options);
  select.onchange = () => {
    const { [column]: _, ...others } = state.where;
    go({ where: select.value ? { ...others, [column]: JSON.parse(select.value) } : others });
  };
  return make("label", { textContent: column.replaceAll("_", " ") }, select);
}

async function upload(file) {
  showProblem();
  const { limits } = about;
  if (file.size > limits.upload) {
    const size = (file.size / 1e6).toFixed(1);
    const limit = limits.upload / 1e6;
    return showProblem(`The file is ${size} MB. The limit is ${limit} MB. Make the image smaller first.`);
  }
  $("status").textContent = "Uploading…";
  setBusy(true);
  const headers = { "content-type": "application/octet-stream" };
  try {
    const kept = await fetchJson("/api/upload", { method: "POST", headers, body: file });
    const reference = { upload: kept.upload, name: file.name || "your photo", photo: kept.photo };
    await go({ reference, text: $("text").value.trim() });
    $("text").focus();
  } catch (error) {
    $("status").textContent = "";
    showProblem(error.message);
  } finally {
    setBusy(false);
  }
}

// ---------------------------------------------------------------- the trail of steps

function showTrail() {
  const { trail } = state;
  const changed = trail.length && !sameStep(trail.at(-1), stepOf(state));
  $("trail").hidden = trail.length < 2 && !changed;
  $("trail").firstElementChild.replaceChildren(...trail.map(trailItem));
  $("trail").scrollLeft = $("trail").scrollWidth;
}

function trailItem({ reference, text }, index) {
  const label = text || (reference ? "like this" : "…");
  const thumbnail = reference ? make("img", { src: small(reference.photo), alt: "" }) : null;
  const properties = { type: "button", className: reference ? "" : "bare" };
  const button = make("button", properties, thumbnail, make("span", { textContent: label }));
  const from = reference ? `, from ${shortName(reference.name)}` : "";
  button.setAttribute("aria-label", `Step ${index + 1}: ${label}${from}`);
  if (index === state.trail.length - 1) button.setAttribute("aria-current", "step");
  button.onclick = () => go({ reference, text, trail: state.trail.slice(0, index + 1) });
  return make("li", {}, button);
}

// ---------------------------------------------------------------- the grid

function photoButton(photo, index, label) {
  const loading = index < 12 ? "eager" : "lazy";
  const image = make("img", { src: small(photo.photo), alt: "", loading, decoding: "async" });
  const onclick = () => searchFrom({ name: photo.name, photo: photo.photo });
  const properties = { type: "button", className: "pick", tabIndex: index ? -1 : 0, title: photo.name, onclick };
  return make("button", { ...properties, aria: { label } }, image);
}

function galleryTile(photo, index) {
  const pick = photoButton(photo, index, `Start from ${shortName(photo.name)}`);
  return make("li", { className: "tile", data: { name: photo.name } }, pick);
}

function hitTile(hit, index) {
  const name = shortName(hit.name);
  const score = hit.score.toFixed(3);
  const label = `Result ${index + 1}: ${name}, score ${score}. Press Enter to search from this photo.`;
  const pick = photoButton(hit, index, label);
  const rank = make("span", { className: "rank", textContent: index + 1, aria: { hidden: true } });
  const labels = labelsOf(hit, name).map((textContent) => make("div", { textContent }));
  const facts = make("div", { className: "facts" },
    make("div", { className: "labels", title: detailsOf(hit) }, ...labels),
    make("span", { className: "score", textContent: score, title: "Score: higher is better, 1 is the maximum" }));
  const action = { type: "button", tabIndex: index ? -1 : 0 };
  const like = make("button", { ...action, textContent: "Like this, but…", onclick: pick.onclick });
  const why = make("button", { ...action, className: "explain", textContent: "Why?", onclick: () => explain(hit) });
  why.setAttribute("aria-label", `Why is ${name} a result?`);
  const actions = make("div", { className: "actions" }, like, why);
  return make("li", { className: "tile", data: { name: hit.name } }, pick, rank, facts, actions);
}

function labelsOf(hit, name) { // one line for each column in --labels; by default the first two columns in one line
  const labels = about.labels.map((column) => hit.columns[column]).filter((value) => value !== undefined);
  return labels.length ? labels : [Object.values(hit.columns).slice(0, 2).join(" · ") || name];
}

const detailsOf = (hit) =>
  [hit.name, ...Object.entries(hit.columns).map(([column, value]) => `${column}: ${value}`)].join("\n");

function fillGrid(tiles) {
  $("grid").replaceChildren(...tiles);
  $("empty").hidden = true;
}

function showPlaceholders() {
  const placeholder = () =>
    make("li", { className: "tile placeholder", aria: { hidden: true } }, make("div", { className: "pick" }));
  fillGrid(Array.from({ length: 8 }, placeholder));
}

function showHits(hits) {
  const focused = document.activeElement;
  const name = $("grid").contains(focused) ? focused.closest(".tile")?.dataset.name : null;
  fillGrid(hits.map(hitTile));
  const filtered = filterCount(state) > 0;
  $("empty").hidden = hits.length > 0;
  $("reset-empty").hidden = $("empty-hint").hidden = !filtered;
  $("empty-title").textContent = filtered ? "No photos match these filters." : "No results.";
  $("more").hidden = hits.length < state.k || state.k >= about.limits.hits;
  $("status").textContent = plural(hits.length, "result");
  const again = name && [...$("grid").children].find((tile) => tile.dataset.name === name);
  if (again) focusTile(again);
}

async function showGallery() {
  const mine = pending;
  $("title").textContent = "Start from a photo";
  $("status").textContent = "or describe what you are looking for";
  $("more").hidden = true;
  try {
    const url = `/api/gallery?offset=${galleryOffset}&count=${PAGE_SIZE}`;
    const { photos, total } = await fetchJson(url, { signal: mine.signal });
    if (mine !== pending) return;
    fillGrid(photos.map(galleryTile));
    $("shuffle").hidden = total <= PAGE_SIZE;
    $("shuffle").onclick = () => {
      galleryOffset = galleryOffset + PAGE_SIZE >= total ? 0 : galleryOffset + PAGE_SIZE;
      showGallery();
    };
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error.message);
  } finally {
    if (mine === pending) setBusy(false);
  }
}

function focusTile(tile) {
  for (const button of $("grid").querySelectorAll("button")) button.tabIndex = tile.contains(button) ? 0 : -1;
  tile.querySelector(".pick").focus();
}

function moveInGrid(event) {
  const tiles = [...$("grid").children];
  const index = tiles.findIndex((tile) => tile.contains(document.activeElement));
  if (index < 0) return;
  const columns = tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length;
  const steps = {
    ArrowRight: 1,
    ArrowLeft: -1,
    ArrowDown: columns,
    ArrowUp: -columns,
    Home: -index,
    End: tiles.length - 1 - index,
  };
  const next = tiles[index + steps[event.key]];
  if (!(event.key in steps) || !next) return;
  event.preventDefault();
  focusTile(next);
}

// ---------------------------------------------------------------- why a photo is a result

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;

function bar(label, value, max) {
  const width = Math.min(50, (50 * Math.abs(value)) / max);
  const svg = makeSvg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  const x = value < 0 ? 50 - width : 50;
  svg.append(
    makeSvg("rect", { x, y: 0, width, height: 10, class: value < 0 ? "down" : "up" }),
    makeSvg("path", { d: "M50 0V10", class: "zero" }),
  );
  return make("div", { className: "bar" },
    make("span", { className: "label", textContent: label, title: label }),
    svg,
    make("span", { className: "value", textContent: signed(value) }));
}

function bars(rows) {
  const max = Math.max(1e-6, ...rows.map(([, value]) => Math.abs(value)));
  return make("div", { className: "split" }, ...rows.map(([label, value]) => bar(label, value, max)));
}

function cropsOf(shares, side) { // `shares` holds the four crops of the 2 × 2 grid, then the nine of the 3 × 3 grid
  if (!shares) return [];
  return side === 2 ? shares.slice(0, 4) : shares.slice(4, 13);
}

function shadedPhoto(photo, label, shares, side) {
  const box = make("div", { className: "shade" }, make("img", { src: photo, alt: label }));
  const crops = cropsOf(shares, side);
  const max = Math.max(0.25, ...(shares || []).map((share) => Math.abs(share - 1)));
  const viewBox = `0 0 ${side * 30} ${side * 30}`;
  const svg = makeSvg("svg", { viewBox, preserveAspectRatio: "none", "aria-hidden": "true" });
  crops.forEach((share, index) => {
    const column = index % side;
    const row = Math.floor(index / side);
    const shade = { class: share < 1 ? "down" : "up", "fill-opacity": (0.7 * Math.abs(share - 1)) / max };
    svg.append(makeSvg("rect", { x: column * 30, y: row * 30, width: 30, height: 30, ...shade }));
    const cell = make("span", { className: "cell", textContent: share.toFixed(2) });
    cell.style.left = `${(100 * (column + 0.5)) / side}%`;
    cell.style.top = `${(100 * (row + 0.5)) / side}%`;
    box.append(cell);
  });
  if (crops.length) box.insertBefore(svg, box.children[1]);
  const textContent = crops.length ? label : `${label}: this model does not weight parts of the photo`;
  return make("figure", {}, box, make("figcaption", { textContent }));
}

function cropView(why, hit, reference) {
  const pair = make("div", { className: `pair${reference ? "" : " one"}` });
  const show = (side) => {
    const photos = [shadedPhoto(hit.photo, "Result", why.result_crops, side)];
    if (reference) photos.unshift(shadedPhoto(reference.photo, "Reference photo", why.crops, side));
    pair.replaceChildren(...photos);
  };
  const choice = make("div", { className: "switch", role: "group", aria: { label: "Size of the parts" } });
  for (const [side, textContent] of [[2, "2 × 2 parts"], [3, "3 × 3 parts"]]) {
    const onclick = (event) => {
      for (const button of choice.children) button.setAttribute("aria-pressed", button === event.currentTarget);
      show(side);
    };
    choice.append(make("button", { type: "button", textContent, aria: { pressed: side === 3 }, onclick }));
  }
  show(3);
  return [make("h3", { textContent: "Where the model looks (1 is the average weight)" }), choice, pair];
}

function explanation(why, hit, { reference, text }) {
  const parts = [["baseline", why.base]];
  if (reference) parts.push(["photo", why.image]);
  if (text) parts.push(["text", why.text]);
  const sum = `The score of ${why.score.toFixed(3)} is the sum of these parts: `
    + "the baseline (the score of an empty search), and what your photo and your text add.";
  const elements = [make("p", { className: "sum quiet", textContent: sum }), bars(parts)];
  if (why.words.length) {
    elements.push(make("h3", { textContent: "How much the score drops without each word" }), bars(why.words));
  }
  if (why.crops || why.result_crops) elements.push(...cropView(why, hit, reference));
  else elements.push(make("p", { className: "whole quiet", textContent: "This model looks at each photo as a whole, "
    + "so there are no weights of its parts to show." }));
  return elements;
}

async function explain(hit) {
  const query = state;
  const opener = document.activeElement;
  const body = $("why-body");
  const dialog = $("why");
  $("why-title").textContent = `Why is ${shortName(hit.name)} a result?`;
  body.replaceChildren(make("p", { className: "wait quiet", textContent: "Explaining…", role: "status" }));
  dialog.onclose = () => {
    dialog.dataset.of = "";
    if (document.activeElement === document.body) opener?.focus?.(); // the focus may already have moved elsewhere
  };
  dialog.dataset.of = hit.name;
  if (!dialog.open) dialog.showModal();
  let content;
  try {
    content = explanation(await post("/api/why", { ...queryOf(query), hit: hit.name }), hit, query);
  } catch (error) {
    content = [make("p", { className: "problem", textContent: error.message, role: "alert" })];
  }
  if (dialog.dataset.of === hit.name) body.replaceChildren(...content);
}

// ---------------------------------------------------------------- events

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("why").open) return;
  const typing = event.target.matches("input, select, textarea");
  const firstTile = $("grid").firstElementChild;
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("text").focus();
    $("text").select();
  } else if (event.key === "Escape" && typing) {
    event.target.blur();
  } else if (event.key === "ArrowDown" && event.target === $("text") && firstTile?.querySelector(".pick")) {
    event.preventDefault();
    focusTile(firstTile);
  } else if (event.key.toLowerCase() === "w" && !typing) {
    document.activeElement?.closest?.(".tile")?.querySelector(".explain")?.click();
  } else {
    moveInGrid(event);
  }
}

function listenToForm() {
  const text = () => $("text").value.trim();
  const filter = () => $("filter-text").value.trim();
  $("search").onsubmit = (event) => {
    event.preventDefault();
    go({ text: text(), filter: filter() });
  };
  $("drop").onclick = $("change").onclick = () => $("file").click();
  $("file").onchange = () => {
    if ($("file").files[0]) upload($("file").files[0]);
    $("file").value = "";
  };
  $("clear").onclick = () => {
    go({ reference: null, text: text() });
    $("drop").focus();
  };
  $("weight").oninput = () => showWeight($("weight").valueAsNumber);
  $("weight").onchange = () => {
    const replace = text() === state.text; // moving the slider alone makes no new step for the back button
    go({ weight: $("weight").valueAsNumber, text: text() }, { replace });
  };
  $("keep").onchange = () => go({ keep: $("keep").checked });
  $("filter-text").onchange = () => go({ filter: filter() });
  $("reset").onclick = $("reset-empty").onclick = () => go({ where: {}, filter: "", keep: false });
}

function listenToDrops() {
  let depth = 0; // number of elements that the drag has entered but not left
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  const setDepth = (value) => {
    depth = Math.max(0, value);
    document.body.classList.toggle("dragging", depth > 0);
  };
  const onFile = (action) => (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    action(event);
  };
  document.addEventListener("dragenter", onFile(() => setDepth(depth + 1)));
  document.addEventListener("dragleave", onFile(() => setDepth(depth - 1)));
  document.addEventListener("dragover", onFile(() => {}));
  document.addEventListener("drop", onFile((event) => {
    setDepth(0);
    if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
  }));
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    upload(file);
  });
}

function listen() {
  listenToForm();
  listenToDrops();
  $("more").onclick = () => {
    go({ k: Math.min(state.k + PAGE_SIZE, about.limits.hits), trail: state.trail }, { replace: true });
  };
  $("why-close").onclick = () => $("why").close();
  $("why").onclick = (event) => { if (event.target === $("why")) $("why").close(); };
  $("theme").onclick = () => {
    const theme = document.documentElement.dataset.theme;
    const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    setTheme(dark ? "light" : "dark");
  };
  document.addEventListener("keydown", onKey);
  addEventListener("popstate", (event) => {
    $("why").close();
    state = event.state || stateOf(location.search);
    show();
  });
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("theme", theme); } catch { /* storage is disabled */ }
}

function restoreTheme() {
  try {
    const theme = localStorage.getItem("theme");
    if (theme) document.documentElement.dataset.theme = theme;
  } catch { /* storage is disabled */ }
}

async function start() {
  restoreTheme();
  listen();
  showPlaceholders();
  try {
    about = await fetchJson("/api/about");
  } catch (error) {
    fillGrid([]);
    return showProblem(error.message);
  }
  buildForm();
  state = history.state || stateOf(location.search);
  history.replaceState(state, "", addressOf(state));
  await show();
}

start();
