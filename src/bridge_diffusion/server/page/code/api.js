// The server's native interface, one function a route.

/**
 * A request that the server refused: the HTTP status, 0 where there was no answer, and what it says:
 * `{ detail, code, values }`.
 */
export class Refusal extends Error {
  constructor(status, { detail = `HTTP ${status}`, code = "", values = {} } = {}) {
    super(detail);
    this.status = status;
    this.refusal = { detail, code, values };
  }
}

async function ask(method, path, body) {
  const isForm = body instanceof FormData;
  const request = { method, headers: {} };
  if (body !== undefined) {
    request.body = isForm ? body : JSON.stringify(body);
    if (!isForm) request.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch {
    throw new Refusal(0);
  }
  if (!response.ok) {
    throw new Refusal(response.status, await response.json().catch(() => ({})));
  }
  return response.status === 204 ? null : response.json();
}

function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

function asForm(file) {
  const form = new FormData();
  form.append("file", file, file.name ?? "picture.png");
  return form;
}

export const getStatus = () => ask("GET", "/api/status");
export const getModels = () => ask("GET", "/api/models");
export const getPlugins = () => ask("GET", "/api/plugins");
export const getSchedulers = () => ask("GET", "/api/schedulers");

export const submitJob = (order, group = null) => ask("POST", "/api/jobs", { order, group });
export const getJob = (id) => ask("GET", `/api/jobs/${id}`);
export const getQueue = () => ask("GET", "/api/queue");
export const getRecentJobs = (limit) => ask("GET", `/api/jobs${query({ limit })}`);
export const setPriority = (id, priority) => ask("PATCH", `/api/jobs/${id}`, { priority });
export const cancelJob = (id) => ask("DELETE", `/api/jobs/${id}`);

export const findPictures = (options) => ask("GET", `/api/pictures${query(options)}`);
export const getPicture = (id) => ask("GET", `/api/pictures/${id}`);
export const markPicture = (id, favourite) => ask("PATCH", `/api/pictures/${id}`, { favourite });
export const deletePicture = (id) => ask("DELETE", `/api/pictures/${id}`);

export const uploadPicture = (file) => ask("POST", "/api/uploads", asForm(file));
export const makeEdges = (id) => ask("POST", `/api/uploads/${id}/edges`);
export const readInfo = (file) => ask("POST", "/api/info", asForm(file));
export const uploadUrl = (id) => `/api/uploads/${id}.png`;

/** Hears what happens to all jobs. `hear(kind, data)`; kind "open" also after a lost connection. */
export function listen(hear) {
  const stream = new EventSource("/api/events");
  stream.onopen = () => hear("open", null);
  stream.onerror = () => hear("lost", null);
  for (const kind of ["job", "progress", "picture", "ended"]) {
    stream.addEventListener(kind, (event) => hear(kind, JSON.parse(event.data)));
  }
}
