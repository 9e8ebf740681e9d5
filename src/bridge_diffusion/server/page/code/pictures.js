// One picture as it is shown everywhere: on the sheet, in the strip, in the gallery.

import { markPicture } from "./api.js";
import { IconButton } from "./controls.js";
import { keepJob, jobs, pictureChanges } from "./jobs.js";
import { textAttributes } from "./languages.js";
import { tell } from "./notices.js";
import { errorText } from "./refusals.js";
import { t } from "./strings.js";
import { html, signal } from "./view.js";

/** The picture that is looked at, with those beside it: `{ picture, among }`, or null. */
export const viewed = signal(null);

/** Look at a picture. */
export function look(picture, among) {
  viewed.value = { picture, among };
}

/** Mark a picture as a favourite, or take the mark; everything that shows it hears of it. */
export async function toggleFavourite(picture) {
  try {
    const changed = await markPicture(picture.id, !picture.favourite);
    replacePicture(picture, changed);
    return changed;
  } catch (error) {
    tell(errorText(error));
    return picture;
  }
}

/** Show another state of a picture, or none of it. */
export function replacePicture(picture, changed) {
  const job = jobs.value.get(picture.job);
  if (job !== undefined) {
    const kept = job.pictures.filter((each) => each.id !== picture.id);
    const pictures = changed === null ? kept : [...kept, changed].sort((a, b) => a.place - b.place);
    keepJob({ ...job, pictures });
  }
  pictureChanges.value += 1;
}

/** What a picture was drawn from, for those who do not see it and for those who point at it. */
export const titleOf = (order) =>
  [order.prompt, order.english].filter((text) => text.trim()).join(" · ");

/** A small picture that opens when it is chosen. */
export function Thumbnail({ picture, among, whole = false }) {
  const title = titleOf(picture.order);
  return html`<div class="tile" style=${{ aspectRatio: `${picture.width} / ${picture.height}` }}>
    <button
      type="button"
      class="tile-open"
      aria-label=${t("open", { title })}
      title=${title}
      onClick=${() => look(picture, among)}
    >
      <img
        src=${whole ? picture.url : picture.thumbnail}
        alt=${title}
        width=${picture.width}
        height=${picture.height}
        loading="lazy"
        ...${textAttributes(picture.order.prompt)}
      />
    </button>
    <div class=${picture.favourite ? "tile-tools marked" : "tile-tools"}>
      <${IconButton}
        icon="heart"
        filled=${picture.favourite}
        pressed=${picture.favourite}
        label=${t("favourite")}
        onClick=${() => toggleFavourite(picture)}
      />
    </div>
  </div>`;
}
