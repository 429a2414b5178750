// The page: a history, the lists of up to three runs, and what they depend on.
import { ask, element, later } from "./ask.js";
import { drawSimilar } from "./similar.js";

const MAX_RUNS = 3, K = 10;
const byId = (id) => document.getElementById(id);
const state = { runs: [], history: [], answers: [], chosen: null, turn: 0 };

function report(text, bad = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("bad", bad);
}

async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    report(error.message, true);
    return null;
  }
}

const shown = (item) => item.title || item.item;
const shownRuns = () => state.runs.filter((run) => run.shown);

// ---- picking ----

async function search() {
  const found = await attempt(() => ask(`/items?limit=30&q=${encodeURIComponent(byId("q").value.trim())}`));
  if (!found) return;
  byId("found").replaceChildren(...found.map((item) => {
    const count = element("small", `${item.item}, ${item.train_count} interactions`);
    const button = element("button", shown(item), { type: "button" });
    button.append(count);
    button.addEventListener("click", () => change([...state.history, item], `${shown(item)} was added.`));
    return element("li", button);
  }));
  if (byId("q").value && !found.length) report("No title holds these words.");
}

async function suggestUsers() {
  const users = await attempt(() => ask(`/users?q=${encodeURIComponent(byId("user").value)}`));
  byId("users").replaceChildren(...(users || []).map((user) => element("option", "", { value: user })));
}

async function showUser(event) {
  event.preventDefault();
  const user = byId("user").value.trim();
  if (!user) return;
  const history = await attempt(() => ask(`/users/${encodeURIComponent(user)}`));
  if (history) change(history, `The history of ${user} has ${history.length} items.`);
}

// ---- history and lists ----

async function change(history, message) {
  Object.assign(state, { history, chosen: null });
  const turn = ++state.turn;
  report(message);
  const answers = history.length ? await Promise.all(shownRuns().map((run) => explained(run))) : [];
  if (turn !== state.turn) return; // a later change is under way
  state.answers = answers;
  const first = answers.findIndex((answer) => answer.recommendations?.length);
  state.chosen = first < 0 ? null : { answer: first, place: 0 };
  draw();
}

async function explained(run) {
  const body = { history: state.history.map((item) => item.item), k: K, exclude_seen: byId("seen").checked, run: run.name };
  try {
    return { of: run, ...await ask("/explain", body) };
  } catch (error) {
    return { of: run, problem: error.message };
  }
}

function draw() {
  byId("clear").hidden = !state.history.length;
  byId("history-note").textContent = state.history.length
    ? "The most recent item first. Remove an item with ×." : "Pick an item, or a user.";
  byId("lists-note").textContent = state.answers.length
    ? "Choose an item to see which items of the history carry it, its codes and its neighbours."
    : "Each run lists its ten best items here.";
  byId("lists").replaceChildren(...state.answers.map(drawList));
  mark();
  drawHistory();
}

function drawList(answer, number) {
  const title = element("h3", answer.of.label);
  if (answer.problem) return element("div", [title, element("p", answer.problem, { class: "note" })]);
  const rows = answer.recommendations.map((item, place) => {
    const others = state.answers.flatMap((other) => {
      const rank = (other.recommendations || []).findIndex((one) => one.item === item.item) + 1;
      return other !== answer && rank ? [`${other.of.label}: rank ${rank}`] : [];
    });
    const button = element("button", [element("b", `${place + 1}`), element("span", shown(item))],
      { type: "button", "aria-pressed": "false" });
    if (others.length) button.append(element("small", others.join(", "), { class: "also" }));
    button.addEventListener("click", () => { state.chosen = { answer: number, place }; mark(); drawHistory(); });
    return element("li", button);
  });
  const list = element("ol", rows, { "aria-label": `List of ${answer.of.label}` });
  return element("div", rows.length ? [title, list] : [title, element("p", "No item.", { class: "note" })]);
}

function mark() {
  byId("lists").querySelectorAll("ol").forEach((list) => list.querySelectorAll("button").forEach((button, place) => {
    const answer = state.chosen && state.answers[state.chosen.answer];
    const pressed = answer && list.ariaLabel === `List of ${answer.of.label}` && place === state.chosen.place;
    button.setAttribute("aria-pressed", String(Boolean(pressed)));
  }));
  const answer = state.chosen && state.answers[state.chosen.answer];
  byId("similar-part").hidden = !answer;
  if (answer) showSimilar(answer.recommendations[state.chosen.place], answer.of);
}

// Ranks as in the case studies: 1 to 3 weighs more than 41 to 43.
const LEAST = 0.02;
const gain = (rank) => rank ? 1 / Math.log2(rank + 1) : 0;

function drawHistory() {
  const answer = state.chosen && state.answers[state.chosen.answer];
  const item = answer && answer.recommendations[state.chosen.place];
  const heats = state.answers.find((other) => other.history?.some((one) => one.entropy));
  const means = heats ? heats.history.map((one) => mean(one.entropy)) : [];
  const digits = heats ? heats.history.flatMap((one) => one.entropy) : [];
  const [low, high] = [Math.min(...digits), Math.max(...digits)];
  const unread = answer ? state.history.length - answer.history.length : 0;
  const effects = item ? item.without.map((rank) => Math.max(gain(item.rank) - gain(rank), 0)) : [];
  const strongest = Math.max(...effects, 0);
  byId("history").replaceChildren(...state.history.map((one, at) => {
    const name = element("button", shown(one), { type: "button", class: "name" });
    name.addEventListener("click", () => showSimilar(one, (answer || state.answers[0]).of));
    const drop = element("button", "×", { type: "button", class: "drop", "aria-label": `Remove ${shown(one)}` });
    drop.addEventListener("click", () => change(state.history.toSpliced(at, 1), `${shown(one)} was removed.`));
    const row = element("li", element("div", [name, drop], { class: "row" }));
    const place = heats ? at - (state.history.length - heats.history.length) : -1;
    if (place >= 0) row.append(heatBar(heats.history[place].entropy, means[place], low, high));
    if (item && state.history.length > 1) {
      row.append(at < unread ? element("div", "Too old: the model does not read it.", { class: "effect" })
        : effectOf(item, at - unread, effects[at - unread], strongest, answer.depth));
      row.classList.toggle("carries", at >= unread && effects[at - unread] > LEAST);
    }
    return row;
  }).reverse());
  if (item) byId("lists-note").textContent = carriedBy(item, answer, effects);
  byId("legend").hidden = !heats;
  if (!heats) return;
  byId("legend-text").textContent = `Bars: entropy of each digit of an item by ${heats.of.label}, ${heats.of.digits} digits; `
    + "the number is their mean. Where it is low, the model is sure.";
  byId("low").textContent = `${low.toFixed(2)} nats`;
  byId("high").textContent = `${high.toFixed(2)} nats`;
}

function carriedBy(item, answer, effects) {
  const strongest = Math.max(...effects);
  const head = `Rank ${item.rank} of ${answer.of.label}, ${shown(item)}, `;
  if (answer.history.length < 2) return `${head}follows from the only item of the history.`;
  if (strongest <= LEAST) return `${head}does not depend on any single item of the history.`;
  return `${head}is carried most by ${shown(answer.history[effects.indexOf(strongest)])}.`;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function heatBar(entropy, average, low, high) {
  const cells = entropy.map((nats) => {
    const cell = element("i", "");
    const part = high > low ? Math.round(100 * (nats - low) / (high - low)) : 0;
    cell.style.background = `color-mix(in srgb, var(--hot) ${part}%, var(--cold))`;
    return cell;
  });
  const bar = element("div", cells, { class: "heat", title: entropy.map((nats) => nats.toFixed(2)).join(" ") });
  bar.append(element("span", `${average.toFixed(2)} nats`));
  return bar;
}

function effectOf(item, at, effect, strongest, depth) {
  const rank = item.without[at];
  const text = rank === item.rank ? `Without it: still rank ${rank}`
    : `Without it: rank ${item.rank} → ${rank || `beyond ${depth}`}`;
  const bar = element("i", "");
  bar.style.width = `${strongest ? Math.round(6 * effect / strongest * 10) / 10 : 0}rem`;
  return element("div", effect > LEAST ? [bar, element("span", text)] : [element("span", text)], { class: "effect" });
}

async function showSimilar(item, run) {
  const path = `/similar/${encodeURIComponent(item.item)}?limit=8&run=${encodeURIComponent(run.name)}`;
  const answer = await attempt(() => ask(path));
  if (!answer) return;
  byId("similar-part").hidden = false;
  byId("similar-title").textContent = `Codes and neighbours: ${shown(item)}`;
  byId("similar-note").textContent = drawSimilar(byId("similar"), answer, run, (other) => showSimilar(other, run));
}

// ---- start ----

function drawRuns() {
  const boxes = state.runs.map((run) => {
    const box = element("input", "", { type: "checkbox" });
    box.checked = run.shown;
    box.addEventListener("change", () => {
      if (box.checked && shownRuns().length >= MAX_RUNS) {
        box.checked = false;
        return report(`At most ${MAX_RUNS} runs are shown side by side.`, true);
      }
      run.shown = box.checked;
      change(state.history, `${shownRuns().length} runs are shown.`);
    });
    return element("label", [box, element("span", run.label)], { class: "check" });
  });
  byId("runs").append(...boxes);
  byId("runs").hidden = state.runs.length < 2;
}

async function start() {
  const health = await attempt(() => ask("/health"));
  if (!health) return;
  const labels = health.runs.map((run) => run.label);
  const label = (run) => labels.filter((one) => one === run.label).length > 1 ? run.name : run.label;
  state.runs = health.runs.map((run, place) => ({ ...run, label: label(run), shown: place < MAX_RUNS }));
  byId("facts").textContent = `${health.items.toLocaleString("en")} items, ${health.users.toLocaleString("en")} users`;
  drawRuns();
  await search();
}

byId("search").addEventListener("submit", (event) => { event.preventDefault(); search(); });
byId("q").addEventListener("input", later(search));
byId("user").addEventListener("input", later(suggestUsers));
byId("user-form").addEventListener("submit", showUser);
byId("clear").addEventListener("click", () => { change([], "The history is empty."); byId("q").focus(); });
byId("seen").addEventListener("change", () => change(state.history, ""));
suggestUsers();
start();
