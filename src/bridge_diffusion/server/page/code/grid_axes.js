// The two settings that a grid goes over, and their values.

import { AXES, axes, axisValues, usefulAxes } from "./axes.js";
import { Problem, Select, counted } from "./controls.js";
import { form, problem } from "./settings.js";
import { t } from "./strings.js";
import { html, useValue } from "./view.js";

function setAxis(side, changes) {
  axes.value = { ...axes.value, [side]: { ...axes.value[side], ...changes } };
  if (problem.value?.field === `axis_${side}`) problem.value = null;
}

function Values({ side, axis, text, values }) {
  const { kind, options, example } = AXES[axis];
  const label = t(`grid.${side}.values`);
  if (kind === "none") return null;
  if (kind === "choice") {
    const written = text.split("\n");
    const toggle = (name) =>
      written.includes(name) ? written.filter((each) => each !== name) : [...written, name];
    return html`<fieldset class="chips">
      <legend class="visually-hidden">${label}</legend>
      ${options(values).map(
        (name) =>
          html`<button
            key=${name}
            type="button"
            class="chip"
            aria-pressed=${String(written.includes(name))}
            onClick=${() => setAxis(side, { text: toggle(name).join("\n") })}
          >
            ${name}
          </button>`,
      )}
    </fieldset>`;
  }
  const write = (event) => setAxis(side, { text: event.target.value });
  const attributes = { id: `axis-${side}`, "aria-label": label, dir: "auto", value: text };
  if (kind === "numbers") {
    return html`<input type="text" placeholder=${example} ...${attributes} onInput=${write} />`;
  }
  return html`<textarea rows="3" placeholder=${example} ...${attributes} onInput=${write}></textarea>`;
}

function Axis({ side }) {
  const values = useValue(form);
  const { axis, text } = useValue(axes)[side];
  const names = usefulAxes(values);
  const listed = names.includes(axis) ? names : [...names, axis];
  const choose = (name) => {
    const { kind, options, example } = AXES[name];
    const all = kind === "choice" ? options(values).join("\n") : null;
    const first = kind === "words" && values.prompt ? `${values.prompt}\n` : null;
    setAxis(side, { axis: name, text: all ?? first ?? example ?? "" });
  };
  return html`<div class="axis">
    <${Select}
      field=${`grid-${side}`}
      label=${t(`grid.${side}`)}
      value=${axis}
      options=${listed.map((name) => [name, t(`axis.${name}`)])}
      onChange=${choose}
    />
    <${Values} side=${side} axis=${axis} text=${text} values=${values} />
    ${AXES[axis].kind !== "none" && html`<p class="hint">${t(`grid.hint.${AXES[axis].kind}`)}</p>`}
    <${Problem} field=${`axis_${side}`} />
  </div>`;
}

/** Both axes, and how many pictures they make. */
export function GridAxes() {
  const values = useValue(form);
  const { x, y } = useValue(axes);
  const across = axisValues(x, values)?.length;
  const down = axisValues(y, values)?.length;
  return html`<div class="grid-axes">
    <${Axis} side="x" />
    <${Axis} side="y" />
    <p class="hint">
      ${across && down ? `${across} × ${down} = ${counted(across * down)}` : ""}
    </p>
  </div>`;
}
