"use strict";
// The state of a search has references, a box, texts, a weight, filters, an order, and photos to be more or less like.
// Every state is an entry in the browser's history; so is an open dialog, which the back button closes.

const $ = (id) => document.getElementById(id);
const PAGE_SIZE = 24; // results added at a time
const MAX_TRAIL = 12; // steps of a search that are shown
const MAX_CACHED = 60; // queries whose results are kept
const MAX_OFFERED = 100; // values of a filter that are shown at a time
const MAX_SUGGESTED = 6; // filters offered for a text
const MAX_UPLOAD_SIDE = 1600; // pixels; a larger file is made smaller before it is sent
const MAX_PLAIN_UPLOAD = 3e6; // bytes; a smaller file is sent as it is
const MAX_REFERENCES = 8;
const LINK_SIDE = 320; // pixels of a photo that is part of a link
const EMPTY = {
  references: [], box: null, texts: [], weight: null, where: {}, filter: "", keep: false, order: "", descending: false,
  like: [], unlike: [], k: PAGE_SIZE, trail: [], dialog: null,
};
const cache = new Map(); // query → results, so that the back button shows them at once
const galleries = new Map(); // filter and order → photos of the gallery
const counted = new Map(); // filters and photos left out → facets, as below
const selection = new Map(); // name → result, for a CSV file
let about = {
  text_weight: null, columns: [], controls: [], orders: [], dates: [], examples: [], labels: [], title: "",
  scores: false,
  limits: { upload: 1e7, text: 2000, hits: 480 },
};
let state = structuredClone(EMPTY);
let pending = null; // the AbortController of the request in progress
let galleryOffset = 0;
let refining = false; // whether a new text is added to the last one
let facets = null; // column → value → number of products under the other filters; null: those of the whole index

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
    throw Object.assign(new Error("The server does not respond. Check your connection."), { passing: true });
  }
  if (!response.ok) {
    const { status } = response;
    const passing = status === 503; // busy, for example
    throw Object.assign(new Error(value.error || "Something went wrong."), { status, passing });
  }
  return value;
}

function post(url, value, signal) {
  const headers = { "content-type": "application/json" };
  return fetchJson(url, { method: "POST", headers, body: JSON.stringify(value), signal });
}

const small = (photo) => `${photo}?size=small`;
const shortName = (name) => name.split("/").pop();
const nameOf = (photo) => photo.title || shortName(photo.name);
const plural = (count, word) => {
  const ending = word.endsWith("ch") ? "es" : "s";
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : ending}`;
};

function showProblem(message = "", retry = null, words = "Try again") { // `retry` does again what failed
  $("problem-text").textContent = message;
  $("problem").hidden = !message;
  $("retry").hidden = !retry;
  $("retry").textContent = words;
  $("retry").onclick = retry;
}

const nounOf = () => (about.products === null ? "photo" : "product");

// On a phone, the keyboard would cover the results.
const hasMouse = () => matchMedia("(hover: hover)").matches;

function setBusy(on) {
  document.body.classList.toggle("busy", on);
  $("results").setAttribute("aria-busy", on);
}

// ---------------------------------------------------------------- state, query and address

const referenceOf = ({ references }) => references[0] || null;
const textOf = ({ texts }) => texts.join(" and ");
const sourceOf = (reference) => (reference.upload ? { upload: reference.upload } : { name: reference.name });

function queryOf(given) {
  const { references, box, weight, where, filter, keep, k, like, unlike } = given;
  const query = { ...(references.length ? sourceOf(references[0]) : {}), text: textOf(given) };
  if (isShare(weight) && isWeighted(given)) query.text_weight = weight;
  if (references.length > 1) query.references = references.slice(1).map(sourceOf);
  if (box && references.length) query.box = box;
  if (like.length) query.like = like;
  if (unlike.length) query.unlike = unlike;
  return { ...query, where, filter, keep_reference: keep, k };
}

const isShare = (weight) => typeof weight === "number" && weight >= 0 && weight <= 1;
const isWeighted = (given) => about.text_weight !== null && given.references.length > 0 && textOf(given) !== "";

const filterCount = ({ where, filter }) => Object.keys(where).length + Boolean(filter);
// What decides the numbers next to the values of a filter: the filters, and whatever leaves photos out of the results.
function facetQueryOf(given) {
  const { where, filter, references, unlike } = given;
  const query = references.length || unlike.length ? queryOf({ ...given, k: PAGE_SIZE }) : {};
  return { ...query, where, filter };
}

const isQuery = ({ references, texts, like }) => references.length + texts.length + like.length > 0;

function addressOf({ references, box, texts, weight, where, filter, keep, order, descending, like, unlike }) {
  const parts = new URLSearchParams();
  const [first, ...others] = references;
  if (first) parts.set(first.upload ? "upload" : "name", first.upload || first.name);
  for (const other of others) parts.append(other.upload ? "also-upload" : "also", other.upload || other.name);
  if (box) parts.set("box", box.map((side) => side.toFixed(3)).join(","));
  for (const text of texts) parts.append("text", text);
  if (isShare(weight)) parts.set("weight", weight);
  if (Object.keys(where).length) parts.set("where", JSON.stringify(where));
  if (filter) parts.set("filter", filter);
  if (keep) parts.set("keep", "1");
  if (order) parts.set(descending ? "order-down" : "order", order);
  for (const name of like) parts.append("like", name);
  for (const name of unlike) parts.append("unlike", name);
  return `${location.pathname}${parts.size ? `?${parts}` : ""}`;
}

function photoUrl(name) {
  const base64 = btoa(String.fromCharCode(...new TextEncoder().encode(name)));
  return `photo/${base64.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

const indexed = (name) => ({ name, photo: photoUrl(name) });
const uploaded = (key) => ({ upload: key, name: "your photo", photo: `upload/${encodeURIComponent(key)}` });

function stateOf(address) {
  const parts = new URLSearchParams(address);
  const result = structuredClone(EMPTY);
  if (parts.get("name")) result.references.push(indexed(parts.get("name")));
  if (parts.get("upload")) result.references.push(uploaded(parts.get("upload")));
  for (const name of parts.getAll("also")) result.references.push(indexed(name));
  for (const key of parts.getAll("also-upload")) result.references.push(uploaded(key));
  try {
    const where = JSON.parse(parts.get("where") || "{}");
    if (where && typeof where === "object" && !Array.isArray(where)) result.where = where;
  } catch { /* the address was edited by hand */ }
  result.texts = parts.getAll("text").map((text) => text.trim()).filter(Boolean);
  Object.assign(result, { filter: parts.get("filter") || "", keep: parts.has("keep") });
  Object.assign(result, { like: parts.getAll("like"), unlike: parts.getAll("unlike") });
  result.order = parts.get("order-down") || parts.get("order") || "";
  result.descending = parts.has("order-down");
  const box = (parts.get("box") || "").split(",").map(Number);
  if (result.references.length && isBox(box)) result.box = box;
  const weight = parts.get("weight") ? Number(parts.get("weight")) : NaN;
  if (isShare(weight)) result.weight = weight;
  if (isQuery(result)) result.trail = [stepOf(result)];
  return result;
}

function isBox(box) {
  const [left, top, right, bottom] = box;
  return box.length === 4 && left >= 0 && left < right && right <= 1 && top >= 0 && top < bottom && bottom <= 1;
}

// ---------------------------------------------------------------- from one state to the next

const stepOf = ({ references, box, texts, like, unlike }) => ({ references, box, texts, like, unlike });
const sameStep = (a, b) => Boolean(a && b) && JSON.stringify(stepOf(a)) === JSON.stringify(stepOf(b));

function go(changes, { replace = false } = {}) {
  const before = addressOf(state);
  state = { ...state, k: PAGE_SIZE, dialog: null, ...changes };
  const step = stepOf(state);
  if (!("trail" in changes)) {
    if (!isQuery(state)) state.trail = [];
    else if (!sameStep(state.trail.at(-1), step)) state.trail = [...state.trail, step].slice(-MAX_TRAIL);
  }
  const address = addressOf(state);
  const same = address === before && history.state !== null; // the same search again is no new entry
  history[replace || same ? "replaceState" : "pushState"](state, "", address);
  return show();
}

function setText(text) { // a new text replaces the last one, or is added to it
  const texts = refining && text ? [...state.texts, text] : [text].filter(Boolean);
  return refining && !text ? state.texts : texts;
}

function searchFrom(reference) {
  const typed = isQuery(state) ? "" : $("text").value.trim();
  const kept = refining ? state.texts : [];
  const shown = go({ references: [reference], box: null, texts: typed ? [typed] : kept, like: [], unlike: [] });
  window.scrollTo({ top: 0 });
  if (hasMouse()) $("text").focus();
  else $("results").focus({ preventScroll: true });
  return shown;
}

function judge(hit, field) { // more like this, less like this; a second time takes it back
  const other = field === "like" ? "unlike" : "like";
  const names = state[field].includes(hit.name) ? without(state[field], hit.name) : [...state[field], hit.name];
  return go({ [field]: names, [other]: without(state[other], hit.name) });
}

// The form stays in sight, so a visitor may search from far down the page. Where it is above the results, on a phone
// or when the page is enlarged, the results of a new text would be out of sight.
function showTop({ fromForm = false } = {}) {
  const { top } = $("results").getBoundingClientRect();
  if (top < 0 || (fromForm && top > 0.4 * innerHeight)) $("results").scrollIntoView();
}

const without = (items, item) => items.filter((one) => one !== item);

async function show() {
  pending?.abort();
  const mine = (pending = new AbortController());
  showProblem();
  $("ignored").textContent = "";
  showSuggestions();
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
    if (error.name !== "AbortError" && mine === pending) showFailure(error);
  } finally {
    if (mine === pending) {
      setBusy(false);
      showFacets();
    }
  }
}

function showFailure(error) {
  fillGrid([], hitTile);
  $("more").hidden = true;
  $("status").textContent = "";
  const isGone = error.status === 404; // a photo of an old link, for example
  const withoutPhotos = () => go({ references: [], box: null, like: [], unlike: [] });
  if (isGone) showProblem(error.message, withoutPhotos, state.texts.length ? "Search without it" : "Show all photos");
  else showProblem(error.message, error.passing ? show : null);
}

async function resultsOf(query, signal) {
  const key = JSON.stringify(query);
  if (!cache.has(key)) {
    if (query.k === PAGE_SIZE) { // while results are added, the others can be used
      setBusy(true);
      $("status").textContent = "Searching…";
    }
    if (!$("grid").children.length) showPlaceholders();
    const results = await post("api/search", query, signal);
    if (cache.size > MAX_CACHED) cache.delete(cache.keys().next().value);
    cache.set(key, results);
  }
  return cache.get(key);
}

function titleOf(given) {
  const text = textOf(given);
  const several = given.references.length > 1;
  if (!given.references.length) return text || "More like these";
  const like = several ? "Like these" : "Like this";
  if (text) return `${like}, but: ${text}`;
  return several ? "Photos like these" : "Photos like this one";
}

// ---------------------------------------------------------------- the form

function showForm() {
  const reference = referenceOf(state);
  $("drop").hidden = Boolean(reference);
  $("chosen").hidden = !reference;
  if (reference && $("chosen-photo").getAttribute("src") !== reference.photo) $("chosen-photo").src = reference.photo;
  $("chosen-photo").alt = reference ? `Reference photo: ${nameOf(reference)}` : "";
  $("chosen-name").textContent = reference ? nameOf(reference) : "";
  const [label, hint] = reference ? ["What should be different?", "is red and has long sleeves"]
    : ["What are you looking for?", "a red dress with long sleeves"];
  $("text-label").textContent = label;
  $("text").placeholder = hint;
  $("others").replaceChildren(...state.references.slice(1).map(otherReference));
  showBox();
  $("applied").replaceChildren(...appliedChips(state));
  $("refine").hidden = !state.texts.length;
  $("again").checked = !refining;
  $("keep-refining").checked = refining;
  $("texts").replaceChildren(...(refining ? state.texts.map(textChip) : []));
  $("judged").replaceChildren(...state.like.map((name) => judgedChip(name, "like")),
    ...state.unlike.map((name) => judgedChip(name, "unlike")));
  showText();
  $("balance").hidden = !isWeighted(state);
  showWeight(isShare(state.weight) ? state.weight : about.text_weight);
  $("filter-text").value = state.filter;
  $("keep").checked = state.keep;
  const active = filterCount(state) + state.keep;
  $("filter-count").textContent = active;
  $("filter-count").hidden = !active;
  for (const control of $("controls").children) control.showValue(state.where[control.dataset.column]);
  $("order").value = state.order ? JSON.stringify([state.order, state.descending]) : "";
  $("order").options[0].textContent = isQuery(state) ? "Best match" : "Mixed";
  showSelection();
  document.title = isQuery(state) ? `${titleOf(state)} – ${about.title}` : `${about.title} search`;
}

function showText() { // what is being typed stays, unless the text of the search has changed
  const text = refining ? "" : textOf(state);
  if (text !== $("text").dataset.shown) $("text").value = text;
  $("text").dataset.shown = text;
}

function chip(label, text, thumbnail, remove) {
  const onclick = (event) => { // the focus moves to the chip that takes this one's place
    const list = event.currentTarget.closest("ul");
    const index = [...list.querySelectorAll("button")].indexOf(event.currentTarget);
    remove();
    const others = [...list.querySelectorAll("button")];
    (others[Math.min(index, others.length - 1)] || $("results")).focus({ preventScroll: true });
  };
  const image = thumbnail ? make("img", { src: small(thumbnail), alt: "" }) : null;
  const cross = make("span", { textContent: "✕", className: "cross", aria: { hidden: true } });
  const words = make("span", { textContent: text });
  const button = make("button", { type: "button", onclick, aria: { label } }, image, words, cross);
  return make("li", {}, button);
}

const textChip = (text, index) => chip(`Remove “${text}”`, text, null,
  () => go({ texts: state.texts.filter((_, other) => other !== index) }));

function judgedChip(name, field) {
  const words = field === "like" ? "more like" : "less like";
  const remove = () => go({ [field]: without(state[field], name) });
  return chip(`Remove: ${words} ${shortName(name)}`, words, photoUrl(name), remove);
}

function otherReference(reference) {
  const remove = () => go({ references: without(state.references, reference) });
  return chip(`Remove the reference ${nameOf(reference)}`, nameOf(reference), reference.photo, remove);
}

function appliedChips({ where, filter }) { // one for each value, range and filter in use
  const chips = Object.entries(where).flatMap(([column, value]) => {
    const words = column.replaceAll("_", " ");
    if (isRange(value)) {
      return [appliedChip(`${words}: ${wordsOfRange(value)}`, () => setFilter(column, undefined))];
    }
    return listOf(value).map((one) => appliedChip(`${words}: ${one}`, () => withoutValue(column, one)));
  });
  return filter ? [...chips, appliedChip(filter, () => go({ filter: "" }))] : chips;
}

const appliedChip = (words, remove) => chip(`Remove the filter ${words}`, words, null, remove);

function wordsOfRange({ min, max }) {
  if (min === undefined) return `up to ${max}`;
  return max === undefined ? `from ${min}` : `${min} – ${max}`;
}

function showWeight(weight) {
  if (weight === null) return;
  const text = Math.round(100 * weight);
  $("weight").value = weight;
  $("weight").setAttribute("aria-valuetext", `${100 - text} % photo, ${text} % text`);
  $("weight-shown").textContent = `${100 - text} : ${text}`;
}

function buildForm() {
  const isShop = about.title !== "FashionERN"; // its customers do not ask which model answers
  const model = about.answered_by && !isShop ? ` · ${about.answered_by}` : "";
  const products = about.products === null ? "" : `${plural(about.products, "product")}, `;
  $("about").textContent = `${products}${plural(about.size, "photo")}${model}`;
  $("about").title = about.answered_by ? `Answered by ${about.answered_by}` : "";
  $("text").maxLength = about.limits.text;
  $("examples").replaceChildren(...about.examples.map(exampleButton));
  $("controls").replaceChildren(...about.controls.map(filterControl));
  const unsorted = make("option", { value: "", textContent: "Mixed" });
  $("order").replaceChildren(unsorted, ...about.orders.flatMap(orderOptions));
}

function orderOptions(column) {
  const words = column.replaceAll("_", " ");
  const ends = about.dates.includes(column) ? ["oldest first", "newest first"] : ["lowest first", "highest first"];
  const labels = column === "name" ? ["Name, A to Z", "Name, Z to A"] : ends.map((end) => `${words}, ${end}`);
  const option = (textContent, down) => make("option", { value: JSON.stringify([column, down === 1]), textContent });
  return labels.map(option);
}

function exampleButton({ text, share, name, photo }) { // a measured example brings a photo to start from
  const withPhoto = () => go({ texts: [text], references: [{ name, photo }] });
  const onclick = () => (photo && !referenceOf(state) ? withPhoto() : go({ texts: setText(text) }));
  const percent = Math.round(100 * share);
  const title = share === undefined ? "" : `Measured: ${percent} % of the first 8 results obey this text`;
  return make("button", { type: "button", textContent: text, title, onclick });
}

// ---------------------------------------------------------------- filters

function setFilter(column, value) {
  const where = { ...state.where, [column]: value }; // a column keeps its place, also above the results
  if (value === undefined) delete where[column];
  const shown = go({ where });
  showTop();
  return shown;
}

function filterControl(control) {
  const { column, kind } = control;
  const summary = make("summary", { textContent: column.replaceAll("_", " ") });
  const chosen = make("span", { className: "badge", hidden: true });
  summary.append(" ", chosen);
  const body = make("div", { className: "options" });
  const details = make("details", { className: "control", data: { column, kind } }, summary, body);
  const showCount = (count) => {
    chosen.textContent = count;
    chosen.hidden = !count;
    details.classList.toggle("on", count > 0);
  };
  details.onkeydown = (event) => {
    if (event.key !== "Escape" || !details.open) return;
    event.stopPropagation();
    details.open = false;
    summary.focus();
  };
  const fill = kind === "values" ? valuesControl : rangeControl;
  details.showValue = fill(control, body, showCount);
  return details;
}

function withoutValue(column, value) {
  const values = without(listOf(state.where[column]), value);
  return setFilter(column, values.length ? values : undefined);
}

const listOf = (value) => (value === undefined ? [] : Array.isArray(value) ? value : [value]);
const isRange = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function valuesControl({ column, values }, body, showCount) {
  const aria = { label: `Find a value of ${column}` };
  const find = make("input", { type: "text", placeholder: "Find a value", aria });
  const list = make("ul", { aria: { label: column } });
  const rest = make("p", { className: "quiet" });
  const items = new Map(); // value → its line, made when it is first shown
  const itemOf = (value) => {
    if (!items.has(value)) items.set(value, valueItem(column, value));
    return items.get(value);
  };
  const showValues = () => {
    const wanted = find.value.trim().toLowerCase();
    const chosen = listOf(state.where[column]);
    const countOf = (value, count) => (facets ? facets.get(column)?.get(value) || 0 : count);
    const left = values.filter(([value, count]) => countOf(value, count) || chosen.includes(value));
    const fitting = left.filter(([value]) => String(value).toLowerCase().includes(wanted));
    const offered = fitting.filter(([value], index) => index < MAX_OFFERED || chosen.includes(value));
    const names = JSON.stringify(offered.map(([value]) => value));
    if (list.names !== names) list.replaceChildren(...offered.map(([value]) => itemOf(value)));
    list.names = names;
    for (const [value, count] of offered) {
      const item = itemOf(value);
      item.querySelector("input").checked = chosen.includes(value);
      item.querySelector(".quiet").textContent = countOf(value, count).toLocaleString("en");
    }
    const more = fitting.length - offered.length;
    rest.textContent = more ? `${plural(more, "more value")}: type to find them` : "";
    if (!left.length) rest.textContent = "Nothing to choose from with the other filters.";
  };
  find.oninput = showValues;
  body.append(...(values.length > 8 ? [find] : []), list, rest);
  return (value) => {
    showCount(listOf(value).length);
    showValues();
  };
}

function valueItem(column, value) {
  const box = make("input", { type: "checkbox", value });
  box.onchange = () =>
    (box.checked ? setFilter(column, [...listOf(state.where[column]), value]) : withoutValue(column, value));
  const number = make("span", { className: "quiet" });
  return make("li", {}, make("label", {}, box, make("span", { textContent: value }), number));
}

async function showFacets() { // the numbers next to the values follow the other filters and the query
  if (!$("filters").open) return;
  const query = facetQueryOf(state);
  const key = JSON.stringify(query);
  const isPlain = key === JSON.stringify(facetQueryOf(EMPTY));
  if (!isPlain && !counted.has(key)) {
    try {
      const found = await post("api/facets", query);
      if (counted.size > MAX_CACHED) counted.delete(counted.keys().next().value);
      counted.set(key, new Map(Object.entries(found.facets).map(([column, values]) => [column, new Map(values)])));
    } catch {
      return; // the search shows what went wrong
    }
  }
  if (key !== JSON.stringify(facetQueryOf(state))) return;
  facets = isPlain ? null : counted.get(key);
  for (const control of $("controls").children) { // a range may hold what the visitor is typing
    if (control.dataset.kind === "values") control.showValue(state.where[control.dataset.column]);
  }
}

// Words of a text that are values of the table, such as a brand, make filters: the model may not know them.
const withoutEnding = (word) => word.replace(/(ss|sh|ch|x)es$/, "$1").replace(/([^s])s$/, "$1");
const wordsOf = (text) => String(text).toLowerCase().normalize("NFD").replace(/[\p{M}'’-]/gu, "")
  .split(/[^\p{L}\p{N}]+/u).filter(Boolean).map(withoutEnding);

function suggestionsFor(text) { // [column, value] for each value that the text names and that is not chosen yet
  const wanted = ` ${wordsOf(text).join(" ")} `;
  return about.controls.flatMap(({ column, kind, values }) => {
    if (kind !== "values" || state.where[column] !== undefined) return [];
    const named = values.map(([value]) => [value, wordsOf(value).join(" ")])
      .filter(([, words]) => words.length > 2 && wanted.includes(` ${words} `));
    const isPart = (words) => named.some(([, other]) => other !== words && ` ${other} `.includes(` ${words} `));
    return named.filter(([, words]) => !isPart(words)).map(([value]) => [column, value]);
  }).slice(0, MAX_SUGGESTED);
}

function showSuggestions() {
  const found = isQuery(state) ? suggestionsFor(textOf(state)) : [];
  const buttons = found.map(([column, value]) => make("button", { type: "button",
    textContent: `${column.replaceAll("_", " ")}: ${value}`, onclick: () => setFilter(column, [value]) }));
  $("suggested").hidden = !found.length;
  $("suggested").replaceChildren(make("span", { className: "quiet", textContent: "Show only" }), ...buttons);
}

function rangeControl({ column, kind, low, high }, body, showCount) {
  const type = kind === "dates" ? "date" : "number";
  const ends = [["min", "From", low], ["max", "To", high]].map(([end, words, limit]) => {
    const input = make("input", { type, min: low, max: high, step: "any", placeholder: limit, data: { end } });
    input.setAttribute("aria-label", `${column}, ${words.toLowerCase()}`);
    input.onchange = () => {
      const limitOf = (one) => (kind === "dates" ? one.value : Number(one.value));
      const given = ends.filter((one) => one.value !== "").map(limitOf);
      if (given.length === 2 && given[0] > given[1]) given.reverse(); // from 40 to 30 can only mean from 30 to 40
      const names = ends.filter((one) => one.value !== "").map((one) => one.dataset.end);
      const range = Object.fromEntries(names.map((name, index) => [name, given[index]]));
      return setFilter(column, given.length ? range : undefined);
    };
    return input;
  });
  body.append(make("div", { className: "ends-of-range" }, ends[0], make("span", { textContent: "–" }), ends[1]));
  return (value) => {
    const range = isRange(value) ? value : {};
    for (const input of ends) input.value = range[input.dataset.end] ?? "";
    showCount(value === undefined ? 0 : 1);
  };
}

// ---------------------------------------------------------------- photos of the visitor

// A JPEG of at most `side` pixels, or null if the browser cannot read the file.
async function shrunk(file, side = MAX_UPLOAD_SIDE, quality = 0.9) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
    const [width, height] = [bitmap.width, bitmap.height].map((length) => Math.max(1, Math.round(length * scale)));
    const canvas = make("canvas", { width, height });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", quality));
  } catch {
    return null;
  }
}

async function send(file) { // the uploaded file as a reference
  const kept = await sent(file);
  return { upload: kept.upload, name: file.name || "your photo", photo: kept.photo };
}

async function sent(file) { // the server's answer; a file that it refuses is sent again as the browser reads it
  const { limits } = about;
  const headers = { "content-type": "application/octet-stream" };
  const put = (body) => fetchJson("api/upload", { method: "POST", headers, body });
  let refusal = null;
  if (file.size <= MAX_PLAIN_UPLOAD) {
    try {
      return await put(file);
    } catch (error) {
      if (error.status !== 400) throw error;
      refusal = error; // too many pixels, or a format that only the browser reads
    }
  }
  const smaller = await shrunk(file);
  if (smaller) return put(smaller);
  if (refusal) throw refusal;
  if (file.size <= limits.upload) return put(file);
  const size = (file.size / 1e6).toFixed(1);
  throw new Error(`The file is ${size} MB. The limit is ${limits.upload / 1e6} MB. Make the image smaller first.`);
}

async function upload(file, { add = false } = {}) {
  showProblem();
  const before = $("status").textContent;
  $("status").textContent = "Uploading…";
  setBusy(true);
  try {
    const reference = await send(file);
    const typed = $("text").value.trim();
    const references = add ? [...state.references, reference] : [reference];
    await go({ references, box: add ? state.box : null, texts: refining ? state.texts : [typed].filter(Boolean) });
    if (hasMouse()) $("text").focus();
  } catch (error) {
    $("status").textContent = before; // the results stay
    showProblem(error.message, error.passing ? () => upload(file, { add }) : null);
  } finally {
    setBusy(false);
  }
}

// ---------------------------------------------------------------- the part of the reference that counts

function photoArea() { // of the reference on the page, without the margins around it
  const { naturalWidth, naturalHeight, clientWidth, clientHeight } = $("chosen-photo");
  const scale = Math.min(clientWidth / naturalWidth, clientHeight / naturalHeight) || 0;
  const [width, height] = [naturalWidth * scale, naturalHeight * scale];
  return { left: (clientWidth - width) / 2, top: (clientHeight - height) / 2, width, height };
}

function showBox(box = state.box) {
  const area = photoArea();
  $("box").hidden = !box || !area.width;
  $("whole").hidden = !box;
  if (!box) return;
  const [left, top, right, bottom] = box;
  Object.assign($("box").style, {
    left: `${area.left + left * area.width}px`, top: `${area.top + top * area.height}px`,
    width: `${(right - left) * area.width}px`, height: `${(bottom - top) * area.height}px`,
  });
}

function setCropping(on) {
  $("crop").setAttribute("aria-pressed", on);
  $("frame").classList.toggle("cropping", on);
  $("crop-hint").hidden = !on;
  if (on && !state.box) showBox([0.2, 0.2, 0.8, 0.8]);
  if (on) $("box").focus();
}

const within = (value, low = 0, high = 1) => Math.min(high, Math.max(low, value));

function listenToBox() {
  let start = null;
  let drawn = null;
  const place = (event) => {
    const area = photoArea();
    const frame = $("chosen-photo").getBoundingClientRect();
    const x = (event.clientX - frame.left - area.left) / area.width;
    const y = (event.clientY - frame.top - area.top) / area.height;
    return [within(x), within(y)];
  };
  $("frame").onpointerdown = (event) => {
    if ($("crop").getAttribute("aria-pressed") !== "true") return;
    event.preventDefault();
    $("frame").setPointerCapture(event.pointerId);
    start = place(event);
  };
  $("frame").onpointermove = (event) => {
    if (!start) return;
    const [x, y] = place(event);
    drawn = [Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)];
    showBox(drawn);
  };
  $("frame").onpointerup = () => {
    const box = drawn;
    start = drawn = null;
    if (box && box[2] - box[0] > 0.05 && box[3] - box[1] > 0.05) useBox(box);
    else showBox();
  };
  $("box").onkeydown = (event) => {
    const steps = { ArrowLeft: [-0.05, 0], ArrowRight: [0.05, 0], ArrowUp: [0, -0.05], ArrowDown: [0, 0.05] };
    const step = steps[event.key];
    if (!step) return undefined;
    event.preventDefault();
    event.stopPropagation();
    const [left, top, right, bottom] = state.box || [0.2, 0.2, 0.8, 0.8];
    const [x, y] = step;
    if (event.shiftKey) return useBox([left, top, within(right + x, left + 0.05), within(bottom + y, top + 0.05)]);
    const [width, height] = [right - left, bottom - top];
    const [newLeft, newTop] = [within(left + x, 0, 1 - width), within(top + y, 0, 1 - height)];
    return useBox([newLeft, newTop, newLeft + width, newTop + height]);
  };
  $("crop").onclick = () => {
    const on = $("crop").getAttribute("aria-pressed") !== "true";
    setCropping(on);
    if (!on) showBox();
  };
  $("whole").onclick = () => {
    setCropping(false);
    go({ box: null });
    $("crop").focus();
  };
  $("chosen-photo").onload = () => showBox();
}

const useBox = (box) => go({ box: box.map((side) => Math.round(1000 * side) / 1000) });

// ---------------------------------------------------------------- the trail of steps

function showTrail() {
  const { trail } = state;
  const changed = trail.length && !sameStep(trail.at(-1), stepOf(state));
  $("trail").hidden = trail.length < 2 && !changed;
  $("trail").firstElementChild.replaceChildren(...trail.map(trailItem));
  $("trail").scrollLeft = $("trail").scrollWidth;
}

function trailItem(step, index) {
  const reference = referenceOf(step);
  const text = textOf(step);
  const judged = step.like.length + step.unlike.length ? " ±" : "";
  const label = (text || (reference ? "like this" : "…")) + judged;
  const thumbnail = reference ? make("img", { src: small(reference.photo), alt: "" }) : null;
  const properties = { type: "button", className: reference ? "" : "bare" };
  const button = make("button", properties, thumbnail, make("span", { textContent: label }));
  const from = reference ? `, from ${nameOf(reference)}` : "";
  button.setAttribute("aria-label", `Step ${index + 1}: ${label}${from}`);
  if (index === state.trail.length - 1) button.setAttribute("aria-current", "step");
  button.onclick = () => {
    go({ ...step, trail: state.trail.slice(0, index + 1) });
    ($("trail").querySelectorAll("button")[index] || $("results")).focus({ preventScroll: true });
  };
  return make("li", {}, button);
}

// ---------------------------------------------------------------- the grid

function photoButton(photo, index, label) {
  const loading = index < 12 ? "eager" : "lazy";
  const image = make("img", { src: small(photo.photo), alt: nameOf(photo), loading, decoding: "async" });
  const onclick = () => searchFrom({ name: photo.name, photo: photo.photo, title: photo.title });
  const title = `Search from this photo: ${nameOf(photo)}`;
  const properties = { type: "button", className: "pick", tabIndex: index ? -1 : 0, title, onclick };
  return make("button", { ...properties, aria: { label } }, image);
}

function productFacts(hit, tabIndex) { // the name, as a link if the shop has a page for it, and the price
  const link = { href: hit.link, textContent: hit.title, target: "_blank", rel: "noopener", tabIndex };
  return [make("div", {}, hit.link ? make("a", link) : hit.title),
    make("div", { className: "price", textContent: hit.price || "" })];
}

function factsOf(hit, index, score) {
  const own = labelsOf(hit);
  const lines = own.length || !hit.title ? own.map((textContent) => make("div", { textContent }))
    : productFacts(hit, index ? -1 : 0);
  const labels = make("div", { className: "labels", title: detailsOf(hit) }, ...lines);
  const title = "Score: higher is better, 1 is the maximum";
  const shown = about.scores && score !== undefined;
  return make("div", { className: "facts" }, labels,
    shown ? make("span", { className: "score", textContent: score.toFixed(3), title }) : null);
}

function tileTools(hit, index) {
  const tabIndex = index ? -1 : 0;
  const name = nameOf(hit);
  const properties = { type: "button", className: "larger", tabIndex, textContent: "⤢", title: "Larger view" };
  const onclick = () => openDialog("view", hit);
  const larger = make("button", { ...properties, aria: { label: `Larger view of ${name}` }, onclick });
  const checked = selection.has(hit.name);
  const box = make("input", { type: "checkbox", tabIndex, checked, aria: { label: `Select ${name}` } });
  box.onchange = () => {
    if (box.checked) selection.set(hit.name, hit);
    else selection.delete(hit.name);
    showSelection();
  };
  return make("div", { className: "tools" }, make("label", { className: "select", title: "Select" }, box), larger);
}

function galleryTile(photo, index) {
  const pick = photoButton(photo, index, `Start from ${nameOf(photo)}`);
  const facts = photo.title || about.labels.length ? factsOf(photo, index) : null;
  return make("li", { className: "tile", data: { name: photo.name } }, pick, tileTools(photo, index), facts);
}

function hitTile(hit, index) {
  const name = nameOf(hit);
  const score = about.scores ? `, score ${hit.score.toFixed(3)}` : "";
  const label = `Result ${hit.rank}: ${name}${score}. Press Enter to search from this photo.`;
  const pick = photoButton(hit, index, label);
  const rank = make("span", { className: "rank", textContent: hit.rank, aria: { hidden: true } });
  const action = { type: "button", tabIndex: index ? -1 : 0 };
  const judged = (field, textContent, words) => {
    const aria = { label: `${words} ${name}`, pressed: state[field].includes(hit.name) };
    const onclick = () => judge(hit, field);
    return make("button", { ...action, className: "judge", textContent, title: `${words} this`, aria, onclick });
  };
  const like = make("button", { ...action, textContent: "Refine", title: "Search from this photo", onclick: pick.onclick });
  const onclick = () => openDialog("why", hit);
  const why = make("button", { ...action, className: "explain", textContent: "Why?", onclick });
  why.setAttribute("aria-label", `Why is ${name} a result?`);
  why.hidden = !referenceOf(state) && !textOf(state);
  const actions = make("div", { className: "actions" }, like, why,
    judged("like", "+", "More like"), judged("unlike", "−", "Less like"));
  const properties = { className: "tile", data: { name: hit.name } };
  return make("li", properties, pick, rank, tileTools(hit, index), factsOf(hit, index, hit.score), actions);
}

function labelsOf(hit) { // one line for each column in --labels; without a title, the first two columns in one line
  const labels = about.labels.map((column) => hit.columns[column]).filter((value) => value !== undefined);
  if (labels.length || hit.title) return labels;
  return [Object.values(hit.columns).slice(0, 2).join(" · ") || shortName(hit.name)];
}

const detailsOf = (hit) =>
  [hit.name, ...Object.entries(hit.columns).map(([column, value]) => `${column}: ${value}`)].join("\n");

function fillGrid(photos, makeTile) { // tiles that do not change stay, so that nothing flickers when more are added
  const key = (photo) => JSON.stringify([makeTile.name, photo.name, photo.rank, photo.score,
    state.like.includes(photo.name), state.unlike.includes(photo.name)]);
  const tiles = [...$("grid").children];
  let kept = 0;
  while (kept < photos.length && tiles[kept]?.key === key(photos[kept])) kept += 1;
  for (const tile of tiles.slice(kept)) tile.remove();
  photos.slice(kept).forEach((photo, index) => {
    const tile = makeTile(photo, kept + index);
    Object.assign(tile, { key: key(photo), hit: photo });
    $("grid").append(tile);
  });
  $("empty").hidden = true;
}

function showPlaceholders() {
  const placeholder = () =>
    make("li", { className: "tile placeholder", aria: { hidden: true } }, make("div", { className: "pick" }));
  $("grid").replaceChildren(...Array.from({ length: 8 }, placeholder));
  $("empty").hidden = true;
}

function showTiles(photos, makeTile, hasMore) {
  const before = [...$("grid").children];
  const focused = before.findIndex((tile) => tile.contains(document.activeElement));
  const name = before[focused]?.dataset.name;
  fillGrid(photos, makeTile);
  const filtered = filterCount(state) > 0;
  $("empty").hidden = photos.length > 0;
  $("reset-empty").hidden = $("empty-hint").hidden = !filtered;
  $("empty-title").textContent = filtered ? `No ${nounOf()}s match these filters.` : "No results.";
  $("more").hidden = !hasMore;
  watchMore();
  if (focused < 0 || $("grid").contains(document.activeElement)) return;
  const tiles = [...$("grid").children]; // the focus stays on its photo, or goes to the one in its place
  const next = tiles.find((tile) => tile.dataset.name === name) || tiles[Math.min(focused, tiles.length - 1)];
  if (next) focusTile(next);
}

function showHits(hits) {
  const ranked = hits.map((hit, index) => ({ ...hit, rank: index + 1 }));
  showTiles(inOrder(ranked), hitTile, hits.length === state.k && state.k < about.limits.hits);
  $("status").textContent = plural(hits.length, state.order ? "best match" : "result");
}

function inOrder(hits) { // the results that were found, sorted as the visitor wants
  if (!state.order) return hits;
  const keyOf = (hit) => (state.order === "name" ? nameOf(hit).toLowerCase() : hit.columns[state.order]);
  const sign = state.descending ? -1 : 1;
  return [...hits].sort((a, b) => {
    const [first, second] = [keyOf(a), keyOf(b)];
    if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
    return first === second ? a.rank - b.rank : sign * (first < second ? -1 : 1);
  });
}

async function galleryPhotos(signal) { // as many as the state shows, and how many there are
  const { where, filter, order, descending, k } = state;
  const plainView = !Object.keys(where).length && !filter && !order;
  const parts = { where: JSON.stringify(where), filter, order, descending: descending ? 1 : 0 };
  const first = plainView ? galleryOffset : 0;
  const key = JSON.stringify([parts, first]);
  if (!galleries.has(key)) galleries.set(key, { photos: [], total: Infinity });
  const gallery = galleries.get(key);
  while (gallery.photos.length < Math.min(k, gallery.total - first)) {
    const page = { offset: first + gallery.photos.length, count: PAGE_SIZE };
    const { photos, total } = await fetchJson(`api/gallery?${new URLSearchParams({ ...parts, ...page })}`, { signal });
    gallery.photos.push(...photos);
    gallery.total = photos.length ? total : first + gallery.photos.length;
  }
  const total = gallery.total;
  const photos = gallery.photos.slice(0, k);
  return { photos, total, more: first + photos.length < total, plainView };
}

async function showGallery() {
  const mine = pending;
  try {
    const { photos, total, more, plainView } = await galleryPhotos(mine.signal);
    if (mine !== pending) return;
    $("title").textContent = plainView ? "Start from a photo" : plural(total, nounOf());
    $("status").textContent = plainView ? "or describe what you are looking for" : "";
    showTiles(photos, galleryTile, more);
    $("shuffle").hidden = !plainView || total <= PAGE_SIZE;
    $("shuffle").onclick = () => {
      galleryOffset = galleryOffset + PAGE_SIZE >= total ? 0 : galleryOffset + PAGE_SIZE;
      go({ trail: [] }, { replace: true });
    };
  } catch (error) {
    if (error.name !== "AbortError" && mine === pending) showFailure(error);
  } finally {
    if (mine === pending) {
      setBusy(false);
      showFacets();
    }
  }
}

// Sorted results only grow when the visitor asks for more, because new ones appear between the others.
const watcher = new IntersectionObserver((entries) => {
  const isSorted = isQuery(state) && state.order !== "";
  if (entries.some((entry) => entry.isIntersecting) && !isSorted) showMore();
}, { rootMargin: "300px" });

function watchMore() { // observing again reports a button that is still in sight
  watcher.unobserve($("more"));
  watcher.observe($("more"));
}

let adding = false; // whether more photos are on their way

async function showMore() {
  if (adding || $("more").hidden || document.body.classList.contains("busy")) return;
  const most = isQuery(state) ? about.limits.hits : Infinity;
  adding = true;
  try {
    await go({ k: Math.min(state.k + PAGE_SIZE, most), trail: state.trail }, { replace: true });
  } finally {
    adding = false;
  }
  watchMore();
}

// ---------------------------------------------------------------- selection

function showSelection() {
  $("selection").hidden = !selection.size;
  $("selected").textContent = `${plural(selection.size, "photo")} selected`;
  for (const tile of $("grid").children) {
    const box = tile.querySelector(".select input");
    if (box) box.checked = selection.has(tile.dataset.name);
  }
}

function csvCell(value) { // quoted, and never a formula for a spreadsheet
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value ?? "");
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csvOf(hits) {
  const columns = [...new Set(hits.flatMap((hit) => Object.keys(hit.columns)))];
  const head = ["photo", "product", "title", "price as shown", "link", "score", ...columns];
  const cellsOf = (hit) => columns.map((column) => hit.columns[column]);
  const lines = hits.map((hit) => [hit.name, hit.product, hit.title, hit.price, hit.link, hit.score, ...cellsOf(hit)]);
  return [head, ...lines].map((cells) => cells.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

function saveSelection() {
  const file = new Blob(["\ufeff", csvOf([...selection.values()])], { type: "text/csv" });
  const link = make("a", { href: URL.createObjectURL(file), download: "selection.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ---------------------------------------------------------------- a link that lasts

async function linkPhoto(reference) { // an uploaded photo as text: the server forgets uploads, a link must not
  const blob = await shrunk(await (await fetch(reference.photo)).blob(), LINK_SIDE, 0.8);
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

async function lastingLink() {
  const photos = await Promise.all(state.references.filter((one) => one.upload).map(linkPhoto));
  const hash = photos.map((photo) => `photo=${photo}`).join("&");
  return `${location.origin}${addressOf(state)}${hash ? `#${hash}` : ""}`;
}

async function copyLink() {
  try {
    const link = await lastingLink();
    if (navigator.clipboard) await navigator.clipboard.writeText(link);
    else copyByHand(link);
    $("copy").textContent = "Link copied";
  } catch (error) {
    showProblem(`The link could not be copied (${error.message}).`);
  }
  setTimeout(() => { $("copy").textContent = "Copy link"; }, 2000);
}

function copyByHand(text) { // where the browser allows the clipboard on secure pages alone
  const area = make("textarea", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

async function restoreLinkPhotos(given) { // photos of a link are uploaded again, in the order of the references
  const photos = new URLSearchParams(location.hash.slice(1)).getAll("photo");
  if (!photos.length) return given;
  const references = [];
  for (const reference of given.references) {
    const photo = reference.upload ? photos.shift() : undefined;
    if (photo === undefined) references.push(reference);
    else {
      const bytes = Uint8Array.from(atob(photo.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
      references.push(await send(new File([bytes], "shared photo", { type: "image/jpeg" })));
    }
  }
  return { ...given, references, trail: [stepOf({ ...given, references })] };
}

function focusTile(tile) {
  for (const control of $("grid").querySelectorAll("a, button, input")) {
    control.tabIndex = tile.contains(control) ? 0 : -1;
  }
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

function explanation(why, hit, query) {
  const reference = referenceOf(query);
  const text = textOf(query);
  const parts = [["baseline", why.base]];
  if (reference) parts.push(["photo", why.image]);
  if (text) parts.push(["text", why.text]);
  const sum = `The score of ${why.score.toFixed(3)} is the sum of these parts: `
    + "the baseline (the score of an empty search), and what your photo and your text add.";
  const elements = [make("p", { className: "sum quiet", textContent: sum }), bars(parts)];
  if (query.references.length > 1 || query.like.length || query.unlike.length) {
    const textContent = "This explains the first photo and the text alone, without further photos and what you marked.";
    elements.push(make("p", { className: "whole quiet", textContent }));
  }
  if (why.words.length) {
    elements.push(make("h3", { textContent: "How much the score drops without each word" }), bars(why.words));
  }
  if (why.crops || why.result_crops) elements.push(...cropView(why, hit, reference));
  else elements.push(make("p", { className: "whole quiet", textContent: "This model looks at each photo as a whole, "
    + "so there are no weights of its parts to show." }));
  if (about.answered_by) {
    elements.push(make("p", { className: "whole quiet", textContent: `Answered by ${about.answered_by}.` }));
  }
  return elements;
}

async function explain(hit) {
  const query = state;
  const body = $("why-body");
  $("why-title").textContent = `Why is ${nameOf(hit)} a result?`;
  body.replaceChildren(make("p", { className: "wait quiet", textContent: "Explaining…", role: "status" }));
  $("why").dataset.of = hit.name;
  let content;
  try {
    content = explanation(await post("api/why", { ...queryOf(query), hit: hit.name }), hit, query);
  } catch (error) {
    content = [make("p", { className: "problem", textContent: error.message, role: "alert" })];
  }
  if ($("why").dataset.of === hit.name) body.replaceChildren(...content);
}

// ---------------------------------------------------------------- larger view

async function enlarge(hit) {
  $("view").dataset.of = hit.name;
  $("view-title").textContent = nameOf(hit);
  $("view-previous").disabled = !neighbour(-1);
  $("view-next").disabled = !neighbour(1);
  const photo = make("img", { src: hit.photo, alt: nameOf(hit), className: "large" });
  const strip = make("div", { className: "strip" });
  const shown = [hit.title, hit.link, hit.product]; // elsewhere in this view, or of no use to people
  const rows = Object.entries(hit.columns).filter(([, value]) => !shown.includes(value));
  const facts = rows.map(([column, value]) =>
    [make("dt", { textContent: column.replaceAll("_", " ") }), make("dd", { textContent: value })]);
  const link = hit.link ? make("a", { className: "more", href: hit.link, target: "_blank", rel: "noopener",
    textContent: "Open the product’s page" }) : null;
  const act = (textContent, action) => make("button", { type: "button", className: "plain", textContent,
    onclick: () => { closeDialog().then(action); } });
  const reference = { name: hit.name, photo: hit.photo, title: hit.title };
  const canAdd = state.references.length > 0 && state.references.length < MAX_REFERENCES;
  const actions = make("div", { className: "view-actions" },
    act("Search from this photo", () => searchFrom(reference)),
    canAdd ? act("Add to the reference", () => go({ references: [...state.references, reference] })) : null,
    act("More like this", () => judge(hit, "like")),
    isQuery(state) ? act("Less like this", () => judge(hit, "unlike")) : null);
  const price = hit.price ? make("p", { className: "price", textContent: hit.price }) : null;
  const side = make("div", {}, price, link, actions, make("dl", {}, ...facts.flat()));
  $("view-body").replaceChildren(make("div", { className: "viewer" }, make("div", {}, photo, strip), side));
  if (!hit.product) return;
  try {
    const { photos } = await fetchJson(hit.photo.replace("photo/", "api/product/"));
    if ($("view").dataset.of !== hit.name || photos.length < 2) return;
    strip.replaceChildren(...photos.map((one, index) => make("button", { type: "button",
      aria: { label: `Photo ${index + 1} of ${photos.length}` }, onclick: () => { photo.src = one.photo; } },
      make("img", { src: small(one.photo), alt: "" }))));
  } catch { /* the first photo is there */ }
}

function neighbour(step) { // the next or the previous result of the one in the larger view
  const tiles = [...$("grid").children];
  const index = tiles.findIndex((tile) => tile.dataset.name === $("view").dataset.of);
  return index < 0 ? undefined : tiles[index + step]?.hit;
}

function moveInView(step) {
  const next = neighbour(step);
  if (next) enlarge(next);
}

// ---------------------------------------------------------------- dialogs: the back button closes them

const DIALOGS = { why: explain, view: enlarge };
let opener = null; // what had the focus before a dialog was opened

async function openDialog(kind, hit) {
  const active = document.activeElement;
  if (history.state?.dialog) await steppedBack(); // out of a dialog just closed; else the step would close this one
  opener = active;
  history.pushState({ ...state, dialog: kind }, "", addressOf(state));
  if (!$(kind).open) $(kind).showModal();
  DIALOGS[kind](hit);
}

function closeDialog() { // resolves when the history has no entry of the dialog any more
  const kind = Object.keys(DIALOGS).find((one) => $(one).open);
  if (!kind) return Promise.resolve();
  const closed = steppedBack();
  $(kind).close(); // the event `close` goes back
  return closed;
}

function steppedBack() { // resolves at the next step in the history
  return new Promise((resolve) => { addEventListener("popstate", resolve, { once: true }); });
}

function hideDialogs() {
  for (const kind of Object.keys(DIALOGS)) $(kind).close();
}

// ---------------------------------------------------------------- events

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if ($("view").open && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    return moveInView(event.key === "ArrowLeft" ? -1 : 1);
  }
  if ($("why").open || $("view").open) return;
  const typing = event.target.matches("input:not([type=checkbox]), select, textarea");
  const firstTile = $("grid").firstElementChild;
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("text").focus();
    $("text").select();
  } else if (event.key === "Escape") {
    if ($("crop").getAttribute("aria-pressed") === "true") {
      setCropping(false);
      showBox();
      $("crop").focus();
    } else if (typing) event.target.blur();
  } else if (event.key === "ArrowDown" && event.target === $("text") && firstTile?.querySelector(".pick")) {
    event.preventDefault();
    focusTile(firstTile);
  } else if (event.key.toLowerCase() === "w" && !typing) {
    document.activeElement?.closest?.(".tile")?.querySelector(".explain")?.click();
  } else if (!typing) {
    moveInGrid(event);
  }
}

function listenToForm() {
  const text = () => $("text").value.trim();
  const filter = () => $("filter-text").value.trim();
  $("search").onsubmit = (event) => {
    event.preventDefault();
    const texts = setText(text());
    if (refining) $("text").value = "";
    go({ texts, filter: filter() });
    if (!hasMouse()) $("text").blur();
    showTop({ fromForm: true });
  };
  let add = false; // whether the file is a further reference
  const choose = (input, further) => () => {
    add = further;
    input.click();
  };
  $("drop").onclick = $("change").onclick = choose($("file"), false);
  $("camera").onclick = choose($("shot"), false);
  $("add").onclick = choose($("file"), true);
  for (const input of [$("file"), $("shot")]) {
    input.onchange = () => {
      if (input.files[0]) upload(input.files[0], { add: add && state.references.length > 0 });
      input.value = "";
    };
  }
  $("clear").onclick = () => {
    setCropping(false);
    go({ references: state.references.slice(1), box: null, texts: setText(text()) });
    (state.references.length ? $("clear") : $("drop")).focus();
  };
  $("again").onchange = $("keep-refining").onchange = () => setRefining($("keep-refining").checked);
  $("weight").oninput = () => showWeight($("weight").valueAsNumber);
  $("weight").onchange = () => {
    const replace = refining || text() === textOf(state); // moving the slider alone makes no new step
    go({ weight: $("weight").valueAsNumber, texts: setText(text()) }, { replace });
  };
  $("keep").onchange = () => go({ keep: $("keep").checked });
  $("filter-text").onchange = () => go({ filter: filter() });
  $("order").onchange = () => {
    const [order, descending] = $("order").value ? JSON.parse($("order").value) : ["", false];
    go({ order, descending });
    showTop();
  };
  $("reset").onclick = $("reset-empty").onclick = () => go({ where: {}, filter: "", keep: false });
  $("filters").ontoggle = showFacets;
  $("to-results").onclick = () => {
    $("filters").open = false;
    $("results").focus({ preventScroll: true });
    $("results").scrollIntoView();
  };
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

function setRefining(on) {
  refining = on;
  showForm();
  $("text").focus();
}

function listen() {
  listenToForm();
  listenToBox();
  listenToDrops();
  $("more").onclick = showMore;
  $("copy").onclick = copyLink;
  $("save").onclick = saveSelection;
  $("view-previous").onclick = () => moveInView(-1);
  $("view-next").onclick = () => moveInView(1);
  $("unselect").onclick = () => {
    selection.clear();
    showSelection();
  };
  for (const kind of Object.keys(DIALOGS)) {
    $(`${kind}-close`).onclick = closeDialog;
    $(kind).onclick = (event) => { if (event.target === $(kind)) closeDialog(); };
    $(kind).onclose = () => {
      $(kind).dataset.of = "";
      if (history.state?.dialog) history.back();
      if (document.activeElement === document.body) opener?.focus?.(); // the focus may already have moved elsewhere
    };
  }
  $("theme").onclick = () => {
    const theme = document.documentElement.dataset.theme;
    const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    setTheme(dark ? "light" : "dark");
  };
  document.addEventListener("keydown", onKey);
  addEventListener("popstate", (event) => {
    hideDialogs();
    const next = event.state ? { ...event.state, dialog: null } : stateOf(location.search);
    if (event.state?.dialog) history.replaceState(next, "", addressOf(next)); // a step forward opens no dialog
    const same = JSON.stringify(next) === JSON.stringify({ ...state, dialog: null });
    state = next;
    if (!same) show();
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
    about = await fetchJson("api/about");
  } catch (error) {
    $("grid").replaceChildren();
    return showProblem(error.message, () => location.reload());
  }
  buildForm();
  const isOurs = Array.isArray(history.state?.references) && !location.hash;
  const kept = isOurs ? history.state : stateOf(location.search);
  try {
    state = { ...(await restoreLinkPhotos(kept)), dialog: null };
  } catch (error) {
    state = { ...structuredClone(EMPTY) };
    showProblem(error.message);
  }
  refining = state.texts.length > 1; // a link or a reload goes on with several texts, a new visit starts with none
  history.replaceState(state, "", addressOf(state));
  await show();
}

start();
