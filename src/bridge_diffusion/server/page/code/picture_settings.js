// Pictures that an order starts from or follows: img2img, inpainting, ControlNet, IP-Adapter.

import { makeEdges, uploadUrl } from "./api.js";
import { choices, pluginsFor } from "./choices.js";
import { Problem, Section, Select, Slider, Toggle } from "./controls.js";
import { MaskEditor } from "./mask_editor.js";
import { errorText } from "./refusals.js";
import { problem, setForm, startFromUpload } from "./settings.js";
import { t } from "./strings.js";
import { PictureInput } from "./uploads.js";
import { html, useState, useValue } from "./view.js";

/** An initial picture, how far to leave it, and the mask of what to redraw. */
export function StartSection({ values }) {
  const [isPainting, setPainting] = useState(false);
  const { init_image: initial, mask } = values;
  const note = initial === null ? "" : t(mask === null ? "start.whole" : "start.masked");
  return html`<${Section} name="start" title=${t("section.start")} note=${note}>
    <${PictureInput}
      field="init_image"
      label=${t("init_image")}
      value=${initial}
      onChange=${startFromUpload}
    >
      <button type="button" class="plain small" id="paint-mask" onClick=${() => setPainting(true)}>
        ${mask === null ? t("mask.paint") : t("mask.change")}
      </button>
      ${mask !== null &&
      html`<button type="button" class="plain small" onClick=${() => setForm({ mask: null })}>
        ${t("mask.remove")}
      </button>`}
    <//>
    <${Problem} field="init_image" />
    ${mask !== null &&
    html`<figure class="mask-shown">
      <img src=${uploadUrl(mask)} alt=${t("mask")} />
      <figcaption class="hint">${t("mask.shown")}</figcaption>
    </figure>`}
    <${Problem} field="mask" />
    ${initial !== null &&
    html`<${Slider}
      field="strength"
      label=${t("strength")}
      hint=${t("strength.hint")}
      value=${values.strength}
      min="0.05"
      max="1"
      step="0.05"
      onChange=${(strength) => setForm({ strength })}
    />`}
    ${isPainting &&
    html`<${MaskEditor}
      picture=${initial}
      mask=${mask}
      onClose=${() => setPainting(false)}
      onMask=${(id) => setForm({ mask: id })}
    />`}
  <//>`;
}

async function follow(id, withEdges) {
  if (id === null) {
    setForm({ control: null, control_source: null });
    return;
  }
  try {
    const control = withEdges ? (await makeEdges(id)).id : id;
    setForm({ control, control_source: id });
  } catch (error) {
    problem.value = { field: "control", text: errorText(error) };
  }
}

/** A ControlNet, the picture that it follows, and the edges that are made of it. */
export function ControlSection({ values }) {
  useValue(choices);
  const names = pluginsFor("control_net", values).map((plugin) => plugin.name);
  const source = values.control_source ?? values.control;
  const hasEdges = values.control !== null && values.control !== source;
  const [wantsEdges, setWantsEdges] = useState(hasEdges || values.control === null);
  return html`<${Section} name="control" title=${t("section.control")} note=${values.control_net}>
    ${names.length === 0 && values.control_net === null
      ? html`<p class="hint">${t("control.none")}</p>`
      : html`<${Select}
            field="control_net"
            label=${t("control_net")}
            value=${values.control_net ?? ""}
            options=${[["", t("none")], ...names.map((name) => [name, name])]}
            onChange=${(name) => setForm({ control_net: name || null })}
          />`}
    ${(names.length > 0 || values.control !== null) &&
    html`<${PictureInput}
        field="control"
        label=${t("control")}
        value=${source}
        onChange=${(upload) => follow(upload?.id ?? null, wantsEdges)}
      />
      <${Toggle}
        label=${t("control.edges")}
        hint=${t("control.edges.hint")}
        value=${wantsEdges}
        onChange=${(wanted) => {
          setWantsEdges(wanted);
          if (source !== null) follow(source, wanted);
        }}
      />
      ${hasEdges &&
      html`<figure class="mask-shown">
        <img id="edges" src=${uploadUrl(values.control)} alt=${t("control.preview")} />
        <figcaption class="hint">${t("control.preview")}</figcaption>
      </figure>`}
      <${Problem} field="control" />
      <${Slider}
        field="control_scale"
        label=${t("control_scale")}
        value=${values.control_scale}
        min="0"
        max="2"
        step="0.05"
        onChange=${(control_scale) => setForm({ control_scale })}
      />`}
    ${values.more_controls.map(
      ({ net, scale }, index) =>
        html`<p class="hint" key=${index}>
          ${t("control.more", { net, scale })}${" "}
          <button
            type="button"
            class="link"
            onClick=${() =>
              setForm({ more_controls: values.more_controls.filter((_, at) => at !== index) })}
          >
            ${t("control.more.remove", { net })}
          </button>
        </p>`,
    )}
  <//>`;
}

/** An IP-Adapter and the picture that it takes as a prompt; hidden where there is none. */
export function IpSection({ values }) {
  useValue(choices);
  const names = pluginsFor("ip_adapter", values).map((plugin) => plugin.name);
  if (names.length === 0 && values.ip_adapter === null) return null;
  return html`<${Section} name="ip" title=${t("section.ip")} note=${values.ip_adapter}>
    <${Select}
      field="ip_adapter"
      label=${t("ip_adapter")}
      value=${values.ip_adapter ?? ""}
      options=${[["", t("none")], ...names.map((name) => [name, name])]}
      onChange=${(name) => setForm({ ip_adapter: name || null })}
    />
    <${PictureInput}
      field="ip_image"
      label=${t("ip_image")}
      value=${values.ip_image}
      onChange=${(upload) => setForm({ ip_image: upload?.id ?? null })}
    />
    <${Problem} field="ip_image" />
    <${Slider}
      field="ip_scale"
      label=${t("ip_scale")}
      value=${values.ip_scale}
      min="0"
      max="2"
      step="0.05"
      onChange=${(ip_scale) => setForm({ ip_scale })}
    />
  <//>`;
}
