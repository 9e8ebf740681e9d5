// The jobs that the page knows, kept up to date by the server's events.

import * as api from "./api.js";
import { learnSize } from "./choices.js";
import { signal } from "./view.js";

/** Every known job by id; `previews` are the last ones of the pictures being drawn, by place. */
export const jobs = signal(new Map());
/** Whether events arrive. */
export const connected = signal(true);
/** Counts up whenever there are other pictures than before. */
export const pictureChanges = signal(0);

export const hasEnded = (job) => ["done", "failed", "cancelled"].includes(job.state);

let changed = null; // jobs that are to be shown at the browser's next frame

function change(id, update) {
  const known = changed ?? jobs.value;
  const job = update(known.get(id));
  if (job === undefined) return;
  if (changed === null) {
    changed = new Map(jobs.value);
    // A hidden page has no frames, so a timer it is.
    setTimeout(() => {
      jobs.value = changed;
      changed = null;
    }, 16);
  }
  changed.set(id, job);
}

/**
 * Keep what the server said of a job. Answers may overtake each other, so one that tells of a job
 * before its end, and comes after it, is an old one.
 */
export function keepJob(view) {
  view.pictures.forEach(learnSize);
  change(view.id, (known) =>
    known && hasEnded(known) && !hasEnded(view) ? undefined : { previews: {}, ...known, ...view },
  );
}

/** Ask the server about a job. One that it does not know any more is forgotten. */
export async function refreshJob(id) {
  keepJob(await api.getJob(id));
}

/** Ask the server about all jobs that have not ended, here or there. */
export async function refreshAll() {
  const live = await api.getQueue();
  live.forEach(keepJob);
  const ids = new Set(live.map((job) => job.id));
  const missed = [...jobs.value.values()].filter((job) => !hasEnded(job) && !ids.has(job.id));
  await Promise.all(missed.map((job) => refreshJob(job.id)));
}

/** Cancel a job. */
export async function cancel(id) {
  keepJob(await api.cancelJob(id));
}

function hear(kind, data) {
  if (kind === "lost") {
    connected.value = false;
  } else if (kind === "open") {
    connected.value = true;
    pictureChanges.value += 1;
    refreshAll().catch(() => {});
  } else if (kind === "progress") {
    change(data.job, (job) => job && afterStep(job, data));
  } else {
    if (kind === "picture") pictureChanges.value += 1;
    refreshJob(data.job).catch(() => {});
  }
}

function afterStep(job, { place, step, steps, fraction, preview }) {
  if (hasEnded(job)) return job;
  const previews = preview === null ? job.previews : { ...job.previews, [place]: preview };
  return { ...job, state: "running", position: null, step, steps, fraction, previews };
}

/** Begin to listen. */
export function followJobs() {
  api.listen(hear);
}
