// The settings beside the pictures: bridge, picture, plug-ins, pictures to start from.

import { bridgeOf, choices, fittingSize, knownSize, modelNamed, ownSize } from "./choices.js";
import { Field, NumberBox, NumberInput, Section, Select, Slider, Toggle } from "./controls.js";
import { LANGUAGES } from "./languages.js";
import { ControlSection, IpSection, StartSection } from "./picture_settings.js";
import { PluginSection } from "./plugin_settings.js";
import { NO_BRIDGE, chooseModel, form, resetSettings, setForm } from "./settings.js";
import { t } from "./strings.js";
import { html, useValue } from "./view.js";

const SIZES = [64, 96, 128, 256, 512, 768, 1024];
const set = (name) => (value) => setForm({ [name]: value });

/** "zh" => "zh · 中文"; other bridges by their name. */
function bridgeTitle(name) {
  if (name === NO_BRIDGE) return t("bridge.none");
  return LANGUAGES[name] ? `${LANGUAGES[name]} (${name})` : name;
}

function BridgeSection({ values }) {
  const { models } = useValue(choices);
  const model = modelNamed(values.model);
  const bridge = bridgeOf(values);
  return html`<${Section} name="bridge" title=${t("section.bridge")} note=${bridge && bridgeTitle(bridge)}>
    <${Select}
      field="model"
      label=${t("model")}
      value=${model?.name}
      options=${models.map((each) => [each.name, each.name])}
      onChange=${chooseModel}
    />
    <${Select}
      field="bridge"
      label=${t("bridge")}
      hint=${t("bridge.hint")}
      value=${bridge}
      options=${(model?.bridges ?? []).map((name) => [name, bridgeTitle(name)])}
      onChange=${set("bridge")}
    />
    ${bridge !== NO_BRIDGE &&
    html`<${Slider}
        field="scale"
        label=${t("scale")}
        hint=${t("scale.hint")}
        value=${values.scale}
        min="0"
        max="2"
        step="0.05"
        onChange=${set("scale")}
      />
      <${Slider}
        field="start"
        label=${t("start")}
        hint=${t("start.hint")}
        value=${values.start}
        min="0"
        max="1"
        step="0.05"
        onChange=${(start) =>
          setForm({ start: Math.min(start, 0.95), end: Math.max(values.end, Math.min(1, start + 0.05)) })}
      />
      <${Slider}
        field="end"
        label=${t("end")}
        hint=${t("end.hint")}
        value=${values.end}
        min="0"
        max="1"
        step="0.05"
        onChange=${(end) =>
          setForm({ end: Math.max(end, 0.05), start: Math.min(values.start, Math.max(0, end - 0.05)) })}
      />`}
  <//>`;
}

/** What "no size given" means: the initial picture's, or the model's own. */
function ownSizeTitle(values) {
  if (values.init_image !== null) return t("size.picture");
  const known = knownSize(values.model);
  return known ? t("size.own.known", { width: known[0], height: known[1] }) : t("size.own");
}

function SizeChoice({ values }) {
  const limit = choices.value.status?.limits.side ?? 2048;
  const sides = SIZES.filter((side) => side <= limit);
  const own = values.size === null;
  const [width, height] = values.size ?? ["", ""];
  const fitted = values.init_size && fittingSize(values.init_size, values.model);
  const start = fitted ?? values.init_size ?? ownSize(values.model);
  const setSide = (index) => (side) => {
    const size = [...(values.size ?? [side, side])];
    size[index] = side;
    setForm({ size });
  };
  return html`<${Field}
    field="size"
    label=${t("size")}
    extra=${!own &&
    html`<button type="button" class="link" onClick=${() => setForm({ size: [height, width] })}>
      ${t("size.swap")}
    </button>`}
  >
    <select
      id="field-size"
      value=${own ? "own" : "given"}
      onChange=${(event) => setForm({ size: event.target.value === "own" ? null : start })}
    >
      <option value="own" selected=${own}>${ownSizeTitle(values)}</option>
      <option value="given" selected=${!own}>${t("size.given")}</option>
    </select>
    ${!own &&
    html`<div class="pair">
      ${[width, height].map(
        (side, index) =>
          html`<${NumberBox}
            key=${index}
            aria-label=${t(index === 0 ? "width" : "height")}
            value=${side}
            min="8"
            max=${limit}
            step="8"
            list="sides"
            onChange=${(side) => setSide(index)(Math.max(1, Math.round(side)))}
          />`,
      )}
      <datalist id="sides">${sides.map((side) => html`<option key=${side} value=${side} />`)}</datalist>
    </div>`}
  <//>`;
}

function PictureSection({ values }) {
  const { schedulers, status } = useValue(choices);
  return html`<${Section} name="picture" title=${t("section.picture")}>
    <div class="pair">
      <${NumberInput}
        field="n"
        label=${t("n")}
        value=${values.n}
        min="1"
        max=${status?.limits.pictures ?? 16}
        onChange=${set("n")}
      />
      <${NumberInput}
        field="seed"
        label=${t("seed")}
        hint=${t("seed.hint")}
        value=${values.random_seed ? "" : values.seed}
        min="0"
        disabled=${values.random_seed}
        placeholder=${t("seed.new")}
        onChange=${set("seed")}
      />
    </div>
    <${Toggle}
      label=${t("seed.random")}
      hint=${t("seed.hint")}
      value=${values.random_seed}
      onChange=${set("random_seed")}
    />
    <${SizeChoice} values=${values} />
    <${Slider}
      field="steps"
      label=${t("steps")}
      hint=${t("steps.hint")}
      value=${values.steps}
      min="1"
      max=${Math.min(100, status?.limits.steps ?? 100)}
      step="1"
      onChange=${(steps) => setForm({ steps: Math.round(steps) })}
    />
    <${Slider}
      field="guidance"
      label=${t("guidance")}
      hint=${t("guidance.hint")}
      value=${values.guidance}
      min="1"
      max="15"
      step="0.5"
      onChange=${set("guidance")}
    />
    <${Select}
      field="scheduler"
      label=${t("scheduler")}
      value=${values.scheduler}
      options=${schedulers.map((each) => [each.name, each.title])}
      onChange=${set("scheduler")}
    />
  <//>`;
}

/** All settings. */
export function SettingsPanel() {
  const values = useValue(form);
  return html`<aside class="settings" aria-label=${t("settings")}>
    <${BridgeSection} values=${values} />
    <${PictureSection} values=${values} />
    <${PluginSection} values=${values} />
    <${StartSection} values=${values} />
    <${ControlSection} values=${values} />
    <${IpSection} values=${values} />
    <button type="button" class="link reset" onClick=${resetSettings}>${t("settings.reset")}</button>
  </aside>`;
}
