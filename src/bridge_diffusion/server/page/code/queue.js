// Jobs that wait or are drawn, and what became of the last ones.

import { getRecentJobs, getStatus, setPriority } from "./api.js";
import { Empty, IconButton } from "./controls.js";
import { cancel, hasEnded, jobs, keepJob } from "./jobs.js";
import { textAttributes } from "./languages.js";
import { tell } from "./notices.js";
import { look, titleOf } from "./pictures.js";
import { errorText, failureText } from "./refusals.js";
import { stateText } from "./stage.js";
import { moment, t } from "./strings.js";
import { html, useEffect, useState, useValue } from "./view.js";

const ENDED_SHOWN = 20;
const RANKS = { high: 0, normal: 1, low: 2 };

/** Jobs that have not ended, in the order in which they are drawn. */
export function waitingJobs(known) {
  return [...known.values()]
    .filter((job) => !hasEnded(job))
    .sort((a, b) => RANKS[a.priority] - RANKS[b.priority] || a.next - b.next);
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    tell(errorText(error));
  }
}

function JobLine({ job }) {
  const picture = job.pictures.at(-1);
  const isLive = !hasEnded(job);
  const preview = isLive ? Object.values(job.previews).at(-1) : undefined;
  const source = preview ?? picture?.thumbnail;
  const first = () => attempt(async () => keepJob(await setPriority(job.id, "high")));
  return html`<li class="job">
    <div class="job-picture">
      ${picture && !isLive
        ? html`<button
            type="button"
            class="tile-open"
            aria-label=${t("open", { title: titleOf(job.order) })}
            onClick=${() => look(picture, job.pictures)}
          >
            <img src=${source} alt="" />
          </button>`
        : source && html`<img src=${source} alt="" />`}
    </div>
    <div class="job-text">
      <p class="job-prompt" ...${textAttributes(job.order.prompt)}>${titleOf(job.order)}</p>
      <p class="hint">
        ${isLive ? stateText(job) : `${t(`state.${job.state}`)} · ${moment(job.ended)}`}
        ${job.order.n > 1 ? ` · ${t("count.many", { n: job.order.n })}` : ""}
      </p>
      ${job.error && html`<p class="problem">${failureText(job)}</p>`}
      ${isLive && html`<progress value=${job.fraction} max="1" aria-label=${t("progress")}></progress>`}
    </div>
    ${isLive &&
    html`<div class="job-tools">
      ${job.state === "queued" &&
      job.priority !== "high" &&
      html`<${IconButton} icon="up" label=${t("queue.first")} onClick=${first} />`}
      <button type="button" class="plain small" onClick=${() => attempt(() => cancel(job.id))}>
        ${t("cancel")}
      </button>
    </div>`}
  </li>`;
}

function Devices() {
  const [status, setStatus] = useState(null);
  const known = useValue(jobs);
  const live = waitingJobs(known);
  useEffect(() => {
    getStatus()
      .then(setStatus)
      .catch(() => {});
  }, [live.length, live.some((job) => job.step > 0)]);
  if (status === null) return null;
  return html`<p class="hint">
    ${t("devices")}${" "}${status.devices.map(({ name, state }) => `${name}: ${t(`device.${state}`)}`).join(" · ")} · bdm
    ${" "}${status.version}
  </p>`;
}

/** The queue. */
export function Queue() {
  const known = useValue(jobs);
  useEffect(() => {
    getRecentJobs(ENDED_SHOWN)
      .then((recent) => recent.forEach(keepJob))
      .catch((error) => tell(errorText(error)));
  }, []);
  const live = waitingJobs(known);
  const ended = [...known.values()]
    .filter(hasEnded)
    .sort((a, b) => b.ended - a.ended)
    .slice(0, ENDED_SHOWN);
  const cancelAll = () => attempt(() => Promise.all(live.map((job) => cancel(job.id)).reverse()));
  return html`<main class="queue" id="main">
    <div class="queue-head">
      <h1>${t("queue")}</h1>
      ${live.length > 1 &&
      html`<button type="button" class="plain small" onClick=${cancelAll}>${t("queue.cancelAll")}</button>`}
    </div>
    <${Devices} />
    ${live.length === 0
      ? html`<${Empty} title=${t("queue.empty")} text=${t("queue.empty.text")} />`
      : html`<ol class="jobs">
          ${live.map((job) => html`<${JobLine} key=${job.id} job=${job} />`)}
        </ol>`}
    ${ended.length > 0 &&
    html`<h2>${t("queue.ended")}</h2>
      <ul class="jobs">
        ${ended.map((job) => html`<${JobLine} key=${job.id} job=${job} />`)}
      </ul>`}
  </main>`;
}
