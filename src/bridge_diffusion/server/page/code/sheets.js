// What is on show: the pictures of one order, a comparison, or a grid. Each is a sheet of jobs.

import { submitJob } from "./api.js";
import { AXES, axisLabel, cellsOf } from "./axes.js";
import { hasEnded, jobs, keepJob, refreshJob, cancel } from "./jobs.js";
import { NO_BRIDGE, form, orderOf, problem, randomSeed, tellProblem, toBackbone } from "./settings.js";
import { t } from "./strings.js";
import { remembered, signal } from "./view.js";

export const MODES = ["picture", "compare", "grid"];
export const mode = remembered("bdm.mode", "picture", (value) =>
  MODES.includes(value) ? value : "picture",
);

/**
 * The sheet on show, or null. `cells` are `{ job, row, column, role }`; a grid has `rows` and
 * `columns`: the labels, and the names of their settings.
 */
export const sheet = remembered("bdm.sheet", null);
/** The plan whose orders are on their way to the server, or null; taking it back stops them. */
export const sending = signal(null);

/** Order what the form says, in the mode that is chosen. Problems are told in `problem`. */
export async function generate() {
  if (sending.value !== null) return;
  const plan = planOf(mode.value, form.value);
  if (plan === null) return;
  sending.value = plan;
  problem.value = null;
  const cells = plan.cells.map(({ order, ...cell }) => ({ ...cell, job: null }));
  const show = (shown) => (sheet.value = { ...plan, cells: shown });
  const before = sheet.value;
  try {
    for (const [index, { order }] of plan.cells.entries()) {
      const job = await submitJob(order, plan.group);
      keepJob(job);
      cells[index].job = job.id;
      show([...cells]);
      if (index === 0) showStage();
      if (sending.value !== plan) break; // cancelled meanwhile
    }
  } catch (error) {
    tellProblem(error);
  } finally {
    const sent = cells.filter((cell) => cell.job !== null);
    if (sent.length) show(sent);
    else sheet.value = before;
    if (sending.value === plan) sending.value = null;
    else await cancelCells(sent);
  }
}

/** Whoever orders from far below, as on a phone, sees what is drawn. */
function showStage() {
  const stage = document.querySelector(".stage");
  const { top } = stage?.getBoundingClientRect() ?? { top: 0 };
  if (top < 0 || top > 0.7 * innerHeight) stage?.scrollIntoView({ block: "start" });
}

/** The orders that a form means in a mode, with their places; null where something is missing. */
function planOf(kind, values) {
  if (!values.prompt.trim()) return refuse("prompt", t("error.noPrompt"));
  if (values.control_net !== null && values.control === null) {
    return refuse("control", t("error.noControl"));
  }
  if (values.ip_adapter !== null && values.ip_image === null) {
    return refuse("ip_image", t("error.noIpImage"));
  }
  const group = `${kind}-${randomSeed().toString(16)}`;
  if (kind === "compare") return comparison(values, group);
  if (kind === "grid") return grid(values, group);
  return { kind, group, cells: [{ order: orderOf(values) }] };
}

function refuse(field, text) {
  problem.value = { field, text };
  return null;
}

function comparison(values, group) {
  if (orderOf(values).bridge === NO_BRIDGE) return refuse("bridge", t("error.compareNeedsBridge"));
  if (!values.translation.trim()) return refuse("translation", t("error.noTranslation"));
  const bridged = { ...orderOf(values), n: 1 };
  return {
    kind: "compare",
    group,
    cells: [
      { role: "asIs", order: toBackbone(bridged) },
      { role: "translated", order: toBackbone(bridged, values.translation) },
      { role: "bridged", order: bridged },
    ],
  };
}

function grid(values, group) {
  const cells = cellsOf(values);
  if (cells === null) return null;
  const { x, y } = cells;
  const seed = values.random_seed ? randomSeed() : values.seed;
  const fixed = { ...values, seed, random_seed: false, n: 1 };
  const orders = y.values.flatMap((yValue, row) =>
    x.values.map((xValue, column) => {
      const changed = AXES[y.axis].apply(AXES[x.axis].apply(fixed, xValue), yValue);
      return { row, column, order: orderOf(changed) };
    }),
  );
  return {
    kind: "grid",
    group,
    cells: orders,
    columns: { axis: x.axis, labels: x.values.map((value) => axisLabel(x.axis, value)) },
    rows: { axis: y.axis, labels: y.values.map((value) => axisLabel(y.axis, value)) },
  };
}

/** The jobs of a sheet that have not ended. */
export function liveJobs(shown) {
  if (shown === null) return [];
  return shown.cells
    .map((cell) => jobs.value.get(cell.job))
    .filter((job) => job !== undefined && !hasEnded(job));
}

/** Cancel what is on show. */
export async function cancelSheet() {
  sending.value = null;
  if (sheet.value !== null) await cancelCells(sheet.value.cells);
}

/** Last first, so that none begins meanwhile. */
async function cancelCells(cells) {
  for (const { job: id } of [...cells].reverse()) {
    const job = jobs.value.get(id);
    if (id !== null && !(job && hasEnded(job))) await cancel(id).catch(() => {});
  }
}

/** Ask for the jobs of the sheet that a reload kept; a sheet whose jobs are gone is forgotten. */
export async function restoreSheet() {
  if (sheet.value === null) return;
  try {
    const sent = sheet.value.cells.filter((cell) => cell.job !== null);
    await Promise.all(sent.map((cell) => refreshJob(cell.job)));
  } catch (error) {
    if (error.status === 404) sheet.value = null; // else they may be there again later
  }
}
