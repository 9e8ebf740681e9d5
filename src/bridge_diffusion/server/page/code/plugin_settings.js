// LoRAs with their sliders, embeddings, another autoencoder.

import { choices, loadChoices, pluginsFor } from "./choices.js";
import { Problem, Section, Select, Slider } from "./controls.js";
import { form, setForm } from "./settings.js";
import { t } from "./strings.js";
import { html, useValue } from "./view.js";

function setLora(name, weight) {
  const others = form.value.lora.filter((use) => use.name !== name);
  setForm({ lora: weight === null ? others : [...others, { name, weight }] });
}

function Loras({ values }) {
  const names = pluginsFor("lora", values).map((plugin) => plugin.name);
  const used = [...values.lora].sort((a, b) => a.name.localeCompare(b.name));
  const free = names.filter((name) => !used.some((use) => use.name === name));
  return html`${used.map(
      (use) =>
        html`<div class="lora" key=${use.name}>
          <${Slider}
            field=${`lora-${use.name}`}
            label=${use.name}
            value=${use.weight}
            min="-1"
            max="2"
            step="0.05"
            onChange=${(weight) => setLora(use.name, weight)}
          />
          <button type="button" class="link" onClick=${() => setLora(use.name, null)}>
            ${t("lora.remove", { name: use.name })}
          </button>
        </div>`,
    )}
    ${free.length > 0 &&
    html`<${Select}
      field="lora"
      label=${t("lora")}
      hint=${t("lora.hint")}
      value=""
      options=${[["", t("lora.add")], ...free.map((name) => [name, name])]}
      onChange=${(name) => name && setLora(name, 1)}
    />`}
    <${Problem} field="lora" />`;
}

function Embeddings({ values }) {
  const listed = pluginsFor("embedding", values).map((plugin) => plugin.name);
  const names = [...new Set([...listed, ...values.embedding])];
  if (!names.length) return null;
  const toggle = (name) =>
    values.embedding.includes(name)
      ? { embedding: values.embedding.filter((each) => each !== name) }
      : {
          embedding: [...values.embedding, name],
          // An embedding acts where its name stands in the English prompt.
          english: values.english.includes(name)
            ? values.english
            : [values.english.trim(), name].filter(Boolean).join(", "),
        };
  return html`<fieldset class="chips">
    <legend title=${t("embedding.hint")}>${t("embedding")}</legend>
    ${names.map(
      (name) =>
        html`<button
          key=${name}
          type="button"
          class="chip"
          aria-pressed=${String(values.embedding.includes(name))}
          onClick=${() => setForm(toggle(name))}
        >
          ${name}
        </button>`,
    )}
    <${Problem} field="embedding" />
  </fieldset>`;
}

/** The plug-ins that need no picture. */
export function PluginSection({ values }) {
  useValue(choices);
  const vaes = pluginsFor("vae", values).map((plugin) => plugin.name);
  const inUse = values.lora.length + values.embedding.length + (values.vae === null ? 0 : 1);
  const none = !choices.value.plugins.length && inUse === 0;
  return html`<${Section}
    name="plugins"
    title=${t("section.plugins")}
    note=${inUse ? t("inUse.count", { n: inUse }) : ""}
  >
    ${none && html`<p class="hint">${t("plugins.none")} <code>bdm serve --plugins ~/loras</code></p>`}
    <${Loras} values=${values} />
    <${Embeddings} values=${values} />
    ${(vaes.length > 0 || values.vae !== null) &&
    html`<${Select}
      field="vae"
      label=${t("vae")}
      value=${values.vae ?? ""}
      options=${[["", t("vae.own")], ...vaes.map((name) => [name, name])]}
      onChange=${(name) => setForm({ vae: name || null })}
    />`}
    <button type="button" class="link" onClick=${() => loadChoices()}>${t("plugins.again")}</button>
  <//>`;
}
