// What the server has: models, bridges, plug-ins, samplers, limits.

import { getModels, getPlugins, getSchedulers, getStatus } from "./api.js";
import { remembered, signal } from "./view.js";

export const choices = signal({ models: [], plugins: [], schedulers: [], status: null });

/** Ask the server what it has. Plug-ins are looked up anew, so this may be asked again. */
export async function loadChoices() {
  const [models, plugins, schedulers, status] = await Promise.all([
    getModels(),
    getPlugins(),
    getSchedulers(),
    getStatus(),
  ]);
  choices.value = { models, plugins, schedulers, status };
}

/** The model that is drawn with where an order names `name`, or null before the lists are there. */
export function modelNamed(name) {
  const { models } = choices.value;
  return models.find((model) => model.name === name) ?? models.find((model) => model.default) ?? null;
}

/** The name of the bridge that is drawn with, "none" for none. */
export function bridgeOf(form) {
  const model = modelNamed(form.model);
  if (model === null) return null;
  return model.bridges.includes(form.bridge) ? form.bridge : model.bridges[0];
}

/** The plug-ins that an order's field takes, less those that say they are of another family or model. */
export function pluginsFor(field, form) {
  const family = modelNamed(form.model)?.family ?? null;
  return choices.value.plugins.filter(
    (plugin) =>
      plugin.field === field &&
      (!plugin.of_world || modelNamed(form.model)?.default) &&
      (plugin.family === null || family === null || plugin.family === family),
  );
}

const learned = remembered("bdm.sizes", {});

/** How wide and high a model's pictures are where an order gives no size; null if it is not known. */
export function knownSize(name) {
  const model = modelNamed(name);
  return model?.size ?? learned.value[model?.name] ?? null;
}

/** As `knownSize`, and what most models have where it is not known. */
export const ownSize = (name) => knownSize(name) ?? [512, 512];

/** Remember how large a picture without a given size became, for a model that does not tell. */
export function learnSize(picture) {
  const { model: name, size, init_image: initial } = picture.order;
  const model = modelNamed(name);
  if (size !== null || initial !== null || model === null || model.size !== null) return;
  learned.value = { ...learned.value, [model.name]: [picture.width, picture.height] };
}

const MULTIPLE = 8; // stock pipelines take no other sides

/**
 * The size to give where a picture of `size` is started from: null where its own does, else its
 * aspect over as many pixels as the model's pictures have.
 */
export function fittingSize([width, height], name) {
  const [ownWidth, ownHeight] = ownSize(name);
  const ratio = (width * height) / (ownWidth * ownHeight);
  if (width % MULTIPLE === 0 && height % MULTIPLE === 0 && ratio >= 0.5 && ratio <= 2) return null;
  const most = choices.value.status?.limits.side ?? 2048;
  return [width, height].map((side) => {
    const near = Math.round(side / Math.sqrt(ratio) / MULTIPLE) * MULTIPLE;
    return Math.min(most, Math.max(MULTIPLE, near));
  });
}
