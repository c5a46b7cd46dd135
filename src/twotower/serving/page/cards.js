// Items as they are shown: a name to click, what it is, and why it is there.
import { ask } from "./api.js";
import { make, number, picture } from "./dom.js";

const known = new Map();

export function remember(cards) {
  for (const card of cards) known.set(String(card.id), card);
}

// Cards of items, asked for where they are not known yet; of an unknown one its id.
export async function cardsOf(ids, signal) {
  const missing = [...new Set(ids)].filter((id) => !known.has(String(id)));
  for (let start = 0; start < missing.length; start += 1000) {
    remember((await ask("v1/cards", { items: missing.slice(start, start + 1000) }, signal)).cards);
  }
  return ids.map((id) => known.get(String(id)) || { id, title: String(id), about: "", picture: null });
}

// After another run has come, titles may be others.
export function forget() { known.clear(); }

const words = {
  id: "what was learned of this user", features: "who this is", history: "what was liked",
  bias: "what everybody makes of it", popularity: "the popularity dial",
};

function reasons(why) {
  // What everybody makes of it is true of each list: told only where it counts most.
  const carried = Object.keys(words).filter((part) => why[part] > 0.005).sort((a, b) => why[b] - why[a])
    .filter((part, n) => part !== "bias" || n === 0);
  const named = (parts) => parts.filter((part) => part.adds > 0.005).slice(0, 2);
  return carried.slice(0, 2).flatMap((part) => {
    if (part === "history" && named(why.items).length) {
      return [named(why.items).map(({ name }) => known.get(String(name))?.title || String(name)).join(", ")];
    }
    if (part === "features" && named(why.columns).length) {
      return [named(why.columns).map(({ name }) => String(name)).join(", ")];
    }
    return [words[part]];
  });
}

export function explained(why) {
  if (!why) return null;
  const told = reasons(why);
  const parts = Object.keys(words).filter((part) => Math.abs(why[part]) > 0.0005).map((part) => [words[part], why[part]]);
  const items = why.items.map(({ name, adds }) => [known.get(String(name))?.title || String(name), adds]);
  const { count, adds } = why.others;
  if (count) items.push([`and ${count.toLocaleString("en")} other${count > 1 ? "s" : ""}`, adds]);
  const columns = why.columns.filter(({ adds }) => Math.abs(adds) >= 0.005).map(({ name, adds }) => [String(name), adds]);
  const table = (rows, most = Math.max(...rows.map(([, adds]) => Math.abs(adds)), 1e-9)) => make("div", { className: "parts" }, ...rows.flatMap(([name, adds]) => {
    const bar = make("span", { className: adds < 0 ? "bar less" : "bar", "aria-hidden": "true" });
    bar.style.width = `${Math.max(1, 100 * Math.abs(adds) / most)}%`;
    return [make("span", {}, name), bar, make("span", { className: "num" }, `${adds < 0 ? "−" : "+"}${number(Math.abs(adds))}`)];
  }));
  return make("details", { className: "why" },
    make("summary", {}, "Why: ", told.length ? told.join("; ") : "nothing speaks for it but what is left"),
    table(parts),
    ...(items.length ? [make("b", {}, why.is_exact ? "Of what was liked" : "Of what was liked, what the score would lose without it"), table(items)] : []),
    ...(columns.length ? [make("b", {}, "Of who this is"), table(columns)] : []));
}

// One entry of a list; `open` and `like` are told the card.
export function entry(card, { open, like, chance, why, note }) {
  const about = card.about && card.about !== card.title ? card.about : "";
  return make("li", {},
    make("div", { className: "shown" }, picture(card), make("div", {},
      make("button", { type: "button", className: "name", onclick: () => open(card) }, card.title),
      about ? make("span", { className: "about" }, about) : null,
      explained(why))),
    make("span", { className: "end" },
      chance === undefined || chance === null ? null
        : make("span", { className: "chance", title: note }, chance > 0.99 ? "> 99 %" : `${Math.round(100 * chance)} %`),
      like && make("button", {
        type: "button", className: "plus", "aria-label": `Add ${card.title} to the history`, title: "Add to the history",
        onclick: () => like(card),
      }, "+")));
}
