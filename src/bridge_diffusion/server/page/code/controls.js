// Labelled controls. Each shows the problem that is told of its field.

import { problem } from "./settings.js";
import { t } from "./strings.js";
import { html, remembered, useEffect, useState, useValue } from "./view.js";

const PATHS = {
  heart: "M12 20s-7-4.6-9-9a5 5 0 0 1 9-4 5 5 0 0 1 9 4c-2 4.4-9 9-9 9z",
  download: "M12 4v11m-5-4 5 5 5-5M5 20h14",
  trash: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13",
  close: "M6 6l12 12M18 6L6 18",
  reuse: "M4 12a8 8 0 0 1 14-5l2 2m0-5v5h-5M20 12a8 8 0 0 1-14 5l-2-2m0 5v-5h5",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9h.01",
  brush: "M4 20c3 0 5-1 5-4m0 0L19 5l1 1L11 16",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  up: "M12 19V5m-6 6 6-6 6 6",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5 21 21",
  dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M12 12h.01M15 9h.01M9 15h.01",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
};

/** A small drawing; it says nothing to those who listen, so a label stands beside it. */
export function Icon({ name, filled = false }) {
  return html`<svg
    class=${filled ? "icon filled" : "icon"}
    viewBox="0 0 24 24"
    aria-hidden="true"
    focusable="false"
  >
    <path d=${PATHS[name]} />
  </svg>`;
}

/** A button that is a drawing alone; `label` is read aloud and shown on pointing at it. */
export function IconButton({ icon, label, filled, pressed, danger, ...rest }) {
  return html`<button
    type="button"
    class=${danger ? "icon-button danger" : "icon-button"}
    title=${label}
    aria-label=${label}
    aria-pressed=${pressed === undefined ? undefined : String(pressed)}
    ...${rest}
  >
    <${Icon} name=${icon} filled=${filled} />
  </button>`;
}

/** The problem of a field, in one line beside it. */
export function Problem({ field }) {
  const told = useValue(problem);
  if (told?.field !== field) return null;
  return html`<p class="problem" role="alert" id=${`problem-${field}`}>${told.text}</p>`;
}

/** Where a problem is told that no control on show is to blame for: beside the button that draws. */
export function OtherProblem() {
  const told = useValue(problem);
  const [isHomeless, setHomeless] = useState(false);
  useEffect(() => {
    if (told === null) return;
    const place = document.getElementById(`problem-${told.field}`);
    setHomeless(place === null);
    if (place === null) return;
    const folded = place.closest("details:not([open])");
    if (folded) folded.open = true; // what is told in a folded part is not seen
    place.scrollIntoView({ block: "nearest" });
  }, [told]);
  if (told === null || !isHomeless) return null;
  return html`<p class="problem" role="alert">${told.text}</p>`;
}

const idOf = (field) => `field-${field}`;

/** A label over a control, and its problem below. */
export function Field({ field, label, hint, children, extra }) {
  return html`<div class="field">
    <div class="field-head">
      <label for=${idOf(field)} title=${hint}>${label}</label>
      ${extra}
    </div>
    ${children}
    <${Problem} field=${field} />
  </div>`;
}

/**
 * A number that is typed. `onChange` hears of each number on the way; until the box is left it
 * shows what was typed, so that "0." is no 0 yet.
 */
export function NumberBox({ value, onChange, ...rest }) {
  const [typed, setTyped] = useState(null);
  return html`<input
    type="number"
    value=${typed ?? value}
    ...${rest}
    onInput=${(event) => {
      setTyped(event.target.value);
      if (Number.isFinite(event.target.valueAsNumber)) onChange(event.target.valueAsNumber);
    }}
    onBlur=${() => setTyped(null)}
  />`;
}

/** A slider with its number, which can be typed too. */
export function Slider({ field, label, hint, value, min, max, step, onChange }) {
  return html`<${Field}
    field=${field}
    label=${label}
    hint=${hint}
    extra=${html`<${NumberBox}
      id=${idOf(field)}
      class="number"
      value=${value}
      min=${min}
      step=${step}
      onChange=${onChange}
    />`}
  >
    <input
      type="range"
      aria-label=${label}
      value=${value}
      min=${min}
      max=${max}
      step=${step}
      onInput=${(event) => onChange(event.target.valueAsNumber)}
    />
  <//>`;
}

/** A list to choose from; `options` are [value, text]. */
export function Select({ field, label, hint, value, options, onChange, hidden = false }) {
  const control = html`<select
    id=${idOf(field)}
    value=${value}
    aria-label=${hidden ? label : undefined}
    onChange=${(event) => onChange(event.target.value)}
  >
    ${options.map(
      ([name, text]) =>
        html`<option key=${name} value=${name} selected=${name === value}>${text}</option>`,
    )}
  </select>`;
  if (hidden) return control;
  return html`<${Field} field=${field} label=${label} hint=${hint}>${control}<//>`;
}

/** A whole number. */
export function NumberInput({ field, label, hint, value, min, max, step = 1, disabled, placeholder, onChange }) {
  return html`<${Field} field=${field} label=${label} hint=${hint}>
    <${NumberBox}
      id=${idOf(field)}
      inputmode="numeric"
      value=${value}
      min=${min}
      max=${max}
      step=${step}
      disabled=${disabled}
      placeholder=${placeholder}
      onChange=${(next) => onChange(Math.round(next))}
    />
  <//>`;
}

/** A box to tick. */
export function Toggle({ label, value, onChange, hint }) {
  return html`<label class="toggle" title=${hint}>
    <input type="checkbox" checked=${value} onChange=${(event) => onChange(event.target.checked)} />
    <span>${label}</span>
  </label>`;
}

/** A few words of which one is chosen. */
export function Segments({ label, value, options, onChange }) {
  return html`<div class="segments" role="group" aria-label=${label}>
    ${options.map(
      ([name, text, hint]) =>
        html`<button
          key=${name}
          type="button"
          title=${hint}
          aria-pressed=${String(name === value)}
          onClick=${() => onChange(name)}
        >
          ${text}
        </button>`,
    )}
  </div>`;
}

const open = remembered("bdm.sections", { bridge: true, picture: true });

/** Unfold a part of the settings. */
export function openSection(name) {
  open.value = { ...open.value, [name]: true };
}

/** A part of the settings that folds; `note` says in its head what is in use. */
export function Section({ name, title, note, children }) {
  const shown = useValue(open);
  const toggled = (event) => {
    if (event.target.open !== Boolean(shown[name])) {
      open.value = { ...open.value, [name]: event.target.open };
    }
  };
  return html`<details class="section" id=${`section-${name}`} open=${Boolean(shown[name])} onToggle=${toggled}>
    <summary><h2>${title}</h2>${note ? html`<span class="note">${note}</span>` : null}</summary>
    <div class="section-body">${children}</div>
  </details>`;
}

/** What to do where there is nothing yet. */
export function Empty({ title, text, children }) {
  return html`<div class="empty">
    <p class="empty-title">${title}</p>
    <p>${text}</p>
    ${children}
  </div>`;
}

/** The number of pictures as text. */
export const counted = (count) => (count === 1 ? t("count.one") : t("count.many", { n: count }));
