// Fields made from columns: to filter items by, or to compose somebody of.
import { make } from "./dom.js";

const anything = () => make("option", { value: "" }, "any");
const shown = (column, value) => column.kind === "yes_no" ? (value ? "yes" : "no") : String(value);

function choice(column, changed) {
  const select = make("select", { onchange: changed }, anything(),
    ...column.values.map((value, n) => make("option", { value: String(n) }, shown(column, value))));
  return [make("label", { className: "one" }, column.name, " ", select),
    () => select.value === "" ? undefined : column.values[Number(select.value)],
    () => { select.value = ""; }];
}

function boxes(column, changed) {
  const inputs = column.values.map(() => make("input", { type: "checkbox", onchange: changed }));
  const set = make("fieldset", { className: "wide" }, make("legend", {}, column.name),
    make("div", { className: "boxes" },
      ...inputs.map((input, n) => make("label", {}, input, String(column.values[n])))));
  return [set, () => {
    const chosen = column.values.filter((_, n) => inputs[n].checked);
    return chosen.length ? chosen : undefined;
  }, () => inputs.forEach((input) => { input.checked = false; })];
}

function range(column, changed) {
  const is_time = column.kind === "time";
  const field = (what, bound) => make("input", {
    type: is_time ? "date" : "number", step: "any", oninput: changed, placeholder: String(bound),
    "aria-label": `${column.name} ${what}`,
  });
  const [low, high] = [field("from", column.low), field("to", column.high)];
  const read = (input) => input.value === "" ? undefined : is_time ? input.value : Number(input.value);
  return [make("fieldset", {}, make("legend", {}, column.name), make("div", { className: is_time ? "range tall" : "range" }, low, high)),
    () => {
      const [from, to] = [read(low), read(high)];
      if (from === undefined && to === undefined) return undefined;
      return { ...(from === undefined ? {} : { ">=": from }), ...(to === undefined ? {} : { "<=": to }) };
    }, () => { low.value = high.value = ""; }];
}

function exact(column, changed) {
  const is_time = column.kind === "time";
  const input = make("input", {
    type: is_time ? "date" : "number", step: "any", oninput: changed, placeholder: `${column.low} to ${column.high}`,
  });
  return [make("label", { className: "one" }, column.name, " ", input),
    () => input.value === "" ? undefined : is_time ? input.value : Number(input.value),
    () => { input.value = ""; }];
}

// Fields into a place; returns what they hold, by column, and how to empty them.
export function fields(into, columns, { filter, changed }) {
  const made = columns.map((column) => {
    const of = column.kind === "number" || column.kind === "time" ? (filter ? range : exact)
      : column.kind === "yes_no" ? choice : filter || column.kind === "list" ? boxes : choice;
    return [column.name, ...of(column, changed)];
  });
  into.replaceChildren(...made.map(([, element]) => element));
  return {
    values: () => Object.fromEntries(made.map(([name, , read]) => [name, read()]).filter(([, v]) => v !== undefined)),
    clear: () => made.forEach(([, , , empty]) => empty()),
  };
}
