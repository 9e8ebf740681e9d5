// The sheet on show: pictures as they are drawn, a comparison, or a grid; below it the newest.

import { findPictures } from "./api.js";
import { ownSize } from "./choices.js";
import { Empty, Icon } from "./controls.js";
import { hasEnded, jobs, pictureChanges, refreshJob } from "./jobs.js";
import { textAttributes } from "./languages.js";
import { Thumbnail } from "./pictures.js";
import { Examples } from "./prompts.js";
import { failureText } from "./refusals.js";
import { setForm } from "./settings.js";
import { savePicture } from "./sheet_picture.js";
import { mode, sheet } from "./sheets.js";
import { t } from "./strings.js";
import { html, useEffect, useState, useValue } from "./view.js";

const NEWEST = 16;

/** The size of a job's pictures, so that their places have it before they are there. */
function sizeOf(job) {
  const picture = job?.pictures[0];
  return picture ? [picture.width, picture.height] : (job?.order.size ?? ownSize(job?.order.model));
}

/** How wide a picture is shown at most: small ones are enlarged, but not beyond recognition. */
function shownWidth(job) {
  const [width] = sizeOf(job);
  return job?.order.n > 1 ? Math.min(448, Math.max(200, 3 * width)) : Math.min(640, Math.max(320, 5 * width));
}

/** A job's state in a few words. */
export function stateText(job) {
  if (job.state === "queued") {
    return job.position > 0 ? t("state.position", { n: job.position }) : t("state.next");
  }
  if (job.state !== "running") return t(`state.${job.state}`);
  if (!job.steps) return t("state.preparing");
  return t("state.step", { step: job.step, steps: job.steps });
}

/** The place of one picture of a job: the picture, what is seen of it so far, or nothing yet. */
function Place({ job, place, among }) {
  const picture = job?.pictures.find((each) => each.place === place);
  if (picture) {
    return html`<${Thumbnail} picture=${picture} among=${among} whole />`;
  }
  const [width, height] = sizeOf(job);
  const preview = job && !hasEnded(job) ? job.previews[place] : undefined;
  const isWaiting = !job || !hasEnded(job); // one without a job is still being sent
  return html`<div
    class=${isWaiting ? "tile waiting" : "tile gone"}
    style=${{ aspectRatio: `${width} / ${height}` }}
  >
    ${preview
      ? html`<img class="preview" src=${preview} alt=${t("preview")} />`
      : html`<${Icon} name=${isWaiting ? "picture" : "close"} />`}
  </div>`;
}

function Trouble({ known }) {
  const lines = new Set();
  for (const job of known) {
    if (job.error) lines.add(failureText(job));
  }
  const notes = new Set(known.flatMap((job) => job.notes));
  return html`${[...lines].map((line) => html`<p class="problem" role="alert" key=${line}>${line}</p>`)}
    ${[...notes].map((line) => html`<p class="warning" key=${line}>${line}</p>`)}`;
}

function Progress({ known, count }) {
  const done = known.reduce((sum, job) => sum + (hasEnded(job) ? 1 : job.fraction), 0) / count;
  const live = known.filter((job) => !hasEnded(job));
  const shown = live.find((job) => job.state === "running") ?? live[0];
  const cancelled = known.some((job) => job.state === "cancelled");
  const failed = known.some((job) => job.state === "failed");
  const isWhole = known.length === count; // a sheet is shown while its orders are still sent
  const end = failed ? "failed" : cancelled ? "cancelled" : isWhole ? "done" : "queued";
  return html`<div class="progress-line">
    <progress class=${live.length || !isWhole ? "" : "ended"} value=${done} max="1" aria-label=${t("progress")}></progress>
    <span class="progress-text" aria-hidden="true">${shown ? stateText(shown) : t(`state.${end}`)}</span>
    <span class="visually-hidden" role="status">${shown ? t("state.drawing") : t(`state.${end}`)}</span>
  </div>`;
}

function PictureSheet({ job, among }) {
  const count = job?.order.n ?? 1;
  const places = Array.from({ length: count }, (_, place) => place);
  const most = shownWidth(job);
  const kind = count === 1 ? "one" : count <= 4 && most <= 256 ? "row" : "";
  return html`<ul class=${`sheet-pictures ${kind}`} style=${{ "--most": `${most}px`, "--count": count }}>
    ${places.map(
      (place) =>
        html`<li key=${place}>
          <${Place} job=${job} place=${place} among=${among} />
          <p class="tile-note">
            ${t("seed")}${" "}
            <button
              type="button"
              class="link"
              title=${t("seed.use")}
              disabled=${!job}
              onClick=${() => setForm({ seed: job.order.seed + place, random_seed: false })}
            >
              ${job ? job.order.seed + place : ""}
            </button>
          </p>
        </li>`,
    )}
  </ul>`;
}

function CompareSheet({ cells, among }) {
  return html`<div class="compare">
    ${cells.map(({ role, job: id }) => {
      const job = jobs.value.get(id);
      const text = job?.order.prompt ?? "";
      const beside = role === "bridged" ? (job?.order.english ?? "") : "";
      return html`<figure key=${role} class=${role}>
        <${Place} job=${job} place=${0} among=${among} />
        <figcaption>
          <strong>${t(`compare.${role}`)}</strong>
          <span class="reads" ...${textAttributes(text, "auto", "en")}>${text}</span>
          ${beside && html`<span class="reads" lang="en">+ ${beside}</span>`}
          <span class="hint">${t(`compare.${role}.hint`)}</span>
        </figcaption>
      </figure>`;
    })}
  </div>`;
}

function GridSheet({ shown, among }) {
  const { rows, columns, cells } = shown;
  const at = (row, column) => cells.find((cell) => cell.row === row && cell.column === column)?.job;
  return html`<div class="grid-scroll" tabindex="0" role="region" aria-label=${t("mode.grid")}>
    <table class="grid">
      <caption class="hint">
        ${t(`axis.${columns.axis}`)} →${rows.axis !== "none" ? ` ${t(`axis.${rows.axis}`)} ↓` : ""}
      </caption>
      <thead>
        <tr>
          ${rows.axis !== "none" && html`<td></td>`}
          ${columns.labels.map(
            (label, column) => html`<th key=${column} scope="col" ...${textAttributes(label)}>${label}</th>`,
          )}
        </tr>
      </thead>
      <tbody>
        ${rows.labels.map(
          (label, row) =>
            html`<tr key=${row}>
              ${rows.axis !== "none" && html`<th scope="row" ...${textAttributes(label)}>${label}</th>`}
              ${columns.labels.map(
                (_, column) =>
                  html`<td key=${column}>
                    <${Place} job=${jobs.value.get(at(row, column))} place=${0} among=${among} />
                  </td>`,
              )}
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

function Sheet({ shown }) {
  const known = shown.cells.map((cell) => jobs.value.get(cell.job)).filter(Boolean);
  const among = known.flatMap((job) => job.pictures);
  const isWhole = known.length === shown.cells.length && known.every((job) => job.state === "done");
  return html`<div class="sheet">
    <${Progress} known=${known} count=${shown.cells.length} />
    <${Trouble} known=${known} />
    ${shown.kind === "picture" &&
    html`<${PictureSheet} job=${jobs.value.get(shown.cells[0].job)} among=${among} />`}
    ${shown.kind === "compare" && html`<${CompareSheet} cells=${shown.cells} among=${among} />`}
    ${shown.kind === "grid" && html`<${GridSheet} shown=${shown} among=${among} />`}
    ${shown.kind !== "picture" &&
    isWhole &&
    html`<button type="button" class="plain small" id="save-sheet" onClick=${() => savePicture(shown)}>
      <${Icon} name="download" /> ${t("sheet.save")}
    </button>`}
  </div>`;
}

function Newest() {
  const changes = useValue(pictureChanges);
  const [pictures, setPictures] = useState([]);
  useEffect(() => {
    let isLate = false;
    findPictures({ limit: NEWEST })
      .then((found) => isLate || setPictures(found))
      .catch(() => {});
    return () => (isLate = true);
  }, [changes]);
  if (!pictures.length) return null;
  return html`<section class="newest" aria-labelledby="newest-title">
    <div class="newest-head">
      <h2 id="newest-title">${t("newest")}</h2>
      <a href="#gallery">${t("newest.all")}</a>
    </div>
    <ul class="strip">
      ${pictures.map(
        (picture) =>
          html`<li key=${picture.id}><${Thumbnail} picture=${picture} among=${pictures} /></li>`,
      )}
    </ul>
  </section>`;
}

/** The middle of the page. */
export function Stage() {
  const shown = useValue(sheet);
  const kind = useValue(mode);
  const known = useValue(jobs);
  useEffect(() => {
    // Another page may have seen the end of what this one waits for.
    for (const cell of shown?.cells ?? []) {
      if (cell.job !== null && !known.has(cell.job)) refreshJob(cell.job).catch(() => {});
    }
  }, [shown]);
  return html`<section class="stage" aria-label=${t("stage")}>
    ${shown === null
      ? html`<${Empty} title=${t(`empty.${kind}.title`)} text=${t(`empty.${kind}`)}><${Examples} /><//>`
      : html`<${Sheet} shown=${shown} />`}
    <${Newest} />
  </section>`;
}
