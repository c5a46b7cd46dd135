// Elements whose texts are texts: nothing that comes from data is ever read as HTML.
export const place = (id) => document.getElementById(id);

export function make(tag, given = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...inside.filter((each) => each !== null && each !== undefined));
  return element;
}

export function fill(element, ...inside) {
  element.replaceChildren(...inside.filter(Boolean));
}

// Entries anew; who stands in one by keyboard stands in the one at its place.
export function refill(list, ...entries) {
  const held = document.activeElement;
  const at = [...list.children].findIndex((each) => each.contains(held));
  fill(list, ...entries);
  const next = at >= 0 && list.children[Math.min(at, list.children.length - 1)];
  if (next) next.querySelector(held.classList.contains("plus") ? ".plus" : ".name")?.focus({ preventScroll: true });
}

export const number = (value, digits = 2) =>
  value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });

// What can not be fetched is no picture.
export function picture(card) {
  const gone = (event) => event.target.remove();
  return card.picture && make("img", { src: card.picture, alt: "", loading: "lazy", onerror: gone });
}

// A field that finds as one types; arrow keys go through what was found, Escape leaves.
export function searching(field, list, search, choose) {
  const close = () => fill(list);
  const show = (cards) => fill(list, ...cards.map((card) => make("li", {},
    make("button", { type: "button", onclick: () => { close(); field.value = ""; field.focus(); choose(card); } },
      card.title, card.title === String(card.id) ? "" : make("small", {}, ` ${card.id}`)))));
  field.addEventListener("input", () => field.value.trim() ? search(field.value.trim(), show) : close());
  const step = (event) => {
    const buttons = [...list.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    if (event.key === "Escape") { close(); field.focus(); }
    if (event.key === "Enter" && at < 0 && buttons.length) { event.preventDefault(); buttons[0].click(); }
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    const next = at + (event.key === "ArrowDown" ? 1 : -1);
    (next < 0 ? field : buttons[Math.min(next, buttons.length - 1)] || field).focus();
  };
  field.addEventListener("keydown", step);
  list.addEventListener("keydown", step);
  document.addEventListener("click", (event) => {
    if (!list.contains(event.target) && event.target !== field) close();
  });
}
