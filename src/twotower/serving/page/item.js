// One item, looked at closely: its values and what is like it.
import { ask } from "./api.js";
import { cardsOf, entry } from "./cards.js";
import { fill, make, number, picture, place } from "./dom.js";

const said = (value) => Array.isArray(value)
  ? value.length > 12 ? `${value.slice(0, 12).join(", ")} …` : value.join(", ")
  : typeof value === "number" ? String(Number(value.toPrecision(5))) : String(value).replace(/T00:00:00Z$/, "");

let current = 0;

export async function openItem(card, { like, onMap, fail }) {
  const own = current += 1;
  const dialog = place("item");
  fill(place("item-head"), picture(card));
  place("item-title").textContent = card.title;
  fill(place("item-values"));
  fill(place("item-similar"));
  place("item-like").onclick = () => { dialog.close(); like(card); };
  place("item-like").hidden = !like;
  place("item-map").onclick = () => { dialog.close(); onMap(card); };
  place("item-map").hidden = !onMap;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  try {
    const [item, near] = await Promise.all([
      ask(`v1/items/${encodeURIComponent(card.id)}`), ask("v1/similar", { items: [card.id], k: 8 }),
    ]);
    const pairs = near.answers[0].items;
    const cards = await cardsOf(pairs.map((each) => each.item));
    if (own !== current) return;
    const shown = Object.entries({ id: card.id, ...item.values })
      .filter(([, value]) => value !== null && value !== card.title && value !== card.picture && said(value) !== "");
    fill(place("item-values"), ...shown.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, said(value))]));
    fill(place("item-similar"), ...cards.map((each, n) => {
      const line = entry(each, { open: (next) => openItem(next, { like, onMap, fail }), like });
      line.querySelector(".end").prepend(make("span", { className: "chance", title: "cosine" }, number(pairs[n].score)));
      return line;
    }));
  } catch (error) {
    if (own !== current) return;
    dialog.close();
    fail(error);
  }
}
