// The codes of an item as a table with its neighbours by shared digits, and its neighbours by text.
import { element } from "./ask.js";

const shown = (item) => item.title || item.item;

function link(item, open) {
  const button = element("button", shown(item), { type: "button" });
  button.addEventListener("click", () => open(item));
  return element("th", button, { scope: "row" });
}

function cells(codes, own) {
  return codes.map((code, digit) => {
    const same = own && code === own[digit];
    return element("td", `${code}`, same ? { class: "same" } : {});
  });
}

function codesTable(answer, open) {
  const digits = answer.codes.map((_, digit) => element("th", `${digit + 1}`, { scope: "col" }));
  const head = element("thead", element("tr", [element("th", "Digit", { scope: "col" }), ...digits, element("th", "shared", { scope: "col" })]));
  const own = element("tr", [element("th", shown(answer), { scope: "row" }), ...cells(answer.codes), element("td", "")], { class: "own" });
  const rows = answer.by_codes.map((item) => {
    const count = element("td", `${item.shared} of ${answer.codes.length}`);
    return element("tr", [link(item, open), ...cells(item.codes, answer.codes), count]);
  });
  const caption = element("caption", "Neighbours by codes; shared digits are bold");
  return element("div", element("table", [caption, head, element("tbody", [own, ...rows])]),
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Codes" });
}

function textTable(answer, open) {
  const rows = answer.by_text.map((item) => element("tr", [link(item, open), element("td", item.similarity.toFixed(2))]));
  const head = element("thead", element("tr", [element("th", "Item", { scope: "col" }), element("th", "cosine", { scope: "col" })]));
  return element("table", [element("caption", "Neighbours by text"), head, element("tbody", rows)]);
}

// Draws into a place and returns a sentence on what is missing.
export function drawSimilar(place, answer, run, open) {
  const parts = [];
  if (answer.codes) parts.push(codesTable(answer, open));
  if (answer.by_text) parts.push(textTable(answer, open));
  place.replaceChildren(...parts);
  const missing = [answer.codes ? null : "codes", answer.by_text ? null : "text vectors"].filter(Boolean);
  return missing.length ? `${run.label} has no ${missing.join(" and no ")}.` : `By the codes and text vectors of ${run.label}.`;
}
