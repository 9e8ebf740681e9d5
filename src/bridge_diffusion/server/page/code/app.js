// The page: its head, the part on show, and what lies over them.

import { Icon, Select } from "./controls.js";
import { Gallery } from "./gallery.js";
import { connected, jobs } from "./jobs.js";
import { Notices } from "./notices.js";
import { PLACES, place } from "./places.js";
import { Actions, Prompts } from "./prompts.js";
import { Queue, waitingJobs } from "./queue.js";
import { SettingsPanel } from "./settings_panel.js";
import { Stage } from "./stage.js";
import { PAGE_LANGUAGES, pageLanguage, setPageLanguage, t } from "./strings.js";
import { choices } from "./choices.js";
import { html, remembered, signal, useEffect, useValue } from "./view.js";
import { Viewer } from "./viewer.js";

/** Whether a file is dragged over the page. */
export const isDragging = signal(false);

const THEMES = ["auto", "light", "dark"];
const theme = remembered("bdm.theme", "auto", (value) => (THEMES.includes(value) ? value : "auto"));
theme.subscribe((name) => (document.documentElement.dataset.theme = name));

function Head() {
  const shown = useValue(place);
  const waiting = waitingJobs(useValue(jobs)).length;
  const isConnected = useValue(connected);
  return html`<header class="head">
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      document.querySelector("main textarea, main input")?.focus();
    }}>${t("skip")}</a>
    <a class="brand" href="#draw"><img src="icon.svg" alt="" width="28" height="28" /><span>Bridge Diffusion</span></a>
    <nav aria-label=${t("nav")}>
      ${PLACES.map(
        (name) =>
          html`<a key=${name} href=${`#${name}`} aria-current=${name === shown ? "page" : undefined}>
            ${t(name)}
            ${name === "queue" && waiting > 0 && html`<span class="badge">${waiting}</span>`}
          </a>`,
      )}
    </nav>
    <div class="head-tools">
      <${Select}
        hidden
        field="theme"
        label=${t("theme")}
        value=${useValue(theme)}
        options=${THEMES.map((name) => [name, t(`theme.${name}`)])}
        onChange=${(name) => (theme.value = name)}
      />
      <${Select}
        hidden
        field="page-language"
        label=${t("page.language")}
        value=${useValue(pageLanguage)}
        options=${Object.entries(PAGE_LANGUAGES)}
        onChange=${setPageLanguage}
      />
    </div>
    ${!isConnected && html`<p class="offline" role="alert">${t("offline")}</p>`}
  </header>`;
}

function Draw() {
  return html`<main class="draw" id="main">
    <h1 class="visually-hidden">${t("draw")}</h1>
    <${Prompts} />
    <${Actions} />
    <${Stage} />
    <${SettingsPanel} />
  </main>`;
}

/** Everything. */
export function App() {
  const shown = useValue(place);
  useValue(choices);
  useValue(pageLanguage); // all texts are drawn anew in another language
  const dragging = useValue(isDragging);
  useEffect(() => {
    document.title = `${t(shown)} · Bridge Diffusion`;
  });
  return html`<${Head} />
    ${shown === "draw" && html`<${Draw} />`} ${shown === "gallery" && html`<${Gallery} />`}
    ${shown === "queue" && html`<${Queue} />`}
    <${Viewer} />
    <${Notices} />
    ${dragging &&
    html`<div class="drop-here" aria-hidden="true"><p><${Icon} name="picture" /> ${t("drop")}</p></div>`}`;
}
