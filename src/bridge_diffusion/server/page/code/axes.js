// The settings that a grid can go over, and how their values are written.

import { bridgeOf, choices, modelNamed } from "./choices.js";
import { problem } from "./settings.js";
import { t } from "./strings.js";
import { remembered } from "./view.js";

/** The most pictures of a grid. */
export const MOST_CELLS = 100;

/** What a grid goes over: for x and y the setting and its values as they were written. */
export const axes = remembered("bdm.axes", {
  x: { axis: "scale", text: "0, 0.5, 1, 1.5" },
  y: { axis: "seed", text: "1..3" },
});

const numbers = (name, example) => ({
  kind: "numbers",
  example,
  apply: (form, value) => ({ ...form, [name]: value }),
});
const lines = (name, example) => ({
  kind: "lines",
  example,
  apply: (form, value) => ({ ...form, [name]: value }),
});
const choice = (name, options) => ({
  kind: "choice",
  options,
  apply: (form, value) => ({ ...form, [name]: value }),
});

/**
 * By name: how the values are written ("numbers", "lines", "words", "choice", "none"), an example,
 * and the form with one value.
 */
export const AXES = {
  none: { kind: "none", apply: (form) => form },
  prompt: lines("prompt", "红包\n月饼\n粽子"),
  english: lines("english", "a red background\na blue background"),
  words: {
    kind: "words",
    example: "红包\n月饼",
    apply: (form, [from, to]) => ({ ...form, prompt: form.prompt.replaceAll(from, to) }),
  },
  seed: numbers("seed", "1..4"),
  scale: numbers("scale", "0, 0.5, 1, 1.5"),
  start: numbers("start", "0, 0.2, 0.4"),
  end: numbers("end", "0.4, 0.7, 1"),
  steps: numbers("steps", "10, 20, 30"),
  guidance: numbers("guidance", "1, 3, 5, 8"),
  strength: numbers("strength", "0.4, 0.6, 0.8"),
  control_scale: numbers("control_scale", "0, 0.5, 1"),
  lora_weight: {
    kind: "numbers",
    example: "0, 0.5, 1",
    apply: (form, weight) => ({ ...form, lora: form.lora.map((use) => ({ ...use, weight })) }),
  },
  scheduler: choice("scheduler", () => choices.value.schedulers.map((each) => each.name)),
  model: choice("model", () => choices.value.models.map((each) => each.name)),
  bridge: choice("bridge", (form) => modelNamed(form.model)?.bridges ?? []),
};

/** The settings that have an effect with this form. */
export function usefulAxes(form) {
  const useless = new Set();
  if (bridgeOf(form) === "none") ["scale", "start", "end"].forEach((name) => useless.add(name));
  if (form.init_image === null) useless.add("strength");
  if (form.control_net === null) useless.add("control_scale");
  if (form.lora.length === 0) useless.add("lora_weight");
  if (choices.value.models.length < 2) useless.add("model");
  return Object.keys(AXES).filter((name) => !useless.has(name));
}

/**
 * The numbers that a text lists: "1, 2.5, 3", or ranges "1..4" and "0..1+0.25". Null where it has
 * anything else.
 */
export function parseNumbers(text) {
  const found = [];
  for (const part of text.split(/[\s,，、;；]+/u).filter(Boolean)) {
    const range = /^(-?[\d.]+?)\.\.(-?[\d.]+?)(?:\+([\d.]+))?$/.exec(part);
    const [from, to, step] = range
      ? [Number(range[1]), Number(range[2]), Number(range[3] ?? 1)]
      : [Number(part), Number(part), 1];
    if (![from, to, step].every(Number.isFinite) || step <= 0 || to < from) return null;
    const count = Math.floor((to - from) / step + 1e-9) + 1;
    if (found.length + count > MOST_CELLS) return null;
    for (let index = 0; index < count; index += 1) {
      found.push(Number((from + index * step).toPrecision(12)));
    }
  }
  return found.length ? found : null;
}

/** The values of an axis as they are written; null where they cannot be read. */
export function axisValues({ axis, text }, form) {
  const { kind, options } = AXES[axis];
  if (kind === "none") return [null];
  if (kind === "numbers") return parseNumbers(text);
  const written = text.split("\n").map((line) => line.trim()).filter(Boolean);
  if (kind === "choice") {
    const chosen = options(form).filter((name) => written.includes(name));
    return chosen.length ? chosen : null;
  }
  if (kind === "words") {
    if (written.length < 1 || !form.prompt.includes(written[0])) return null;
    return written.map((word) => [written[0], word]);
  }
  return written.length ? written : null;
}

/** Both axes with their values; null, and the problem is told, where one cannot be read. */
export function cellsOf(form) {
  const read = {};
  for (const side of ["x", "y"]) {
    const values = axisValues(axes.value[side], form);
    if (values === null) {
      const { kind } = AXES[axes.value[side].axis];
      problem.value = { field: `axis_${side}`, text: t(`error.axis.${kind}`) };
      return null;
    }
    read[side] = { axis: axes.value[side].axis, values };
  }
  const count = read.x.values.length * read.y.values.length;
  if (count > MOST_CELLS) {
    problem.value = { field: "axis_x", text: t("error.axis.tooMany", { count, most: MOST_CELLS }) };
    return null;
  }
  return read;
}

/** How a value is shown over a column or beside a row. */
export function axisLabel(axis, value) {
  if (value === null) return "";
  return AXES[axis].kind === "words" ? value[1] : String(value);
}
