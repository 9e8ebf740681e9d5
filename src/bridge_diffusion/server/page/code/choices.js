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

const ownSides = remembered("bdm.sides", { emoji: 64 });
const FAMILY_SIDES = { sdxl: 1024 };

/** How wide and high a model's pictures are where an order gives no size, as far as is known. */
export function ownSize(name) {
  const model = modelNamed(name);
  const side = ownSides.value[model?.name] ?? FAMILY_SIDES[model?.family] ?? 512;
  return [side, side];
}

/** Remember how large a picture without a given size became. */
export function learnSize(picture) {
  const { model, size, init_image: initial } = picture.order;
  const name = modelNamed(model)?.name;
  if (size === null && initial === null && name && ownSides.value[name] !== picture.width) {
    ownSides.value = { ...ownSides.value, [name]: picture.width };
  }
}
