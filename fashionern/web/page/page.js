"use strict";
// The state of a search is {reference, text, where, filter, keep, k, trail}; every state is an entry of the browser's history.

const $ = (id) => document.getElementById(id);
const STEP = 24; // results of one page of the grid
const NOTHING = { reference: null, text: "", where: {}, filter: "", keep: false, k: STEP, trail: [] };
const answers = new Map(); // query → its results, so that going back shows them at once
let about = { columns: {}, examples: [], labels: [], limits: { upload: 1e7, text: 2000, hits: 96 } };
let state = structuredClone(NOTHING);
let waiting = null; // the AbortController of the search that is under way
let galleryAt = 0;

// ---------------------------------------------------------------- small helpers

function make(tag, properties = {}, ...children) {
  const { data = {}, aria = {}, ...plain } = properties;
  const made = Object.assign(document.createElement(tag), plain);
  Object.assign(made.dataset, data);
  for (const [name, value] of Object.entries(aria)) made.setAttribute(`aria-${name}`, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function draw(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

async function fetchJson(address, options = {}) {
  let answer, value;
  try {
    answer = await fetch(address, options);
    value = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer; is it still running?");
  }
  if (!answer.ok) throw Object.assign(new Error(value.error || "Something went wrong."), { status: answer.status });
  return value;
}

const post = (address, value, signal) =>
  fetchJson(address, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value), signal });

const small = (photo) => `${photo}?size=small`;
const shortName = (name) => name.split("/").pop();
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function complain(sentence = "") {
  $("problem").textContent = sentence;
  $("problem").hidden = !sentence;
}

function busy(on) {
  document.body.classList.toggle("busy", on);
  $("results").setAttribute("aria-busy", on);
}

// ---------------------------------------------------------------- the query

function queryOf(of) {
  const reference = !of.reference ? {} : of.reference.upload ? { upload: of.reference.upload } : { name: of.reference.name };
  return { ...reference, text: of.text, where: of.where, filter: of.filter, keep_reference: of.keep, k: of.k };
}

const filtersOf = (of) => Object.keys(of.where).length + Boolean(of.filter);
const isQuery = (of) => Boolean(of.reference || of.text);

function addressOf(of) {
  const parts = new URLSearchParams();
  if (of.reference?.name && !of.reference.upload) parts.set("name", of.reference.name);
  if (of.reference?.upload) parts.set("upload", of.reference.upload);
  if (of.text) parts.set("text", of.text);
  if (Object.keys(of.where).length) parts.set("where", JSON.stringify(of.where));
  if (of.filter) parts.set("filter", of.filter);
  if (of.keep) parts.set("keep", "1");
  return `${location.pathname}${parts.size ? `?${parts}` : ""}`;
}

function photoOf(name) {
  const bytes = new TextEncoder().encode(name);
  return `/photo/${btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

function stateOf(address) {
  const parts = new URLSearchParams(address), name = parts.get("name"), upload = parts.get("upload");
  const found = structuredClone(NOTHING);
  if (name) found.reference = { name, photo: photoOf(name) };
  if (upload) found.reference = { upload, name: "your photo", photo: `/upload/${encodeURIComponent(upload)}` };
  try {
    const where = JSON.parse(parts.get("where") || "{}");
    if (where && typeof where === "object" && !Array.isArray(where)) found.where = where;
  } catch { /* an address that somebody wrote by hand */ }
  Object.assign(found, { text: parts.get("text") || "", filter: parts.get("filter") || "", keep: parts.has("keep") });
  if (isQuery(found)) found.trail = [stepOf(found)];
  return found;
}

// ---------------------------------------------------------------- going from state to state

const stepOf = (of) => ({ reference: of.reference, text: of.text });
const sameStep = (a, b) => Boolean(a && b) && a.text === b.text && a.reference?.photo === b.reference?.photo;

function go(changes, { replace = false } = {}) {
  state = { ...state, k: STEP, ...changes };
  const step = stepOf(state);
  if (!("trail" in changes)) {
    if (!isQuery(state)) state.trail = [];
    else if (!sameStep(state.trail.at(-1), step)) state.trail = [...state.trail, step].slice(-12);
  }
  history[replace ? "replaceState" : "pushState"](state, "", addressOf(state));
  return show();
}

function choose(reference) {
  const chosen = go({ reference, text: isQuery(state) ? "" : $("text").value.trim() });
  window.scrollTo({ top: 0 });
  if (matchMedia("(hover: hover)").matches) $("text").focus(); // on a phone a keyboard would cover the results
  return chosen;
}

async function show() {
  waiting?.abort();
  const mine = (waiting = new AbortController());
  complain();
  showForm();
  showTrail();
  if (!isQuery(state)) return showGallery();
  const key = JSON.stringify(queryOf(state));
  $("title").textContent = titleOf(state);
  $("shuffle").hidden = true;
  try {
    if (!answers.has(key)) {
      busy(true);
      $("status").textContent = "searching…";
      if (!$("grid").children.length) ghosts();
      const found = await post("/api/search", queryOf(state), mine.signal);
      if (answers.size > 60) answers.delete(answers.keys().next().value);
      answers.set(key, found.hits);
    }
    if (mine === waiting) showHits(answers.get(key));
  } catch (error) {
    if (error.name !== "AbortError" && mine === waiting) {
      fill([]);
      $("more").hidden = true;
      $("status").textContent = "";
      complain(error.message);
    }
  } finally {
    if (mine === waiting) busy(false);
  }
}

function titleOf(of) {
  if (of.reference && of.text) return `Like this, but: ${of.text}`;
  return of.reference ? "Photos like this one" : of.text;
}

// ---------------------------------------------------------------- the form

function showForm() {
  const { reference } = state, on = filtersOf(state) + state.keep;
  $("drop").hidden = Boolean(reference);
  $("chosen").hidden = !reference;
  if (reference && $("chosen-photo").getAttribute("src") !== reference.photo) $("chosen-photo").src = reference.photo;
  $("chosen-photo").alt = reference ? `The reference: ${shortName(reference.name)}` : "";
  $("chosen-name").textContent = reference ? shortName(reference.name) : "";
  $("text").value = state.text;
  $("sentence").value = state.filter;
  $("keep").checked = state.keep;
  $("filter-count").textContent = on;
  $("filter-count").hidden = !on;
  for (const select of $("selects").querySelectorAll("select")) {
    const value = state.where[select.dataset.column];
    select.value = value === undefined ? "" : JSON.stringify(value);
    select.classList.toggle("on", value !== undefined);
  }
  document.title = isQuery(state) ? `${titleOf(state)} – FashionERN` : "FashionERN search";
}

function buildForm() {
  const model = about.model ? ` · ${about.model}` : "";
  $("about").textContent = `${plural(about.size, "photo")}${model}`;
  $("text").maxLength = about.limits.text;
  $("examples").replaceChildren(
    ...about.examples.map((text) => make("button", { type: "button", textContent: text, onclick: () => go({ text }) })),
  );
  $("selects").replaceChildren(
    ...Object.entries(about.columns).filter(([, values]) => values.length > 1).map(([column, values]) => {
      const options = values.map((value) => make("option", { value: JSON.stringify(value), textContent: value }));
      const select = make("select", { data: { column } }, make("option", { value: "", textContent: "any" }), ...options);
      select.onchange = () => {
        const { [column]: _, ...where } = state.where;
        go({ where: select.value ? { ...where, [column]: JSON.parse(select.value) } : where });
      };
      return make("label", { textContent: column.replaceAll("_", " ") }, select);
    }),
  );
}

async function upload(file) {
  complain();
  if (file.size > about.limits.upload) return complain(`The picture has ${(file.size / 1e6).toFixed(1)} MB, more than ${about.limits.upload / 1e6} MB; make it smaller first.`);
  $("status").textContent = "uploading…";
  busy(true);
  try {
    const kept = await fetchJson("/api/upload", { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file });
    await go({ reference: { upload: kept.upload, name: file.name || "your photo", photo: kept.photo }, text: $("text").value.trim() });
    $("text").focus();
  } catch (error) {
    $("status").textContent = "";
    complain(error.message);
  } finally {
    busy(false);
  }
}

// ---------------------------------------------------------------- the grid

function showTrail() {
  $("trail").hidden = state.trail.length < 2 && !(state.trail.length && !sameStep(state.trail.at(-1), stepOf(state)));
  $("trail").firstElementChild.replaceChildren(
    ...state.trail.map((step, at) => {
      const label = step.text || (step.reference ? "like this" : "…"), last = at === state.trail.length - 1;
      const thumb = step.reference ? make("img", { src: small(step.reference.photo), alt: "" }) : null;
      const button = make("button", { type: "button", className: step.reference ? "" : "bare" }, thumb, make("span", { textContent: label }));
      button.setAttribute("aria-label", `Step ${at + 1}: ${label}${step.reference ? `, from ${shortName(step.reference.name)}` : ""}`);
      if (last) button.setAttribute("aria-current", "step");
      button.onclick = () => go({ ...step, trail: state.trail.slice(0, at + 1) });
      return make("li", {}, button);
    }),
  );
  $("trail").scrollLeft = $("trail").scrollWidth;
}

function tile(photo, at, isHit) {
  const reference = { name: photo.name, photo: photo.photo }, name = shortName(photo.name);
  const said = isHit ? `Result ${at + 1}: ${name}, score ${photo.score.toFixed(3)}. Enter: like this, but…` : `Start from ${name}`;
  const image = make("img", { src: small(photo.photo), alt: "", loading: at < 12 ? "eager" : "lazy", decoding: "async" });
  const pick = make("button", { type: "button", className: "pick", tabIndex: at ? -1 : 0, title: photo.name, onclick: () => choose(reference), aria: { label: said } }, image);
  if (!isHit) return make("li", { className: "tile", data: { name: photo.name } }, pick);
  const facts = make("div", { className: "facts" },
    make("div", { className: "of", title: factsOf(photo) }, ...labelsOf(photo, name).map((textContent) => make("div", { textContent }))),
    make("span", { className: "score", textContent: photo.score.toFixed(3), title: "score: the nearer to 1, the better" }));
  const like = make("button", { type: "button", textContent: "like this, but…", tabIndex: at ? -1 : 0, onclick: () => choose(reference) });
  const why = make("button", { type: "button", className: "ask-why", textContent: "why", tabIndex: at ? -1 : 0, onclick: () => explain(photo), aria: { label: `Why ${name}` } });
  const actions = make("div", { className: "actions" }, like, why);
  return make("li", { className: "tile", data: { name: photo.name } }, pick, make("span", { className: "rank", textContent: at + 1, aria: { hidden: true } }), facts, actions);
}

function labelsOf(photo, name) { // a line for each column that was asked for; else the first two in one line
  const asked = about.labels.map((column) => photo.columns[column]).filter((v) => v !== undefined);
  return asked.length ? asked : [Object.values(photo.columns).slice(0, 2).join(" · ") || name];
}
const factsOf = (photo) => [photo.name, ...Object.entries(photo.columns).map(([k, v]) => `${k}: ${v}`)].join("\n");

function fill(tiles) {
  $("grid").replaceChildren(...tiles);
  $("empty").hidden = true;
}

const ghosts = () => fill(Array.from({ length: 8 }, () => make("li", { className: "tile ghost", aria: { hidden: true } }, make("div", { className: "pick" }))));

function showHits(hits) {
  const was = $("grid").contains(document.activeElement) ? document.activeElement.closest(".tile")?.dataset.name : null;
  fill(hits.map((hit, at) => tile(hit, at, true)));
  $("empty").hidden = hits.length > 0;
  $("loosen").hidden = $("empty-hint").hidden = !filtersOf(state);
  $("empty-title").textContent = filtersOf(state) ? "Nothing fits these filters." : "Nothing was found.";
  $("more").hidden = hits.length < state.k || state.k >= about.limits.hits;
  $("status").textContent = plural(hits.length, "result");
  const back = was && [...$("grid").children].find((one) => one.dataset.name === was);
  if (back) focusTile(back);
}

async function showGallery() {
  const mine = waiting;
  $("title").textContent = "Start from a photo";
  $("status").textContent = "or write what you look for";
  $("more").hidden = true;
  try {
    const { photos, total } = await fetchJson(`/api/gallery?offset=${galleryAt}&count=${STEP}`, { signal: mine.signal });
    if (mine !== waiting) return;
    fill(photos.map((photo, at) => tile(photo, at, false)));
    $("shuffle").hidden = total <= STEP;
    $("shuffle").onclick = () => { galleryAt = galleryAt + STEP >= total ? 0 : galleryAt + STEP; showGallery(); };
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
  } finally {
    if (mine === waiting) busy(false);
  }
}

function focusTile(one) {
  for (const button of $("grid").querySelectorAll("button")) button.tabIndex = one.contains(button) ? 0 : -1;
  one.querySelector(".pick").focus();
}

function moveInGrid(event) {
  const tiles = [...$("grid").children], at = tiles.findIndex((one) => one.contains(document.activeElement));
  if (at < 0) return;
  const columns = tiles.filter((one) => one.offsetTop === tiles[0].offsetTop).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at, End: tiles.length - 1 - at };
  const to = tiles[at + steps[event.key]];
  if (!(event.key in steps) || !to) return;
  event.preventDefault();
  focusTile(to);
}

// ---------------------------------------------------------------- why

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;

function bar(label, value, most) {
  const wide = Math.min(50, (50 * Math.abs(value)) / most), svg = draw("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(draw("rect", { x: value < 0 ? 50 - wide : 50, y: 0, width: wide, height: 10, class: value < 0 ? "down" : "up" }), draw("path", { d: "M50 0V10", class: "zero" }));
  return make("div", { className: "bar" }, make("span", { className: "label", textContent: label, title: label }), svg, make("span", { className: "value", textContent: signed(value) }));
}

function bars(rows) {
  const most = Math.max(1e-6, ...rows.map(([, value]) => Math.abs(value)));
  return make("div", { className: "split" }, ...rows.map(([label, value]) => bar(label, value, most)));
}

function shaded(photo, label, shares, side) {
  const box = make("div", { className: "shade" }, make("img", { src: photo, alt: label }));
  const cells = !shares ? [] : side === 2 ? shares.slice(0, 4) : shares.slice(4, 13), most = Math.max(0.25, ...(shares || []).map((share) => Math.abs(share - 1)));
  const svg = draw("svg", { viewBox: `0 0 ${side * 30} ${side * 30}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  cells.forEach((share, at) => {
    const column = at % side, row = Math.floor(at / side);
    svg.append(draw("rect", { x: column * 30, y: row * 30, width: 30, height: 30, class: share < 1 ? "down" : "up", "fill-opacity": (0.7 * Math.abs(share - 1)) / most }));
    const cell = make("span", { className: "cell", textContent: share.toFixed(2) });
    cell.style.left = `${(100 * (column + 0.5)) / side}%`;
    cell.style.top = `${(100 * (row + 0.5)) / side}%`;
    box.append(cell);
  });
  if (cells.length) box.insertBefore(svg, box.children[1]);
  return make("figure", {}, box, make("figcaption", { textContent: cells.length ? label : `${label}: this model does not weigh its parts` }));
}

function explanation(why, photo, asked) {
  const parts = [["blank", why.base]];
  if (asked.reference) parts.push(["reference", why.image]);
  if (asked.text) parts.push(["sentence", why.text]);
  const sum = make("p", { className: "sum quiet", textContent: `Its score of ${why.score.toFixed(3)} is the sum of these: what a blank question gets, and what each part of yours adds.` });
  const made = [sum, bars(parts)];
  if (why.words.length) made.push(make("h3", { textContent: "Word by word: how far the score falls without it" }), bars(why.words));
  if (why.crops || why.result_crops) {
    const pair = make("div", { className: `pair${asked.reference ? "" : " one"}` });
    const show = (side) => pair.replaceChildren(...[
      asked.reference && shaded(asked.reference.photo, "the reference", why.crops, side),
      shaded(photo.photo, "the result", why.result_crops, side)].filter(Boolean));
    const choice = make("div", { className: "switch", role: "group", aria: { label: "Size of the parts" } });
    for (const [side, label] of [[2, "quarters"], [3, "ninths"]])
      choice.append(make("button", { type: "button", textContent: label, aria: { pressed: side === 3 }, onclick: (event) => {
        for (const one of choice.children) one.setAttribute("aria-pressed", one === event.currentTarget);
        show(side);
      } }));
    show(3);
    made.push(make("h3", { textContent: "Where the model looked: 1× is an even share" }), choice, pair);
  }
  return made;
}

async function explain(photo) {
  const asked = state, opener = document.activeElement, body = $("why-body");
  $("why-title").textContent = `Why ${shortName(photo.name)}`;
  body.replaceChildren(make("p", { className: "wait quiet", textContent: "looking into it…", role: "status" }));
  $("why").onclose = () => { $("why").dataset.of = ""; if (document.activeElement === document.body) opener?.focus?.(); }; // it comes late: the focus may be elsewhere by then
  $("why").dataset.of = photo.name;
  if (!$("why").open) $("why").showModal();
  let said;
  try {
    said = explanation(await post("/api/why", { ...queryOf(asked), hit: photo.name }), photo, asked);
  } catch (error) {
    said = [make("p", { className: "problem", textContent: error.message, role: "alert" })];
  }
  if ($("why").dataset.of === photo.name) body.replaceChildren(...said);
}

// ---------------------------------------------------------------- what the visitor does

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("why").open) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("text").focus();
    $("text").select();
  } else if (event.key === "Escape" && typing) event.target.blur();
  else if (event.key === "ArrowDown" && event.target === $("text") && $("grid").firstElementChild?.querySelector(".pick")) {
    event.preventDefault();
    focusTile($("grid").firstElementChild);
  } else if (event.key.toLowerCase() === "w" && !typing) document.activeElement?.closest?.(".tile")?.querySelector(".ask-why")?.click();
  else moveInGrid(event);
}

function listen() {
  $("ask").onsubmit = (event) => { event.preventDefault(); go({ text: $("text").value.trim(), filter: $("sentence").value.trim() }); };
  $("drop").onclick = $("change").onclick = () => $("file").click();
  $("file").onchange = () => { if ($("file").files[0]) upload($("file").files[0]); $("file").value = ""; };
  $("clear").onclick = () => { go({ reference: null, text: $("text").value.trim() }); $("drop").focus(); };
  $("keep").onchange = () => go({ keep: $("keep").checked });
  $("sentence").onchange = () => go({ filter: $("sentence").value.trim() });
  $("reset").onclick = $("loosen").onclick = () => go({ where: {}, filter: "", keep: false });
  $("more").onclick = () => go({ k: Math.min(state.k + STEP, about.limits.hits), trail: state.trail }, { replace: true });
  $("why-close").onclick = () => $("why").close();
  $("why").onclick = (event) => { if (event.target === $("why")) $("why").close(); };
  $("theme").onclick = () => {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    setTheme(dark ? "light" : "dark");
  };
  document.addEventListener("keydown", onKey);
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file) { event.preventDefault(); upload(file); }
  });
  let depth = 0;
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  const drag = (by) => (event) => { if (isFile(event)) { event.preventDefault(); document.body.classList.toggle("dragging", (depth = by ? Math.max(0, depth + by) : 0) > 0); } };
  document.addEventListener("dragenter", drag(1));
  document.addEventListener("dragleave", drag(-1));
  document.addEventListener("dragover", (event) => { if (isFile(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => { drag(0)(event); if (event.dataTransfer?.files[0]) upload(event.dataTransfer.files[0]); });
  addEventListener("popstate", (event) => { $("why").close(); state = event.state || stateOf(location.search); show(); });
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("theme", theme); } catch { /* a browser that keeps nothing */ }
}

async function start() {
  try { if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme"); } catch { /* see above */ }
  listen();
  ghosts();
  try {
    about = await fetchJson("/api/about");
  } catch (error) {
    fill([]);
    return complain(error.message);
  }
  buildForm();
  state = history.state || stateOf(location.search);
  history.replaceState(state, "", addressOf(state));
  await show();
}

start();
