// The form: what the user has set, and how orders are made of it and it of orders.

import { bridgeOf, choices, fittingSize } from "./choices.js";
import { errorText } from "./refusals.js";
import { remembered, signal } from "./view.js";

export const NO_BRIDGE = "none";

const DEFAULTS = {
  prompt: "",
  english: "",
  negative: "",
  negative_english: "",
  translation: "", // of the native prompt, for comparisons alone
  language: "auto",
  model: null,
  bridge: null,
  scale: 1,
  start: 0,
  end: 1,
  seed: 1,
  random_seed: true,
  n: 4,
  steps: 30,
  guidance: 5,
  scheduler: "dpm++",
  size: null, // [width, height], or null for the model's own
  init_image: null,
  init_size: null, // the initial picture's [width, height], as far as it is known
  strength: 0.8,
  mask: null,
  lora: [], // [{ name, weight }]
  embedding: [],
  control_net: null,
  control: null,
  control_source: null, // the upload that the edges were made of
  control_scale: 1,
  more_controls: [], // of a recalled order: [{ net, picture, scale }]
  ip_adapter: null,
  ip_image: null,
  ip_scale: 1,
  vae: null,
};

export const form = remembered("bdm.form", DEFAULTS, (kept) => {
  const known = Object.entries(kept).filter(([name]) => name in DEFAULTS);
  return { ...DEFAULTS, ...Object.fromEntries(known) };
});

/** What is wrong with the form: `{ field, text }`, the field "" where no one field is to blame. */
export const problem = signal(null);

/** Change some fields. */
export function setForm(changes) {
  form.value = { ...form.value, ...changes };
  if (problem.value !== null && (problem.value.field === "" || problem.value.field in changes)) {
    problem.value = null;
  }
}

/** Start from an upload, or with null from none: at a size that the model can draw. */
export function startFromUpload(upload) {
  const { init_size: before, model, size } = form.value;
  const fitted = before && fittingSize(before, model);
  const isGiven = size !== null && String(size) !== String(fitted); // by the user
  const init_size = upload && [upload.width, upload.height];
  setForm({
    init_image: upload?.id ?? null,
    init_size,
    mask: null,
    size: isGiven ? size : init_size && fittingSize(init_size, model),
  });
}

/** Choose a model: with its own size, and the first of its bridges where the one in use is not its. */
export function chooseModel(name) {
  const { init_image: initial, init_size } = form.value;
  setForm({ model: name, size: initial && init_size && fittingSize(init_size, name) });
}

/** Put every setting back, but keep what is written. */
export function resetSettings() {
  const { prompt, english, negative, negative_english, translation, language } = form.value;
  form.value = {
    ...DEFAULTS,
    ...{ prompt, english, negative, negative_english, translation, language },
  };
  problem.value = null;
}

/** A seed at random: 32 bits. */
export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

/** Two texts as one prompt. */
export function joined(first, second) {
  return [first, second].map((text) => text.trim()).filter(Boolean).join(", ");
}

/** What is said to the backbone alone: it reads both prompts as one. */
export function toBackbone(order, prompt = order.prompt) {
  const { english, negative_english, scale, start, end, ...rest } = order;
  return {
    ...rest,
    bridge: NO_BRIDGE,
    prompt: joined(prompt, english),
    negative: joined(order.negative, negative_english),
  };
}

/** The order that a form means. Fields that would have no effect are left out. */
export function orderOf(values) {
  const order = {
    ...pick(values, ["prompt", "english", "negative", "negative_english", "model", "vae"]),
    ...pick(values, ["scale", "start", "end", "n", "steps", "guidance", "scheduler", "size"]),
    bridge: bridgeOf(values),
    seed: values.random_seed ? randomSeed() : values.seed,
    lora: values.lora.map(({ name, weight }) => `${name}:${weight}`),
    embedding: values.embedding,
  };
  if (values.init_image !== null) {
    Object.assign(order, pick(values, ["init_image", "strength", "mask"]));
  }
  Object.assign(order, controlsOf(values));
  if (values.ip_adapter !== null) {
    Object.assign(order, pick(values, ["ip_adapter", "ip_image", "ip_scale"]));
  }
  return order.bridge === NO_BRIDGE ? toBackbone(order) : order;
}

/** The fields of an order for the form's ControlNet and those that were recalled beside it. */
function controlsOf(values) {
  const own = { net: values.control_net, picture: values.control, scale: values.control_scale };
  const all = [...(own.net === null ? [] : [own]), ...values.more_controls];
  return {
    control_net: all.map((each) => each.net),
    control: all.map((each) => each.picture),
    control_scale: all.map((each) => each.scale),
  };
}

/** The form's fields for an order's ControlNets. The form sets the first, and keeps the others. */
function recalledControls({ control_net = [], control = [], control_scale = [] }) {
  const all = control_net.map((net, index) => ({
    net,
    picture: control[index],
    scale: control_scale[index] ?? DEFAULTS.control_scale,
  }));
  const [first, ...more] = all;
  return {
    control_net: first?.net ?? null,
    control: first?.picture ?? null,
    control_scale: first?.scale ?? DEFAULTS.control_scale,
    more_controls: more,
  };
}

/** Fill the form from an order. The prompt's translation is no part of an order and stays. */
export function recall(order) {
  const { lora, ...rest } = order;
  const known = Object.entries(rest).filter(([name]) => name in DEFAULTS);
  form.value = {
    ...DEFAULTS,
    translation: form.value.translation,
    language: form.value.language,
    ...Object.fromEntries(known),
    random_seed: order.seed === null || order.seed === undefined,
    seed: order.seed ?? DEFAULTS.seed,
    lora: (lora ?? []).map(parseLora),
    ...recalledControls(order),
  };
  problem.value = null;
}

/** "style:0.8" => { name: "style", weight: 0.8 }. */
function parseLora(text) {
  const at = text.lastIndexOf(":");
  const weight = at < 0 ? Number.NaN : Number(text.slice(at + 1));
  return Number.isFinite(weight) ? { name: text.slice(0, at), weight } : { name: text, weight: 1 };
}

/** The form's fields from the parameters that AUTOMATIC1111's web UI writes. */
export function recallInfotext(info) {
  const { parameters } = info;
  const size = /^(\d+)x(\d+)$/.exec(parameters.Size ?? "");
  recall({
    prompt: info.prompt ?? "",
    negative: info.negative_prompt ?? "",
    bridge: NO_BRIDGE,
    seed: numberOr(parameters.Seed, null),
    steps: numberOr(parameters.Steps, DEFAULTS.steps),
    guidance: numberOr(parameters["CFG scale"], DEFAULTS.guidance),
    scheduler: schedulerTitled(parameters) ?? DEFAULTS.scheduler,
    size: size ? [Number(size[1]), Number(size[2])] : null,
  });
}

/** The sampler that AUTOMATIC1111's web UI names, in one parameter or, since its 1.9, in two. */
function schedulerTitled(parameters) {
  const name = parameters.Sampler;
  const titles = [`${name} ${parameters["Schedule type"]}`, name];
  const { schedulers } = choices.value;
  return schedulers.find((each) => titles.includes(each.title))?.name ?? null;
}

function numberOr(text, otherwise) {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) ? value : otherwise;
}

function pick(values, names) {
  return Object.fromEntries(names.map((name) => [name, values[name]]));
}

const FIELD_NAMES = Object.keys(DEFAULTS);

/** Tell an error of a request beside the field that is to blame, or beside the button. */
export function tellProblem(error, field = error.refusal?.values.field) {
  problem.value = { field: FIELD_NAMES.includes(field) ? field : "", text: errorText(error) };
}
