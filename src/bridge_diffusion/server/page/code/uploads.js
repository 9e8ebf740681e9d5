// Choosing, dropping and sending pictures that orders start from or follow.

import { uploadPicture, uploadUrl } from "./api.js";
import { problem, tellProblem } from "./settings.js";
import { t } from "./strings.js";
import { html, useRef, useState } from "./view.js";

const ACCEPTED = "image/png,image/jpeg,image/webp";

/** Send a picture; its upload, or null where the server refused it, which is told at `field`. */
export async function send(file, field) {
  try {
    const upload = await uploadPicture(file);
    if (problem.value?.field === field) problem.value = null;
    return upload;
  } catch (error) {
    tellProblem(error, field);
    return null;
  }
}

/** A finished picture as an upload. */
export async function uploadOf(picture, field) {
  const file = await (await fetch(picture.url)).blob();
  return send(new File([file], "picture.png", { type: "image/png" }), field);
}

/** The files that a drop brought. */
export const droppedFile = (event) => event.dataTransfer?.files?.[0] ?? null;

/** Whether the server says that it does not keep an upload any more; false where it says nothing. */
async function isGone(id) {
  const answer = await fetch(uploadUrl(id)).catch(() => null);
  const said = answer?.ok === false ? await answer.json().catch(() => ({})) : {};
  return said.code === "no_upload";
}

/**
 * The place of one picture: it takes a file that is chosen, dropped or pasted. `onChange` gets the
 * upload, or null for none.
 */
export function PictureInput({ field, label, value, onChange, children }) {
  const input = useRef(null);
  const [isOver, setOver] = useState(false);
  const take = async (file) => {
    if (!file) return;
    const upload = await send(file, field);
    if (upload !== null) onChange(upload);
  };
  const forget = async () => {
    if (!(await isGone(value))) return;
    onChange(null);
    problem.value = { field, text: t("upload.gone") };
  };
  const dropped = (event) => {
    event.preventDefault();
    event.stopPropagation(); // or the page would restore settings from it
    setOver(false);
    take(droppedFile(event));
  };
  return html`<div
    class=${isOver ? "picture-input over" : "picture-input"}
    onDragOver=${(event) => {
      event.preventDefault();
      event.stopPropagation();
      setOver(true);
    }}
    onDragLeave=${() => setOver(false)}
    onDrop=${dropped}
    onPaste=${(event) => take(event.clipboardData?.files?.[0])}
  >
    <input
      ref=${input}
      id=${`file-${field}`}
      class="visually-hidden"
      type="file"
      tabindex="-1"
      aria-label=${label}
      accept=${ACCEPTED}
      onChange=${(event) => {
        take(event.target.files[0]);
        event.target.value = "";
      }}
    />
    ${value !== null
      ? html`<img src=${uploadUrl(value)} alt=${label} onError=${forget} />`
      : html`<p class="hint">${t("upload.hint")}</p>`}
    <div class="button-row">
      <button type="button" class="plain small" onClick=${() => input.current.click()}>
        ${value === null ? t("upload.choose", { what: label }) : t("upload.change")}
      </button>
      ${value !== null &&
      html`<button type="button" class="plain small" onClick=${() => onChange(null)}>
          ${t("remove")}
        </button>
        ${children}`}
    </div>
  </div>`;
}
