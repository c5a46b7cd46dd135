// What evaluation said of the model, and how the service is doing.
import { fill, make, place } from "./dom.js";

const figures = (pairs) => pairs.map(({ name, figure, note }) =>
  make("div", {}, make("dt", {}, name), make("dd", {}, figure, note ? make("small", {}, note) : null)));

export function showModel(about) {
  const badge = place("badge");
  badge.hidden = false;
  for (const element of [badge, place("headline")]) {
    element.textContent = about.headline;
    element.className = `${element === badge ? "badge " : ""}${about.outcome || ""}`;
  }
  fill(place("against"), ...about.against.length ? ["By evaluation, the towers ",
    ...about.against.flatMap(({ outcome, says }, n) => [n ? "; " : "", make("b", { className: outcome }, says)]), "."] : []);
  fill(place("figures"), ...figures(about.figures));
  place("alarms").hidden = !about.alarms.length;
  fill(place("alarms").querySelector("ul"), ...about.alarms.map((alarm) => make("li", {}, alarm)));
  showHealth(about);
}

function ago(moment) {
  const hours = (Date.now() - new Date(moment)) / 3.6e6;
  return hours < 1 ? `${Math.max(0, Math.round(60 * hours))} min` : hours < 48 ? `${Math.round(hours)} h` : `${Math.round(hours / 24)} days`;
}

export function showHealth(about) {
  fill(place("health"), ...figures([
    { name: "age of the run", figure: ago(about.written_at), note: `version ${about.version}` },
    { name: "knows", figure: `${about.items.toLocaleString("en")} items`, note: `${about.users.toLocaleString("en")} users` },
    ...about.health,
  ]));
}
