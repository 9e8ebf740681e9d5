// Start: texts, lists, events, keys, dropped files.

import { render } from "../vendor/htm-preact-standalone.js";
import { App, isDragging } from "./app.js";
import { loadChoices } from "./choices.js";
import { followJobs } from "./jobs.js";
import { tell } from "./notices.js";
import { place } from "./places.js";
import { errorText } from "./refusals.js";
import { restoreFile } from "./restoring.js";
import { cancelSheet, generate, restoreSheet } from "./sheets.js";
import { loadStrings } from "./strings.js";
import { droppedFile } from "./uploads.js";
import { html } from "./view.js";

function onKey(event) {
  const isOpen = document.querySelector("dialog[open]") !== null;
  if (event.isComposing || isOpen || place.value !== "draw") return; // Esc closes what is open
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    generate();
  } else if (event.key === "Escape") {
    cancelSheet();
  }
}

const bringsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

function watchDrops() {
  let leaving = null;
  addEventListener("dragover", (event) => {
    if (!bringsFile(event)) return;
    event.preventDefault();
    clearTimeout(leaving);
    isDragging.value = true;
    leaving = setTimeout(() => (isDragging.value = false), 400); // it comes again and again
  });
  addEventListener("drop", (event) => {
    if (!bringsFile(event)) return;
    event.preventDefault();
    isDragging.value = false;
    const file = droppedFile(event);
    if (file) restoreFile(file);
  });
}

async function start() {
  await loadStrings();
  render(html`<${App} />`, document.getElementById("page"));
  addEventListener("keydown", onKey);
  watchDrops();
  try {
    await loadChoices();
  } catch (error) {
    tell(errorText(error));
    return;
  }
  followJobs();
  await restoreSheet();
}

start();
