// The page: whom it is for and how, and the lists that follow from that at once.
import { ask, lastOf, Refused, useKey } from "./api.js";
import { cardsOf, entry, forget, remember } from "./cards.js";
import { fill, make, number, place, refill, searching } from "./dom.js";
import { fields } from "./fields.js";
import { openItem } from "./item.js";
import { Atlas } from "./map.js";
import { showHealth, showModel } from "./model.js";

const K = 10;
const LIKED = 20;
const person = { user: null, liked: [], met: [], likes: [], whole: false };
const atlas = new Atlas(open, fail);
let about, features, filters;

function fail(error) {
  if (error instanceof Refused && error.status === 401) {
    place("door").hidden = false;
    place("main").hidden = true;
    place("key").focus();
  }
  place("trouble").textContent = error instanceof Refused ? error.message : `This page has a mistake: ${error.message}`;
  place("trouble").hidden = false;
}

function well() { place("trouble").hidden = true; }

function open(card) {
  openItem(card, { like: about.reads_history ? like : null, onMap: atlas.holds(card) ? (each) => atlas.show(each) : null, fail });
}

function like(card) {
  if (!person.likes.some((each) => each.id === card.id)) person.likes.push(card);
  showPerson();
  refresh();
}

function showPerson() {
  const { user, likes } = person;
  const given = Object.entries(features.values());
  const told = user?.card ? [user.card.title, user.card.about].filter((each) => each && each !== String(user.user)) : [];
  const who = user ? `User ${user.user}${told.length ? `: ${told.join(" · ")}` : ""}`
    + (user.is_known ? "" : ", whom training did not know")
    : likes.length || given.length ? "Somebody new" : "Nobody yet: what is popular is shown";
  place("who").textContent = `${who}${given.length ? `, with ${given.map(([name]) => name).join(", ")} as given` : ""}.`;
  fill(place("chosen"), ...likes.map((card) => make("li", {}, card.title, make("button", {
    type: "button", "aria-label": `Remove ${card.title}`,
    onclick: () => { person.likes = likes.filter((each) => each !== card); showPerson(); refresh(); place("reset").focus(); },
  }, "×"))));
  const liked = [...likes.slice().reverse(), ...person.liked];
  const total = likes.length + (user?.num_liked || 0);
  place("liked-says").textContent = user ? `${total} liked, ${user.num_met} met; the last first.`
    : total ? "As composed, the last first." : "Nothing yet. + beside an item adds it.";
  const shown = person.whole ? liked : liked.slice(0, LIKED);
  const left = total - shown.length;
  refill(place("liked"), ...shown.map((card) => entry(card, { open })));
  place("liked-rest").hidden = left <= 0;
  place("liked-left").textContent = `and ${left.toLocaleString("en")} more`;
  place("liked-all").hidden = shown.length === liked.length;
  place("liked-all").textContent = `Show ${liked.length - shown.length} of them`;
}

async function choose(card) {
  try {
    const found = await ask(`v1/users/${encodeURIComponent(card.id)}`);
    remember(found.liked);
    Object.assign(person, { user: found, liked: found.liked, met: found.met, whole: false });
    well();
    showPerson();
    refresh();
  } catch (error) {
    fail(error);
  }
}

const basis = { id: "what was learned of this user", features: "features", history: "the history", popularity: "popularity alone" };

const refresh = lastOf(120, async (signal) => {
  place("lists").setAttribute("aria-busy", "true");
  const where = filters.values();
  const wish = { k: K, where };
  const likes = person.likes.map((card) => card.id);
  const whom = { history: likes, features: features.values() };
  if (person.user) whom.user = person.user.user;
  const dials = { diversity: Number(place("diversity").value), popularity: Number(place("popularity").value) };
  const [mine, plain] = await Promise.all([
    ask("v1/recommend", { people: [whom], ...wish, ...dials, explain: true }, signal),
    ask("v1/recommend", { people: [{ exclude: [...likes, ...person.met].slice(0, 1000) }], ...wish }, signal),
  ]);
  const [answer, popular] = [mine.answers[0], plain.answers[0]];
  const reasons = answer.items.flatMap((each) => each.why.items.map(({ name }) => name));
  const cards = await cardsOf(answer.items.map((each) => each.item), signal);
  await cardsOf(reasons, signal);
  const usual = await cardsOf(popular.items.map((each) => each.item), signal);
  if (signal.aborted) return;
  well();
  const adding = about.reads_history ? like : null;
  refill(place("recommended"), ...cards.map((card, n) => entry(card, {
    open, like: adding, chance: answer.items[n].affinity, why: answer.items[n].why, note: "the chance of a like",
  })));
  refill(place("popular"), ...usual.map((card) => entry(card, { open, like: adding })));
  const short = cards.length < K ? ` No more than ${cards.length} fulfil the filters.` : "";
  place("rests").textContent = `Rests on ${answer.rests_on.map((each) => basis[each]).join(", ")}.${short}`;
  atlas.light(cards.map((card) => card.id), [...likes, ...person.liked.map((card) => card.id)]);
  atlas.find(whom);
  place("lists").removeAttribute("aria-busy");
  if (mine.run !== about.run || mine.version !== about.version) await start();
}, (error) => { place("lists").removeAttribute("aria-busy"); fail(error); });

const findUsers = lastOf(120, async (signal, words, show) => {
  const { cards } = await ask("v1/find", { among: "users", words, k: 8 }, signal);
  const exact = cards.some((card) => String(card.id) === words);
  show(exact ? cards : [...cards, { id: words, title: `${words} (unknown to training)` }]);
}, fail);
const findItems = lastOf(120, async (signal, words, show) => {
  show((await ask("v1/find", { among: "items", words, k: 8 }, signal)).cards);
}, fail);

function dialSays() {
  for (const name of ["diversity", "popularity"]) {
    place(`${name}-says`).textContent = number(Number(place(name).value));
  }
}

function filtered() {
  const count = Object.keys(filters.values()).length;
  place("filtering").textContent = count ? `(${count} set)` : "";
  refresh();
}

// Also after another run has come: what it can be asked by is asked anew.
async function start() {
  try {
    about = await ask("v1/about");
  } catch (error) {
    if (error.status === 503) { setTimeout(start, 1000); }
    fail(error);
    return;
  }
  well();
  forget();
  place("door").hidden = true;
  place("main").hidden = false;
  place("run").textContent = about.run;
  place("by-title").textContent = about.user_titles ? " or name" : "";
  place("user").placeholder = about.user_titles ? "an id or a name" : "an id";
  place("add").parentElement.hidden = !about.reads_history;
  place("compose").hidden = !about.reads_history && !about.user_columns.length;
  place("filters").hidden = !about.item_columns.length;
  features = fields(place("features"), about.user_columns, { changed: () => { showPerson(); refresh(); } });
  filters = fields(place("columns"), about.item_columns, { filter: true, changed: filtered });
  showModel(about);
  showPerson();
  refresh();
  atlas.load();
}

searching(place("user"), place("users"), findUsers, choose);
searching(place("add"), place("adds"), findItems, like);
for (const name of ["diversity", "popularity"]) {
  place(name).addEventListener("input", () => { dialSays(); refresh(); });
}
place("liked-all").addEventListener("click", () => {
  person.whole = true;
  showPerson();
  place("liked").children[LIKED]?.querySelector(".name").focus();
});
place("unfilter").addEventListener("click", () => { filters.clear(); filtered(); });
place("reset").addEventListener("click", () => {
  Object.assign(person, { user: null, liked: [], met: [], likes: [], whole: false });
  features.clear();
  filters.clear();
  place("diversity").value = place("popularity").value = "0";
  dialSays();
  showPerson();
  filtered();
});
place("door").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(place("key").value);
  place("key").value = "";
  start();
});
setInterval(() => {
  if (about && !document.hidden && place("door").hidden) ask("v1/about").then(showHealth).catch(() => {});
}, 10000);
dialSays();
start();
