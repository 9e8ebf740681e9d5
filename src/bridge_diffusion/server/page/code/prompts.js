// The prompts in two languages, their negatives, the mode, and the button that draws.

import { GridAxes } from "./grid_axes.js";
import { bridgeOf } from "./choices.js";
import { OtherProblem, Problem, Segments, Select } from "./controls.js";
import { LANGUAGES, isOtherLanguage, languageOf, textAttributes } from "./languages.js";
import { MODES, cancelSheet, generate, liveJobs, mode, sending, sheet } from "./sheets.js";
import { jobs } from "./jobs.js";
import { NO_BRIDGE, form, setForm } from "./settings.js";
import { pageLanguage, t } from "./strings.js";
import { html, remembered, useValue } from "./view.js";

const negativesShown = remembered("bdm.negatives", false);

/** What a new user may try: [native, English]. */
export const EXAMPLES = [
  ["红包", "red envelope"],
  ["月饼", "moon cake"],
  ["饭团", "rice ball"],
  ["红灯笼", "red paper lantern"],
  ["蓝色背景上的麻将", "mahjong on a blue background"],
];

function PromptBox({ field, label, placeholder, attributes, rows, extra }) {
  const values = useValue(form);
  return html`<div class="prompt">
    <div class="field-head">
      <label for=${`field-${field}`}>${label}</label>
      ${extra}
    </div>
    <textarea
      id=${`field-${field}`}
      rows=${rows}
      value=${values[field]}
      placeholder=${placeholder}
      spellcheck=${attributes.lang === "en"}
      ...${attributes}
      onInput=${(event) => setForm({ [field]: event.target.value })}
    ></textarea>
    <${Problem} field=${field} />
  </div>`;
}

function LanguageChoice({ chosen, text }) {
  const told = languageOf(text);
  const automatic = told ? t("language.told", { name: LANGUAGES[told] }) : t("language.auto");
  return html`<${Select}
    hidden
    field="language"
    label=${t("language.label")}
    value=${chosen}
    options=${[["auto", automatic], ...Object.entries(LANGUAGES)]}
    onChange=${(language) => setForm({ language })}
  />`;
}

/** The part of the page where everything begins. */
export function Prompts() {
  const values = useValue(form);
  const kind = useValue(mode);
  const showsNegatives = useValue(negativesShown);
  const native = textAttributes(values.prompt, values.language, useValue(pageLanguage));
  const english = { lang: "en", dir: "ltr" };
  const bridge = bridgeOf(values);
  const isBare = bridge === NO_BRIDGE;
  const reads = LANGUAGES[bridge]; // known of bridges that are called as their language
  const isOther = reads !== undefined && isOtherLanguage(values.prompt, bridge);
  return html`<section class="prompts" aria-label=${t("prompts")}>
    <div class=${kind === "compare" ? "prompt-pair three" : "prompt-pair"}>
      <${PromptBox}
        field="prompt"
        label=${t("prompt.native")}
        placeholder=${t("prompt.native.placeholder")}
        attributes=${native}
        rows="3"
        extra=${html`<${LanguageChoice} chosen=${values.language} text=${values.prompt} />`}
      />
      ${kind === "compare" &&
      html`<${PromptBox}
        field="translation"
        label=${t("prompt.translation")}
        placeholder=${t("prompt.translation.placeholder")}
        attributes=${english}
        rows="3"
      />`}
      <${PromptBox}
        field="english"
        label=${t("prompt.english")}
        placeholder=${t("prompt.english.placeholder")}
        attributes=${english}
        rows="3"
      />
    </div>
    ${isBare && html`<p class="hint">${t("prompt.bare")}</p>`}
    ${isOther && html`<p class="warning" id="other-language">${t("prompt.other", { name: reads })}</p>`}
    <button
      type="button"
      class="link"
      aria-expanded=${String(showsNegatives)}
      onClick=${() => (negativesShown.value = !showsNegatives)}
    >
      ${showsNegatives ? t("negatives.hide") : t("negatives.show")}
      ${!showsNegatives && (values.negative || values.negative_english) ? ` · ${t("inUse")}` : ""}
    </button>
    ${showsNegatives &&
    html`<div class="prompt-pair">
      <${PromptBox}
        field="negative"
        label=${t("negative.native")}
        placeholder=${t("negative.native.placeholder")}
        attributes=${textAttributes(values.negative, values.language, native.lang)}
        rows="2"
      />
      <${PromptBox}
        field="negative_english"
        label=${t("negative.english")}
        placeholder=${t("negative.english.placeholder")}
        attributes=${english}
        rows="2"
      />
    </div>`}
    ${kind === "grid" && html`<${GridAxes} />`}
  </section>`;
}

/** The mode, and the buttons that draw and cancel. */
export function Actions() {
  const kind = useValue(mode);
  const isSending = useValue(sending) !== null;
  const shown = useValue(sheet);
  useValue(jobs);
  const live = liveJobs(shown);
  return html`<div class="actions">
    <${Segments}
      label=${t("mode")}
      value=${kind}
      options=${MODES.map((name) => [name, t(`mode.${name}`), t(`mode.${name}.hint`)])}
      onChange=${(name) => (mode.value = name)}
    />
    <${OtherProblem} />
    <div class="action-buttons">
      ${live.length > 0 &&
      html`<button type="button" class="plain" id="cancel" onClick=${cancelSheet}>
        ${t("cancel")} <kbd>Esc</kbd>
      </button>`}
      <button type="button" class="primary" id="generate" disabled=${isSending} onClick=${generate}>
        ${t("generate")} <kbd>${t("generate.keys")}</kbd>
      </button>
    </div>
  </div>`;
}

/** Examples as buttons. */
export function Examples() {
  const kind = useValue(mode);
  return html`<ul class="examples">
    ${EXAMPLES.map(
      ([native, translation]) =>
        html`<li key=${native}>
          <button
            type="button"
            class="chip"
            lang="zh"
            onClick=${() => setForm({ prompt: native, translation })}
          >
            ${native}${kind === "compare" ? html` <span lang="en">${translation}</span>` : ""}
          </button>
        </li>`,
    )}
  </ul>`;
}
